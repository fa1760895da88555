"""RG-LRU: a gated diagonal recurrence whose decay is set by the token, in the block of Griffin and Hawk."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.families.options import divide, taps
from architectures.families.recurrent import Recurrent
from architectures.functional.scan import linear_scan
from architectures.parts.short_conv import ShortConv
from architectures.primitive import Context, Options, State, option
from architectures.registry import primitive

# The exponent of the decay, and the smallest 1 - a^2, at which the slope of the root is 1000.
SHARPNESS = 8.0
FLOOR = 2.5e-7


@primitive("rg-lru", mixes="time", version=1, paper="arXiv:2402.19427", known_as="Griffin, RecurrentGemma")
class RGLRU(Recurrent):
    """h_t = a_t * h_{t-1} + m_t * (i_t * c_t),  y_t = W_o [gelu(W_y x_t) * h_t],  c = short_conv(W_x x).

    (B, T, D) -> (B, T, D); h is (B, R), R = `expand` * D. The gates r, i = sigmoid(W c + b) are
    block-diagonal over the heads; log a = -8 softplus(rate) r, and m = sqrt(1 - a^2), but m = 1 at the first
    token of a sequence, which the state knows by counting. It runs at least in float32, with 1 - a^2 floored
    where the slope of its root is 1000, the bound of the public code (google-deepmind/recurrentgemma).
    Differs from the paper: the initial rates are those of that code, rho = sigmoid(-rate) with rho^2 uniform
    in [0.9^2, 0.999^2], where the paper draws rho^8; no biases in the projections; one gate head for each 16
    channels. Gates start as in that code; projections and taps as those of the other layers here, uniform in
    +-1 / sqrt(fan-in), so that layers are compared at one scale: that code draws them normal, of variance 1 /
    fan-in, 2 / (depth fan-in) for W_o and 0.01 / taps, and its gelu is the tanh form.
    """

    undecayed = ("rate", "gate_bias", "conv.weight")

    class Config(Options):
        expand: float = option(
            1.0, "width of the recurrence over the model's, to the nearest multiple of 16", most=1024
        )
        heads: int | None = option(None, "gate blocks; none: one for each 16 channels", per="width", least=1)
        conv: int = taps(4, "the short convolution")

        def __post_init__(self) -> None:
            super().__post_init__()
            if not 0 < self.expand < math.inf:
                raise ValueError(f"expand={self.expand} must be positive and finite")

    config: Config

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.inner = inner = max(16, 16 * round(config.expand * dim / 16))
        self.heads = config.heads or inner // 16
        self.width = width = divide("the recurrence's width", inner, "heads", self.heads)
        self.project = nn.Linear(dim, 2 * inner, bias=False)
        self.conv = ShortConv(inner, config.conv, activation=False)
        self.conv_bias = nn.Parameter(torch.zeros(inner)) if config.conv else None
        # Of each head, r and i beside each other.
        self.gate_weight = nn.Parameter(torch.randn(self.heads, width, 2 * width) * width**-0.5)
        self.gate_bias = nn.Parameter(torch.zeros(self.heads, 2 * width))
        rho = torch.empty(inner).uniform_(0.9**2, 0.999**2).sqrt()
        self.rate = nn.Parameter(torch.log(1 / rho - 1))
        self.out = nn.Linear(inner, dim, bias=False)

    state_kinds = ("recurrent", "conv", "counter")

    def init_state(self, batch: int, length: int | None = None) -> State:
        """h (B, R), the tail of the short convolution (B, taps - 1, R) and the tokens seen (B,)."""
        self.check_length(length)
        weight = self.project.weight
        high = torch.promote_types(weight.dtype, torch.float32)
        h, seen = weight.new_zeros(batch, self.inner, dtype=high), weight.new_zeros(batch, dtype=torch.long)
        return h, self.conv.init_tail(weight, batch), seen

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        h, tail, seen = state
        z, c = self.project(x).chunk(2, dim=-1)  # (B, T, R)
        c, tail = self.conv(c, tail)
        if self.conv_bias is not None:
            c = c + self.conv_bias.to(c.dtype)
        log_a, i = self._gates(c)
        a = log_a.exp()
        m = torch.sqrt((-torch.expm1(2 * log_a)).clamp(min=FLOOR))
        first = (seen[:, None] + torch.arange(x.shape[1], device=x.device) == 0)[..., None]
        b = torch.where(first, torch.ones_like(m), m) * (i * c)
        b = torch.cat([b[:, :1] + a[:, :1] * h[:, None], b[:, 1:]], dim=1)
        h = linear_scan(a, b)
        return self.out((F.gelu(z) * h).to(x.dtype)), (h[:, -1], tail, seen + x.shape[1])

    def flops(self, length: int) -> int:
        products = 6 * length * self.dim * self.inner + 4 * length * self.inner * self.width
        return products + self.uncounted_flops(length)

    def uncounted_flops(self, length: int) -> int:
        # A cell: log a and its exponential, 1 - a^2 and its root, m * i * c, multiply-add of the state, gate.
        return (2 * self.config.conv + 10) * length * self.inner

    def _gates(self, c: Tensor) -> tuple[Tensor, Tensor]:
        """log a and i (B, T, R), at least in float32."""
        high = torch.promote_types(c.dtype, torch.float32)
        gates = torch.einsum("bthi,hio->btho", c.unflatten(-1, (self.heads, self.width)), self.gate_weight)
        r, i = torch.sigmoid(gates.to(high) + self.gate_bias).chunk(2, dim=-1)
        return -SHARPNESS * F.softplus(self.rate.to(high)) * r.flatten(-2), i.flatten(-2)
