"""Bigram hash: a table of the last two tokens, added to the stream before every block of the body."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.axes import Axes
from architectures.families.wrapper import Block, Run, Wrapper
from architectures.primitive import Context, Hint, Options, State, option
from architectures.registry import primitive

# The most pairs that get a row each, and how many rows there are for each id where pairs are more.
MOST_PAIRS, ROWS_PER_ID = 100_000, 5
# Of the hash, by which pairs that are not the same share few rows.
LATER, EARLIER = 36_313, 27_191
TABLE_LR = 75.0


@primitive(
    "bigram-hash",
    mixes="stream",
    version=1,
    paper="arXiv:1709.03933",
    example="bigram-hash{mh-attention mlp}",
    known_as="hash embedding, modded-nanogpt, nanochat",
)
class BigramHash(Wrapper):
    """x = x + c_l E[h(i_{t-1}, i_t)], then x = x + f_l(x), for each f_l of the body, i the token ids.

    (B, T, D) -> (B, T, D). E (M, D) is 0 at the start, c is 0.1 for each block; the first token has a row of
    its own, the last one. Where the pairs of ids are at most M - 1, h gives each of them a row; else h is
    (36313 i_t xor 27191 i_{t-1}) mod (M - 1). The state is one id. Differs from the paper: one hash and no
    learned weights of several; as in the modded-nanogpt speedrun, where attention and its MLP are one block,
    rows are moreover multiplied by fixed signs, and decayed.

    Hypothesis: what depends on the last two tokens alone is memorised in a few hundred steps; recall in
    context is unmoved.
    """

    reads_tokens: ClassVar[bool] = True
    writers = ("table",)
    undecayed = ("scale",)

    class Config(Options):
        rows: int | None = option(
            None,
            "M; none: one more than there are pairs of ids, or 5 for each id where pairs are over 100,000",
            least=2,
        )

    config: Config

    def __init__(self, config: Config, *, body: list[Block], dim: int, vocab_size: int, **place: int) -> None:
        super().__init__(config, body=body, dim=dim, **place)
        self.vocab_size, pairs = vocab_size, vocab_size**2
        rows = config.rows or (pairs + 1 if pairs <= MOST_PAIRS else ROWS_PER_ID * vocab_size)
        self.exact = pairs < rows
        self.table = nn.Parameter(torch.zeros(rows, dim))
        self.scale = nn.Parameter(torch.full((len(body),), 0.1))

    @property
    def state_kinds(self) -> tuple[str, ...]:
        return (*super().state_kinds, "conv")

    def init_state(self, batch: int, length: int | None = None) -> State:
        """The states of the blocks, then the last id (B, 1), -1 before the first."""
        return *super().init_state(batch, length), self._before(batch)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        ctx = Context() if ctx is None else ctx
        ids = self.token_ids(ctx)
        ctx.shared[self._key] = F.embedding(self.find(ids, self._before(len(ids))), self.table)
        return super().forward(x, ctx)

    def thread(self, x: Tensor, run: Run, ctx: Context) -> Tensor:
        found = ctx.shared.pop(self._key)
        for block, scale in zip(self.order(), self.scale.unbind(0), strict=True):
            x = x + scale * found
            x = x + run(block, x)
        return x

    def find(self, ids: Tensor, before: Tensor) -> Tensor:
        """The rows (B, T) of the ids (B, T) and the id before them (B, 1)."""
        earlier = torch.cat([before, ids[:, :-1]], dim=1)
        last = len(self.table) - 1
        if self.exact:
            rows = earlier * self.vocab_size + ids
        else:
            rows = (LATER * ids ^ EARLIER * earlier) % last
        return torch.where(earlier < 0, last, rows)

    def own_flops(self, length: int) -> int:
        return self.own_uncounted(length)

    def own_uncounted(self, length: int) -> int:
        return 2 * length * self.dim * len(self.body)

    def active_params(self) -> int:
        return super().active_params() - (len(self.table) - 1) * self.dim

    def hints(self) -> dict[str, Hint]:
        """A row is met by few tokens of a batch: the table learns faster, as in the public code."""
        return super().hints() | {"table": Hint(decay=False, lr_scale=TABLE_LR)}

    def axes(self) -> Axes:
        return Axes(tensors={"table": ". D", "scale": "."}, zero={"D": ("table",)})

    @property
    def _key(self) -> str:
        return f"bigram-hash/{self.path}"

    def _before(self, batch: int) -> Tensor:
        return torch.full((batch, 1), -1, dtype=torch.int64, device=self.table.device)

    def _advance(self, verb: str, x: Tensor, state: State, ctx: Context | None) -> tuple[Tensor, State]:
        *inside, before = state
        ctx = Context() if ctx is None else ctx
        ids = self.token_ids(ctx)
        found = F.embedding(self.find(ids, before), self.table)
        ctx.shared[self._key] = found if verb == "prefill" else found[:, 0]
        y, after = super()._advance(verb, x, tuple(inside), ctx)
        return y, (*after, ids[:, -1:])
