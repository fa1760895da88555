"""HGRN2: linear attention whose key is what it forgets, with a lower bound on the forgetting by depth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.families.matrix_memory import MatrixMemory, Tokens
from architectures.functional.delta import LOG_DECAY_MIN
from architectures.parts.norms import RMSNorm
from architectures.parts.short_conv import ShortConv
from architectures.primitive import Context, Hint, State, option
from architectures.registry import primitive


@primitive("hgrn2", mixes="time", version=1, paper="arXiv:2404.07904")
class HGRN2(MatrixMemory):
    """S_t = diag(f_t) S_{t-1} + (1 - f_t) v_t^T,  o_t = S_t^T q_t,  f_t = b + (1 - b) sigmoid(W x_t).

    x (B, T, D) -> q, f (B, T, H, K), v (B, T, H, V) -> (B, T, D); q passes silu. The output is normalised
    over the whole width by RMSNorm. b, one a key channel, is the least that a layer keeps; the first layer
    has b = 0 and no parameter for it. log f is kept above -5. Differs from the paper: there the bounds of all
    layers are one tensor, a softmax over depth summed up to the layer; here every layer has its own, b =
    sigmoid of a parameter that starts where that tensor does at zero, at index / depth.
    """

    decay = "vector"

    @dataclass(frozen=True, kw_only=True)
    class Config(MatrixMemory.Config):
        conv: int = option(0, "taps of a short convolution, without silu, on q, f and v; 0: none", most=256)

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.widths = [self.heads * w for w in (self.key_dim, self.key_dim, self.value_dim)]
        self.project = nn.Linear(dim, sum(self.widths), bias=False)
        self.conv = ShortConv(sum(self.widths), config.conv, activation=False)
        self.bound: nn.Parameter | None = None
        if index:
            start = math.log(index / (depth - index))
            self.bound = nn.Parameter(torch.full((self.heads * self.key_dim,), start))
        self.norm = RMSNorm(self.heads * self.value_dim)
        self.out = nn.Linear(self.heads * self.value_dim, dim, bias=False)

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Tokens, State]:
        z, tail = self.conv(self.project(x), carry[0])
        high = torch.promote_types(x.dtype, torch.float32)
        q, f, v = z.to(high).split(self.widths, dim=-1)
        log_f = F.logsigmoid(f)
        if self.bound is not None:
            bound = self.bound.to(high)
            log_f = torch.logaddexp(F.logsigmoid(bound), F.logsigmoid(-bound) + log_f)
        log_f = log_f.clamp(min=LOG_DECAY_MIN)
        q, log_f, v = (u.unflatten(-1, (self.heads, -1)) for u in (F.silu(q), log_f, v))
        return Tokens(q=q, k=-torch.expm1(log_f), v=v, log_a=log_f), (tail,)

    def read(self, o: Tensor, x: Tensor, tokens: Tokens) -> Tensor:
        return self.out(self.norm(o.flatten(-2)).to(x.dtype))

    def hints(self) -> dict[str, Hint]:
        return super().hints() | ({} if self.bound is None else {"bound": Hint(decay=False)})
