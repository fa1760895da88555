"""The five operations that make the parts of a model wider."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Unpack

import torch
from torch.optim import Optimizer

from architectures.axes import Axes
from architectures.growth.engine import KNOWN, Grown, Rule, check_growable, check_total, describe, widen
from architectures.growth.transplant import Entries, Fill
from architectures.model import SequenceModel
from architectures.primitive import Primitive

# Of each operation the letters whose product it makes larger, and what that is called.
OPERATIONS = {
    "widen_mlp": ("F", "inner width"),
    "add_heads": ("GRH", "number of heads"),
    "widen_values": ("V", "value width"),
    "widen_keys": ("K", "key width"),
}


class Options(Entries, total=False):
    """What all operations take, see `widen_mlp`."""

    layers: Iterable[int] | None
    rule: Rule


def widen_mlp(
    model: SequenceModel,
    optimizer: Optimizer | None = None,
    *,
    to: int,
    generator: torch.Generator | None = None,
    layers: Iterable[int] | None = None,
    rule: Rule = "keep",
    fill: Fill | None = None,
) -> Grown:
    """Inner width of the MLPs: y = W_out f(W_in x) with new rows of W_in free, new columns of W_out zero.

    `to`         the new total; of each expert, in a mixture
    `optimizer`  AdamW, Adam or SGD of the model; the one returned goes on where it stood
    `generator`  where the seed of new entries is drawn from; None: torch's global one
    `layers`     places of the layers, as in `model.layers()`; None: every layer that has such a width
    `rule`       "keep" stores the score scale and the divisors of norms; "rescale" is the paper's form, which
    multiplies old weights and gives them learning rates of their own
    `fill`       (name, initial values) -> values for the free entries; None: the initial ones
    """
    options = Options(generator=generator, layers=layers, rule=rule, fill=fill)
    return _widen("widen_mlp", model, optimizer, to, **options)


def add_heads(
    model: SequenceModel,
    optimizer: Optimizer | None = None,
    *,
    to: int,
    kv_heads: int | None = None,
    **options: Unpack[Options],
) -> Grown:
    """Heads of attention: all maps of a new head are free, its columns of W_out are zero.

    Where heads share keys and values, whole groups are added; with a single group, heads are added to it.
    `kv_heads` chooses: the old number adds heads to every group. Other arguments: see `widen_mlp`.
    """
    return _widen("add_heads", model, optimizer, to, kv_heads, **options)


def widen_values(
    model: SequenceModel, optimizer: Optimizer | None = None, *, to: int, **options: Unpack[Options]
) -> Grown:
    """Value width per head: new rows of W_v are free, new columns of W_out, inside each head, are zero.

    Arguments: see `widen_mlp`.
    """
    return _widen("widen_values", model, optimizer, to, **options)


def widen_keys(
    model: SequenceModel, optimizer: Optimizer | None = None, *, to: int, **options: Unpack[Options]
) -> Grown:
    """Key width per head: new rows of W_q are free, those of W_k zero; scores keep their scale.

    Under RoPE new pairs follow the old ones, whose frequencies stay. Arguments: see `widen_mlp`.
    """
    return _widen("widen_keys", model, optimizer, to, **options)


def widen_hidden(
    model: SequenceModel, optimizer: Optimizer | None = None, *, to: int, **options: Unpack[Options]
) -> Grown:
    """Width of the model: new channels are written by zeros and read by free entries; norms keep their sum.

    Arguments: see `widen_mlp`; all layers share the width, so `layers` is refused.
    """
    check_growable(model, "widen_hidden")
    rule, generator, fill = options.get("rule", "keep"), options.get("generator"), options.get("fill")
    if options.get("layers") is not None:
        raise ValueError("widen_hidden acts on all layers, which share the width; leave layers out")
    check_total(to, model.dim, "width", "the model")
    return widen(model, optimizer, {}, dim=to, rule=rule, generator=generator, fill=fill)


def _widen(
    verb: str,
    model: SequenceModel,
    optimizer: Optimizer | None,
    to: int,
    kv_heads: int | None = None,
    *,
    layers: Iterable[int] | None = None,
    rule: Rule = "keep",
    **entries: Unpack[Entries],
) -> Grown:
    """Give the chosen layers `to` of what is widened, after refusing what cannot be."""
    check_growable(model, verb)
    every = model.layers()
    if layers is not None:
        layers = list(layers) if isinstance(layers, Iterable) else [layers]
        wrong = [i for i in layers if type(i) is not int or not 0 <= i < len(every)]
        if wrong:
            raise ValueError(
                f"layers={wrong} are not among the {len(every)} layers; give a list of their places, counted "
                "from 0"
            )
    letters, word = OPERATIONS[verb]
    targets = {}
    for i, (path, layer) in enumerate(every):
        axes = describe(layer)
        grows = axes is not None and axes.proved and not axes.zero.keys().isdisjoint(letters)
        if i not in layers if layers is not None else not grows:
            continue
        if not grows or axes is None:
            raise ValueError(
                f"{verb} has no rule for {layer.name or type(layer).__name__} ({path}): it is unknown which "
                f"of its tensors make a {word}; layers with rules are {KNOWN}"
            )
        if (holder := _holder(model, path, letters)) is not None:
            raise ValueError(
                f"{verb} cannot act on {path}: {holder.name} mixes its values with those of other layers; "
                "grow its keys or the MLPs, or choose layers= outside of it"
            )
        check_total(to, math.prod(size for x, size in axes.sizes.items() if x in letters), word, path)
        targets[path] = {letters: to} if len(letters) == 1 else _split_heads(axes, path, to, kv_heads)
    if not targets:
        raise ValueError(f"{verb} finds no layer whose {word} it can grow in {model.spec}; add one")
    return widen(model, optimizer, targets, rule=rule, **entries)


def _split_heads(axes: Axes, path: str, to: int, kv_heads: int | None) -> dict[str, int]:
    """New sizes of the letters of heads, for `to` heads in all."""
    if "H" in axes.sizes:
        return {"H": to}
    groups, each = axes.sizes["G"], axes.sizes["R"]
    if kv_heads is None:
        kv_heads = 1 if groups == 1 and each > 1 else to // each
    if kv_heads == groups and to % groups == 0:
        return {"R": to // groups}
    if kv_heads * each == to and kv_heads >= groups:
        return {"G": kv_heads}
    raise ValueError(
        f"{to} heads with {kv_heads} key and value heads do not follow from {groups * each} with {groups} in "
        f"{path}: heads come in whole groups of {each}, or evenly into its {groups} (kv_heads={groups})"
    )


def _holder(model: SequenceModel, path: str, letters: str) -> Primitive | None:
    """The layer around this one that keeps these widths as they are."""
    for above, layer in model.layers():
        axes = layer.axes() if path.startswith(f"{above}.") else None
        if axes is not None and not set(axes.fixed).isdisjoint(letters):
            return layer
    return None
