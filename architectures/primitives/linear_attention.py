"""Linear attention: a sum of outer products, read by the query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.functional.norms import rms_norm
from architectures.primitive import Context, Primitive, State, divisors, option
from architectures.registry import primitive, variant


@primitive("linear-attention", mixes="time", version=1, paper="arXiv:2006.16236")
class LinearAttention(Primitive):
    """S_t = S_{t-1} + phi(k_t) v_t^T,  z_t = z_{t-1} + phi(k_t),  o_t = S_t^T phi(q_t) / (z_t . phi(q_t)).

    x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V) -> (B, T, D). No biases, no position information. A
    feature map that can be negative ("identity") has no safe denominator: there the output is normalised per
    head by RMSNorm instead. Differs from the paper: nothing with feature_map=elu.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        heads: int | None = option(
            1, "number of heads; none: one for each 16 channels of the width", scales="width"
        )
        feature_map: Literal["elu", "relu", "identity"] = option("elu", "phi: elu(x) + 1, relu(x) or x")
        chunk: int = option(64, "positions whose pairs are multiplied out; changes speed, not the function")

        def __post_init__(self) -> None:
            if self.heads is not None and self.heads < 1:
                raise ValueError(f"heads={self.heads} must be at least 1")
            if self.chunk < 1:
                raise ValueError(f"chunk={self.chunk} must be at least 1")

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.heads = dim // 16 if config.heads is None else config.heads
        if self.heads < 1 or dim % self.heads:
            raise ValueError(
                f"dim {dim} is not divisible by heads {self.heads}; "
                f"choose heads from {', '.join(map(str, divisors(dim)))}"
            )
        self.width = dim // self.heads
        self.normalised = config.feature_map != "identity"
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        if not self.normalised:
            self.norm = nn.Parameter(torch.ones(self.width))

    @property
    def state_kinds(self) -> tuple[str, ...]:
        return ("recurrent", "recurrent") if self.normalised else ("recurrent",)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        y, _ = self.prefill(x, self.init_state(x.shape[0]), ctx)
        return y

    def init_state(self, batch: int, length: int | None = None) -> State:
        """S (B, H, K, V) and, with a denominator, z (B, H, K)."""
        self.check_length(length)
        weight = self.query.weight
        zeros = weight.new_zeros(batch, self.heads, self.width, self.width + self.normalised)
        return self._split(zeros.to(torch.promote_types(weight.dtype, torch.float32)))

    def step(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        y, state = self.prefill(x[:, None], state, ctx)
        return y[:, 0], state

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        length = x.shape[1]
        q, k, v = self._project(x)
        chunk = min(self.config.chunk, length)
        pad = (0, 0, 0, 0, 0, -length % chunk)
        # (B, T/C, C, H, .); a padded key writes nothing, because phi is not applied to it.
        q, k, v = (F.pad(z, pad).unflatten(1, (-1, chunk)) for z in (q, k, v))
        written = torch.einsum("bnchk,bnchv->bnhkv", k, v)
        # What each chunk finds written: an exclusive sum, so that not even rounding of a later chunk enters.
        entering = torch.cat([self._join(state)[:, None], written[:, :-1]], dim=1)
        before = entering.cumsum(1)  # (B, T/C, H, K, V)
        pairs = torch.einsum("bnchk,bnshk->bnhcs", q, k).tril()
        o = torch.einsum("bnhcs,bnshv->bnchv", pairs, v) + torch.einsum("bnchk,bnhkv->bnchv", q, before)
        o = o.flatten(1, 2)[:, :length]
        return self._read(o, x.dtype), self._split(before[:, -1] + written[:, -1])

    def flops(self, length: int) -> int:
        state = self.heads * self.width * (self.width + self.normalised)
        return 8 * length * self.dim**2 + 4 * length * state

    def executed(self, length: int) -> int:
        chunk = min(self.config.chunk, length)
        padded = -(-length // chunk) * chunk
        widths = self.width + self.normalised
        pairs = 2 * padded * chunk * self.heads * (self.width + widths)
        return 8 * length * self.dim**2 + pairs + 4 * padded * self.heads * self.width * widths

    def nominal_state(self, length: int) -> int:
        return self.heads * self.width**2

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """phi(q), phi(k) (B, T, H, K) and v (B, T, H, V), with a 1 appended to v that accumulates z."""
        q, k, v = (f(x).unflatten(-1, (self.heads, self.width)) for f in (self.query, self.key, self.value))
        high = torch.promote_types(x.dtype, torch.float32)
        q, k, v = self._feature(q.to(high)), self._feature(k.to(high)), v.to(high)
        if self.normalised:
            v = torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)
        return q, k, v

    def _feature(self, x: Tensor) -> Tensor:
        match self.config.feature_map:
            case "elu":
                # Not F.elu: its compiled backward pass assumes strides that it does not return (torch 2.13).
                return torch.where(x > 0, x + 1, x.clamp(max=0).exp())
            case "relu":
                return F.relu(x)
            case _:
                return x

    def _read(self, o: Tensor, dtype: torch.dtype) -> Tensor:
        if self.normalised:
            o = o[..., :-1] / (o[..., -1:] + 1e-6)
        else:
            o = rms_norm(o, self.norm, divisor=self.width)
        return self.out(o.flatten(-2).to(dtype))

    def _split(self, joined: Tensor) -> State:
        return (joined[..., :-1], joined[..., -1]) if self.normalised else (joined,)

    def _join(self, state: State) -> Tensor:
        return torch.cat([state[0], state[1][..., None]], dim=-1) if self.normalised else state[0]


variant("mh-linear-attention", of="linear-attention", heads=None)
