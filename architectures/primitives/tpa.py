"""Tensor product attention: queries, keys and values of all heads are sums of a few outer products."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from architectures.families.options import count_of_heads, head_widths, per_head
from architectures.families.recurrent import forward_anew, step_once
from architectures.functional.attention import attend, attend_past, visible_pairs
from architectures.functional.rotary import rotate, rotated_width
from architectures.primitive import Context, Options, Primitive, State, linear_flops, option
from architectures.registry import primitive


@primitive("tpa", mixes="time", version=1, paper="arXiv:2501.06425", known_as="T6")
class TensorProductAttention(Primitive):
    """q_h = sum_r a_rh b_r / R, and so k and v, each a and b linear in x; then softmax attention.

    x (B, T, D) -> a (B, T, R, H), b (B, T, R, K) -> q, k (B, T, H, K), v (B, T, H, V) -> (B, T, D). The H x K
    matrix of all heads of one token has rank R: `query_rank` for queries, `rank` for keys and for values.
    Only the factors of keys and values are kept of a token. RoPE turns the factors b of queries and keys,
    which turns the sums as well. The values are a function of the factors, so the layer shares none with
    others. Differs from the paper: nothing.

    Hypothesis: recalls as well as `mqa` or `mla` of an equal cache, and better than `mqa` where heads have to
    look for different things.
    """

    kind = "attention"
    forward = forward_anew
    step = step_once

    class Config(Options):
        heads: int | None = count_of_heads()
        key_dim: int | None = per_head("key width")
        value_dim: int | None = per_head("value width")
        query_rank: int = option(6, "outer products in the queries of a token", least=1)
        rank: int = option(
            2, "outer products in the keys, and in the values, of a token", sizes="state", least=1
        )
        rope: bool = option(True, "rotate queries and keys by their position")

    config: Config

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.heads, self.key_dim, self.value_dim = head_widths(dim, config)
        if config.rope:
            rotated_width(self.key_dim, 1.0)  # refuses an odd width
        self.scale = self.key_dim**-0.5
        shapes = {
            "query": (config.query_rank, self.key_dim),
            "key": (config.rank, self.key_dim),
            "value": (config.rank, self.value_dim),
        }
        self.over_heads, self.over_channels = nn.ModuleDict(), nn.ModuleDict()
        for name, (rank, width) in shapes.items():
            # Glorot's rule of the published code, which counts D rows of `rank` factors on both sides.
            self.over_heads[name] = _glorot(dim, rank * self.heads, rank * (dim + self.heads))
            self.over_channels[name] = _glorot(dim, rank * width, width * (dim + rank))
        self.out = nn.Linear(self.heads * self.value_dim, dim, bias=False)
        nn.init.zeros_(self.out.weight)

    state_kinds = ("growing", "growing", "growing", "growing", "counter")

    def init_state(self, batch: int, length: int | None = None) -> State:
        """Factors of keys (B, t, R, H), (B, t, R, K), of values (B, t, R, H), (B, t, R, V), and the count."""
        self.check_length(length)
        like, rank = self.out.weight, self.config.rank
        widths = self.heads, self.key_dim, self.heads, self.value_dim
        count = torch.zeros((), dtype=torch.int64, device=like.device)
        return *(like.new_zeros(batch, 0, rank, width) for width in widths), count

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        *cache, count = state
        positions = count + torch.arange(x.shape[1], device=x.device)
        a, b = self._factors("query", x, positions)
        q = a.mT @ b / self.config.query_rank
        new = (*self._factors("key", x, positions), *self._factors("value", x, None))
        cache = [torch.cat([old, z], dim=1) for old, z in zip(cache, new, strict=True)]
        k, v = (cache[i].mT @ cache[i + 1] / self.config.rank for i in (0, 2))
        # With nothing before it, a prompt takes the fused kernel, whose memory does not grow with T * T.
        answer = attend_past if k.shape[1] > x.shape[1] else attend
        o = answer(q, k, v, scale=self.scale)
        return self.out(o.flatten(-2)), (*cache, count + x.shape[1])

    def flops(self, length: int) -> int:
        pairs = 2 * visible_pairs(length) * self.heads * (self.key_dim + self.value_dim)
        return pairs + self._projection(length)

    def executed_flops(self, length: int) -> int:
        # The fused kernel computes on equal widths, and its counter formula on the whole square.
        pairs = 4 * length**2 * self.heads * max(self.key_dim, self.value_dim)
        return pairs + self._projection(length)

    def _projection(self, length: int) -> int:
        """The maps to the factors and from the heads, and the outer products."""
        config = self.config
        products = (config.query_rank + config.rank) * self.key_dim + config.rank * self.value_dim
        return length * (linear_flops(self) + 2 * self.heads * products)

    def _factors(self, name: str, x: Tensor, positions: Tensor | None) -> tuple[Tensor, Tensor]:
        """a (B, T, R, H) and b (B, T, R, K), the latter rotated where positions are given."""
        a = self.over_heads[name](x).unflatten(-1, (-1, self.heads))
        width = self.value_dim if name == "value" else self.key_dim
        b = self.over_channels[name](x).unflatten(-1, (-1, width))
        return a, rotate(b, positions) if positions is not None and self.config.rope else b


def _glorot(dim: int, width: int, fans: int) -> nn.Linear:
    linear = nn.Linear(dim, width, bias=False)
    bound = math.sqrt(6 / fans)
    nn.init.uniform_(linear.weight, -bound, bound)
    return linear
