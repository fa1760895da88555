"""RWKV-7 (Goose): a delta rule with a decay, a removal strength and a write strength per channel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from architectures.families.matrix_memory import MatrixMemory, Vectors
from architectures.families.shifted import Shifted, channel_power, depth_ratios, ramp
from architectures.functional.delta import unit
from architectures.parts.linear import LowRank
from architectures.parts.norms import HeadNorm
from architectures.primitive import Context, Primitive, State, option
from architectures.registry import primitive

# Where the first layer leaves its values.
FIRST = "rwkv7/v_first"
# The strongest decay of a token, log w.
DECAY = -math.exp(-0.5)


@primitive("rwkv7", mixes="time", version=1, paper="arXiv:2503.14456", known_as="Goose")
class RWKV7(Shifted, MatrixMemory):
    """S_t = (diag(w_t) - (a_t * c_t) c_t^T) S_{t-1} + k_t v_t^T,  o_t = S_t^T r_t.

    x (B, T, D) -> r, k (B, T, H, K), v (B, T, H, V) -> (B, T, D). With k' a map of the token, the removed key
    is c = k' k_k at length 1 and the written key k = k' (1 + (a - 1) k_a), for a strength a = sigmoid(..) a
    channel; log w = -e^(-1/2) sigmoid(..). w, a, the gate g and the mix of values are low-rank maps; each map
    sees its own mix x_t + mu (x_{t-1} - x_t). The output is o, normalised per head (mean and variance), plus
    (r * k . r_k) v, all gated by g. All but the first of the time mixers have v + (v_first - v) sigmoid(..),
    v_first being the values that the first rwkv7 left for the same token. One that finds none, being the
    first rwkv7 after other time mixers, leaves its own for later layers and itself has v (1 - sigmoid(..)).
    Differs from the paper: heads of 16 channels by default, there 64; the three square maps start orthogonal;
    the short convolution of r, k and v is an option. Default ranks are rounded to multiples of 32.
    """

    form = "free"
    decay = "vector"
    # The mixes and the low-rank maps, as in the public code (BlinkDL/RWKV-LM).
    undecayed = (
        "mix",
        *(f"{m}.{n}.weight" for m in ("forget", "rate", "first", "gate") for n in ("inner", "outer")),
    )

    class Config(MatrixMemory.Config):
        decay_rank: int | None = option(None, "rank of the decay; none: 2.5 sqrt(D) K / 64", least=1)
        rate_rank: int | None = option(None, "rank of the strength; none: 2.5 sqrt(D) K / 64", least=1)
        value_rank: int | None = option(None, "rank of the mix of values; none: 1.7 sqrt(D) K / 64", least=1)
        gate_rank: int | None = option(None, "rank of the output gate; none: 5 sqrt(D)", least=1)

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.add_maps()
        key, value = self.heads * self.key_dim, self.heads * self.value_dim
        # Six mixes of two products per channel, two keys and the removal, the bonus, the gate; the values.
        self.gates = 12 * dim + 7 * key + 3 * value + (value if index else 0)
        rho, left = depth_ratios(index, depth)
        powers = (0.2, 0.9, 0.7, 0.7, 0.9, 0.2)  # r, w, k, v, a, g
        self.mix = nn.Parameter(torch.stack([1 - channel_power(dim, p * left) for p in powers]))

        def rank(given: int | None, factor: float) -> int:
            return given or max(32, 32 * round(factor * dim**0.5 / 32))

        head = self.key_dim / 64
        self.forget = LowRank(dim, rank(config.decay_rank, 2.5 * head), key, torch.tanh)
        self.rate = LowRank(dim, rank(config.rate_rank, 2.5 * head), key)
        self.first = LowRank(dim, rank(config.value_rank, 1.7 * head), value) if index else None
        self.gate = LowRank(dim, rank(config.gate_rank, 5), value, torch.sigmoid, bias=False)
        up = ramp(key)
        self.removal_key = nn.Parameter(0.71 - 0.1 * (up - 0.5))
        self.write_rate = nn.Parameter(torch.full((key,), 1.02))
        self.bonus = nn.Parameter(torch.full((key,), -0.04))
        self.norm = HeadNorm(value, self.value_dim * 1e-5)
        with torch.no_grad():
            for part in (self.forget, self.rate, self.first, self.gate):
                if part is not None:
                    nn.init.zeros_(part.inner.weight)
                    gain = max(1.0, part.outer.in_features / part.outer.out_features) ** 0.5
                    nn.init.orthogonal_(part.outer.weight, gain=0.1 * gain)
            place = ramp(self.key_dim).mul(2).sub(1).repeat(self.heads)  # from -1 to 1 in each head
            zigzag = place * place.abs()
            self.forget.outer.bias.copy_(-6 + 6 * up ** (1 + rho**0.3) + 0.5 + 2.5 * zigzag)
            self.rate.outer.bias.copy_(-0.19 + 0.3 * zigzag + 0.4 * (up - 0.5))
            if self.first is not None:
                self.first.outer.bias.copy_(0.73 - 0.4 * (ramp(value) - 0.5))
            for square, gain in ((self.receptance, 1.0), (self.key, 0.1), (self.value, 1.0)):
                nn.init.orthogonal_(square.weight, gain=gain)
            nn.init.zeros_(self.out.weight)
            nn.init.constant_(self.norm.weight, ((index + 1) / depth) ** 0.7)

    def join(self, before: Sequence[Primitive]) -> None:
        first = next((layer for layer in before if isinstance(layer, RWKV7)), self)
        if first.value_widths != self.value_widths:
            raise ValueError(
                f"the values of time mixer {self.index} are {self.value_widths[0]} wide, those of the first "
                f"rwkv7 {first.value_widths[0]}; give all rwkv7 layers the same heads * value_dim"
            )

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Vectors, State]:
        previous, last = self.shift(x, carry[0])
        change = previous - x
        xr, xw, xk, xv, xa, xg = (torch.addcmul(x, change, mu) for mu in self.mix.to(x.dtype).unbind())
        r, k, v, tail = self.map_mixes(xr, xk, xv, carry[1])
        v = self.mix_first(v, xv, ctx)
        log_a = DECAY * self._heads(self.forget(xw), k).sigmoid()
        a = self._heads(self.rate(xa), k).sigmoid()
        removed = unit(k * self._heads(self.removal_key, k))
        k = k * (1 + (a - 1) * self._heads(self.write_rate, k))
        tokens = Vectors(q=r, k=k, v=v, log_a=log_a, x=-a * removed, y=removed, kept=self.gate(xg))
        return tokens, (last, tail)

    def read(self, o: Tensor, x: Tensor, tokens: Vectors) -> Tensor:
        score = (tokens.q * tokens.k * self._heads(self.bonus, o)).sum(-1, keepdim=True)
        o = self.norm(o) + (score * tokens.v).flatten(-2)
        return self.out(o.to(x.dtype) * tokens.kept)

    def mix_first(self, v: Tensor, z: Tensor, ctx: Context | None) -> Tensor:
        """v (B, T, H, V), for a later layer mixed with that of the first, by what z (B, T, D) says."""
        shared = {} if ctx is None else ctx.shared
        # With the index in the key, the layer that left the values knows them when it is called once more.
        own = f"{FIRST}/{self.index}"
        found = next((key for key in shared if key.startswith(FIRST)), own)
        first = shared.setdefault(found, v)
        if self.first is None:
            return v
        share = self._heads(self.first(z), v).sigmoid()
        if found == own:
            return v - v * share
        return v + (first.reshape(v.shape) - v) * share

    def _heads(self, z: Tensor, like: Tensor) -> Tensor:
        """(..., H K) -> (..., H, K), of the dtype of `like`."""
        return z.to(like.dtype).unflatten(-1, (self.heads, -1))
