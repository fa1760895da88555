"""Linear attention: sums of outer products of features and values, read by the query; Based and ReBased."""

from __future__ import annotations

import dataclasses
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.families.matrix_memory import MatrixMemory, Trait, Vectors
from architectures.families.options import count_of_heads, per_head
from architectures.functional.delta import delta_step, in_chunks, in_time
from architectures.functional.precision import full_precision
from architectures.parts.feature_maps import Hedgehog, Product, elu, pairs_of
from architectures.parts.norms import rms_norm
from architectures.parts.short_conv import ShortConv
from architectures.primitive import Context, State, option
from architectures.registry import primitive, variant


class Features(Trait):
    """What linear attention and Based share: maps to q, k and v, sums of features phi(k) [v, 1]^T.

    The state is (S, tails of q, k and v): S (B, H, `features`, V + 1), without the 1 where not `normalised`.

    features    width of phi
    normalised  divide by the sum of phi(k_s) . phi(q_t), which must then not change its sign
    eps         what is added to the denominator
    """

    features: int
    normalised: bool = True
    eps: float = 1e-6

    def add_maps(self) -> None:
        keys, values = self.heads * self.key_dim, self.heads * self.value_dim
        self.query = nn.Linear(self.dim, keys, bias=False)
        self.key = nn.Linear(self.dim, keys, bias=False)
        self.value = nn.Linear(self.dim, values, bias=False)
        self.out = nn.Linear(values, self.dim, bias=False)
        taps, canon = self.config.conv, self.config.canon
        self.query_conv = ShortConv(keys, taps, canon=canon)
        self.key_conv = ShortConv(keys, taps, canon=canon)
        self.value_conv = ShortConv(values, taps, canon=canon)

    def map_each(self, x: Tensor, carry: State) -> tuple[list[Tensor], State]:
        """q, k (B, T, H, K) and v (B, T, H, V) after their convolutions, at least in float32; their tails."""
        high = torch.promote_types(x.dtype, torch.float32)
        maps, convs = (self.query, self.key, self.value), (self.query_conv, self.key_conv, self.value_conv)
        found = [conv(linear(x), tail) for linear, conv, tail in zip(maps, convs, carry, strict=True)]
        vectors = [z.to(high).unflatten(-1, (self.heads, -1)) for z, _ in found]
        return vectors, tuple(tail for _, tail in found)

    def memory_shape(self) -> tuple[int, ...]:
        return self.heads, self.features, self.value_dim + self.normalised

    def feed(self, z: Vectors) -> Vectors:
        """v with the 1 whose sum is the denominator."""
        return dataclasses.replace(z, v=F.pad(z.v, (0, 1), value=1.0)) if self.normalised else z

    def divide(self, o: Tensor) -> Tensor:
        return o[..., :-1] / (o[..., -1:] + self.eps) if self.normalised else o


@primitive("linear-attention", mixes="time", version=1, paper="arXiv:2006.16236")
class LinearAttention(Features, MatrixMemory):
    """S_t = S_{t-1} + phi(k_t) v_t^T,  z_t = z_{t-1} + phi(k_t),  o_t = S_t^T phi(q_t) / (z_t . phi(q_t)).

    x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V) -> (B, T, D). No biases, no position information. The
    learned maps are those of a head, of q and of k: hedgehog is softmax([2 W x + b, -2 W x - b]) with 2 K
    features (arXiv:2402.04347), elementwise-product (W_1 x) * (W_2 x). A feature map that can be negative
    ("elementwise-product", "identity") has no safe denominator: there the output is normalised per head by
    RMSNorm instead. The nominal state is S alone. Differs from the paper: nothing with feature_map=elu.
    """

    undecayed = ("query_map.bias", "key_map.bias")

    class Config(MatrixMemory.Config):
        heads: int | None = count_of_heads(1)
        feature_map: Literal["elu", "relu", "hedgehog", "elementwise-product", "identity"] = option(
            "elu", "phi: elu(x) + 1, relu(x), a softmax of both signs, a product of two linear maps, or x"
        )

    config: Config

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.add_maps()
        self.normalised = config.feature_map not in ("elementwise-product", "identity")
        self.features = self.key_dim * (2 if config.feature_map == "hedgehog" else 1)
        learned = {"hedgehog": Hedgehog, "elementwise-product": Product}.get(config.feature_map)
        if learned is not None:
            self.query_map = learned(self.heads, self.key_dim)
            self.key_map = learned(self.heads, self.key_dim)
        if not self.normalised:
            self.norm = nn.Parameter(torch.ones(self.value_dim))

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Vectors, State]:
        (q, k, v), carry = self.map_each(x, carry)
        match self.config.feature_map:
            case "elu":
                q, k = elu(q), elu(k)
            case "relu":
                q, k = q.relu(), k.relu()
            case "hedgehog" | "elementwise-product":
                q, k = self.query_map(q), self.key_map(k)
        return Vectors(q=q, k=k, v=v), carry

    def read(self, o: Tensor, x: Tensor, tokens: Vectors) -> Tensor:
        o = self.divide(o)
        if not self.normalised:
            o = rms_norm(o, self.norm, divisor=self.value_dim)
        return self.out(o.flatten(-2).to(x.dtype))

    def products(self, length: int) -> int:
        maps = (m for m in self.modules() if isinstance(m, Hedgehog | Product))
        return super().products(length) + length * sum(2 * m.weight.numel() for m in maps)

    def nominal_state(self, length: int) -> int:
        return self.heads * self.features * self.value_dim


variant("mh-linear-attention", of="linear-attention", heads=None)


CHUNK = 64


@primitive("based", mixes="time", version=1, paper="arXiv:2402.18668")
class Based(Features, MatrixMemory):
    """S_t = S_{t-1} + phi(k_t) [v_t, 1]^T,  o_t = S_t^T phi(q_t) over its last element, phi(q).phi(k) = p(z).

    x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V) -> (B, T, D), z = q . k / sqrt(K). p(z) is the expansion
    of the exponential, 1 + z + z^2 / 2, for kernel=taylor, and z^2 for kernel=square (ReBased,
    arXiv:2402.10644), where q and k pass a LayerNorm per head, with one learned scale and shift for both. phi
    has the K (K + 1) / 2 products of the channels and, for taylor, 1 and the channels; within a chunk p
    stands for it. Differs from the paper: the layer alone, which there alternates with sliding attention and
    short convolutions.
    """

    squares: Tensor

    anew = False

    class Config(MatrixMemory.Config):
        key_dim: int | None = per_head("key width before phi", 16, sizes="state")
        kernel: Literal["taylor", "square"] = option("taylor", "p: 1 + z + z^2 / 2, or z^2 after LayerNorm")

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.add_maps()
        self.taylor = config.kernel == "taylor"
        self.features = self.key_dim * (self.key_dim + 1) // 2 + (1 + self.key_dim) * self.taylor
        # phi(q) . phi(k) > 1/2 for the expansion, but may come near zero for the square.
        self.eps = 1e-12 if self.taylor else 1e-6
        rows, columns = torch.triu_indices(self.key_dim, self.key_dim)
        squares = torch.where(rows == columns, 1.0, 2.0) / (2 if self.taylor else 1)
        if self.taylor:
            squares = torch.cat([torch.ones(1 + self.key_dim), squares])
        # How often each product occurs in p; the root of it would not survive a change of dtype.
        self.register_buffer("squares", squares[:, None], persistent=False)
        self.gates = self.heads * self.key_dim * (self.key_dim + 1)
        if not self.taylor:
            self.norm_weight = nn.Parameter(torch.ones(self.key_dim))
            self.norm_bias = nn.Parameter(torch.zeros(self.key_dim))

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Vectors, State]:
        (q, k, v), carry = self.map_each(x, carry)
        if not self.taylor:
            weight, bias = self.norm_weight.to(q.dtype), self.norm_bias.to(q.dtype)
            q, k = (F.layer_norm(z, (self.key_dim,), weight, bias) for z in (q, k))
        root = self.scale**0.5
        return Vectors(q=q * root, k=k * root, v=v), carry

    def read(self, o: Tensor, x: Tensor, tokens: Vectors) -> Tensor:
        return self.out(self.divide(o).flatten(-2).to(x.dtype))

    def recur(self, z: Vectors, s: Tensor) -> tuple[Tensor, Tensor]:
        length = z.q.shape[1]
        size = min(CHUNK, length)

        with full_precision(s):
            # A padded key has features, but its value and its 1 are zero.
            q, k, v = (in_chunks(u, size) for u in (z.q, z.k, z.v))
            inner = self.kernel(q @ k.mT).tril() @ v
            weights = self.squares.to(v.dtype).sqrt()
            written = weights * (self.products_of(k) @ v)  # (B, H, T/C, F, V + 1)
            entering = []
            for new in written.unbind(2):
                entering.append(s)
                s = s + new
            o = inner + self.products_of(q).mT @ (weights * torch.stack(entering, dim=2))
            return in_time(o, length), s

    def recur_once(self, z: Vectors, s: Tensor) -> tuple[Tensor, Tensor]:
        weights = self.squares.to(s.dtype).sqrt()
        q, k = ((weights * self.products_of(u.transpose(1, 2)))[..., 0] for u in (z.q, z.k))  # (B, H, F)
        o, s = delta_step(q, k, z.v[:, 0], None, s)
        return o[:, None], s

    def kernel(self, z: Tensor) -> Tensor:
        """p(z)."""
        return torch.addcmul(1 + z, z, z, value=0.5) if self.taylor else z.square()

    def products_of(self, x: Tensor) -> Tensor:
        """phi of vectors (..., C, K) as columns (..., F, C), but for the weights."""
        x = x.mT.contiguous()
        lower = [torch.ones_like(x[..., :1, :]), x] if self.taylor else []
        return torch.cat([*lower, *pairs_of(x)], dim=-2)

    def recur_flops(self, length: int) -> tuple[int, int]:
        heads, features, values = self.memory_shape()
        size = min(CHUNK, length)
        padded = -(-length // size) * size
        pairs = 2 * padded * size * (self.key_dim + values)
        # The kernel of each pair, and the products of the channels of padded tokens.
        rest = (4 if self.taylor else 1) * padded * size * heads + (padded - length) * self.gates
        return heads * (pairs + 4 * padded * features * values), rest


SQUARE = (
    "S_t = S_{t-1} + phi(k_t) [v_t, 1]^T,  o_t = S_t^T phi(q_t) over its last element, "
    "phi(q).phi(k) = (q . k)^2 / K"
)
variant("rebased", of="based", paper="arXiv:2402.10644", equation=SQUARE, kernel="square")
