"""RWKV-5 and 6 (Eagle, Finch): a forgetting factor per channel, and a bonus for the present token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from architectures.families.matrix_memory import MatrixMemory, Vectors
from architectures.families.shifted import Shifted, channel_power, decay_and_bonus, depth_ratios, falling
from architectures.parts.linear import LowRank
from architectures.parts.norms import HeadNorm
from architectures.primitive import Context, State, option
from architectures.registry import primitive


@primitive("rwkv5", mixes="time", version=1, paper="arXiv:2404.05892", known_as="Eagle")
class RWKV5(Shifted, MatrixMemory):
    """o_t = (S_{t-1} + diag(u) k_t v_t^T)^T r_t,  S_t = diag(a) S_{t-1} + k_t v_t^T,  log a = -exp(w).

    x (B, T, D) -> r, k (B, T, H, K), v (B, T, H, V) -> (B, T, D). Each of r, k, v and the gate g is a map of
    its own mix, mu x_t + (1 - mu) x_{t-1}. The decay does not depend on the token; log a is kept above -5.
    The output is normalised per head (mean and variance) and gated by silu(g). Differs from the paper: heads
    of 16 channels by default, there 64; the constant in the root of the norm, 64e-5, is that of dividing by 8
    before; the short convolution of r, k and v is an option. The initial mixes, decays and bonuses are the
    published ones; the five maps start uniform in +-1 / sqrt(fan-in) and the norm at 1, as in the MAD study's
    code (athms/mad-lab). The authors' code (BlinkDL/RWKV-LM) starts r and v orthogonal, k and g orthogonal at
    a tenth, W_o at 0, and the norm's weight at ((index + 1) / depth)^0.7.
    """

    before = True
    decay = "vector"
    undecayed = ("mix",)  # as in the public code (BlinkDL/RWKV-LM)

    def __init__(self, config: Any, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.add_maps()
        key, value = self.heads * self.key_dim, self.heads * self.value_dim
        # Four mixes of two products per channel, the bonus and the output gate.
        self.gates = 8 * dim + 3 * key + 3 * value
        rho, left = depth_ratios(index, depth)
        half = channel_power(dim, 0.5 * left)
        token = channel_power(dim, left)
        self.mix = nn.Parameter(torch.stack([half, token, token + 0.3 * rho, half]))  # r, k, v, g
        w, u = decay_and_bonus(key, index, depth)
        self.forget, self.bonus = nn.Parameter(w), nn.Parameter(u)
        self.gate = nn.Linear(dim, value, bias=False)
        self.norm = HeadNorm(value, 64e-5)

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Vectors, State]:
        previous, last = self.shift(x, carry[0])
        change = x - previous
        xr, xk, xv, xg = (torch.addcmul(previous, change, mu) for mu in self.mix.to(x.dtype).unbind())
        r, k, v, tail = self.map_mixes(xr, xk, xv, carry[1])
        log_a = falling(self.forget.to(k.dtype))
        log_a, bonus = (z.unflatten(0, (self.heads, -1)) for z in (log_a, self.bonus))
        tokens = Vectors(q=r, k=k, v=v, log_a=log_a.expand_as(k), bonus=bonus, kept=self.gate(xg))
        return tokens, (last, tail)


@primitive("rwkv6", mixes="time", version=1, paper="arXiv:2404.05892", known_as="Finch")
class RWKV6(Shifted, MatrixMemory):
    """o_t = (S_{t-1} + diag(u) k_t v_t^T)^T r_t,  S_t = diag(a_t) S_{t-1} + k_t v_t^T,  log a = -exp(w).

    x (B, T, D) -> r, k (B, T, H, K), v (B, T, H, V) -> (B, T, D). Each of w, k, v, r and the gate g sees its
    own mix x_t + (mu + m_t) (x_{t-1} - x_t), where the five m_t are low-rank maps, with tanh, of one mix of
    fixed weights; w_t is such a map too, with a bias. The rest, and what differs from the paper, is as in
    `rwkv5`. The initial values are those of the MAD study's code (athms/mad-lab): all low-rank maps uniform
    in +-1e-4, where the authors' inner ones are 0 and their outer ones within +-0.01.
    """

    before = True
    decay = "vector"
    # The mixes and the low-rank maps, as in the public code (BlinkDL/RWKV-LM).
    undecayed = ("mix", "lerp_in", "lerp_out", "forget.inner", "forget.outer.weight")

    class Config(MatrixMemory.Config):
        lerp_rank: int = option(32, "rank of the map from the token to each of its five mixes", least=1)
        decay_rank: int = option(64, "rank of the map from the token to its decay", least=1)

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.add_maps()
        key, value = self.heads * self.key_dim, self.heads * self.value_dim
        # Six mixes of two products per channel, the bonus and the output gate.
        self.gates = 12 * dim + 3 * key + 3 * value
        rho, left = depth_ratios(index, depth)
        half, token = 1 - channel_power(dim, 0.5 * left), 1 - channel_power(dim, left)
        self.mix_all = nn.Parameter(token)
        self.mix = nn.Parameter(torch.stack([token, token, token - 0.3 * rho, half, half]))  # w, k, v, r, g
        self.lerp_in = nn.Linear(dim, 5 * config.lerp_rank, bias=False)
        self.lerp_out = nn.Parameter(torch.empty(5, config.lerp_rank, dim))
        self.forget = LowRank(dim, config.decay_rank, key, torch.tanh)
        w, u = decay_and_bonus(key, index, depth)
        self.bonus = nn.Parameter(u)
        with torch.no_grad():
            for p in (self.lerp_in.weight, self.lerp_out, *self.forget.parameters()):
                p.uniform_(-1e-4, 1e-4)
            self.forget.outer.bias.copy_(w)
        self.gate = nn.Linear(dim, value, bias=False)
        self.norm = HeadNorm(value, 64e-5)

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Vectors, State]:
        previous, last = self.shift(x, carry[0])
        change = previous - x
        seen = self.lerp_in(torch.addcmul(x, change, self.mix_all.to(x.dtype))).tanh()
        lerp = torch.einsum("btnr,nrd->nbtd", seen.unflatten(-1, (5, -1)), self.lerp_out.to(seen.dtype))
        mixes = self.mix.to(x.dtype).unbind()
        xw, xk, xv, xr, xg = (
            torch.addcmul(x, change, mu + m.to(x.dtype)) for mu, m in zip(mixes, lerp.unbind(), strict=True)
        )
        r, k, v, tail = self.map_mixes(xr, xk, xv, carry[1])
        log_a = falling(self.forget(xw).to(k.dtype))
        log_a, bonus = log_a.unflatten(-1, (self.heads, -1)), self.bonus.unflatten(0, (self.heads, -1))
        return Vectors(q=r, k=k, v=v, log_a=log_a, bonus=bonus, kept=self.gate(xg)), (last, tail)

    def products(self, length: int) -> int:
        return super().products(length) + 2 * length * self.lerp_out.numel()
