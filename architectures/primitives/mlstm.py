"""mLSTM: a matrix memory with an exponential input gate, in the block that xLSTM puts around it."""

from __future__ import annotations

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.families.matrix_memory import MatrixMemory, Vectors
from architectures.families.options import count_of_heads, taps
from architectures.functional.scan import decaying_max, decaying_max_flops
from architectures.parts.short_conv import ShortConv
from architectures.primitive import Context, Options, State, divisors, option
from architectures.registry import primitive

# Channels of one block of the maps to q, k and v.
BLOCK = 4
# The largest exponent of the divisor's floor: beyond it the output is zero for the norm that follows.
FLOOR = 80.0


@primitive("mlstm", mixes="time", version=1, paper="arXiv:2405.04517", known_as="xLSTM")
class MLSTM(MatrixMemory):
    """S_t = f_t S_{t-1} + e^i_t k_t v_t^T,  n_t = f_t n_{t-1} + e^i_t k_t,  o_t = S_t^T q_t / max(|n.q|, 1).

    (B, T, D): u, z (B, T, R) with R = expand * D; c is u after a short causal convolution with a bias and
    silu; q, k come from c and v from u by maps that are block-diagonal in blocks of 4, all (B, T, H, R / H),
    and k is divided by sqrt(K); f_t is a sigmoid and i_t linear in (q, k, v), one per head. o is normalised
    per head by LayerNorm, c is added to it with a weight per channel, and the sum is gated by silu(z). n is
    the last column of S, for which v is extended by a 1. S and n are kept times e^-m_t, m_t = max(log f_t +
    m_{t-1}, i_t) with m_0 = 0, so that nothing overflows; in that scale the divisor is max(|n_t.q_t|, e^-m_t)
    + 1e-6. It needs no channel mixer beside it. Differs from the paper: the exponent -m_t of the floor is at
    most 80.
    """

    undecayed = ("norm", "skip", "select.bias")

    class Config(Options):
        heads: int | None = count_of_heads(4, "the inner width")
        expand: int = option(2, "inner width over the model's width", least=1)
        conv: int = taps(4, "a short convolution and silu before q and k")

        def sizes(self, dim: int) -> tuple[int, int, int]:
            inner = self.expand * dim
            heads = self.heads or max(1, inner // 16)
            if inner % heads or inner % BLOCK:
                raise ValueError(
                    f"the inner width {inner} is not divisible by heads {heads} and {BLOCK}; choose "
                    f"heads from {', '.join(map(str, divisors(inner)))}, and a dim divisible by {BLOCK}"
                )
            return heads, inner // heads, inner // heads

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.inner = config.expand * dim
        self.scale = self.key_dim**-0.5
        # Element-wise: the input gate on k, the division, the skip and its sum, the gate.
        self.gates = 5 * self.inner
        self.project = nn.Linear(dim, 2 * self.inner, bias=False)
        self.conv = ShortConv(self.inner, config.conv, bias=True)
        std = math.sqrt(2 / (5 * dim))
        nn.init.normal_(self.project.weight, std=std)
        # (q, k, v; block; in; out)
        self.blocks = nn.Parameter(std * torch.randn(3, self.inner // BLOCK, BLOCK, BLOCK))
        self.select = nn.Linear(3 * self.inner, 2 * self.heads)
        nn.init.zeros_(self.select.weight)
        with torch.no_grad():
            forget = torch.linspace(3, 6, self.heads)
            self.select.bias.copy_(torch.cat([0.1 * torch.randn(self.heads), forget]))
        self.norm = nn.Parameter(torch.ones(self.inner))
        self.skip = nn.Parameter(torch.ones(self.inner))
        self.out = nn.Linear(self.inner, dim, bias=False)
        nn.init.normal_(self.out.weight, std=2 / (depth * math.sqrt(dim)))

    carry_kinds = ("conv", "recurrent")

    def init_carry(self, like: Tensor, batch: int) -> State:
        """The tail of the short convolution and m (B, H)."""
        high = torch.promote_types(like.dtype, torch.float32)
        return self.conv.init_tail(like, batch), like.new_zeros(batch, self.heads, dtype=high)

    def memory_shape(self) -> tuple[int, ...]:
        return self.heads, self.key_dim, self.value_dim + 1

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Vectors, State]:
        u, z = self.project(x).chunk(2, dim=-1)
        c, tail = self.conv(u, carry[0])
        q, k = (_blocks(c, self.blocks[i]) for i in range(2))
        v = _blocks(u, self.blocks[2])
        high = torch.promote_types(x.dtype, torch.float32)
        i, f = self.select(torch.cat([q, k, v], dim=-1)).to(high).chunk(2, dim=-1)  # (B, T, H)
        log_f = F.logsigmoid(f)
        m = decaying_max(log_f, i, carry[1])
        before = torch.cat([carry[1][:, None], m[:, :-1]], dim=1)
        q, k, v = (t.to(high).unflatten(-1, (self.heads, -1)) for t in (q, k, v))
        k = k * (self.scale * (i - m).exp())[..., None]
        return Vectors(q=q, k=k, v=v, log_a=log_f + before - m, kept=(m, c, z)), (tail, m[:, -1])

    def feed(self, z: Vectors) -> Vectors:
        """Values and a 1, whose column of the state sums the keys."""
        return dataclasses.replace(z, v=F.pad(z.v, (0, 1), value=1.0))

    def read(self, o: Tensor, x: Tensor, tokens: Vectors) -> Tensor:
        m, c, z = tokens.kept
        floor = (-m).clamp(max=FLOOR).exp()
        o = o[..., :-1] / (torch.maximum(o[..., -1].abs(), floor) + 1e-6)[..., None]
        o = F.layer_norm(o, o.shape[-1:], eps=1e-5).flatten(-2)
        h = o * self.norm.to(o.dtype) + self.skip.to(o.dtype) * c
        return self.out((h * F.silu(z)).to(x.dtype))

    def state_flops(self, length: int) -> int:
        return super().state_flops(length) + 2 * length * self.heads

    def products(self, length: int) -> int:
        return super().products(length) + 2 * length * self.blocks.numel()

    def recur_flops(self, length: int) -> tuple[int, int]:
        products, rest = super().recur_flops(length)
        return products, rest + self.heads * decaying_max_flops(length)


def _blocks(x: Tensor, weight: Tensor) -> Tensor:
    """A block-diagonal map: x (B, T, R), weight (R / 4, 4, 4) -> (B, T, R)."""
    return torch.einsum("btni,nio->btno", x.unflatten(-1, (-1, BLOCK)), weight).flatten(-2)
