"""The base of layers whose two forms are one: they write `prefill`, and the others follow."""

from __future__ import annotations

from torch import Tensor

from architectures.primitive import Context, Primitive, State


class Recurrent(Primitive):
    """`forward` starts from the initial state, and `step` is a `prefill` of one token."""

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        return self.prefill(x, self.init_state(x.shape[0]), ctx)[0]

    def step(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        y, state = self.prefill(x[:, None], state, ctx)
        return y[:, 0], state
