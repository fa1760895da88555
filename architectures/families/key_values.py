"""A layer of softmax attention: its queries, keys and values, their cache, and the count of its work.

A subclass says how queries meet keys; how they are made from tokens, and what is made of the answer, is here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from architectures.axes import Axes
from architectures.families.options import canon_taps, count_of_heads, divide, head_widths, per_head, taps
from architectures.families.recurrent import step_once
from architectures.functional.attention import attend, attend_all, attend_past, executed_pairs, visible_pairs
from architectures.functional.rotary import rotate_first, rotated_width
from architectures.functional.value_residual import share_value
from architectures.parts.canon import Canon
from architectures.parts.linear import first_columns, first_rows
from architectures.parts.norms import RMSNorm
from architectures.parts.short_conv import ShortConv
from architectures.primitive import Context, Options, Primitive, State, divisors, linear_flops, option


class RotaryOptions(Options):
    rope: bool = option(True, "rotate queries and keys by their position")
    rope_fraction: float = option(1.0, "part of the key channels that is rotated, in whole pairs")
    rope_base: float = option(
        1e4, "base of the angles: pair i of N turns by base^(-i/N) per position", least=1
    )


class KeyValueMemory(Primitive):
    """The base of the layers with o_t = sum_{s <= t} softmax_s(score_ts) v_s and a cache of keys and values.

    x (B, T, D) -> q (B, T, H, K), k (B, T, G, K), v (B, T, G, V) -> (B, T, D) with G = `kv_heads` of the H
    heads. The state is (keys, values, count, *tails), the tails those of the short convolutions that have
    taps, in the order in which the layer created them. `rotated` channels of q and k are turned by their
    position. With a `window` only its last positions are seen and kept; a layer that is not `causal` sees all
    positions, and has no state; it takes `step` and `prefill` from `Primitive`.
    """

    kind = "attention"
    step = step_once
    window: int | None = None
    rope_base: float = 1e4
    # What is added to every key alike leaves the weights as they are.
    shift_free: ClassVar[bool] = True
    # Channels that a subclass adds to queries and keys, to bias the scores.
    biased: ClassVar[int] = 0
    undecayed: tuple[str, ...] = ("conv.weight", "canon.weight")

    class Config(Options):
        heads: int | None = count_of_heads()
        key_dim: int | None = per_head("key width")
        value_dim: int | None = per_head("value width")
        kv_heads: int | None = option(
            None, "key and value heads; none: largest divisor of heads to heads / group", per="width", least=1
        )
        group: int = option(1, "least query heads per key and value head, with kv_heads=none", least=1)
        qk_norm: bool = option(False, "RMSNorm of each head's queries and keys, before any rotation")
        gate: bool = option(False, "multiply the output of the heads by a sigmoid of the input")
        conv: int = taps(0)
        canon: int = canon_taps("q, k and v, behind conv and QK-norm")
        bias: Literal["qkv", "all"] | None = option(
            None, "biases of the maps to q, v and, where it can act (RoPE, QK-norm, taps), k; or of all maps"
        )

    def __init__(self, config: Any, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.heads, self.key_dim, self.value_dim = head_widths(dim, config)
        enough = (d for d in divisors(self.heads) if d * config.group <= self.heads or d == 1)
        self.kv_heads = config.kv_heads or max(enough)
        divide("heads", self.heads, "kv_heads", self.kv_heads)
        # Stored, so that a layer whose keys are widened keeps its scores and the angles of its old pairs.
        self.scale = self.key_dim**-0.5
        self.rotated = 0
        if isinstance(config, RotaryOptions) and config.rope:
            self.rotated = rotated_width(self.key_dim, config.rope_fraction)
            self.rope_base = config.rope_base
        self.rotary_width = self.rotated
        biased, everywhere = config.bias is not None, config.bias == "all"
        self.query = nn.Linear(dim, self.heads * self.key_dim, bias=biased)
        keyed = self.rotated > 0 or config.qk_norm or config.conv + config.canon > 0
        acts = keyed or not self.shift_free
        self.key = nn.Linear(dim, self.kv_heads * self.key_dim, bias=biased and acts)
        self.value = nn.Linear(dim, self.kv_heads * self.value_dim, bias=biased)
        self.out = nn.Linear(self.heads * self.value_dim, dim, bias=everywhere)
        self.gate = nn.Linear(dim, self.heads * self.value_dim, bias=everywhere) if config.gate else None
        self.query_norm = RMSNorm(self.key_dim) if config.qk_norm else None
        self.key_norm = RMSNorm(self.key_dim) if config.qk_norm else None
        self.conv = ShortConv(sum(self.channels(self.kv_heads)), config.conv)
        self.canon = Canon(self.conv.channels, config.canon)

    @property
    def value_widths(self) -> tuple[int, ...]:
        return (self.kv_heads * self.value_dim,)

    @property
    def state_kinds(self) -> tuple[str, ...]:
        if not self.causal:
            return ()
        kind = "growing" if self.window is None else "recurrent"
        return (kind, kind, "counter", *("conv" for _ in self.convs()))

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        positions = torch.arange(x.shape[1], device=x.device)
        q, k, v, _ = self.project(x, positions, self.init_tails(x.shape[0]), ctx)
        return self.read(self.meet(q, self.spread(k), self.spread(v), past=False, ctx=ctx), x)

    def meet(self, q: Tensor, k: Tensor, v: Tensor, *, past: bool, ctx: Context | None) -> Tensor:
        """What the queries find, q (B, T, H, K), k (B, S, H, K), v (B, S, H, V) -> (B, T, H, V).

        `past`: q are the last T of S positions, else all of them.
        """
        if not self.causal:
            return attend_all(q, k, v, scale=self.scale)
        return (attend_past if past else attend)(q, k, v, scale=self.scale, window=self.window)

    def init_state(self, batch: int, length: int | None = None) -> State:
        """Keys (B, t, G, K), values (B, t, G, V), the number of tokens so far, and the tails."""
        self.check_length(length)
        if not self.causal:
            return ()
        like = self.query.weight
        cache = (like.new_zeros(batch, 0, self.kv_heads, width) for width in (self.key_dim, self.value_dim))
        count = torch.zeros((), dtype=torch.int64, device=like.device)
        return *cache, count, *self.init_tails(batch)

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        keys, values, count, *tails = state
        keys, values = self.cached(keys, values, ctx)
        positions = count + torch.arange(x.shape[1], device=x.device)
        q, k, v, tails = self.project(x, positions, tails, ctx)
        k, v = torch.cat([keys, k], dim=1), torch.cat([values, v], dim=1)
        # With nothing before it, a prompt takes the way of `forward`, whose memory does not grow with T * T.
        o = self.meet(q, self.spread(k), self.spread(v), past=keys.shape[1] > 0, ctx=ctx)
        start = 0 if self.window is None else max(0, k.shape[1] - self.window)
        return self.read(o, x), (k[:, start:], v[:, start:], count + x.shape[1], *tails)

    def units(self, ctx: Context | None = None) -> int:
        """How many heads of keys and values this call uses: the first ones."""
        return self.kv_heads

    def cached(self, keys: Tensor, values: Tensor, ctx: Context | None) -> tuple[Tensor, Tensor]:
        """What this call reads of the cache."""
        return keys, values

    def convs(self) -> list[ShortConv]:
        return [m for m in self.modules() if isinstance(m, ShortConv) and m.taps]

    def init_tails(self, batch: int) -> State:
        return tuple(conv.init_tail(self.query.weight, batch) for conv in self.convs())

    def project(
        self, x: Tensor, positions: Tensor | None, tails: Sequence[Tensor], ctx: Context | None
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """q (B, T, H, K), k (B, T, G, K), v (B, T, G, V) of x (B, T, D), and the next tails."""
        maps = zip((self.query, self.key, self.value), self.channels(self.units(ctx)), strict=True)
        mixed, after = [first_rows(linear, x, width) for linear, width in maps], list(tails)
        mixed = self.convolve(self.conv, mixed, after, 0)
        # A nested layer maps to its first heads only.
        widths = self.key_dim, self.key_dim, self.value_dim
        q, k, v = (z.unflatten(-1, (-1, width)) for z, width in zip(mixed, widths, strict=True))
        if self.query_norm is not None and self.key_norm is not None:
            q, k = self.query_norm(q, self._counted(q)), self.key_norm(k, self._counted(k))
        q, k, v = self.convolve(self.canon, [q, k, v], after, 1 if self.conv.taps else 0)
        if positions is not None and self.rotated:
            about = positions, self.rotated, self.rotary_width
            q, k = (rotate_first(z, *about, base=self.rope_base) for z in (q, k))
        return q, k, share_value(v, ctx, self.index), after

    def _counted(self, z: Tensor) -> Tensor | None:
        """The channels (B, T, H, .) that QK-norm sums; all of them unless the keys were widened.

        New key channels start at 0 and new query channels do not, or neither would ever learn; so the sums
        stay over the channels that the layer was built with. Widening puts new channels after the old ones of
        each half of the rotated pairs and after the old ones of the rest.
        """
        assert self.key_norm is not None
        count = self.key_norm.divisor
        if count >= self.key_dim:
            return None
        half, old = self.rotated // 2, self.rotary_width
        parts = z.split([half, half, self.key_dim - 2 * half], dim=-1)
        kept = zip(parts, (old // 2, old // 2, count - old), strict=True)
        return torch.cat([part[..., :width] for part, width in kept], dim=-1)

    def channels(self, units: int) -> tuple[int, int, int]:
        """Channels of queries, keys and values that belong to the first `units` heads of keys."""
        group = self.heads // self.kv_heads
        return units * group * self.key_dim, units * self.key_dim, units * self.value_dim

    def first_channels(self, z: Tensor, units: int, dim: int) -> Tensor:
        """Of channels laid out as queries, keys, values: those of the first `units` heads."""
        have, widths = self.channels(z.shape[dim] // sum(self.channels(1))), self.channels(units)
        if have == widths:
            return z
        parts = zip(z.split(have, dim=dim), widths, strict=True)
        return torch.cat([part.narrow(dim, 0, width) for part, width in parts], dim=dim)

    def convolve(self, conv: ShortConv, vectors: list[Tensor], tails: list[Tensor], at: int) -> list[Tensor]:
        """q, k and v, (B, T, .) or (B, T, H, .), through a convolution beside each other; sets tails[at]."""
        if conv.weight is None:
            return vectors
        flat = [z.flatten(2) for z in vectors]
        x = torch.cat(flat, dim=-1)
        units = x.shape[-1] // sum(self.channels(1))
        weight = self.first_channels(conv.weight, units, 0)
        joined, tails[at] = conv.mix(x, self.first_channels(tails[at], units, -1), weight)
        parts = joined.split([z.shape[-1] for z in flat], dim=-1)
        return [part.view_as(z) for part, z in zip(parts, vectors, strict=True)]

    def spread(self, z: Tensor) -> Tensor:
        """(B, T, G, .) -> (B, T, H, .): each key and value head once for every query head that shares it."""
        if self.kv_heads == self.heads:
            return z
        shape = (*z.shape[:3], self.heads // self.kv_heads, z.shape[3])
        return z[:, :, :, None].expand(shape).flatten(2, 3)

    def read(self, o: Tensor, x: Tensor) -> Tensor:
        """What the heads found, o (B, T, H, V) -> (B, T, D)."""
        o = o.flatten(-2)
        if self.gate is not None:
            o = o * first_rows(self.gate, x, o.shape[-1]).sigmoid()
        return first_columns(self.out, o)

    # Everything that the layer computes is a multiple of its heads of keys and values.
    def flops(self, length: int) -> int:
        pairs = self.pairs(length) * self.heads
        whole = self.products(length) + 2 * pairs * (self.key_dim + self.value_dim) + self.elementwise(length)
        return whole * self.units() // self.kv_heads

    def executed_flops(self, length: int) -> int:
        if not self.causal:
            return self.flops(length)
        # The fused kernel computes on equal widths, and its counter formula on every pair.
        pairs = executed_pairs(length, self.window) * self.heads
        width = max(self.key_dim + self.biased, self.value_dim)
        whole = self.products(length) + 4 * pairs * width + self.elementwise(length)
        return whole * self.units() // self.kv_heads

    def uncounted_flops(self, length: int) -> int:
        return self.elementwise(length) * self.units() // self.kv_heads

    def pairs(self, length: int) -> int:
        """Pairs of positions that see each other, of one head."""
        return visible_pairs(length, self.window) if self.causal else length**2

    def products(self, length: int) -> int:
        """FLOPs of every `nn.Linear`."""
        return length * linear_flops(self)

    def elementwise(self, length: int) -> int:
        gate = 0 if self.gate is None else self.gate.out_features
        return sum(conv.flops(length) for conv in self.convs()) + length * gate

    def axes(self) -> Axes:
        group = self.heads // self.kv_heads
        # A bias of the keys would need the factor, too.
        unscalable = {
            "qk_norm": self.query_norm is not None,
            "conv": self.conv.taps,
            "bias": self.key.bias is not None,
        }
        maps = {"query": "GRK D", "key": "GK D", "value": "GV D", "out": "D GRV", "gate": "GRV D"}
        weights = {**maps, "query_norm": "K", "key_norm": "K"}
        weights |= dict.fromkeys(("conv", "canon"), "GRK+GK+GV .")
        biases = {f"{name}.bias": axes.split()[0] for name, axes in maps.items()}
        return Axes(
            sizes={"G": self.kv_heads, "R": group, "K": self.key_dim, "V": self.value_dim},
            tensors={f"{name}.weight": axes for name, axes in weights.items()} | biases,
            zero=dict.fromkeys("GRVD", ("out.weight", "out.bias")) | {"K": ("key.weight", "key.bias")},
            options={"heads": "GR", "kv_heads": "G", "key_dim": "K", "value_dim": "V"},
            rotated=self.rotated,
            scaled="key.weight",
            unscalable=next((name for name, there in unscalable.items() if there), ""),
        )
