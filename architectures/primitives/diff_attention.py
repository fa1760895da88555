"""Differential attention: what one softmax finds, less a part of what another finds in the same values."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor, nn

from architectures.axes import Axes
from architectures.families.key_values import KeyValueMemory, RotaryOptions
from architectures.families.options import default_heads
from architectures.functional.attention import executed_pairs
from architectures.parts.norms import RMSNorm
from architectures.primitive import Context, divisors, option
from architectures.registry import primitive


@primitive("diff-attention", mixes="time", version=1, paper="arXiv:2410.05258", known_as="Diff Transformer")
class DiffAttention(KeyValueMemory):
    """o = (1 - l_0) RMSNorm((softmax(q k^T / sqrt(K)) - l softmax(q' k'^T / sqrt(K))) [v v']).

    x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V) -> (B, T, D). Two neighbouring heads, the second one
    primed, look at the values of both: o (B, T, H / 2, 2 V). l = exp(a . b) - exp(c . d) + l_0 with vectors a
    to d (K,) drawn from N(0, 0.1^2), and l_0 = 0.8 - 0.6 exp(-0.3 i) in the i-th time mixer. Pairs may share
    pairs of keys and values. Differs from the paper: nothing; `heads` counts both of a pair. Where pairs
    share keys, the two heads meet the two keys of one pair, as in its fused form.

    Hypothesis: recalls better than attention among noise, where the second map cancels what the first spends
    on everything.
    """

    class Config(RotaryOptions, KeyValueMemory.Config):
        heads: int | None = option(
            None,
            "number of heads, even; none: one for each 16 channels, or else for each 8",
            per="width",
            least=2,
        )

    config: Config

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        heads = config.heads or default_heads(dim)
        if config.heads is None and heads % 2:
            heads *= 2
        stated = dataclasses.replace(config, heads=heads)
        super().__init__(stated, dim=dim, max_len=max_len, index=index, depth=depth)
        self.config = config
        if self.heads % 2:
            raise ValueError(
                f"heads={self.heads} is odd, and heads come in pairs; choose heads={self.heads + 1}"
            )
        if self.kv_heads % 2:
            even = ", ".join(str(n) for n in divisors(self.heads) if n % 2 == 0)
            raise ValueError(
                f"kv_heads={self.kv_heads} is odd, and heads come in pairs; choose kv_heads from {even}"
            )
        # Stored: a layer keeps it where others are put before it.
        self.offset = 0.8 - 0.6 * math.exp(-0.3 * index)
        self.lambda_query = nn.Parameter(0.1 * torch.randn(2, self.key_dim))
        self.lambda_key = nn.Parameter(0.1 * torch.randn(2, self.key_dim))
        self.norm = RMSNorm(2 * self.value_dim, eps=1e-5)

    def spread(self, z: Tensor) -> Tensor:
        """Each pair of keys or of values once for every pair of queries that shares it."""
        pairs = z.unflatten(2, (-1, 1, 2))
        return pairs.expand(-1, -1, -1, self.heads // self.kv_heads, -1, -1).flatten(2, 4)

    def meet(self, q: Tensor, k: Tensor, v: Tensor, *, past: bool, ctx: Context | None) -> Tensor:
        both = v.unflatten(2, (-1, 1, 2)).flatten(4).expand(-1, -1, -1, 2, -1).flatten(2, 3)
        return super().meet(q, k, both, past=past, ctx=ctx)

    def read(self, o: Tensor, x: Tensor) -> Tensor:
        first, second = (self.lambda_query * self.lambda_key).sum(-1).exp()
        share = (first - second + self.offset).to(o.dtype)
        o = self.norm(o[:, :, 0::2] - share * o[:, :, 1::2]) * (1 - self.offset)
        return super().read(o, x)

    def flops(self, length: int) -> int:
        return super().flops(length) + 2 * self.pairs(length) * self.heads * self.value_dim

    def executed_flops(self, length: int) -> int:
        pairs = executed_pairs(length) * self.heads
        work = 4 * pairs * max(self.key_dim, 2 * self.value_dim)
        return self.products(length) + work + self.elementwise(length)

    def axes(self) -> Axes:
        """Groups of R pairs P of heads. The norm sums over new values too, so these start at 0."""
        maps = {"query": "GRPK D", "key": "GPK D", "value": "GPV D", "out": "D GRPV", "gate": "GRPV D"}
        norms = {"query_norm": "K", "key_norm": "K", "norm": "PV"}
        taps = dict.fromkeys(("conv", "canon"), "GRPK+GPK+GPV .")
        tensors = {f"{name}.weight": axes for name, axes in (maps | norms | taps).items()}
        tensors |= {f"{name}.bias": axes.split()[0] for name, axes in maps.items()}
        base = super().axes()
        return dataclasses.replace(
            base,
            sizes={**base.sizes, "G": self.kv_heads // 2, "P": 2},
            tensors=tensors | {"lambda_query": "P K", "lambda_key": "P K"},
            zero={**base.zero, "K": (*base.zero["K"], "lambda_key"), "V": ("value.weight", "value.bias")},
            options={**base.options, "heads": "GRP", "kv_heads": "GP"},
        )


@primitive("diff-attention-v2", mixes="time", version=1, paper="arXiv:2410.05258", known_as="DIFF V2")
class DiffAttentionV2(KeyValueMemory):
    """o = softmax(q k^T / sqrt(K)) v - sigmoid(W_l x) softmax(q' k^T / sqrt(K)) v, with two queries a head.

    x (B, T, D) -> q (B, T, 2 H, K), k (B, T, H, K), v (B, T, H, V) -> (B, T, D). The second query, every
    other one, asks the same keys and values; how much of what it finds is taken away is said by each token
    and head. No norm, and no constant that depends on the depth; the cache is that of attention. Differs from
    the paper, which is that of `diff-attention`: this is what its authors published after it, as code
    (microsoft/unilm, Diff-Transformer-V2).

    Hypothesis: recalls better than attention among noise, as `diff-attention` does, and trains as fast as
    attention.
    """

    class Config(RotaryOptions, KeyValueMemory.Config):
        pass

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        biased, everywhere = config.bias is not None, config.bias == "all"
        self.query = nn.Linear(dim, 2 * self.heads * self.key_dim, bias=biased)
        self.share = nn.Linear(dim, self.heads, bias=everywhere)

    def channels(self, units: int) -> tuple[int, int, int]:
        query, key, value = super().channels(units)
        return 2 * query, key, value

    def spread(self, z: Tensor) -> Tensor:
        """Each key and value head once for both queries of every head that shares it."""
        group = 2 * self.heads // self.kv_heads
        return z[:, :, :, None].expand(-1, -1, -1, group, -1).flatten(2, 3)

    def read(self, o: Tensor, x: Tensor) -> Tensor:
        share = self.share(x).sigmoid()[..., None].to(o.dtype)
        return super().read(o[:, :, 0::2] - share * o[:, :, 1::2], x)

    def flops(self, length: int) -> int:
        more = 2 * self.pairs(length) * self.heads * (self.key_dim + self.value_dim)
        return super().flops(length) + more

    def executed_flops(self, length: int) -> int:
        pairs = executed_pairs(length) * self.heads
        return super().executed_flops(length) + 4 * pairs * max(self.key_dim, self.value_dim)

    def axes(self) -> Axes:
        more = {"query.weight": "GRPK D", "query.bias": "GRPK", "share.weight": "GR D", "share.bias": "GR"}
        taps = dict.fromkeys(("conv.weight", "canon.weight"), "GRPK+GK+GV .")
        axes = super().axes().also(more | taps)
        return dataclasses.replace(axes, sizes={**axes.sizes, "P": 2})
