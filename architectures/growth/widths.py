"""The five operations that make the parts of a model wider."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.optim import Optimizer

from architectures.axes import Axes
from architectures.growth.anatomy import KNOWN, describe
from architectures.growth.engine import Grown, Rule, Sizes, check_growable, check_total, widen
from architectures.growth.transplant import Fill
from architectures.model import SequenceModel
from architectures.primitive import Primitive

WORDS = {"F": "inner width", "K": "key width", "V": "value width", "heads": "number of heads", "D": "width"}


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
    targets = {path: {"F": to} for path, _ in _chosen(model, "F", to, layers, "widen_mlp")}
    return widen(model, optimizer, targets, rule=rule, generator=generator, fill=fill)


def add_heads(
    model: SequenceModel,
    optimizer: Optimizer | None = None,
    *,
    to: int,
    kv_heads: int | None = None,
    generator: torch.Generator | None = None,
    layers: Iterable[int] | None = None,
    rule: Rule = "keep",
    fill: Fill | None = None,
) -> Grown:
    """Heads of attention: all maps of a new head are free, its columns of W_out are zero.

    Where heads share keys and values, whole groups are added; with a single group, heads are added to it.
    `kv_heads` chooses: the old number adds heads to every group. Other arguments: see `widen_mlp`.
    """
    targets: Sizes = {}
    for path, anatomy in _chosen(model, "heads", to, layers, "add_heads"):
        targets[path] = split_heads(anatomy, path, to, kv_heads)
    return widen(model, optimizer, targets, rule=rule, generator=generator, fill=fill)


def widen_values(
    model: SequenceModel,
    optimizer: Optimizer | None = None,
    *,
    to: int,
    generator: torch.Generator | None = None,
    layers: Iterable[int] | None = None,
    rule: Rule = "keep",
    fill: Fill | None = None,
) -> Grown:
    """Value width a head: new rows of W_v are free, new columns of W_out, inside each head, are zero.

    Arguments: see `widen_mlp`.
    """
    targets = {path: {"V": to} for path, _ in _chosen(model, "V", to, layers, "widen_values")}
    return widen(model, optimizer, targets, rule=rule, generator=generator, fill=fill)


def widen_keys(
    model: SequenceModel,
    optimizer: Optimizer | None = None,
    *,
    to: int,
    generator: torch.Generator | None = None,
    layers: Iterable[int] | None = None,
    rule: Rule = "keep",
    fill: Fill | None = None,
) -> Grown:
    """Key width a head: new rows of W_q are free, those of W_k zero; scores keep their scale.

    Under RoPE new pairs follow the old ones, whose frequencies stay. Arguments: see `widen_mlp`.
    """
    targets = {path: {"K": to} for path, _ in _chosen(model, "K", to, layers, "widen_keys")}
    return widen(model, optimizer, targets, rule=rule, generator=generator, fill=fill)


def widen_hidden(
    model: SequenceModel,
    optimizer: Optimizer | None = None,
    *,
    to: int,
    generator: torch.Generator | None = None,
    layers: Iterable[int] | None = None,
    rule: Rule = "keep",
    fill: Fill | None = None,
) -> Grown:
    """Width of the model: new channels are written by zeros and read by free entries; norms keep their sum.

    Arguments: see `widen_mlp`; all layers share the width, so `layers` is refused.
    """
    check_growable(model, "widen_hidden")
    if layers is not None:
        raise ValueError("widen_hidden acts on all layers, which share the width; leave layers out")
    check_total(to, model.dim, WORDS["D"], "the model")
    return widen(model, optimizer, {}, dim=to, rule=rule, generator=generator, fill=fill)


def split_heads(anatomy: Axes, path: str, to: int, kv_heads: int | None = None) -> dict[str, int]:
    """New sizes of the letters of heads, for `to` heads in all."""
    if "H" in anatomy.sizes:
        return {"H": to}
    groups, each = anatomy.sizes["G"], anatomy.sizes["R"]
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


def _chosen(
    model: SequenceModel, what: str, to: int, layers: Iterable[int] | None, verb: str
) -> list[tuple[str, Axes]]:
    """The layers that an operation acts on, after refusing what it cannot."""
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
    found = []
    for i, (path, layer) in enumerate(every):
        anatomy = describe(layer)
        has = anatomy is not None and anatomy.proved and _can(anatomy, what)
        if layers is None and not has:
            continue
        if layers is not None and i not in layers:
            continue
        if not has or anatomy is None:
            raise ValueError(
                f"{verb} has no rule for {layer.name or type(layer).__name__} ({path}): it is unknown which "
                f"of its tensors make a {WORDS[what]}; layers with rules are {KNOWN}"
            )
        if (holder := _holder(model, path, what)) is not None:
            raise ValueError(
                f"{verb} cannot act on {path}: {holder.name} mixes its values with those of other layers; "
                "grow its keys or the MLPs, or choose layers= outside of it"
            )
        now = heads_of(anatomy) if what == "heads" else anatomy.sizes[what]
        check_total(to, now, WORDS[what], path)
        found.append((path, anatomy))
    if not found:
        raise ValueError(f"{verb} finds no layer whose {WORDS[what]} it can grow in {model.spec}; add one")
    return found


def heads_of(anatomy: Axes) -> int:
    sizes = anatomy.sizes
    return sizes["H"] if "H" in sizes else sizes["G"] * sizes["R"]


def _can(anatomy: Axes, what: str) -> bool:
    letters = anatomy.zero
    return bool({"G", "H"} & set(letters)) if what == "heads" else what in letters


def _holder(model: SequenceModel, path: str, what: str) -> Primitive | None:
    """The layer around this one that keeps its widths as they are."""
    letters = {"G", "H", "R"} if what == "heads" else {what}
    for above, layer in model.layers():
        axes = layer.axes() if path.startswith(f"{above}.") else None
        if axes is not None and letters & set(axes.fixed):
            return layer
    return None
