"""Layers whose two forms are one: they write `prefill`, and the others follow."""

from __future__ import annotations

from torch import Tensor

from architectures.primitive import Context, Primitive, State, linear_flops


def forward_anew(self: Primitive, x: Tensor, ctx: Context | None = None) -> Tensor:
    """`prefill` from the initial state."""
    return self.prefill(x, self.init_state(x.shape[0]), ctx)[0]


def step_once(self: Primitive, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
    """`prefill` of one token."""
    y, state = self.prefill(x[:, None], state, ctx)
    return y[:, 0], state


class Recurrent(Primitive):
    """The base of layers that are nothing but a `prefill`, by default of `nn.Linear` maps."""

    kind = "recurrence"
    forward = forward_anew
    step = step_once

    def flops(self, length: int) -> int:
        return length * linear_flops(self) + self.uncounted_flops(length)
