"""What a spec's items are built into: a norm and a layer, or branches beside each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from architectures.parts.canon import Canon
from architectures.primitive import Context, Primitive, State


class Composite(nn.Module):
    """What holds layers: its state is theirs in order, and its work is theirs together."""

    def parts(self) -> list[Part]:
        raise NotImplementedError

    @property
    def state_kinds(self) -> tuple[str, ...]:
        return tuple(kind for part in self.parts() for kind in part.state_kinds)

    def init_state(self, batch: int, length: int | None = None) -> State:
        return tuple(t for part in self.parts() for t in part.init_state(batch, length))

    def flops(self, length: int) -> int:
        return sum(part.flops(length) for part in self.parts())

    def executed_flops(self, length: int) -> int:
        return sum(part.executed_flops(length) for part in self.parts())

    def uncounted_flops(self, length: int) -> int:
        return sum(part.uncounted_flops(length) for part in self.parts())


class Block(Composite):
    """A norm and a layer; the residual is added by whoever owns the stream.

    Between them may stand a short convolution, which the wrapper `canon` adds; its tail ends the state.
    """

    canon: Canon | None

    def __init__(self, layer: Primitive | Branches, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.canon = None
        self.layer = layer

    def parts(self) -> list[Part]:
        return [self.layer]

    @property
    def state_kinds(self) -> tuple[str, ...]:
        return super().state_kinds if self.canon is None else (*super().state_kinds, "conv")

    def init_state(self, batch: int, length: int | None = None) -> State:
        state = super().init_state(batch, length)
        if self.canon is None:
            return state
        return *state, self.canon.init_tail(next(self.canon.parameters()), batch)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        x = self.norm(x)
        return self.layer(x if self.canon is None else self.canon.anew(x), ctx)

    def step(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        x, state, tail = self._enter(x[:, None], state)
        y, state = self.layer.step(x[:, 0], state, ctx)
        return y, (*state, *tail)

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        x, state, tail = self._enter(x, state)
        y, state = self.layer.prefill(x, state, ctx)
        return y, (*state, *tail)

    def flops(self, length: int) -> int:
        return super().flops(length) + self._own_flops(length)

    def executed_flops(self, length: int) -> int:
        return super().executed_flops(length) + self._own_flops(length)

    def uncounted_flops(self, length: int) -> int:
        return super().uncounted_flops(length) + self._own_flops(length)

    def _enter(self, x: Tensor, state: State) -> tuple[Tensor, State, State]:
        """x (B, T, D) and the block's state -> what the layer reads, its state, and the next tail."""
        x = self.norm(x)
        if self.canon is None:
            return x, state, ()
        x, tail = self.canon(x, state[-1])
        return x, state[:-1], (tail,)

    def _own_flops(self, length: int) -> int:
        return 0 if self.canon is None else self.canon.flops(length)


class WrapperBlock(Block):
    """A wrapper inside the body of another: what it adds to the stream, which is what a block's output is."""

    def __init__(self, layer: Primitive) -> None:
        nn.Module.__init__(self)
        self.canon = None
        self.layer = layer

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        return self.layer(x, ctx) - x

    def step(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        y, state = self.layer.step(x, state, ctx)
        return y - x, state

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        y, state = self.layer.prefill(x, state, ctx)
        return y - x, state


class Branches(Composite):
    """The parallel topology: every branch reads the same normed input, their outputs are averaged.

    The first layer of a branch reads that input as it is; further layers are pre-norm residual blocks on the
    branch's own output.
    """

    def __init__(self, branches: list[list[Part]]) -> None:
        super().__init__()
        self.branches = nn.ModuleList([nn.ModuleList(branch) for branch in branches])

    def parts(self) -> list[Part]:
        return [part for chain in self._chains() for part in chain]

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        return self._through(x, lambda part, y: part(y, ctx))

    def step(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        run = Advance("step", state, ctx)
        return self._through(x, run), tuple(run.after)

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        run = Advance("prefill", state, ctx)
        return self._through(x, run), tuple(run.after)

    def _chains(self) -> list[list[Part]]:
        return [list(cast("Iterable[Part]", branch)) for branch in self.branches]

    def _through(self, x: Tensor, run: Callable[[Part, Tensor], Tensor]) -> Tensor:
        outputs = []
        for head, *rest in self._chains():
            y = run(head, x)
            for block in rest:
                y = run(block, y) if owns_stream(block) else y + run(block, y)
            outputs.append(y)
        return torch.stack(outputs).mean(0)


class Advance:
    """Runs parts in turn by their `verb`, "step" or "prefill"; `after` is the state behind them."""

    def __init__(self, verb: str, state: State, ctx: Context | None) -> None:
        self.verb, self.state, self.ctx = verb, state, ctx
        self.after: list[Tensor] = []

    def __call__(self, part: Part, x: Tensor) -> Tensor:
        at = len(self.after)
        y, new = getattr(part, self.verb)(x, self.state[at : at + state_size(part)], self.ctx)
        self.after += new
        return y


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


def outermost(module: nn.Module) -> Iterator[Primitive]:
    """The layers of a module that are inside no other layer of it."""
    if isinstance(module, Primitive):
        yield module
    else:
        for child in module.children():
            yield from outermost(child)


def twin(module: nn.Module) -> Any:
    """A module like this one with parameters of its own, for the meta device, where they hold no numbers."""
    new = module.__class__.__new__(module.__class__)
    held = new.__dict__
    held.update(module.__dict__)
    held["_parameters"] = {n: p if p is None else nn.Parameter(p) for n, p in module._parameters.items()}
    held["_buffers"] = {n: b if b is None else b.detach() for n, b in module._buffers.items()}
    held["_modules"] = {n: m if m is None else twin(m) for n, m in module._modules.items()}
    return new
