"""Product-key memory: a large table of values, of which a token reads the few that its query finds."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.functional.precision import full_precision
from architectures.functional.weighted_rows import weighted_rows
from architectures.primitive import Context, Hint, Options, Primitive, choose, option
from architectures.registry import primitive

# A row is read by few tokens of a batch: the public code trains values at a rate of their own.
VALUE_LR = 4.0


@primitive(
    "product-key-memory", mixes="channel", version=1, paper="arXiv:1907.05242", known_as="PKM, Memory Layers"
)
class ProductKeyMemory(Primitive):
    """y = sum_heads sum_i w_i value_i, w = softmax of the k best scores a_m . q_1 + b_n . q_2, q = W x.

    (B, T, D) -> (B, T, D); a, b (H, n, K / 2), values (n^2, D), shared by the heads, i = (m, n). The k best
    of all n^2 sums are among the k^2 sums of the k best of each half. gate=true is Memory+
    (arXiv:2412.09764): W_o (y * silu(W_g x)). Scores are at least float32, also under autocast, which would
    change what is read. Differs from the paper: a layer normalisation without parameters, of each head's
    query, instead of batch normalisation; 2 heads and 1,024 values by default, for models of width 128.
    """

    kind = "experts"
    routed = ("values",)
    writers = ("values",)

    class Config(Options):
        keys: int = option(32, "n, sub-keys of each half; there are n^2 values", sizes="params", least=2)
        heads: int = option(2, "queries of a token", least=1)
        top_k: int = option(8, "values that a query reads", least=2)
        key_dim: int = option(64, "K, width of a query; each sub-key has half", per="head", least=2)
        gate: bool = option(False, "gate the output by silu of a map of the token")

        def __post_init__(self) -> None:
            # The weight of a single value would always be 1, and teach the query nothing.
            super().__post_init__()
            if self.top_k > self.keys:
                raise ValueError(f"top_k={self.top_k} must be at most keys {self.keys}; lower it")
            if self.key_dim % 2:
                raise ValueError(f"key_dim={self.key_dim} must be even: each half of it meets its own keys")

    config: Config

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.query = nn.Linear(dim, config.heads * config.key_dim)
        nn.init.xavier_uniform_(self.query.weight)
        bound = config.key_dim**-0.5
        halves = config.heads, 2, config.keys, config.key_dim // 2
        self.keys = nn.Parameter(torch.empty(halves).uniform_(-bound, bound))
        self.values = nn.Parameter(dim**-0.5 * torch.randn(config.keys**2, dim))
        self.gate = nn.Linear(dim, dim, bias=False) if config.gate else None
        self.out = nn.Linear(dim, dim, bias=False) if config.gate else None

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        weights, rows = self._find(x, ctx)
        y = weighted_rows(self.values, rows.flatten(0, 1), weights.flatten(0, 1).to(self.values.dtype))
        y = y.unflatten(0, x.shape[:2]).to(x.dtype)
        if self.gate is None or self.out is None:
            return y
        return self.out(y * F.silu(self.gate(x)))

    def flops(self, length: int) -> int:
        products = self.query.weight.numel() + self.keys.numel()
        if self.gate is not None:
            products += 2 * self.dim**2
        return 2 * length * products + self.uncounted_flops(length)

    def uncounted_flops(self, length: int) -> int:
        c = self.config
        read = c.heads * c.top_k * (c.top_k + 2 * self.dim)  # the sums of halves, then the rows
        return length * (read + (0 if self.gate is None else self.dim))

    def active_params(self) -> int:
        idle = max(0, self.config.keys**2 - self.config.heads * self.config.top_k)
        return super().active_params() - idle * self.dim

    def hints(self) -> dict[str, Hint]:
        return {"values": Hint(decay=False, lr_scale=VALUE_LR)}

    def _find(self, x: Tensor, ctx: Context | None = None) -> tuple[Tensor, Tensor]:
        """Weights and rows of the table, (B, T, H k)."""
        c = self.config
        high = torch.promote_types(x.dtype, torch.float32)
        with full_precision(x):
            q = F.linear(x.to(high), self.query.weight.to(high), self.query.bias.to(high))
            q = F.layer_norm(q.unflatten(-1, (c.heads, -1)), (c.key_dim,)).unflatten(-1, (2, -1))
            scores = torch.einsum("bthsk,hsnk->bthsn", q, self.keys.to(high))
        rows = choose(scores.topk(c.top_k, dim=-1).indices, ctx)  # (B, T, H, 2, k)
        best = scores.gather(-1, rows)
        sums = (best[..., 0, :, None] + best[..., 1, None, :]).flatten(-2)
        pairs = choose(sums.topk(c.top_k, dim=-1).indices, ctx)  # (B, T, H, k)
        best = sums.gather(-1, pairs)
        first = rows[..., 0, :].gather(-1, pairs // c.top_k)
        second = rows[..., 1, :].gather(-1, pairs % c.top_k)
        return best.softmax(-1).flatten(-2), (c.keys * first + second).flatten(-2)
