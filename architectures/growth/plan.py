"""Plan the way from one architecture to a larger one, and go it."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch.optim import Optimizer

from architectures import registry
from architectures.grammar.spec import Layer, Parallel, Spec
from architectures.grammar.stripe import parse
from architectures.growth.depth import insert
from architectures.growth.engine import Grown, Rule, Sizes, check_growable, check_stream, describe, widen
from architectures.growth.transplant import Fill
from architectures.growth.widths import OPERATIONS
from architectures.model import SequenceModel
from architectures.primitive import config_options
from architectures.sizes.bounds import check_sizes


@dataclass(frozen=True)
class Step:
    """One operation: its name and new sizes by layer, the new width, or the places of new layers."""

    verb: str
    sizes: Sizes = field(default_factory=dict)
    dim: int | None = None
    places: tuple[int, ...] = ()

    def __str__(self) -> str:
        if self.dim is not None:
            return f"{self.verb} to {self.dim}"
        if self.places:
            return f"{self.verb} at {', '.join(map(str, self.places))}"
        return f"{self.verb} " + ", ".join(
            f"{path} to {' x '.join(map(str, new.values()))}" for path, new in self.sizes.items()
        )


def plan(model: SequenceModel, spec: str | Spec, *, dim: int | None = None) -> list[Step]:
    """The operations that lead from the model to a spec and width; a ValueError says what is in the way."""
    check_growable(model, "grow")
    spec, dim = parse(spec), model.dim if dim is None else dim
    check_sizes(dim=dim)
    if dim < model.dim:
        raise ValueError(
            f"dim={dim} is below the model's {model.dim}; growth only adds: choose {model.dim} or more"
        )
    matched = _match(model.spec, spec)
    with torch.device("meta"):
        target = model.around(spec, dim=dim)
    steps = []
    if dim != model.dim:
        check_stream(model)
        steps.append(Step("widen_hidden", dim=dim))
    grown: Sizes = {}
    kept = (layer for path, layer in target.layers() if int(path.split(".")[1]) in matched)
    for (path, layer), wanted in zip(model.layers(), kept, strict=True):
        old, new = describe(layer), describe(wanted)
        if old is None or new is None:
            continue
        for letter, size in old.sizes.items():
            if new.sizes[letter] < size:
                raise ValueError(
                    f"{path} ({layer.name}) would shrink: {_name(letter)} {size} to {new.sizes[letter]}; "
                    f"growth only adds: state options that give {size} or more"
                )
            if new.sizes[letter] > size:
                if not old.proved or letter not in old.zero:
                    raise ValueError(
                        f"{path} ({layer.name}) would change its {_name(letter)} from {size} to "
                        f"{new.sizes[letter]}, for which there is no rule; state options that give {size}"
                    )
                grown.setdefault(path, {})[letter] = new.sizes[letter]
    for verb, (letters, _) in OPERATIONS.items():
        sizes = {path: {x: to for x, to in new.items() if x in letters} for path, new in grown.items()}
        sizes = {path: new for path, new in sizes.items() if new}
        for path, changes in sizes.items():
            if {"G", "R"} <= set(changes):
                raise ValueError(
                    f"{path} would get both more groups of heads and more heads per group; grow in two "
                    "steps, one with the old kv_heads"
                )
        if sizes:
            steps.append(Step(verb, sizes=sizes))
    added = tuple(i for i in range(len(spec)) if i not in matched)
    if added:
        steps.append(Step("add_layer", places=added))
    return steps


def grow(
    model: SequenceModel,
    spec: str | Spec,
    optimizer: Optimizer | None = None,
    *,
    dim: int | None = None,
    rule: Rule = "keep",
    generator: torch.Generator | None = None,
    fill: Fill | None = None,
) -> Grown:
    """The model as `spec` at width `dim`, with the same function; see `plan` for the way and `widen_mlp`."""
    spec = parse(spec)
    for step in plan(model, spec, dim=dim):
        if step.places:
            names = iter(model.spec.layers)
            now = Spec(tuple(x if i in step.places else next(names) for i, x in enumerate(spec.layers)))
            model, optimizer = insert(model, optimizer, now, step.places, generator=generator, fill=fill)
        else:
            model, optimizer = widen(
                model, optimizer, step.sizes, dim=step.dim, rule=rule, generator=generator, fill=fill
            )
    return insert(model, optimizer, spec, generator=generator)  # under the spelling that was asked for


def _match(old: Spec, new: Spec) -> dict[int, int]:
    """Place in the new spec -> place in the old one, for every layer of the old one."""
    matched: dict[int, int] = {}
    at = 0
    for i, item in enumerate(old):
        reason: str | None = ""
        while at < len(new) and (reason := _differs(item, new.layers[at])):
            at += 1
        if at == len(new):
            reason = f": {reason}" if len(old) == len(new) and reason else ""
            raise ValueError(
                f"layer {i} of the model, {item}, has no counterpart in {new}{reason}; keep every layer of "
                f"{old}, in its order"
            )
        matched[at] = i
        at += 1
    return matched


def _differs(old: Layer | Parallel, new: Layer | Parallel) -> str | None:
    """Why one layer cannot become the other by growing; None if it can."""
    if isinstance(old, Parallel) or isinstance(new, Parallel):
        if not (isinstance(old, Parallel) and isinstance(new, Parallel)):
            return "branches beside each other cannot be made of one layer"
        if len(old.branches) != len(new.branches):
            return "the number of branches is part of the function"
        pairs = zip(old.branches, new.branches, strict=True)
        return next((r for a, b in pairs if (r := _all_differ(a, b))), None)
    theirs, ours = registry.get(old.name), registry.get(new.name)
    if theirs.cls is not ours.cls:
        return f"{old.name} cannot become {new.name}"
    a, b = config_options(theirs.config(dict(old.options))), config_options(ours.config(dict(new.options)))
    free = ("heads", "kv_heads", "group", "key_dim", "value_dim", "inner", "latent", "rope_dim")
    for name, value in a.items():
        if name not in free and b[name] != value:
            return f"{name}={value} cannot become {name}={b[name]}, which is another function"
    return _all_differ(old.body, new.body) if old.body and new.body else None


def _all_differ(old: Spec, new: Spec) -> str | None:
    if len(old) != len(new):
        return "layers are added to the model itself, not inside branches and bodies"
    return next((r for a, b in zip(old, new, strict=True) if (r := _differs(a, b))), None)


def _name(letter: str) -> str:
    return next((word for letters, word in OPERATIONS.values() if letter in letters), "number of heads")
