"""Part 1: the device computes what a CPU computes in float64."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

import architectures
from mad.run.batched import Batched
from mad.run.learners import Turns
from mad.run.place import Place
from on_gpu.at import At, Row, Steps, gap, judged, rows_of, runs_of

Measured = Iterator[tuple[str, Callable[[], Row]]]


def primitives(at: At) -> Measured:
    """Of every layer: logits, the gradient of all parameters and the recurrent form."""
    for name in architectures.names():
        yield name, partial(_layer, at, name, "32-true")


def bf16(at: At) -> Measured:
    """The same under autocast."""
    for name in architectures.names():
        yield name, partial(_layer, at, name, "bf16-mixed")


def _layer(at: At, name: str, precision: str) -> Row:
    dim, length, rows = (16, 9, 2) if at.dry else (48, 37, 3)
    spec = architectures.get(name).example
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(16, (rows, length), generator=generator)
    weight = torch.randn(rows, length, 16, generator=generator)

    def answers(device: torch.device, dtype: torch.dtype, steps: bool) -> tuple[Tensor, Tensor, Tensor]:
        model = architectures.build(spec, vocab_size=16, dim=dim, max_len=length, seed=0)
        model = model.to(device=device, dtype=dtype)
        place = Place(device, precision if dtype == torch.float32 else "32-true")
        with place.autocast():
            logits = model(tokens.to(device))
        (logits.to(dtype) * weight.to(device=device, dtype=dtype)).sum().backward()
        gradient = torch.cat([_zeros(p).flatten() for p in model.parameters()])
        causal = all(layer.causal for _, layer in model.layers())
        return logits, gradient, _stepped(model, tokens.to(device)) if steps and causal else logits

    exact = answers(torch.device("cpu"), torch.float64, steps=False)
    logits, gradient, stepped = answers(at.device, torch.float32, steps=precision == "32-true")
    row = {"logits": gap(logits, exact[0]), "gradient": gap(gradient, exact[1])}
    if precision != "32-true":
        return judged(row, logits=0.1, gradient=0.3)
    return judged(row | {"step": gap(stepped, exact[0])}, logits=1e-4, gradient=1e-3, step=1e-4)


def _zeros(p: nn.Parameter) -> Tensor:
    return torch.zeros_like(p) if p.grad is None else p.grad


@torch.no_grad()
def _stepped(model: architectures.SequenceModel, tokens: Tensor) -> Tensor:
    state = model.init_state(tokens.shape[0])
    logits = []
    for token in tokens.unbind(1):
        one, state = model.step(token, state)
        logits.append(one)
    return torch.stack(logits, dim=1)


def replicas(at: At) -> Measured:
    """Three replicas batched against the same alone, over 50 steps."""
    for spec in at.architectures:
        yield spec, partial(_replicas, at, spec)


def _replicas(at: At, spec: str) -> Row:
    cell = at.cells(spec, suite="smoke")[0]
    runs, steps = runs_of(cell, 3), 5 if at.dry else 50
    data, batches = rows_of(cell, at.device)
    batches = (steps * batches)[:steps]

    def moved(kind: type[Turns] | type[Batched], dtype: torch.dtype) -> Tensor:
        """How far the training took the parameters."""
        model = cell.architecture.build(cell.task, 0).to(device=at.device, dtype=dtype)
        learner = kind(model, runs, Place(at.device))

        def parameters() -> Tensor:
            return torch.cat(
                [p.detach().flatten() for r in range(3) for p in learner.model_of(r).parameters()]
            )

        before = parameters()
        learner.advance(data, batches, 0, [True] * 3, lambda r, done: None)
        return parameters() - before

    # float64 shows an error, float32 how far rounding goes in so many steps.
    row = {
        str(dtype).removeprefix("torch."): gap(moved(Batched, dtype), moved(Turns, dtype))
        for dtype in (torch.float64, torch.float32)
    }
    return judged(row, float64=1e-8, float32=1e-2)


def waits(at: At) -> Measured:
    """Whether a step of batched replicas makes the host wait; on a CPU only that it runs."""
    for name in at.architectures if at.dry else architectures.names():
        yield name, partial(_waits, at, name if at.dry else architectures.get(name).example)


def _waits(at: At, spec: str) -> Row:
    cell = at.cells(spec, suite="smoke")[0]
    data, batches = rows_of(cell, at.device)
    model = cell.architecture.build(cell.task, 0).to(at.device)
    learner = Batched(model, runs_of(cell, 2), Place(at.device))
    with contextlib.ExitStack() as stack:

        def tick(replica: int, done: int) -> None:
            """Watch from the end of the first step to that of the last, after which losses are fetched."""
            if at.device.type != "cuda":
                return
            stack.callback(torch.cuda.set_sync_debug_mode, "default")
            torch.cuda.set_sync_debug_mode("error" if done < 3 else "default")

        try:
            learner.advance(data, batches[:3], 0, [True, True], tick)
        except RuntimeError as error:
            if "synchroniz" not in str(error):
                raise
            return {"note": "waits"}
    return {}


def compiled(at: At) -> Measured:
    """Six replicas batched under torch.compile: the same losses, and what it gains."""
    for spec in ("swiglu",) if at.dry else at.architectures:
        yield spec, partial(_compiled, at, spec)


def _compiled(at: At, spec: str) -> Row:
    cell, count = at.cells(spec)[0], at.replicas[-1] if at.dry else 6
    eager = Steps(cell, count, Place(at.device))
    start = at.now()
    ours = Steps(cell, count, Place(at.device), compile=not at.dry)
    if at.dry:  # Inductor takes longer than all the rest.
        ours.learner.call = torch.compile(ours.learner.eager, dynamic=False, backend="eager")
    exact, found = torch.tensor(eager(3)), torch.tensor(ours(3))
    row: Row = {"losses": gap(found, exact), "warm-up s": at.now() - start}
    row |= {"eager": count / at.per_step(eager), "compiled": count / at.per_step(ours)}
    return judged(row | {"gain": row["compiled"] / row["eager"]}, losses=1e-3)
