"""Attention whose queries, keys and values come from a few shared parameters instead of three matrices."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.families.options import default_heads, divide
from architectures.families.recurrent import Recurrent
from architectures.functional.attention import attend, attend_past, visible_pairs
from architectures.functional.rotary import rotate, rotated_width
from architectures.functional.value_residual import share_value
from architectures.parts.linear import MultiplicativeLinear
from architectures.primitive import Context, Options, State, option
from architectures.registry import primitive


@primitive("sparse-attention", mixes="time", version=1, paper="arXiv:2111.12763", known_as="Terraformer")
class SparseAttention(Recurrent):
    """z_{s,m} = sum_i x_i D_{s,i} E_{i,m};  q, k, v = conv(z) over (length, modules);  softmax attention.

    x (B, T, D) -> z (B, T, S, M), S M = D -> q, k, v (B, T, H, D/H) -> (B, T, D). One z for all three. A
    convolution maps the M channels of `conv` tokens and `kernel` neighbouring modules to M channels, with the
    same weights for every module; earlier tokens only, zeros beyond the first and the last module; values see
    their own module only. The state is the cache of keys and values and the last conv - 1 of z. No output
    projection unless `out`. Differs from the paper: RoPE (arXiv:2104.09864) instead of position embeddings;
    no biases.
    """

    kind = "attention"
    writers = ("value",)

    class Config(Options):
        modules: int | None = option(None, "modules S; none: one for each 16 channels", per="width", least=1)
        heads: int | None = option(None, "heads; none: as many as modules", per="width", least=1)
        conv: int = option(3, "tokens that a convolution sees, itself included", most=256, least=1)
        kernel: int = option(3, "modules that the convolutions of q and k see, an odd number", least=1)
        rope: bool = option(True, "rotate queries and keys by their position")
        out: bool = option(False, "a dense output projection")

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.kernel % 2 == 0:
                raise ValueError(
                    f"kernel={self.kernel} is even, and a module sees as many on both sides; "
                    f"choose {self.kernel - 1} or {self.kernel + 1}"
                )

    config: Config

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.parts = config.modules or default_heads(dim)
        self.width = divide("dim", dim, "modules", self.parts)
        self.heads = config.heads or self.parts
        self.key_dim = divide("dim", dim, "heads", self.heads)
        if config.rope:
            rotated_width(self.key_dim, 1.0)  # refuses an odd width
        self.mix = MultiplicativeLinear(dim, self.parts, dim)
        seen = config.conv * self.width
        # Inputs by (module, token, channel), so that the values' are the middle ones.
        self.query_key = nn.Linear(config.kernel * seen, 2 * self.width, bias=False)
        self.value = nn.Linear(seen, self.width, bias=False)
        for linear in (self.query_key, self.value):  # Glorot's rule counts the taps on both sides
            bound = math.sqrt(3 / linear.in_features)
            nn.init.uniform_(linear.weight, -bound, bound)
        self.out = nn.Linear(dim, dim, bias=False) if config.out else None

    @property
    def value_widths(self) -> tuple[int, ...]:
        return (self.heads * self.key_dim,)

    state_kinds = ("growing", "growing", "counter", "conv")

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        tail = x.new_zeros(x.shape[0], self.config.conv - 1, self.parts, self.width)
        q, k, v, _ = self._project(x, torch.arange(x.shape[1], device=x.device), tail, ctx)
        return self._read(attend(q, k, v, scale=self.key_dim**-0.5))

    def init_state(self, batch: int, length: int | None = None) -> State:
        """Keys and values (B, t, H, K), the number of tokens, and the last z (B, conv - 1, S, M)."""
        self.check_length(length)
        like = self.value.weight
        cache = like.new_zeros(batch, 0, self.heads, self.key_dim)
        count = torch.zeros((), dtype=torch.int64, device=like.device)
        return cache, cache, count, like.new_zeros(batch, self.config.conv - 1, self.parts, self.width)

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        keys, values, count, tail = state
        positions = count + torch.arange(x.shape[1], device=x.device)
        q, k, v, tail = self._project(x, positions, tail, ctx)
        k, v = torch.cat([keys, k], dim=1), torch.cat([values, v], dim=1)
        # With nothing before it, a prompt takes the way of `forward`, whose memory does not grow with T * T.
        answer = attend_past if keys.shape[1] else attend
        o = answer(q, k, v, scale=self.key_dim**-0.5)
        return self._read(o), (k, v, count + x.shape[1], tail)

    def flops(self, length: int) -> int:
        return self._projection(length) + 4 * visible_pairs(length) * self.dim

    def executed_flops(self, length: int) -> int:
        return self._projection(length) + 4 * length**2 * self.dim

    def uncounted_flops(self, length: int) -> int:
        return self.mix.uncounted_flops(length)

    def _projection(self, length: int) -> int:
        taps = self.query_key.weight.numel() + self.value.weight.numel()
        out = 0 if self.out is None else self.dim**2
        return self.mix.flops(length) + 2 * length * (self.parts * taps + out)

    def _project(
        self, x: Tensor, positions: Tensor, tail: Tensor, ctx: Context | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q, k, v (B, T, H, K) of x (B, T, D), given the z before (B, conv - 1, S, M), and the next such."""
        length, half = x.shape[1], self.config.kernel // 2
        z = self.mix(x).unflatten(-1, (self.parts, self.width))
        z = torch.cat([tail.to(z.dtype), z], dim=1)
        # Every module with its neighbours and the tokens before it: (B, T, S, kernel, conv, M).
        near = F.pad(z, (0, 0, half, half)).unfold(1, self.config.conv, 1).unfold(2, self.config.kernel, 1)
        near = near.permute(0, 1, 2, 5, 4, 3).flatten(4).contiguous()
        v = self.value(near[:, :, :, half]).flatten(2)
        qk = self.query_key(near.flatten(3)).unflatten(-1, (2, self.width)).transpose(2, 3)
        qk = qk.flatten(2).unflatten(-1, (2 * self.heads, self.key_dim))
        if self.config.rope:
            qk = rotate(qk, positions)
        q, k = qk.chunk(2, dim=2)
        v = v.unflatten(-1, (self.heads, self.key_dim))
        return q, k, share_value(v, ctx, self.index), z[:, length:]

    def _read(self, o: Tensor) -> Tensor:
        y = o.flatten(-2)
        return y if self.out is None else self.out(y)
