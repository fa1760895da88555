"""Gated linear attention: linear attention with a forgetting factor a key channel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.families.matrix_memory import MatrixMemory, Tokens
from architectures.functional.delta import LOG_DECAY_MIN
from architectures.functional.norms import rms_norm
from architectures.parts.short_conv import ShortConv
from architectures.primitive import Context, State, at_least, option
from architectures.registry import primitive, variant


@primitive("gated-linear-attention", mixes="time", version=1, paper="arXiv:2312.06635")
class GatedLinearAttention(MatrixMemory):
    """S_t = diag(a_t) S_{t-1} + k_t v_t^T,  o_t = S_t^T q_t / sqrt(K),  a_t = sigmoid(W x_t + b)^(1/16).

    x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V) -> (B, T, D). The decay's map W has rank `gate_rank`;
    log a_t is kept above -5, which its division by 16 makes a formality. The output is normalised a head by
    RMSNorm and gated by silu(g). Differs from the paper: K = V instead of V = 2 K with four heads, and the
    short convolution of q, k and v is an option.
    """

    decay = "vector"

    @dataclass(frozen=True, kw_only=True)
    class Config(MatrixMemory.Config):
        heads: int | None = option(
            1, "number of heads; none: one for each 16 channels of the width", scales="width"
        )
        gate_rank: int = option(16, "rank of the map from the token to its decay")

        def __post_init__(self) -> None:
            super().__post_init__()
            at_least(self, gate_rank=1)

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.widths = [self.heads * w for w in (self.key_dim, self.key_dim, self.value_dim)]
        self.gates = self.heads * self.value_dim
        self.project = nn.Linear(dim, sum(self.widths), bias=False)
        self.conv = ShortConv(sum(self.widths), config.conv)
        self.gate = nn.Linear(dim, self.heads * self.value_dim, bias=False)
        self.decay_in = nn.Linear(dim, config.gate_rank, bias=False)
        self.decay_out = nn.Linear(config.gate_rank, self.heads * self.key_dim)
        self.norm = nn.Parameter(torch.ones(self.value_dim))
        self.out = nn.Linear(self.heads * self.value_dim, dim, bias=False)

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Tokens, State]:
        z, tail = self.conv(self.project(x), carry[0])
        high = torch.promote_types(x.dtype, torch.float32)
        q, k, v = (u.unflatten(-1, (self.heads, -1)) for u in z.to(high).split(self.widths, dim=-1))
        logit = self.decay_out(self.decay_in(x)).to(high).unflatten(-1, (self.heads, -1))
        log_a = (F.logsigmoid(logit) / 16).clamp(min=LOG_DECAY_MIN)
        return Tokens(q=q * self.scale, k=k, v=v, log_a=log_a), (tail,)

    def read(self, o: Tensor, x: Tensor, tokens: Tokens) -> Tensor:
        o = rms_norm(o, self.norm, divisor=self.value_dim).flatten(-2).to(x.dtype)
        return self.out(o * F.silu(self.gate(x)))


variant("mh-gated-linear-attention", of="gated-linear-attention", heads=None)
