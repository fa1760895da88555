"""What is asked of `forward`: shapes, repeatability, precision, causality, independence of rows."""

from __future__ import annotations

import random
import sys
from typing import Any

import torch
from torch import Tensor

from architectures.contract.subject import (
    NotApplicable,
    Size,
    Subject,
    Violation,
    bare,
    gap,
    name_of,
    noise,
    run,
    told,
)
from architectures.primitive import Primitive


def shape(subject: Subject, size: Size) -> str:
    """(B, T, D) float32 -> (B, T, D) float32, finite, at any length."""
    x = noise(*size).float()
    y: Any = run(subject.build(size.dim), x)
    if not isinstance(y, Tensor) or y.shape != x.shape:
        raise Violation(f"an input {tuple(x.shape)} gives {name_of(y)}; a layer maps (B, T, D) to (B, T, D)")
    if y.dtype != x.dtype:
        raise Violation(f"a float32 input gives {y.dtype}".replace("torch.", ""))
    if not bool(torch.isfinite(y).all()):
        raise Violation(f"{int((~torch.isfinite(y)).sum())} of {y.numel()} outputs are not finite")
    return f"(B, T, D) float32 at lengths up to {size.length}"


def repeatable(subject: Subject, size: Size) -> str:
    """Two calls are equal, and no random number is drawn from a global generator."""
    layer, x = subject.build(size.dim), noise(*size).float()
    before = random_states()
    first, second = layer(x.clone(), told(x)), layer(x.clone(), told(x))
    after = random_states()
    drawn = [name for name in before if before[name] != after[name]]
    if drawn:
        raise Violation(
            f"forward draws from the random state of {drawn[0]}: two calls differ by "
            f"{gap(second, first):.2g} of the largest output; noise comes from ctx.noise"
        )
    if not torch.equal(first, second):
        raise Violation(f"two calls differ by {gap(second, first):.2g} of the largest output")
    if not subject.plain:
        return "two calls are equal, nothing is drawn"
    # Dropout of a plain module draws from torch while it trains, which the trainer keys.
    first, second = run(layer.train(), x), run(layer, x)
    if not torch.equal(first, second):
        differ = f"two calls with the same torch seed differ by {gap(second, first):.2g}"
        raise Violation(f"in training {differ} of the largest output")
    return "two calls are equal; in training, with the same torch seed"


def random_states() -> dict[str, str]:
    """The global generators that a layer may have drawn from; numpy's where something has loaded it."""
    states = {"torch": str(torch.get_rng_state().tolist()), "Python": str(random.getstate())}
    numpy = sys.modules.get("numpy")
    return states if numpy is None else states | {"numpy": str(numpy.random.get_state())}


def kept(subject: Subject, size: Size) -> str:
    """Forward leaves its input and its module as they were, and no tensor is a plain attribute."""
    layer, x = subject.build(size.dim), noise(*size).float()
    given, before, stored = x.clone(), _attributes(layer), {n: t.clone() for n, t in _tensors(layer).items()}
    with torch.no_grad():
        layer(given, told(x))
    if not torch.equal(given, x):
        raise Violation("forward edits its input in place")
    after = _attributes(layer)
    for name in before | after:
        if before.get(name) != after.get(name):
            raise Violation(f"forward changes the attribute {name!r}; a layer keeps nothing between calls")
    for name, tensor in _tensors(layer).items():
        if name not in stored or not torch.equal(tensor, stored[name]):
            raise Violation(f"forward changes {name!r}; new values of buffers go into ctx.updates")
    held = next((name for name, (kind, _) in after.items() if kind == "tensor"), None)
    if held is not None:
        raise Violation(f"{held!r} is a tensor kept as a plain attribute; use register_buffer")
    return "input, weights and attributes stay as they were"


def _tensors(layer: Primitive) -> dict[str, Tensor]:
    return dict(layer.named_parameters()) | dict(layer.named_buffers())


def _attributes(layer: Primitive) -> dict[str, tuple[str, Any]]:
    """Every plain attribute of the layer and its parts, in a form that shows a change."""
    found = {}
    for path, module in layer.named_modules():
        for name, value in vars(module).items():
            kind, content = "tensor" if isinstance(value, Tensor) else "object", id(value)
            if isinstance(value, int | float | str | None):
                kind, content = "value", hash(value)
            elif isinstance(value, list | dict | set):
                kind, content = "container", len(value)
            found[f"{path}.{name}".removeprefix("module.").strip(".")] = (kind, content)
    return found


def float64(subject: Subject, size: Size) -> str:
    """A float64 layer computes in float64 from end to end."""
    layer, x = subject.layer(size.dim), subject.noise(*size)
    y = run(layer, x)
    if y.dtype != torch.float64:
        raise Violation(f"a float64 layer gives {y.dtype}".replace("torch.", ""))
    # Steps of the resolution of float32 show whether something inside was rounded to it.
    step, direction = 1e-7, subject.noise(*size, seed=2)
    once, twice = run(layer, x + step * direction) - y, run(layer, x + 2 * step * direction) - y
    # Where the output does not move beyond its own rounding, there is nothing to compare.
    if float(twice.abs().max()) > 1e-13 * float(y.abs().max()) and gap(2 * once, twice) > 0.02:
        raise Violation(
            "float64 is rounded to float32 inside; upcast with torch.promote_types(x.dtype, torch.float32)"
        )
    return "float64 stays, and is not rounded inside"


def bfloat16(subject: Subject, size: Size) -> str:
    """Autocast to bfloat16 stays close to float32, with finite gradients."""
    x, differences = noise(*size).float(), []
    # As it starts, and away from there: zeros stay zero in any precision.
    for layer in (subject.build(size.dim), subject.layer(size.dim).float()):
        exact = run(layer, x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = run(layer, x)
        loss = low.float().square().mean()
        if loss.requires_grad:
            loss.backward()
        differences.append(difference := gap(low.float(), exact))
        # 8 bits of mantissa: a handful of products in a row keeps two decimal digits.
        if not difference < 0.05:
            raise Violation(f"under autocast outputs differ from float32 by {difference:.2g} of the largest")
        for name, p in layer.named_parameters():
            if p.grad is not None and not bool(torch.isfinite(p.grad).all()):
                raise Violation(f"under autocast the gradient of {bare(name)} is not finite")
    return f"under autocast within {differences[0]:.1g} of float32"


def causality(subject: Subject, size: Size) -> str:
    """No output depends on a later token, neither by its value nor by its gradient."""
    layer = subject.layer(size.dim)
    if not layer.causal:
        raise NotApplicable("the layer declares causal = False")
    for mode in _modes(subject):
        _values_leak(subject, subject.layer(size.dim).train(mode != "eval"), subject.noise(*size), mode)
        for asked in subject.precisions():
            layer = asked.layer(size.dim).train(mode != "eval")
            if not _gradients_leak(asked, layer, asked.noise(*size), mode):
                raise NotApplicable("no output has a gradient with respect to the input")
    rounding = "" if layer.exact_causality else ", but for rounding"
    return f"no output moves when a later token does{rounding} (up to length {size.length})"


def _modes(subject: Subject) -> tuple[str, ...]:
    """A plain module may behave otherwise while it trains, as a batch norm does."""
    return ("eval", "training") if subject.plain else ("",)


def _note(mode: str) -> str:
    return " (in training mode)" if mode == "training" else ""


def _values_leak(subject: Subject, layer: Primitive, x: Tensor, mode: str) -> None:
    length, worst, text = x.shape[1], 0.0, ""
    other = subject.noise(*x.shape, seed=3)
    with torch.no_grad():
        y = run(layer, x)
        for s in range(1, length):
            changed = x.clone()
            changed[:, s] = other[:, s]
            moved = (run(layer, changed)[:, :s] - y[:, :s]).abs().amax(dim=(0, 2)).nan_to_num(nan=torch.inf)
            largest, position = float(moved.max()), int(moved.argmax())
            if largest > worst:
                worst = largest
                text = f"output at position {position} changes by {largest:.2g} when token {s} changes"
    if worst > subject.near(1e-12) * float(y.abs().max()):
        raise Violation(f"T={length}: {text}{_note(mode)}")


def _gradients_leak(subject: Subject, layer: Primitive, x: Tensor, mode: str) -> bool:
    """Refuse a gradient with respect to a later token; whether there is one with respect to an earlier."""
    length, exact, follows = x.shape[1], layer.exact_causality, x.shape[1] == 1
    x = x.requires_grad_()
    y = run(layer, x)
    if not y.requires_grad:
        return False
    # Every cut of a short sequence, every seventh of a long one.
    for cut in range(1, length, 1 if length <= 16 else 7):
        (gradient,) = torch.autograd.grad(y[:, :cut].square().sum(), x, retain_graph=True, allow_unused=True)
        if gradient is None:
            continue
        follows |= bool(gradient[:, :cut].any())
        leak = gradient[:, cut:].abs().amax(dim=(0, 2)).nan_to_num(nan=torch.inf)
        largest, token = float(leak.max()), cut + int(leak.argmax())
        if largest > (0.0 if exact else subject.near(1e-12, 1e-6) * float(gradient.abs().max())):
            fft = "; an FFT convolution declares exact_causality = False"
            remedy = fft if exact and largest < 1e-9 else ""
            raise Violation(
                f"T={length}: the outputs before position {cut} have a gradient of {largest:.2g} with "
                f"respect to token {token}{remedy}{_note(mode)}"
            )
    if not follows:  # The first outputs may be constants: of a causal layer, they see little.
        (gradient,) = torch.autograd.grad(y.square().sum(), x, allow_unused=True)
        follows = gradient is not None and bool(gradient.any())
    return follows


def rows(subject: Subject, size: Size) -> str:
    """A row's output is the same beside other rows, and alone."""
    worst = 0.0
    for mode in _modes(subject):
        layer = subject.layer(size.dim).train(mode != "eval")
        x = subject.noise(*size)
        with torch.no_grad():
            y = run(layer, x)
            changed = x.clone()
            changed[-1] = subject.noise(*size[1:], seed=9)
            worst = max(worst, found := gap(run(layer, changed)[:-1], y[:-1]))
            if found > subject.near(1e-12):
                row = int((run(layer, changed) - y)[:-1].abs().amax(dim=(1, 2)).argmax())
                raise Violation(
                    f"row {row} changes with row {size.batch - 1}, by {found:.2g} of the largest output"
                    f"{_note(mode)}"
                )
            if mode == "training":
                continue  # Noise is drawn for the whole batch, so a row alone or elsewhere has other noise.
            worst = max(worst, found := gap(run(layer, x[:1]), y[:1]))
            if found > subject.near(1e-12):
                raise Violation(f"row 0 alone differs by {found:.2g} from row 0 in a batch of {size.batch}")
            if (found := gap(run(layer, x.flip(0)), y.flip(0))) > subject.near(1e-12):
                raise Violation(f"rows in another order differ by {found:.2g} of the largest output")
    return f"rows differ by at most {worst:.1g} alone and beside others"
