"""What is asked of a layer in training: gradients, loud inputs, replicas under vmap, compilation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import torch
from torch import Tensor

from architectures.builder import seeded
from architectures.contract.subject import (
    NotApplicable,
    Size,
    Subject,
    Violation,
    bare,
    gap,
    noise,
    run,
    told,
)
from architectures.primitive import Primitive

LOUD = 100.0
# Rows over which a routed layer has a use for everything that it routes to, and the width from which on; in
# a narrower one some of it may be out of reach by chance.
ROUTED_BATCH, ROUTED_WIDTH = 96, 48


def trained(layer: Primitive) -> dict[str, Tensor]:
    """The parameters that training changes."""
    found: dict[str, Tensor] = {n: p for n, p in layer.named_parameters() if p.requires_grad}
    if not found:
        raise NotApplicable("the layer has no parameters")
    return found


def gradients(subject: Subject, size: Size) -> str:
    """Every parameter has a gradient, of the output or of what the layer adds to the loss in training; away
    from the initialisation it is finite and not zero.
    """
    x, weight = subject.noise(*size), subject.noise(*size, seed=5)
    fresh, moved = subject.build(size.dim).to(subject.dtype), subject.layer(size.dim)
    problems: dict[str, list[str]] = {"no": [], "a zero": [], "no finite": []}
    for layer in (fresh, moved):
        parameters = trained(layer)
        ctx = dataclasses.replace(told(x), seed=0)
        y = run(layer, x, ctx)
        grads = _gradients((y * weight).sum() + sum(ctx.losses.values()), parameters.values())
        for name, g in zip(parameters, grads, strict=True):
            if g is None:
                problems["no"].append(bare(name))
            elif not bool(torch.isfinite(g).all()):
                problems["no finite"].append(bare(name))
            elif layer is moved and not bool(g.any()):
                problems["a zero"].append(bare(name))
    for problem, names in problems.items():
        if names:
            raise Violation(f"{problem} gradient: {', '.join(dict.fromkeys(names))}")
    if subject.cls.routed and size.dim >= ROUTED_WIDTH:
        _slices(subject, size)
    count = f"all {len(parameters)} parameters have" if len(parameters) > 1 else "its one parameter has"
    return f"{count} a finite, non-zero gradient"


def _slices(subject: Subject, size: Size) -> None:
    """Over a large batch every slice of a routed tensor is used."""
    layer, shape = subject.layer(size.dim).float(), (ROUTED_BATCH, size.length, size.dim)
    routed = {n: p for n, p in trained(layer).items() if n in layer.routed}
    loss = (run(layer, noise(*shape).float()) * noise(*shape, seed=5).float()).sum()
    for name, g in zip(routed, _gradients(loss, routed.values()), strict=True):
        unused = None if g is None else int((g.flatten(1).abs().amax(1) == 0).sum())
        if unused != 0:
            raise Violation(
                f"{unused or 'all'} of {len(routed[name])} slices of {name} have no gradient over "
                f"{ROUTED_BATCH} rows"
            )


def _gradients(loss: Tensor, inputs: Iterable[Tensor]) -> tuple[Tensor | None, ...]:
    if not loss.requires_grad:
        return (None,) * len(list(inputs))
    return torch.autograd.grad(loss, list(inputs), allow_unused=True)


def loud(subject: Subject, size: Size) -> str:
    """Inputs far larger than a norm lets through give finite outputs and gradients in float32."""
    layer, x = subject.build(size.dim), LOUD * noise(*size).float()
    y = run(layer, x.requires_grad_())
    if not bool(torch.isfinite(y).all()):
        raise Violation(f"inputs {LOUD:g} times as large give an output that is not finite in float32")
    named = {"the input": x} | {bare(n): p for n, p in layer.named_parameters() if p.requires_grad}
    for name, g in zip(named, _gradients(y.square().mean(), named.values()), strict=True):
        if g is not None and not bool(torch.isfinite(g).all()):
            raise Violation(f"inputs {LOUD:g} times as large give {name} a gradient that is not finite")
    return f"finite in float32 at inputs {LOUD:g} times as large"


def slope(subject: Subject, size: Size) -> str:
    """The gradient is the slope: along a random direction of the input and of each parameter."""
    if subject.cls.straight_through:
        raise NotApplicable("the layer declares straight_through = True: its gradient is an estimate")
    layer, x = subject.layer(size.dim), subject.noise(*size).requires_grad_()
    weight = subject.noise(*size, seed=5)
    named = {"the input": x} | {n: p for n, p in layer.named_parameters() if p.requires_grad}
    loss = (run(layer, x) * weight).sum()
    worst = 0.0
    for name, g in zip(named, _gradients(loss, named.values()), strict=True):
        value = named[name]
        direction = subject.noise(*value.shape, seed=11)
        claimed = 0.0 if g is None else float((g * direction).sum())
        scale = max(0.0 if g is None else float(g.norm() * direction.norm()), 1e-3 * abs(float(loss)), 1e-12)
        # A longer step may cross the kink of a ReLU.
        for step in (1e-6, 1e-7, 1e-8):
            ends = []
            for sign in (1, -1):
                with torch.no_grad():
                    value.add_(sign * step * direction)
                    ends.append(float((run(layer, x) * weight).sum()))
                    value.sub_(sign * step * direction)
            measured = (ends[0] - ends[1]) / (2 * step)
            difference = abs(measured - claimed) / max(abs(measured), scale)
            if difference < 1e-5:
                break
        else:
            raise Violation(
                f"T={size.length}: along a random direction of {bare(name)} the gradient says {claimed:.4g}, "
                f"the loss {measured:.4g}"
            )
        worst = max(worst, difference)
    return f"the gradient is the slope within {worst:.1g}"


def replicas(subject: Subject, size: Size) -> str:
    """vmap over stacked parameters equals the loop over replicas, outputs and gradients."""
    worst = [_replicas(asked, size) for asked in subject.precisions()][0]
    if worst is None:
        return "vmap runs; its noise is not the loop's, so that their numbers are not compared"
    return f"vmap over 3 replicas is the loop within {worst:.1g}"


def _replicas(subject: Subject, size: Size) -> float | None:
    # A plain module trains with its noise and writes its buffers, as under the trainer.
    base = subject.layer(size.dim).train()
    weight = subject.noise(*size, seed=4)
    layers = [subject.layer(size.dim, seed=r) for r in range(3)]
    each = [dict(layer.named_parameters()) for layer in layers]
    leaves = {n: torch.stack([m[n].detach() for m in each]).requires_grad_() for n in trained(base)}
    # Some buffers are drawn with the weights.
    drawn = [dict(layer.named_buffers()) for layer in layers]
    buffers = {n: torch.stack([b[n] for b in drawn]) for n, _ in base.named_buffers()}

    def output(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(base, parameters | buffers, (x.clone(), told(x)))

    def alone(r: int, x: Tensor, seed: int = 0) -> Tensor:
        with seeded(seed, "check"):
            return output(
                {n: p[r] for n, p in leaves.items()}, {n: b[r].clone() for n, b in buffers.items()}, x
            )

    worst = 0.0
    # All replicas on the same input, as in the first layer of a model, and each on its own.
    for x, axis in ((subject.noise(*size), None), (subject.noise(3, *size), 0)):
        loop = torch.stack([alone(r, x if axis is None else x[r]) for r in range(3)])
        with seeded(0, "check"):
            batch = torch.vmap(output, in_dims=(0, 0, axis), randomness="same")
            batched = batch(leaves, {n: b.clone() for n, b in buffers.items()}, x)
        if subject.plain and not torch.equal(alone(0, loop[0]), alone(0, loop[0], seed=1)):
            return None
        worst = max(worst, found := gap(batched, loop))
        if found > _near(subject, 1e-9, 2e-6):
            raise Violation(f"outputs under vmap differ from the loop by {found:.2g} of the largest")
        pairs = [_gradients((y * weight).sum(), leaves.values()) for y in (batched, loop)]
        for name, a, b in zip(leaves, *pairs, strict=True):
            if (a is None) != (b is None):
                raise Violation(
                    f"{bare(name)} has a gradient {'in the loop' if a is None else 'under vmap'} only"
                )
            if a is not None and b is not None and _differ(subject, a, b, pairs[1]):
                raise Violation(
                    f"the gradient of {bare(name)} under vmap differs from the loop by {gap(a, b):.2g}"
                )
    return worst


def _near(subject: Subject, double: float, single: float) -> float:
    """A module that is not written for this suite may sum in another order under vmap or a compiler."""
    return subject.near(double, 1e-4 if subject.plain else single)


def _differ(subject: Subject, found: Tensor, expected: Tensor, all_expected: Iterable[Tensor | None]) -> bool:
    """Whether a gradient is another one. Where its terms cancel, as before a norm, it is rounding of the
    others' size.
    """
    largest = max(float(g.abs().max()) for g in all_expected if g is not None)
    allowed = _near(subject, 1e-8, 1e-5) * float(expected.abs().max()) + subject.near(1e-16, 1e-8) * largest
    return not float((found - expected).abs().max()) <= allowed


def compiled(subject: Subject, size: Size, backend: str = "aot_eager") -> str:
    """torch.compile takes the layer as one graph (back end aot_eager) and gives the same numbers."""
    found = [_compiled(asked, size, backend) for asked in subject.precisions()][0]
    return f"one graph, the same numbers within {found:.1g}"


def _compiled(subject: Subject, size: Size, backend: str) -> float:
    layer, x = subject.layer(size.dim), subject.noise(*size)
    torch.compiler.reset()
    fast = torch.compile(layer, backend=backend, fullgraph=True)
    y, z = run(layer, x), fast(x.clone(), told(x))
    found = gap(z, y)
    if found > _near(subject, 1e-9, 2e-6):
        raise Violation(f"compiled outputs differ by {found:.2g} of the largest")
    named = trained(layer)
    ours, theirs = (_gradients(out.square().sum(), named.values()) for out in (y, z))
    for name, a, b in zip(named, ours, theirs, strict=True):
        if a is not None and (b is None or _differ(subject, b, a, ours)):
            raise Violation(f"the compiled gradient of {bare(name)} differs")
    return found
