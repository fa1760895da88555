"""DeltaNet: linear attention that overwrites what its key already holds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from architectures.families.matrix_memory import MatrixMemory, Tokens
from architectures.functional.delta import unit
from architectures.functional.norms import rms_norm
from architectures.parts.short_conv import ShortConv
from architectures.primitive import Context, State, option
from architectures.registry import primitive


@primitive("delta-net", mixes="time", version=1, paper="arXiv:2406.06484")
class DeltaNet(MatrixMemory):
    """S_t = (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T,  o_t = S_t^T q_t / sqrt(K).

    x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V) -> (B, T, D). q, k and v pass a short causal convolution
    and silu; q and k have length 1; b_t in (0, 1) is a sigmoid a head. The output is normalised a head by
    RMSNorm. `negative_eigenvalues` doubles b_t (arXiv:2411.12537): the transition may then reflect, which
    state tracking needs. Differs from the paper: heads of 16 channels by default.
    """

    form = "tied"

    @dataclass(frozen=True, kw_only=True)
    class Config(MatrixMemory.Config):
        conv: int = option(4, "taps of a short convolution and silu on q, k and v; 0: none", most=256)
        negative_eigenvalues: bool = option(False, "write strength in (0, 2) instead of (0, 1)")

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.widths = [self.heads * w for w in (self.key_dim, self.key_dim, self.value_dim)]
        self.project = nn.Linear(dim, sum(self.widths), bias=False)
        self.conv = ShortConv(sum(self.widths), config.conv)
        self.strength = nn.Linear(dim, self.heads, bias=False)
        self.norm = nn.Parameter(torch.ones(self.value_dim))
        self.out = nn.Linear(self.heads * self.value_dim, dim, bias=False)

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Tokens, State]:
        z, tail = self.conv(self.project(x), carry[0])
        high = torch.promote_types(x.dtype, torch.float32)
        q, k, v = (u.unflatten(-1, (self.heads, -1)) for u in z.to(high).split(self.widths, dim=-1))
        q, k = unit(q) * self.scale, unit(k)
        strength = self.strength(x).to(high).sigmoid()[..., None]
        if self.config.negative_eigenvalues:
            strength = 2 * strength
        return Tokens(q=q, k=strength * k, v=v, y=k), (tail,)

    def read(self, o: Tensor, x: Tensor, tokens: Tokens) -> Tensor:
        return self.out(rms_norm(o, self.norm, divisor=self.value_dim).flatten(-2).to(x.dtype))
