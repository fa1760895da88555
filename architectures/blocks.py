"""What a spec's items are built into: a norm and a layer, or branches beside each other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn

from architectures.parts.norms import RMSNorm
from architectures.primitive import Context, Primitive, State


class Block(nn.Module):
    """A norm and a layer; the residual is added by whoever owns the stream."""

    def __init__(self, layer: Primitive | Branches, dim: int) -> None:
        super().__init__()
        self.norm = RMSNorm(dim)
        self.layer = layer

    @property
    def state_kinds(self) -> tuple[str, ...]:
        return self.layer.state_kinds

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        return self.layer(self.norm(x), ctx)

    def init_state(self, batch: int, length: int | None = None) -> State:
        return self.layer.init_state(batch, length)

    def step(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        return self.layer.step(self.norm(x), state, ctx)

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        return self.layer.prefill(self.norm(x), state, ctx)

    def flops(self, length: int) -> int:
        return self.layer.flops(length)

    def executed_flops(self, length: int) -> int:
        return self.layer.executed_flops(length)

    def uncounted_flops(self, length: int) -> int:
        return self.layer.uncounted_flops(length)


class WrapperBlock(Block):
    """A wrapper inside the body of another: what it adds to the stream, which is what a block's output is."""

    def __init__(self, layer: Primitive) -> None:
        nn.Module.__init__(self)
        self.layer = layer

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        return self.layer(x, ctx) - x

    def step(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        y, state = self.layer.step(x, state, ctx)
        return y - x, state

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        y, state = self.layer.prefill(x, state, ctx)
        return y - x, state


class Branches(nn.Module):
    """The parallel topology: every branch reads the same normed input, their outputs are averaged.

    The first layer of a branch reads that input as it is; further layers are pre-norm residual blocks on the
    branch's own output.
    """

    def __init__(self, branches: list[list[Part]]) -> None:
        super().__init__()
        self.branches = nn.ModuleList([nn.ModuleList(branch) for branch in branches])

    @property
    def state_kinds(self) -> tuple[str, ...]:
        return tuple(kind for part in self._parts() for kind in part.state_kinds)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        outputs = []
        for head, *rest in self._chains():
            y = head(x, ctx)
            for block in rest:
                y = add(block, y, ctx)
            outputs.append(y)
        return torch.stack(outputs).mean(0)

    def init_state(self, batch: int, length: int | None = None) -> State:
        return tuple(t for part in self._parts() for t in part.init_state(batch, length))

    def step(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        return self._advance("step", x, state, ctx)

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        return self._advance("prefill", x, state, ctx)

    def flops(self, length: int) -> int:
        return sum(part.flops(length) for part in self._parts())

    def executed_flops(self, length: int) -> int:
        return sum(part.executed_flops(length) for part in self._parts())

    def uncounted_flops(self, length: int) -> int:
        return sum(part.uncounted_flops(length) for part in self._parts())

    def _chains(self) -> list[list[Part]]:
        return [list(cast("Iterable[Part]", branch)) for branch in self.branches]

    def _parts(self) -> list[Part]:
        return [part for chain in self._chains() for part in chain]

    def _advance(self, verb: str, x: Tensor, state: State, ctx: Context | None) -> tuple[Tensor, State]:
        outputs, states, at = [], [], 0
        for head, *rest in self._chains():
            size = state_size(head)
            y, new = getattr(head, verb)(x, state[at : at + size], ctx)
            states += new
            at += size
            for block in rest:
                size = state_size(block)
                change, new = getattr(block, verb)(y, state[at : at + size], ctx)
                y = change if owns_stream(block) else y + change
                states += new
                at += size
            outputs.append(y)
        return torch.stack(outputs).mean(0), tuple(states)


# What a spec's item is built into; the type checker sees only modules inside a ModuleList.
Part: TypeAlias = Block | Branches | Primitive


def add(block: Part, x: Tensor, ctx: Context | None) -> Tensor:
    """The stream after a block: x + block(x), or what a stream wrapper makes of it."""
    y = block(x, ctx)
    return y if owns_stream(block) else x + y


def owns_stream(block: Part) -> bool:
    return isinstance(block, Primitive) and block.mixes == "stream"


def state_size(part: Part) -> int:
    """The number of tensors in a part's state."""
    return len(part.init_state(1))


def twin(layer: Primitive) -> Primitive:
    """A layer like this one with parameters of its own, for the meta device, where they hold no numbers."""
    return cast("Primitive", _twin(layer))


def _twin(module: nn.Module) -> nn.Module:
    new = module.__class__.__new__(module.__class__)
    held = new.__dict__
    held.update(module.__dict__)
    held["_parameters"] = {n: p if p is None else nn.Parameter(p) for n, p in module._parameters.items()}
    held["_buffers"] = {n: b if b is None else b.detach() for n, b in module._buffers.items()}
    held["_modules"] = {n: m if m is None else _twin(m) for n, m in module._modules.items()}
    return new
