"""Softmax attention over all earlier positions or over a sliding window."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from architectures.functional.attention import attend, executed_pairs, visible_pairs
from architectures.functional.rotary import rotate
from architectures.primitive import Context, Primitive, State, at_least, head_widths, option
from architectures.registry import primitive, variant


@primitive("attention", mixes="time", version=1, paper="arXiv:1706.03762")
class Attention(Primitive):
    """o_t = sum_{s <= t} softmax_s(q_t . k_s / sqrt(K)) v_s.

    x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V) -> (B, T, D). No biases. With a `window`, position t sees
    itself and the window - 1 positions before it. Differs from the paper: queries and keys are rotated by
    RoPE (arXiv:2104.09864) instead of position embeddings.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        heads: int | None = option(
            1, "number of heads; none: one for each 16 channels of the width", scales="width"
        )
        key_dim: int | None = option(None, "key width a head; none: width / heads", scales="head")
        value_dim: int | None = option(None, "value width a head; none: width / heads", scales="head")
        window: int | None = option(
            None, "visible positions, itself included; none: all earlier ones", sets="state"
        )
        rope: bool = option(True, "rotate queries and keys by their position")

        def __post_init__(self) -> None:
            at_least(self, heads=1, key_dim=1, value_dim=1, window=1)

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.heads, self.key_dim, self.value_dim = head_widths(
            dim, config.heads, config.key_dim, config.value_dim
        )
        if config.rope and self.key_dim % 2:
            raise ValueError(
                f"key width {self.key_dim} a head is odd, and RoPE rotates pairs; "
                "choose an even key_dim or rope=false"
            )
        self.scale = self.key_dim**-0.5
        self.query = nn.Linear(dim, self.heads * self.key_dim, bias=False)
        self.key = nn.Linear(dim, self.heads * self.key_dim, bias=False)
        self.value = nn.Linear(dim, self.heads * self.value_dim, bias=False)
        self.out = nn.Linear(self.heads * self.value_dim, dim, bias=False)

    @property
    def state_kinds(self) -> tuple[str, ...]:
        kind = "growing" if self.config.window is None else "recurrent"
        return (kind, kind, "counter")

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        q, k, v = self._project(x, torch.arange(x.shape[1], device=x.device))
        return self.out(attend(q, k, v, scale=self.scale, window=self.config.window).flatten(-2))

    def init_state(self, batch: int, length: int | None = None) -> State:
        """Keys, values of the visible past (B, t, H, K), (B, t, H, V), and the number of tokens so far."""
        self.check_length(length)
        empty = self.query.weight.new_zeros
        keys = empty(batch, 0, self.heads, self.key_dim)
        values = empty(batch, 0, self.heads, self.value_dim)
        return keys, values, torch.zeros((), dtype=torch.int64, device=keys.device)

    def step(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        y, state = self.prefill(x[:, None], state, ctx)
        return y[:, 0], state

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        keys, values, count = state
        past, length = keys.shape[1], x.shape[1]
        q, k, v = self._project(x, count + torch.arange(length, device=x.device))
        k, v = torch.cat([keys, k], dim=1), torch.cat([values, v], dim=1)
        ahead = torch.arange(past, past + length, device=x.device)[:, None] - torch.arange(
            past + length, device=x.device
        )
        blind = ahead < 0
        if self.config.window is not None:
            blind = blind | (ahead >= self.config.window)
        scores = torch.einsum("bthk,bshk->bhts", q, k) * self.scale
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        weights = scores.masked_fill(blind, float("-inf")).softmax(-1).to(v.dtype)
        y = self.out(torch.einsum("bhts,bshv->bthv", weights, v).flatten(-2))
        start = 0 if self.config.window is None else max(0, past + length - self.config.window)
        return y, (k[:, start:], v[:, start:], count + length)

    def flops(self, length: int) -> int:
        pairs = visible_pairs(length, self.config.window)
        return self._projections(length) + 2 * pairs * self.heads * (self.key_dim + self.value_dim)

    def executed(self, length: int) -> int:
        # The fused kernel computes on equal widths, and its counter formula on every pair.
        width = max(self.key_dim, self.value_dim)
        return self._projections(length) + 4 * executed_pairs(length, self.config.window) * self.heads * width

    def _projections(self, length: int) -> int:
        return 4 * length * self.dim * self.heads * (self.key_dim + self.value_dim)

    def _project(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q = self.query(x).unflatten(-1, (self.heads, self.key_dim))  # (B, T, H, K)
        k = self.key(x).unflatten(-1, (self.heads, self.key_dim))
        v = self.value(x).unflatten(-1, (self.heads, self.value_dim))  # (B, T, H, V)
        if self.config.rope:
            q, k = rotate(q, positions), rotate(k, positions)
        return q, k, v


variant("mh-attention", of="attention", heads=None)
variant("sliding-attention", of="attention", window=32)
variant("mh-sliding-attention", of="attention", heads=None, window=32)
