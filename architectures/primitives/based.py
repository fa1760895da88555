"""Based and ReBased: linear attention whose features are the products of two channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.families.feature_memory import FeatureMemory
from architectures.families.matrix_memory import MatrixMemory, Tokens
from architectures.functional.delta import delta_step
from architectures.functional.feature_maps import pairs_of
from architectures.functional.precision import full_precision
from architectures.primitive import Context, State, option
from architectures.registry import primitive, variant

CHUNK = 64


@primitive("based", mixes="time", version=1, paper="arXiv:2402.18668")
class Based(FeatureMemory):
    """S_t = S_{t-1} + phi(k_t) [v_t, 1]^T,  o_t = S_t^T phi(q_t) over its last element, phi(q).phi(k) = p(z).

    x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V) -> (B, T, D), z = q . k / sqrt(K). p(z) is the expansion
    of the exponential, 1 + z + z^2 / 2, for kernel=taylor, and z^2 for kernel=square (ReBased,
    arXiv:2402.10644), where q and k pass a LayerNorm a head, with one learned scale and shift for both. phi
    has the K (K + 1) / 2 products of the channels and, for taylor, 1 and the channels; within a chunk p
    stands for it. Differs from the paper: the layer alone, which there alternates with sliding attention and
    short convolutions.
    """

    squares: Tensor

    @dataclass(frozen=True, kw_only=True)
    class Config(MatrixMemory.Config):
        key_dim: int | None = option(
            16, "key width a head, before phi; none: width / heads", scales="head", sets="state"
        )
        kernel: Literal["taylor", "square"] = option("taylor", "p: 1 + z + z^2 / 2, or z^2 after LayerNorm")

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
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

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Tokens, State]:
        (q, k, v), carry = self.project(x, carry)
        if not self.taylor:
            weight, bias = self.norm_weight.to(q.dtype), self.norm_bias.to(q.dtype)
            q, k = (F.layer_norm(z, (self.key_dim,), weight, bias) for z in (q, k))
        root = self.scale**0.5
        return Tokens(q=q * root, k=k * root, v=v), carry

    def read(self, o: Tensor, x: Tensor, tokens: Tokens) -> Tensor:
        return self.out(o.flatten(-2).to(x.dtype))

    def recur(self, z: Tokens, s: Tensor) -> tuple[Tensor, Tensor]:
        length = z.q.shape[1]
        size = min(CHUNK, length)

        def cut(u: Tensor) -> Tensor:
            """(B, T, H, .) -> (B, H, T/C, C, .), filled up with zeros."""
            u = F.pad(u, (0, 0, 0, 0, 0, -length % size))
            return u.unflatten(1, (-1, size)).permute(0, 3, 1, 2, 4)

        with full_precision(s):
            # A padded key has features, but its value and its 1 are zero.
            q, k, v = cut(z.q), cut(z.k), cut(self.append_one(z.v))
            inner = self.kernel(q @ k.mT).tril() @ v
            weights = self.squares.to(v.dtype).sqrt()
            written = weights * (self.products_of(k) @ v)  # (B, H, T/C, F, V + 1)
            entering = []
            for new in written.unbind(2):
                entering.append(s)
                s = s + new
            o = inner + self.products_of(q).mT @ (weights * torch.stack(entering, dim=2))
            return self.divide(o.permute(0, 2, 3, 1, 4).flatten(1, 2)[:, :length]), s

    def recur_once(self, z: Tokens, s: Tensor) -> tuple[Tensor, Tensor]:
        weights = self.squares.to(s.dtype).sqrt()
        q, k = ((weights * self.products_of(u.transpose(1, 2)))[..., 0] for u in (z.q, z.k))  # (B, H, F)
        o, s = delta_step(q, k, self.append_one(z.v[:, 0]), None, s)
        return self.divide(o)[:, None], s

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


variant(
    "rebased",
    of="based",
    paper="arXiv:2402.10644",
    equation="S_t = S_{t-1} + phi(k_t) [v_t, 1]^T,  o_t = S_t^T phi(q_t) over its last element, "
    "phi(q).phi(k) = (q . k)^2 / K",
    kernel="square",
)
