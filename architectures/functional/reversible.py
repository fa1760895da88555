"""Two residual streams that can be run backwards: gradients without stored activations.

    forward     (a, b) -> (b, a + F(b)) for each block F, from a = b = x
    backward    (p, q) -> (q - F(p), p), and the slope of F at p, from one run of F

The blocks are run once, without a graph; what is kept are the two last streams. `_Reverse` hands them on and
finds their gradient by running each block once more, from the last to the first, on the input that it
recovers. That input is right up to rounding, which could turn a choice that is near a tie, so choices are
kept (`Choices`) and read again, as are values that one block leaves for another (`Context.shared`).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from architectures.context import Choices, Context

Dims = tuple[int | None, ...]


@dataclass
class Call:
    """One run of a block; numbers are places in the list of tensors that the tape holds."""

    block: nn.Module
    own: dict[str, int]  # parameters and buffers
    shared: dict[str, int]  # values left by earlier blocks
    made: dict[str, int] = field(default_factory=dict)  # values left by this one
    losses: dict[str, int] = field(default_factory=dict)
    choices: list[int] = field(default_factory=list)
    rng: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext


@dataclass
class Tape:
    """What the backward pass needs to run the blocks again, tensors apart.

    `levels` holds, for each `vmap` around it from the innermost on, the batch dimension of every tensor.
    """

    calls: list[Call]
    ctx: Context  # with the noise of the call and none of its tensors
    autocast: Callable[[], contextlib.AbstractContextManager[object]]
    outputs: tuple[int, ...] = ()
    levels: tuple[Dims, ...] = ()
    tokens: tuple[int, ...] = ()  # the place of the ids, where there are any


def reversible(blocks: Iterable[nn.Module], x: Tensor, ctx: Context) -> tuple[Tensor, Tensor]:
    """The two streams after the blocks; their losses, updates and shared values are left in the context."""
    choices = Choices() if ctx.choices is None else ctx.choices
    tape = Tape([], ctx.inner(updates={}, tokens=None), _autocast(x))
    tensors = [x, x, x]  # where the gradient goes, then the streams

    def keep(named: dict[str, Tensor]) -> dict[str, int]:
        places = {name: len(tensors) + i for i, name in enumerate(named)}
        tensors.extend(named.values())
        return places

    tape.tokens = tuple(keep({} if ctx.tokens is None else {"tokens": ctx.tokens}).values())
    initial = keep(ctx.shared)
    shared = dict(initial)
    with torch.no_grad():
        a, b = x, x
        for block in blocks:
            own = {**dict(block.named_parameters()), **dict(block.named_buffers())}
            call = Call(block, keep(own), shared)
            if any(getattr(m, "draws", False) for m in block.modules()):
                call.rng = _same_rng(x.device)
            inner = ctx.inner(shared={k: tensors[i] for k, i in shared.items()}, choices=choices)
            before = len(choices.made)
            a, b = b, a + block(b, inner)
            call.made = keep({k: t for k, t in inner.shared.items() if k not in shared})
            call.losses = keep(inner.losses)
            call.choices = list(keep({str(i): t for i, t in enumerate(choices.made[before:])}).values())
            shared = shared | call.made
            tape.calls.append(call)
    tensors[1], tensors[2] = a, b
    tape.outputs = (1, 2, *(i for call in tape.calls for i in (*call.made.values(), *call.losses.values())))
    found = dict(zip(tape.outputs, _Reverse.apply(tape, *tensors), strict=True))
    for call in tape.calls:
        ctx.shared.update({k: found[i] for k, i in call.made.items()})
        for key, i in call.losses.items():
            ctx.losses[key] = ctx.losses[key] + found[i] if key in ctx.losses else found[i]
    return found[1], found[2]


class _Reverse(torch.autograd.Function):
    """Hands on what was computed without a graph, and knows its gradient."""

    @staticmethod
    def forward(tape: Tape, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensors[i].view_as(tensors[i]) for i in tape.outputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.tape, *tensors = inputs
        ctx.save_for_backward(*tensors[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        tape, tensors = ctx.tape, (None, *ctx.saved_tensors)
        grads: list[Any] = [None] * len(tensors)
        for i, g in zip(tape.outputs, given, strict=True):
            grads[i] = g
        (p, q), (grad_p, grad_q) = tensors[1:3], grads[1:3]
        for call in reversed(tape.calls):
            places = [
                i for i in (*call.own.values(), *call.shared.values()) if tensors[i].is_floating_point()
            ]
            y, pull = _again(tape, call, p, tensors, places)
            got_p, *got = pull((grad_q, *(grads[i] for i in (*call.made.values(), *call.losses.values()))))
            p, q = q - y, p
            grad_p, grad_q = grad_q, grad_p + got_p
            for i, g in zip(places, got, strict=True):
                grads[i] = g if grads[i] is None else grads[i] + g
        sent = set(tape.outputs)
        return (
            None,
            grad_p + grad_q,
            *(None if i in sent else g for i, g in enumerate(grads[1:], start=1)),
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], tape: Tape, *tensors: Tensor) -> tuple[Any, Any]:
        moved: list[Tensor] = []
        dims: list[int | None] = []
        for i, (x, dim) in enumerate(zip(tensors, in_dims[1:], strict=True)):
            # Every output is a replica's own, and so is the gradient of the input.
            own = dim is not None or i == 0 or i in tape.outputs
            expanded = x.expand(info.batch_size, *x.shape) if own and dim is None else x
            moved.append(expanded if dim is None else x.movedim(dim, 0))
            dims.append(0 if own else None)
        tape = dataclasses.replace(tape, levels=(*tape.levels, tuple(dims)))
        return _Reverse.apply(tape, *moved), (0,) * len(tape.outputs)


def _again(
    tape: Tape, call: Call, p: Tensor, tensors: Sequence[Any], places: list[int]
) -> tuple[Tensor, Callable[..., Any]]:
    """A block's output at p once more, and what takes gradients of its outputs to p and to `places`."""
    told = (*call.own.values(), *call.shared.values(), *call.choices, *tape.tokens)
    fixed = [i for i in told if i not in places]

    def run(p: Tensor, moving: list[Tensor], still: list[Tensor]) -> tuple[Tensor, ...]:
        at = dict(zip((*places, *fixed), (*moving, *still), strict=True))
        ctx = tape.ctx.inner(
            shared={k: at[i] for k, i in call.shared.items()},
            updates={},
            choices=Choices([at[i] for i in call.choices]),
            tokens=at[tape.tokens[0]] if tape.tokens else None,
        )
        y = torch.func.functional_call(call.block, {n: at[i] for n, i in call.own.items()}, (p, ctx))
        return (y, *(ctx.shared[k] for k in call.made), *(ctx.losses[k] for k in call.losses))

    whole: Callable[..., tuple[Tensor, ...]] = run
    for dims in tape.levels:
        whole = torch.vmap(
            whole, in_dims=(0, [dims[i] for i in places], [dims[i] for i in fixed]), randomness="same"
        )
    still = [tensors[i] for i in fixed]
    with call.rng(), tape.autocast():
        return _pull_back(lambda p, *moving: whole(p, list(moving), still), p, *(tensors[i] for i in places))


def _pull_back(
    f: Callable[..., tuple[Tensor, ...]], *inputs: Tensor
) -> tuple[Tensor, Callable[[Sequence[Tensor]], Sequence[Tensor]]]:
    """The first output of f, and what takes gradients of its outputs to its inputs.

    A compiler traces `torch.func.vjp`. Without one the plain engine does the same: it keeps no graph for
    second derivatives, and can be entered again by a wrapper inside.
    """
    if torch.compiler.is_compiling():
        found: Any = torch.func.vjp(f, *inputs)
        outputs, back = found
        return outputs[0], lambda grads: back(_cast(grads, outputs))
    leaves = [x.detach().requires_grad_() for x in inputs]
    with torch.enable_grad():
        outputs = f(*leaves)
    reached = [i for i, y in enumerate(outputs) if y.requires_grad]

    def pull(grads: Sequence[Tensor]) -> Sequence[Tensor]:
        grads = _cast(grads, outputs)
        return torch.autograd.grad(
            [outputs[i] for i in reached],
            leaves,
            [grads[i] for i in reached],
            allow_unused=True,
            materialize_grads=True,
        )

    return outputs[0].detach(), pull


def _cast(grads: Sequence[Tensor], like: Sequence[Tensor]) -> tuple[Tensor, ...]:
    return tuple(g.to(y.dtype) for g, y in zip(grads, like, strict=True))


def _autocast(x: Tensor) -> Callable[[], contextlib.AbstractContextManager[object]]:
    """The autocast of now, for later."""
    kind = x.device.type
    if not torch.amp.autocast_mode.is_autocast_available(kind):  # not on meta
        return contextlib.nullcontext
    enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    # Without its cache, which would keep casts of weights that belong to one run of a block.
    return lambda: torch.autocast(kind, dtype=dtype, enabled=enabled, cache_enabled=False)


def _same_rng(device: torch.device) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """The global random state of now, for later: a user's layer may draw its dropout from it."""
    cuda = [device] if device.type == "cuda" else []
    state, states = torch.get_rng_state(), [torch.cuda.get_rng_state(d) for d in cuda]

    @contextlib.contextmanager
    def same() -> Any:
        with torch.random.fork_rng(devices=cuda):
            torch.set_rng_state(state)
            for d, s in zip(cuda, states, strict=True):
                torch.cuda.set_rng_state(s, d)
            yield

    return same
