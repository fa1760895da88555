"""Multi-head latent attention: keys and values of all heads are read from one narrow vector a token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from architectures.axes import Axes
from architectures.families.options import SILU, count_of_heads, head_widths, per_head, taps
from architectures.functional.attention import attend, attend_past, visible_pairs
from architectures.functional.rotary import rotate
from architectures.parts.norms import RMSNorm
from architectures.parts.short_conv import ShortConv
from architectures.primitive import Context, Options, Primitive, State, linear_flops, option, round_up
from architectures.registry import primitive


@primitive("mla", mixes="time", version=1, paper="arXiv:2405.04434", known_as="DeepSeek-V3, Kimi K2")
class LatentAttention(Primitive):
    """o_t = sum_{s <= t} softmax_s((q_t . k_s + p_t . r_s) / sqrt(K + R)) v_s with k_s, v_s = W_u c_s.

    x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V), p (B, T, H, R), r (B, T, R) -> (B, T, D). The latent c =
    RMSNorm(W_d x) and the key r, which carries the position by RoPE and is shared by the heads, are all that
    is kept of a token. `step` never forms the keys and values: it asks the latents with W_k^T q and maps what
    it found by W_v, where W_k and W_v are the parts of W_u. The values are a function of the latent, so the
    layer shares none with others. Differs from the paper: queries are not compressed.
    """

    kind = "attention"
    undecayed = ("conv.weight",)

    class Config(Options):
        heads: int | None = count_of_heads()
        key_dim: int | None = per_head("key width without position")
        value_dim: int | None = per_head("value width")
        latent: int | None = option(
            None, "width of the latent; none: D / 4, rounded up to 16", per="width", sizes="state", least=1
        )
        rope_dim: int | None = option(None, "rotated width, even; none: half of key_dim", per="head", least=0)
        conv: int = taps(0, f"{SILU} queries, latents and rotated key")

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.rope_dim is not None and self.rope_dim % 2:
                raise ValueError(
                    f"rope_dim={self.rope_dim} is odd, and RoPE rotates pairs; choose an even one"
                )

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.heads, self.key_dim, self.value_dim = head_widths(dim, config)
        self.latent = config.latent or round_up(dim / 4, 16)
        self.rope_dim = round_up(self.key_dim / 2, 2) if config.rope_dim is None else config.rope_dim
        self.scale = (self.key_dim + self.rope_dim) ** -0.5
        self.query = nn.Linear(dim, self.heads * (self.key_dim + self.rope_dim), bias=False)
        self.down = nn.Linear(dim, self.latent + self.rope_dim, bias=False)
        self.norm = RMSNorm(self.latent)
        self.up = nn.Linear(self.latent, self.heads * (self.key_dim + self.value_dim), bias=False)
        self.out = nn.Linear(self.heads * self.value_dim, dim, bias=False)
        self.conv = ShortConv(self.query.out_features + self.down.out_features, config.conv)

    state_kinds = ("growing", "growing", "counter", "conv")

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        positions = torch.arange(x.shape[1], device=x.device)
        q, c, r, _ = self._compress(x, positions, self.conv.init_tail(self.down.weight, x.shape[0]))
        k, v = self._expand(c, r)
        return self.out(attend(q, k, v, scale=self.scale).flatten(-2))

    def init_state(self, batch: int, length: int | None = None) -> State:
        """Latents (B, t, latent), rotated keys (B, t, R), the number of tokens, and the tail of `conv`."""
        self.check_length(length)
        like = self.down.weight
        count = torch.zeros((), dtype=torch.int64, device=like.device)
        latents, keys = like.new_zeros(batch, 0, self.latent), like.new_zeros(batch, 0, self.rope_dim)
        return latents, keys, count, self.conv.init_tail(like, batch)

    def step(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        q, state = self._extend(x[:, None], state)
        c, r, *_ = state
        query, rotated = q[:, 0].split([self.key_dim, self.rope_dim], dim=-1)
        maps = self.up.weight.unflatten(0, (self.heads, -1))  # (H, K + V, latent)
        to_key, to_value = maps.split([self.key_dim, self.value_dim], dim=1)
        asked = torch.einsum("bhk,hkc->bhc", query, to_key)
        scores = torch.einsum("bhc,bsc->bhs", asked, c) + torch.einsum("bhr,bsr->bhs", rotated, r)
        high = torch.promote_types(scores.dtype, torch.float32)
        weights = (scores * self.scale).to(high).softmax(-1).to(c.dtype)
        found = torch.einsum("bhs,bsc->bhc", weights, c)
        return self.out(torch.einsum("bhc,hvc->bhv", found, to_value).flatten(-2)), state

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        q, state = self._extend(x, state)
        k, v = self._expand(*state[:2])
        return self.out(attend_past(q, k, v, scale=self.scale).flatten(-2)), state

    def flops(self, length: int) -> int:
        width = self.key_dim + self.rope_dim + self.value_dim
        return 2 * visible_pairs(length) * self.heads * width + self._rest(length)

    def executed_flops(self, length: int) -> int:
        # The fused kernel computes on equal widths, and its counter formula on the whole square.
        width = max(self.key_dim + self.rope_dim, self.value_dim)
        return 4 * length**2 * self.heads * width + self._rest(length)

    def uncounted_flops(self, length: int) -> int:
        return self.conv.flops(length)

    def axes(self) -> Axes:
        key, value, latent, rope = self.key_dim, self.value_dim, self.latent, self.rope_dim
        own = {"H": self.heads, "K": key, "V": value}
        weights = {"query": "HQ D", "down": ". D", "norm": ".", "up": "HU .", "out": "D HV", "conv": "HQ+L ."}
        return Axes(
            sizes=own | {"Q": key + rope, "U": key + value, "L": latent + rope},
            tensors={f"{name}.weight": axes for name, axes in weights.items()},
            zero=dict.fromkeys("HD", ("out.weight",)),
            options={"heads": "H", "key_dim": "K", "value_dim": "V", "latent": latent, "rope_dim": rope},
        )

    def _rest(self, length: int) -> int:
        return length * linear_flops(self) + self.conv.flops(length)

    def _compress(self, x: Tensor, positions: Tensor, tail: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Queries (B, T, H, K + R), latents (B, T, latent), rotated keys (B, T, R), and the next tail."""
        z, tail = self.conv(torch.cat([self.query(x), self.down(x)], dim=-1), tail)
        q, c, r = z.split([self.query.out_features, self.latent, self.rope_dim], dim=-1)
        q = q.unflatten(-1, (self.heads, -1))
        q = torch.cat([q[..., : self.key_dim], rotate(q[..., self.key_dim :], positions)], dim=-1)
        return q, self.norm(c), rotate(r[:, :, None], positions)[:, :, 0], tail

    def _extend(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Queries of the new tokens, and the state with them."""
        latents, keys, count, tail = state
        q, c, r, tail = self._compress(x, count + torch.arange(x.shape[1], device=x.device), tail)
        c, r = torch.cat([latents, c], dim=1), torch.cat([keys, r], dim=1)
        return q, (c, r, count + x.shape[1], tail)

    def _expand(self, c: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """Keys (B, T, H, K + R) and values (B, T, H, V) of latents and rotated keys."""
        k, v = self.up(c).unflatten(-1, (self.heads, -1)).split([self.key_dim, self.value_dim], dim=-1)
        return torch.cat([k, r[:, :, None].expand(*k.shape[:3], -1)], dim=-1), v
