"""What layers say of their axes, and the spec of a layer at other sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from architectures import registry
from architectures.axes import Axes
from architectures.blocks import Block
from architectures.grammar.spec import Layer
from architectures.primitive import Primitive

KNOWN = (
    "the attention family, mla, mlp, relu2-mlp, swiglu, those of matformer, moe-mlp, sparse-mlp without sru"
)


def describe(layer: Primitive) -> Axes | None:
    """What a layer says of its axes; None where it does not say it, or not of all of its tensors."""
    inside = tuple(f"{n}." for n, m in layer.named_modules() if n and isinstance(m, Block | Primitive))
    own = {n for n, _ in layer.named_parameters() if not n.startswith(inside)}
    said = layer.axes()
    found = None if said is None else said.among(own)
    return found if found is not None and set(found.tensors) == own else None


def sized(item: Layer, layer: Primitive, axes: Axes, sizes: Mapping[str, int], dim: int) -> Layer:
    """The spec of a layer with these sizes at a width, stating no more options than it has to."""
    entry = registry.get(item.name)

    def made(options: dict[str, Any]) -> Primitive:
        with torch.device("meta"):
            return entry.cls(entry.config(options), dim=dim, **layer.place)

    def fits(options: dict[str, Any]) -> bool:
        try:
            found = describe(made(options))
        except ValueError:
            return False
        return found is not None and found.sizes == sizes

    options: dict[str, Any] = dict(item.options)
    if not fits(options):
        pins = axes.options_at(sizes)
        options |= pins
        made(options)  # a refusal may be raised: an odd key width under RoPE
        if not fits(options):
            raise ValueError(
                f"{item.name} has widths beside its heads that follow the model's, and there is no rule for "
                f"them; layers with rules are {KNOWN}"
            )
        for name in reversed([n for n in pins if n not in dict(item.options)]):
            fewer = {k: v for k, v in options.items() if k != name}
            options = fewer if fits(fewer) else options
    return Layer(item.name, entry.changed(options), item.body)
