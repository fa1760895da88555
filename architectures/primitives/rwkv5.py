"""RWKV-5 (Eagle): linear attention with a fixed forgetting factor a channel and a bonus for the present."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.families.matrix_memory import MatrixMemory, Tokens
from architectures.families.shifted_memory import ShiftedMemory
from architectures.functional.delta import LOG_DECAY_MIN
from architectures.functional.token_shift import channel_power, decay_and_bonus, depth_ratios, token_shift
from architectures.parts.norms import HeadNorm
from architectures.primitive import Context, State
from architectures.registry import primitive


@primitive("rwkv5", mixes="time", version=1, paper="arXiv:2404.05892")
class RWKV5(ShiftedMemory):
    """o_t = (S_{t-1} + diag(u) k_t v_t^T)^T r_t,  S_t = diag(a) S_{t-1} + k_t v_t^T,  log a = -exp(w).

    x (B, T, D) -> r, k (B, T, H, K), v (B, T, H, V) -> (B, T, D). Each of r, k, v and the gate g is a map of
    its own mix, mu x_t + (1 - mu) x_{t-1}. The decay does not depend on the token; log a is kept above -5.
    The output is normalised a head (mean and variance) and gated by silu(g). Differs from the paper: heads of
    16 channels by default, there 64; the constant in the root of the norm, 64e-5, is that of dividing by 8
    before; the short convolution of r, k and v is an option. The initial mixes, decays and bonuses are the
    published ones; the five maps start uniform in +-1 / sqrt(fan-in) and the norm at 1, as in the MAD study's
    code (athms/mad-lab). The authors' code (BlinkDL/RWKV-LM) starts r and v orthogonal, k and g orthogonal at
    a tenth, W_o at 0, and the norm's weight at ((index + 1) / depth)^0.7.
    """

    before = True

    def __init__(
        self, config: MatrixMemory.Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1
    ) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        key, value = self.heads * self.key_dim, self.heads * self.value_dim
        # Four mixes of two products a channel, the bonus and the output gate.
        self.gates = 8 * dim + 3 * key + 3 * value
        rho, left = depth_ratios(index, depth)
        half = channel_power(dim, 0.5 * left)
        token = channel_power(dim, left)
        self.mix = nn.Parameter(torch.stack([half, token, token + 0.3 * rho, half]))  # r, k, v, g
        w, u = decay_and_bonus(key, index, depth)
        self.forget, self.bonus = nn.Parameter(w), nn.Parameter(u)
        self.gate = nn.Linear(dim, value, bias=False)
        self.norm = HeadNorm(value, 64e-5)

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Tokens, State]:
        previous, last = token_shift(x, carry[0])
        change = x - previous
        xr, xk, xv, xg = (torch.addcmul(previous, change, mu) for mu in self.mix.to(x.dtype).unbind())
        r, k, v, tail = self.project(xr, xk, xv, carry[1])
        # Bounded before the exponential: an infinity would have no gradient.
        log_a = -self.forget.to(k.dtype).clamp(max=math.log(-LOG_DECAY_MIN)).exp()
        log_a, bonus = (z.unflatten(0, (self.heads, -1)) for z in (log_a, self.bonus))
        tokens = Tokens(q=r, k=k, v=v, log_a=log_a.expand_as(k), bonus=bonus, kept=self.gate(xg))
        return tokens, (last, tail)

    def read(self, o: Tensor, x: Tensor, tokens: Tokens) -> Tensor:
        return self.out(self.norm(o).to(x.dtype) * F.silu(tokens.kept))
