"""ROSA: what followed the longest suffix the last time is given to the body, as a copier of ids finds it."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.axes import Axes
from architectures.families.wrapper import Block, Run, Wrapper
from architectures.functional.ids import copied
from architectures.primitive import Context, State
from architectures.registry import primitive


@primitive(
    "rosa",
    mixes="stream",
    version=1,
    paper="arXiv:2401.17377",
    example="rosa{mlp}",
    known_as="RWKV-8; infini-gram",
)
class Rosa(Wrapper):
    """x_t = x_t + E[i_{e+1}], e < t the latest earlier end of the longest repeated suffix of ids i_1 .. i_t.

    Then x = x + f(x) for each f of the body: (B, T, D) -> (B, T, D); nothing is added where no suffix
    occurred before. An oracle, to tell which tasks a copier of ids solves: what it copies is found
    by comparing ids, so that nothing but E (vocabulary, D), N(0, 1) at the start, is trained. The state is
    the sequence of ids, and for each distance how long the last token's match is; integers, of which no
    element counts. Differs from the paper, an n-gram of unbounded length over a corpus: over the context, as
    RWKV-8's embedding form does with a suffix automaton; its form with learned bits is left out, as each of
    its gradients flips bits one by one.

    Hypothesis: in-context recall, copying and induction close to their ceilings without any mixer; nothing
    on fuzzy and noisy recall and on compression.
    """

    reads_tokens: ClassVar[bool] = True
    rewrites = True
    writers = ("table",)
    undecayed = ("table",)

    def __init__(self, config: object, *, body: list[Block], dim: int, vocab_size: int, **place: int) -> None:
        super().__init__(config, body=body, dim=dim, **place)
        self.vocab_size = vocab_size
        self.table = nn.Parameter(torch.randn(vocab_size, dim))

    @property
    def state_kinds(self) -> tuple[str, ...]:
        return (*super().state_kinds, "growing", "growing")

    def init_state(self, batch: int, length: int | None = None) -> State:
        """The states of the blocks, then the ids (B, t) and the lengths of the matches (B, t)."""
        none = torch.zeros(batch, 0, dtype=torch.int64, device=self.table.device)
        return *super().init_state(batch, length), none, none

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        ctx = Context() if ctx is None else ctx
        ids = self.token_ids(ctx)
        return super().forward(x + self._look_up(copied(ids, ids[:, :0])[0], x), ctx)

    def thread(self, x: Tensor, run: Run, ctx: Context) -> Tensor:
        for block in self.order():
            x = x + run(block, x)
        return x

    def own_flops(self, length: int) -> int:
        return self.own_uncounted(length)

    def own_uncounted(self, length: int) -> int:
        return length * self.dim

    def active_params(self) -> int:
        return super().active_params() - (self.vocab_size - 1) * self.dim

    def axes(self) -> Axes:
        return Axes(tensors={"table": ". D"}, zero={"D": ("table",)})

    def _look_up(self, ids: Tensor, x: Tensor) -> Tensor:
        found = F.embedding(ids.clamp(min=0), self.table)
        return torch.where((ids >= 0)[..., None], found, 0).to(x.dtype)

    def _advance(self, verb: str, x: Tensor, state: State, ctx: Context | None) -> tuple[Tensor, State]:
        *inside, before, lengths = state
        ids = torch.cat([before, self.token_ids(ctx)], dim=1)
        found, lengths = copied(ids, lengths)
        x = x + self._look_up(found if verb == "prefill" else found[:, 0], x)
        y, after = super()._advance(verb, x, tuple(inside), ctx)
        return y, (*after, ids, lengths)
