"""Linear attention: a sum of outer products, read by the query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from architectures.families.feature_memory import FeatureMemory
from architectures.families.matrix_memory import MatrixMemory, Tokens
from architectures.functional.feature_maps import elu
from architectures.functional.norms import rms_norm
from architectures.parts.feature_maps import Hedgehog, Product
from architectures.primitive import Context, Hint, State, option
from architectures.registry import primitive, variant


@primitive("linear-attention", mixes="time", version=1, paper="arXiv:2006.16236")
class LinearAttention(FeatureMemory):
    """S_t = S_{t-1} + phi(k_t) v_t^T,  z_t = z_{t-1} + phi(k_t),  o_t = S_t^T phi(q_t) / (z_t . phi(q_t)).

    x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V) -> (B, T, D). No biases, no position information. The
    learned maps are those of a head, of q and of k: hedgehog is softmax([2 W x + b, -2 W x - b]) with 2 K
    features (arXiv:2402.04347), elementwise-product (W_1 x) * (W_2 x). A feature map that can be negative
    ("elementwise-product", "identity") has no safe denominator: there the output is normalised per head by
    RMSNorm instead. The nominal state is S alone. Differs from the paper: nothing with feature_map=elu.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(MatrixMemory.Config):
        heads: int | None = option(
            1, "number of heads; none: one for each 16 channels of the width", scales="width"
        )
        feature_map: Literal["elu", "relu", "hedgehog", "elementwise-product", "identity"] = option(
            "elu", "phi: elu(x) + 1, relu(x), a softmax of both signs, a product of two linear maps, or x"
        )

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.normalised = config.feature_map not in ("elementwise-product", "identity")
        self.features = self.key_dim * (2 if config.feature_map == "hedgehog" else 1)
        learned = {"hedgehog": Hedgehog, "elementwise-product": Product}.get(config.feature_map)
        if learned is not None:
            self.query_map = learned(self.heads, self.key_dim)
            self.key_map = learned(self.heads, self.key_dim)
        if not self.normalised:
            self.norm = nn.Parameter(torch.ones(self.value_dim))

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Tokens, State]:
        (q, k, v), carry = self.project(x, carry)
        match self.config.feature_map:
            case "elu":
                q, k = elu(q), elu(k)
            case "relu":
                q, k = q.relu(), k.relu()
            case "hedgehog" | "elementwise-product":
                q, k = self.query_map(q), self.key_map(k)
        return Tokens(q=q, k=k, v=v), carry

    def read(self, o: Tensor, x: Tensor, tokens: Tokens) -> Tensor:
        if not self.normalised:
            o = rms_norm(o, self.norm, divisor=self.value_dim)
        return self.out(o.flatten(-2).to(x.dtype))

    def products(self, length: int) -> int:
        maps = (m for m in self.modules() if isinstance(m, Hedgehog | Product))
        return super().products(length) + length * sum(2 * m.weight.numel() for m in maps)

    def nominal_state(self, length: int) -> int:
        return self.heads * self.features * self.value_dim

    def hints(self) -> dict[str, Hint]:
        biases = ["query_map.bias", "key_map.bias"] if self.config.feature_map == "hedgehog" else []
        return super().hints() | {name: Hint(decay=False) for name in biases}


variant("mh-linear-attention", of="linear-attention", heads=None)
