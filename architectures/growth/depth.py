"""The operation that makes a model deeper."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Unpack

from torch.optim import Optimizer

from architectures.blocks import Block, Branches
from architectures.grammar.spec import Spec
from architectures.grammar.stripe import parse
from architectures.growth.engine import RULES, Grown, Rule, check_growable, check_same, check_total
from architectures.growth.transplant import Entries, Move, carry, rebuild, transplant
from architectures.model import SequenceModel
from architectures.primitive import Primitive
from architectures.sizes.bounds import MAX_LAYERS, shown
from architectures.stored import carry_numbers


def add_layer(
    model: SequenceModel,
    optimizer: Optimizer | None = None,
    *,
    to: int,
    at: int | None = None,
    layer: str | Spec | None = None,
    layers: Iterable[int] | None = None,
    rule: Rule = "keep",
    **options: Unpack[Entries],
) -> Grown:
    """Number of residual layers: what a new layer writes is zero, everything else of it is free.

    `to`     the new total of layers in the spec, those in branches and bodies not counted
    `at`     how many layers stand before the new ones; None: all
    `layer`  a spec of what to add, repeated until there are `to`; None: the model's pattern goes on

    `layers` belongs to the other operations and is refused. Other arguments: see `widen_mlp`. A new layer
    with an auxiliary loss, such as a mixture's, adds that loss from the first step on; logits are the same.
    """
    check_growable(model, "add_layer")
    if layers is not None or rule not in RULES:
        raise ValueError("add_layer acts on no present layer: say where with at=, and leave layers= out")
    now = len(model.spec)
    at = now if at is None else at
    check_total(to, now, "number of layers", "the model")
    if to > MAX_LAYERS:
        raise ValueError(f"to={shown(to)} is more than the {MAX_LAYERS:,} layers that a spec may have")
    if type(at) is not int or not 0 <= at <= now:
        raise ValueError(f"at={at} is not a whole number between 0 and the {now} layers of the model")
    if layer is None and at != now:
        raise ValueError(
            "without layer= the pattern goes on at the end; say what to add, such as layer='swiglu'"
        )
    pattern, start = (model.spec.layers, now) if layer is None else (parse(layer).layers, 0)
    added = [pattern[(start + i) % len(pattern)] for i in range(to - now)]
    spec = Spec((*model.spec.layers[:at], *added, *model.spec.layers[at:]))
    return insert(model, optimizer, spec, range(at, at + len(added)), **options)


def insert(
    model: SequenceModel,
    optimizer: Optimizer | None,
    spec: Spec,
    places: Iterable[int] = (),
    **options: Unpack[Entries],
) -> Grown:
    """The model with the layers of `spec` that stand at `places` added; the others are its own, respelled."""
    places = set(places)
    new = rebuild(model, spec, model.dim, options.get("generator"))
    numbers = iter(range(len(model.spec)))
    before = {i: next(numbers) for i in range(len(spec)) if i not in places}

    def source(name: str) -> str:
        """What a name of the new model was called, "" if it is new."""
        match = re.match(r"blocks\.(\d+)(.*)", name)
        if match is None:
            return name
        return f"blocks.{before[int(match[1])]}{match[2]}" if int(match[1]) in before else ""

    moves = {name: Move(source=source(name)) for name, _ in new.named_parameters() if source(name)}
    odd = {name for name, _ in model.named_parameters()} ^ {move.source for move in moves.values()}
    if odd:
        raise ValueError(
            f"a new layer there changes what {min(odd)} is, for its layer depends on its place; "
            "add the layer further back"
        )
    carry_numbers(model, new, source)
    added = sorted(places)
    silent = {name for i in added for name in _writers(new.get_submodule(f"blocks.{i}"), f"blocks.{i}")}
    transplant(model, new, moves, source=source, silent=silent, fill=options.get("fill"))
    if added:
        layers = Spec(tuple(spec.layers[i] for i in added))
        check_same(model, new, f"{layers} writes even where its last maps are zero; add another layer")
    return new, carry(optimizer, model, new, moves)


def _writers(part: Any, path: str) -> Iterator[str]:
    """The tensors whose zeros silence a part: what its layers declare."""
    if isinstance(part, Block):
        yield from _writers(part.layer, f"{path}.layer")
    elif isinstance(part, Branches) or part.mixes == "stream":
        if isinstance(part, Primitive):
            yield from (f"{path}.{name}" for name in _own_writers(part))
        for name, child in part.named_modules():
            if (name and isinstance(child, Block)) or re.fullmatch(r"branches\.\d+\.0", name):
                yield from _writers(child, f"{path}.{name}")
    else:
        found = _own_writers(part)
        if not found:
            raise ValueError(
                f"add_layer cannot silence {part.name or type(part).__name__} ({path}): its `writers`, "
                f"{', '.join(part.writers) or 'none'}, name no tensor of it; add another layer"
            )
        yield from (f"{path}.{name}" for name in found)


def _own_writers(layer: Primitive) -> list[str]:
    """The tensors that a layer's `writers` name; those of a body stand under its blocks."""
    names = [name for name, _ in layer.named_parameters()]
    return [n for n in names if any(n == w or n.startswith(f"{w}.") for w in layer.writers)]
