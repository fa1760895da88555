"""Mamba-2: a matrix state with one decay a head, whose key and query all heads share."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.families.matrix_memory import Tokens
from architectures.families.state_space import StateSpace
from architectures.functional.delta import SCALAR_CHUNK
from architectures.functional.steps import draw_rate, softplus
from architectures.parts.norms import RMSNorm
from architectures.parts.short_conv import ShortConv
from architectures.primitive import Context, Hint, State
from architectures.registry import primitive


@primitive("mamba2", mixes="time", version=1, paper="arXiv:2405.21060")
class Mamba2(StateSpace):
    """S_t = exp(-d_t exp(log_rate)) S_{t-1} + d_t B_t x_t^T,  y_t = S_t^T C_t + D x_t,  d = softplus(W u).

    u (B, T, D) -> x, z (B, T, H, V), B, C (B, T, N), d (B, T, H) -> (B, T, D), with H V = expand * D; S is
    N x V a head, and B and C are shared by all heads. x, B and C pass a short causal convolution with a bias
    and silu. The output is gated by silu(z), then normalised over the inner width by RMSNorm. The layer mixes
    time and channels, so it needs no channel mixer beside it. Differs from the paper: N = 64 by default.
    """

    def __init__(
        self, config: StateSpace.Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1
    ) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.gates = 4 * self.inner  # d x, D x and its sum, the gate
        self.widths = [self.inner, self.inner + 2 * self.key_dim, self.heads]
        self.project = nn.Linear(dim, sum(self.widths), bias=False)
        self.conv = ShortConv(self.widths[1], config.conv, bias=True)
        self.log_rate = nn.Parameter(draw_rate(self.heads, 1, 16).log())
        self.norm = RMSNorm(self.inner)
        self.out = nn.Linear(self.inner, dim, bias=False)

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Tokens, State]:
        z, u, dt = self.project(x).split(self.widths, dim=-1)
        u, tail = self.conv(u, carry[0])
        high = torch.promote_types(x.dtype, torch.float32)
        v, k, q = u.to(high).split([self.inner, self.key_dim, self.key_dim], dim=-1)
        delta = softplus(dt.to(high) + self.dt_bias.to(high))  # (B, T, H)
        # One head of q and k serves all heads of v: the pairs q . k are multiplied out once.
        q, k, v = q[:, :, None], k[:, :, None], v.unflatten(-1, (self.heads, -1))
        return Tokens(q=q, k=k, v=v, log_a=-self.log_rate.to(high).exp() * delta, kept=(delta, z)), (tail,)

    def recur(self, z: Tokens, s: Tensor) -> tuple[Tensor, Tensor]:
        return super().recur(_stepped(z), s)

    def recur_once(self, z: Tokens, s: Tensor) -> tuple[Tensor, Tensor]:
        return super().recur_once(_stepped(z), s)

    def read(self, o: Tensor, x: Tensor, tokens: Tokens) -> Tensor:
        y = (o + self.skip.to(o.dtype)[:, None] * tokens.v).flatten(-2)
        return self.out(self.norm(y * F.silu(tokens.kept[1].to(y.dtype))).to(x.dtype))

    def recur_flops(self, length: int) -> tuple[int, int]:
        products, rest = super().recur_flops(length)
        chunk = min(SCALAR_CHUNK, length)
        pairs = 2 * chunk * -(-length // chunk) * chunk * self.key_dim
        return products - (self.heads - 1) * pairs, rest

    def hints(self) -> dict[str, Hint]:
        return super().hints() | {"log_rate": Hint(decay=False)}


def _stepped(z: Tokens) -> Tokens:
    """The step size multiplies the values, of which every head has its own."""
    return dataclasses.replace(z, v=z.kept[0][..., None] * z.v)
