"""The base of channel mixers that act on each position by itself through F inner units."""

from __future__ import annotations

import math
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from architectures.axes import Axes, inner_axes
from architectures.families.options import canon_taps, inner_width
from architectures.families.recurrent import step_once
from architectures.parts.canon import Canon
from architectures.parts.linear import first_columns, first_rows
from architectures.primitive import Context, Options, Primitive, State, option, round_up


class FeedForward(Primitive):
    """y = W_out f(W_in x), or W_out (silu(W_gate x) * W_in x) where `gated`: (B, T, D) -> (B, T, D).

    The state is that of `canon`, a short convolution of the inner units before f: the tail of each map.
    """

    kind = "mlp"
    writers = ("down",)
    undecayed = ("up_canon", "gate_canon")
    gated: ClassVar[bool] = False
    step = step_once

    class Config(Options):
        inner: int | None = inner_width("4 times the width")
        expand: float | None = option(
            None, "inner width over the width, with inner=none; none: as inner says", most=1024
        )
        bias: bool = option(False, "biases of the maps")
        canon: int = canon_taps("the inner units, before the activation")

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.expand is not None and not 0 < self.expand < math.inf:
                raise ValueError(f"expand={self.expand} must be positive and finite")

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        usual = round_up(8 * dim / 3, 16) if self.gated else 4 * dim
        self.inner = config.inner or (max(1, round(config.expand * dim)) if config.expand else usual)
        self.gate = nn.Linear(dim, self.inner, bias=config.bias) if self.gated else None
        self.up = nn.Linear(dim, self.inner, bias=config.bias)
        self.down = nn.Linear(self.inner, dim, bias=config.bias)
        self.gate_canon = Canon(self.inner, config.canon) if self.gated else None
        self.up_canon = Canon(self.inner, config.canon)

    @property
    def state_kinds(self) -> tuple[str, ...]:
        return ("conv",) * len(self.convs())

    def convs(self) -> list[Canon]:
        """The convolutions that have taps: of the gate, then of the other map."""
        return [m for m in (self.gate_canon, self.up_canon) if m is not None and m.taps]

    def init_state(self, batch: int, length: int | None = None) -> State:
        """The tails (B, canon - 1, F), where there are taps."""
        self.check_length(length)
        return tuple(conv.init_tail(self.up.weight, batch) for conv in self.convs())

    def activate(self, h: Tensor) -> Tensor:
        """f; of a gated layer that of the gate."""
        return F.silu(h)

    def units(self, ctx: Context | None = None) -> int:
        """How many of the inner units this call uses: the first ones."""
        return self.inner

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        return self.prefill(x, self.init_state(x.shape[0]), ctx)[0]

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        units, tails = self.units(ctx), list(state)
        mixed = [first_rows(linear, x, units) for linear in (self.gate, self.up) if linear is not None]
        for i, conv in enumerate(self.convs()):
            weight = None if conv.weight is None else conv.weight[:units]
            mixed[i], tails[i] = conv.mix(mixed[i], tails[i][..., :units], weight)
        h = self.activate(mixed[0])
        return first_columns(self.down, h if self.gate is None else h * mixed[1]), tuple(tails)

    def flops(self, length: int) -> int:
        maps = 2 if self.gate is None else 3
        return 2 * maps * length * self.dim * self.units() + self.uncounted_flops(length)

    def uncounted_flops(self, length: int) -> int:
        return self.canon_flops(length) + (0 if self.gate is None else length * self.units())

    def canon_flops(self, length: int) -> int:
        """Of the taps of `canon`."""
        return sum(conv.flops(length) for conv in self.convs()) * self.units() // self.inner

    def axes(self) -> Axes:
        maps = {"up": "F D", "gate": "F D", "down": "D F"}
        tensors = {f"{name}.weight": axes for name, axes in maps.items()}
        tensors |= {f"{name}.bias": axes.split()[0] for name, axes in maps.items()}
        tensors |= {"up_canon.weight": "F .", "gate_canon.weight": "F ."}
        return inner_axes(self.inner, tensors, "down.weight", "down.bias")


class GatedConfig(FeedForward.Config):
    """About as many parameters by default as without a gate."""

    inner: int | None = inner_width("8/3 of the width, rounded up to a multiple of 16")
