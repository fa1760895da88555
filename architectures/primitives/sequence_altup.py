"""Sequence-AltUp: layers that run on every k-th token and correct the tokens between."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from architectures.families.recurrent import step_once
from architectures.families.wrapper import Block, Wrapper, nominal, state_size
from architectures.primitive import Context, Options, State, option
from architectures.registry import primitive


@primitive(
    "sequence-altup", mixes="stream", paper="arXiv:2301.13310", example="sequence-altup{gated-delta-net mlp}"
)
class SequenceAltUp(Wrapper):
    """x_i = z_i + b (L(x_a) - z_a), z_i = a_1 x_i + a_2 x_a, a = s floor(i / s): (B, T, D) -> (B, T, D).

    For each block of the body: predict z, compute L(u) = u + f(norm(u)) on the anchors 0, s, 2 s, ... alone,
    correct; s = `stride`. A token reads the last anchor, which is not after it. Three numbers per block, at
    the start a_1 = 1, a_2 = 0, b = 1: every token adds what its anchor adds. The body sees a sequence of
    ceil(T / s) tokens and counts their positions itself, and its states move at anchors only. The state of
    this layer is what each block last gave its anchor, and how long ago that was as the length of an empty
    tensor: no value of a tensor decides what is run. Differs from the paper: layers of a decoder, too.
    """

    step = step_once
    undecayed = ("a", "b")

    class Config(Options):
        stride: int = option(2, "s, tokens for each one that the layers run on", least=1)

    config: Config

    def __init__(self, config: Config, *, body: list[Block], dim: int, **place: int) -> None:
        super().__init__(config, body=body, dim=dim, **place)
        self.a = nn.Parameter(torch.tensor([1.0, 0.0]).repeat(len(body), 1))
        self.b = nn.Parameter(torch.ones(len(body)))

    @classmethod
    def body_len(cls, config: Config, max_len: int) -> int:
        return -(-max_len // config.stride)

    @property
    def state_kinds(self) -> tuple[str, ...]:
        return (*super().state_kinds, *("recurrent" for _ in self.body), "counter")

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        ctx = Context() if ctx is None else ctx
        outside = ctx.tell(ctx.every(self.config.stride))
        for i, block in enumerate(self.order()):
            anchors = x[:, :: self.config.stride]
            x = self._correct(i, x, self._kept(i, anchors, block(anchors, ctx)), 0)
        ctx.tell(outside)
        return x

    def init_state(self, batch: int, length: int | None = None) -> State:
        """The states of the blocks, what each last gave its anchor (B, D), and (B, tokens since then, 0)."""
        self.check_length(length)
        inside = super().init_state(batch, None if length is None else self.anchors(length))
        held = [self.b.new_zeros(batch, self.dim) for _ in self.body]
        return *inside, *held, self.b.new_zeros(batch, 0, 0)

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        stride, length, count = self.config.stride, x.shape[1], len(self.body)
        *rest, since = state
        inside, held = rest[: len(rest) - count], rest[len(rest) - count :]
        past = since.shape[1]  # since the last anchor, 0: the first token is one
        ctx = Context() if ctx is None else ctx
        outside = ctx.tell(ctx.every(stride, -past % stride))
        after: list[Tensor] = []
        kept: list[Tensor] = []
        at = 0
        for i, block in enumerate(self.order()):
            size = state_size(block)
            states = tuple(inside[at : at + size])
            at += size
            sources = held[i][:, None]
            anchors = x[:, -past % stride :: stride]
            if anchors.shape[1]:
                y, states = block.prefill(anchors, states, ctx)
                new = self._kept(i, anchors, y)
                sources = torch.cat([sources, new], dim=1) if past else new
            after += states
            kept.append(sources[:, -1])
            x = self._correct(i, x, sources, past)
        ctx.tell(outside)
        return x, (*after, *kept, since.new_zeros(since.shape[0], (past + length) % stride, 0))

    def flops(self, length: int) -> int:
        return super().flops(self.anchors(length)) + self._around(length)

    def executed_flops(self, length: int) -> int:
        return super().executed_flops(self.anchors(length)) + self._around(length)

    def uncounted_flops(self, length: int) -> int:
        return super().uncounted_flops(self.anchors(length)) + self._around(length)

    def nominal_state(self, length: int) -> int:
        return sum(nominal(block, self.anchors(length)) + self.dim for block in self.order())

    def anchors(self, length: int) -> int:
        """How many of the first `length` tokens the body runs on."""
        return self.body_len(self.config, length)

    def _kept(self, i: int, anchors: Tensor, change: Tensor) -> Tensor:
        """What a block gives an anchor and the tokens after it: a_2 x_a + b (x_a + f - (a_1 + a_2) x_a)."""
        own, anchor, correct = self.a[i, 0], self.a[i, 1], self.b[i]
        return (anchor + correct * (1 - own - anchor)) * anchors + correct * change.to(anchors.dtype)

    def _correct(self, i: int, x: Tensor, sources: Tensor, past: int) -> Tensor:
        """a_1 x and the source of each token; the first source was given `past` tokens ago."""
        stride = self.config.stride
        spread = sources[:, :, None].expand(-1, -1, stride, -1).flatten(1, 2)
        return self.a[i, 0] * x + spread[:, past : past + x.shape[1]]

    def _around(self, length: int) -> int:
        """Element-wise: two multiply-adds an anchor and one per token."""
        return len(self.body) * 2 * self.dim * (2 * self.anchors(length) + length)
