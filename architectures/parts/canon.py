"""Canon: a short causal convolution beside the plain path, wherever vectors pass (arXiv:2512.17351)."""

from __future__ import annotations

from torch import Tensor

from architectures.parts.short_conv import ShortConv


class Canon(ShortConv):
    """y_t = x_t + sum_i w_i x_{t-i} for each channel, without an activation; with 0 taps it passes x on."""

    def __init__(self, channels: int, taps: int) -> None:
        super().__init__(channels, taps, activation=False)

    def mix(self, x: Tensor, tail: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
        y, after = super().mix(x, tail, weight)
        return (x + y if self.taps else x), after

    def anew(self, x: Tensor) -> Tensor:
        """The same of a sequence from its start."""
        return self(x, self.init_tail(x, x.shape[0]))[0]

    def flops(self, length: int) -> int:
        return (2 * self.taps + 1) * length * self.channels if self.taps else 0
