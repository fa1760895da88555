"""What a layer says of itself: how it is built, what it costs, how it is to be optimised and scaled."""

from __future__ import annotations

import dataclasses
import inspect

import torch

from architectures.contract.forward import random_states
from architectures.contract.subject import (
    NotApplicable,
    Size,
    Subject,
    Unbuildable,
    Violation,
    bare,
    noise,
    told,
)
from architectures.options import PER
from architectures.outside.foreign import Foreign, counted_flops

WIDTHS = (16, 48, 64, 80)
# Of a row in which no layer works on pairs of tokens because that is less than its recurrence.
LONG = 1024


def builds(subject: Subject, size: Size) -> str:
    """The layer is built at any width divisible by 16, unless options that were stated forbid one."""
    subject.build(size.dim)
    built, refused = [], []
    for dim in sorted({*WIDTHS, size.dim}):
        try:
            subject.build(dim)
            built.append(dim)
        except Unbuildable as error:
            # heads=3 cannot divide every width; a default has to.
            if not subject.item.options or not isinstance(error.__cause__, ValueError):
                raise Violation(f"width {dim}: {error}") from error
            refused.append(dim)
    text = f"at widths {', '.join(str(d) for d in built)}"
    if issubclass(subject.cls, Foreign) and "dim" not in inspect.signature(subject.cls.inner).parameters:
        text += "; the constructor takes no argument dim, by which it would be told the width"
    return f"{text}; its options refuse {', '.join(str(d) for d in refused)}" if refused else text


def seed(subject: Subject, size: Size) -> str:
    """The same seed gives the same weights, whatever was drawn before, and draws nothing from elsewhere."""
    torch.manual_seed(1)
    before = random_states()
    first = subject.build(size.dim, seed=3)
    drawn = [name for name, state in random_states().items() if state != before.get(name, state)]
    torch.manual_seed(2)
    second = subject.build(size.dim, seed=3)
    ours, theirs = dict(first.named_parameters()), dict(second.named_parameters())
    if list(ours) != list(theirs):
        raise Violation("two layers of one seed have different parameters")
    for name in ours:
        if not torch.equal(ours[name], theirs[name]):
            raise Violation(f"{bare(name)} differs between two layers of one seed; draw from torch")
    if drawn:
        raise Violation(f"building draws from the random state of {drawn[0]}; draw from torch")
    return "the same seed gives the same weights"


def meta(subject: Subject, size: Size) -> str:
    """The layer is built, and called, without memory or arithmetic: the accounting does so."""
    if subject.plain:
        raise NotApplicable("a plain nn.Module is counted on the CPU")
    with torch.device("meta"):
        layer = subject.build(size.dim)
    if any(not p.is_meta for p in layer.parameters()):
        raise Violation("parameters are made on the CPU under torch.device('meta')")
    x = torch.empty(*size, device="meta")
    found = layer(x, told(x)).shape
    if found != size:
        raise Violation(f"on the meta device an input {tuple(size)} gives a tensor {tuple(found)}")
    return "builds and runs on the meta device"


def flops(subject: Subject, size: Size) -> str:
    """0 < flops, at most executed_flops in a long row, and what of these is not uncounted is what torch's
    counter sees. A short row may cost less than its recurrence: pairs of tokens may be fewer than the state.
    """
    if subject.plain:
        raise NotApplicable("torch's counter counts a plain nn.Module")
    layer, length = subject.build(size.dim), size.length
    algorithmic, executed = layer.flops(length), layer.executed_flops(length)
    uncounted = layer.uncounted_flops(length)
    if algorithmic <= 0:
        raise Violation(f"T={length}: flops {algorithmic:,} must be above 0")
    if (least := layer.flops(LONG)) > (most := layer.executed_flops(LONG)):
        raise Violation(f"T={LONG}: flops {least:,} must be at most executed_flops {most:,}")
    with torch.no_grad():
        x = noise(*size).float()
        counted = counted_flops(layer, x, told(x))
    # Not at length 1: einsum multiplies a contraction of one element out, where the counter sees nothing.
    if length > 1 and counted != size.batch * (executed - uncounted):
        raise Violation(
            f"T={length}: executed_flops - uncounted_flops = {executed:,} - {uncounted:,} = "
            f"{executed - uncounted:,}, and torch's counter saw {counted:,}; what is element-wise or an FFT "
            "goes into uncounted_flops"
        )
    return f"{algorithmic / length:,.0f} a token at length {length}, executed as torch's counter saw"


def hints(subject: Subject, size: Size) -> str:
    """Hints name parameters of the layer."""
    if subject.plain:
        raise NotApplicable("a plain nn.Module gives no hints")
    layer = subject.build(size.dim)
    known, named = {n for n, _ in layer.named_parameters()}, layer.hints()
    for name in named:
        if name not in known:
            there = f"there are {', '.join(sorted(known))}"
            raise Violation(f"hints() names {name!r}, which is not a parameter; {there}")
    return f"{len(named)} of {len(known)} parameters have a hint" if named else "no hints"


def options(subject: Subject, size: Size) -> str:
    """Every option says what it is and how it follows the width."""
    if subject.plain:
        raise NotApplicable("a plain nn.Module documents its own arguments")
    fields = dataclasses.fields(subject.cls.Config)
    for field in fields:
        if not field.metadata.get("doc") or field.metadata.get("per") not in PER:
            raise Violation(
                f"option {field.name!r} does not say what it is and how it scales: "
                "option(default, 'doc', per='absolute')"
            )
    return f"documented: {', '.join(f.name for f in fields)}" if fields else "no options"
