"""One step of widening: new sizes in, a model of the same function out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal, Unpack, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from architectures import registry
from architectures.axes import Axes
from architectures.blocks import Block
from architectures.elastic import nested_layers
from architectures.grammar.spec import Layer
from architectures.growth.transplant import Entries, Move, carry, rebuild, transplant
from architectures.model import SequenceModel, check_model
from architectures.parts.norms import RMSNorm
from architectures.primitive import Primitive
from architectures.sizes.bounds import check_sizes, shown
from architectures.stored import Numbers, carry_numbers, stored_numbers

Rule = Literal["keep", "rescale"]
Grown = tuple[SequenceModel, Optimizer | None]
Sizes = dict[str, dict[str, int]]  # path of a layer -> letter -> new size
RULES = ("keep", "rescale")
KNOWN = (
    "the attention family, mla, mlp, relu2-mlp, swiglu, those of matformer, moe-mlp, sparse-mlp without sru"
)


def widen(
    model: SequenceModel,
    optimizer: Optimizer | None,
    targets: Sizes,
    *,
    dim: int | None = None,
    rule: Rule = "keep",
    **options: Unpack[Entries],
) -> Grown:
    """Give layers new sizes, and the model a new width, in one step."""
    if rule not in RULES:
        raise ValueError(f"rule={rule!r} is not one of {', '.join(RULES)}")
    dim = model.dim if dim is None else dim
    check_sizes(dim=dim)
    known = {path: describe(layer) for path, layer in model.layers()}
    wider = dim != model.dim
    if wider:
        check_stream(model)
    layers = iter(model.layers())

    def respelled(item: Layer) -> Layer:
        path, layer = next(layers)
        axes = known[path]
        if axes is None or not axes.sizes or not (wider or path in targets):
            return item
        return sized(item, layer, axes, {**axes.sizes, **targets.get(path, {})}, dim if wider else layer.dim)

    new = rebuild(model, model.spec.map(respelled), dim, options.get("generator"))

    old = torch.arange(model.dim)
    moves = {name: Move(source=name) for name, _ in new.named_parameters()}
    for path, layer in new.layers():
        before, after = known[path], describe(layer)
        if before is None or after is None:
            continue
        where = {letter: places(letter, before, after) for letter in after.sizes} | {"D": old}
        full = {**after.sizes, "D": dim}
        grown = {x for x, size in {**before.sizes, "D": model.dim}.items() if full[x] != size}
        for tensor, axes in before.tensors.items():
            name = f"{path}.{tensor}"
            index = tuple(_axis(a, where, full) if set(a) & grown else None for a in axes.split())
            zero = any(tensor in before.zero.get(letter, ()) for letter in grown)
            moves[name] = Move(source=name, where=index, zero=zero)
    if wider:
        moves["embedding.weight"] = Move(source="embedding.weight", where=(None, old), zero=True)
        if not model.options.tied:
            moves["head.weight"] = Move(source="head.weight", where=(None, old))
        for path in _stream_norms(model):
            moves[f"{path}.weight"] = Move(source=f"{path}.weight", where=(old,))
        for path, block in model.named_modules():
            if isinstance(block, Block) and block.canon is not None:
                name = f"{path}.canon.weight"
                moves[name] = Move(source=name, where=(old, None))
    default = stored_numbers(new)
    carry_numbers(model, new)
    if rule == "rescale":
        _rescale(model, new, moves, default, wider)
    transplant(model, new, moves, fill=options.get("fill"))
    if wider and any(a is not None and not a.proved for a in known.values()):
        check_same(model, new, "one of its layers cannot be grown; replace or leave out that layer")
    return new, carry(optimizer, model, new, moves)


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


def places(letter: str, before: Axes, after: Axes) -> Tensor:
    """The new index of each old one: the same, but for key channels under RoPE.

    RoPE pairs i with i + half, so new channels go behind the old ones of each half, and behind the rest.
    """
    old, new = before.sizes[letter], after.sizes[letter]
    if letter != "K" or not before.scaled:
        return torch.arange(old)
    turned, turns = before.rotated, after.rotated
    if turns < turned or new - turns < old - turned:
        raise ValueError(
            f"key width {new} with rope_fraction rotates {turns} channels, and the {turned} rotated and "
            f"{old - turned} other ones of before do not fit; choose a multiple of {old}"
        )
    at = torch.arange(old)
    return at + (at >= turned // 2) * (turns - turned) // 2 + (at >= turned) * ((turns - turned) // 2)


def check_same(old: SequenceModel, new: SequenceModel, why: str) -> None:
    """Refuse a new model that gives other logits; for layers whose rule was not written by hand."""
    like = old.embedding.weight
    tokens = torch.arange(min(8, old.max_len), device=like.device)[None] % old.vocab_size
    training = old.training
    with torch.no_grad():
        before, after = old.eval()(tokens), new.eval()(tokens)
    old.train(training), new.train(training)
    error = float((after - before).abs().max() / before.abs().max().clamp(min=1e-12))
    if not error <= (1e-9 if before.dtype == torch.float64 else 1e-3):
        raise ValueError(
            f"{new.spec} would not compute what {old.spec} does (relative change {error:.1e}): {why}"
        )


def _rescale(
    old: SequenceModel,
    new: SequenceModel,
    moves: dict[str, Move],
    default: Numbers,
    hidden: bool,
) -> None:
    """The paper's form: numbers of the new widths, old weights multiplied so that nothing changes."""

    def scale(name: str, factor: float) -> None:
        moves[name] = dataclasses.replace(moves[name], factor=moves[name].factor * factor)

    stored = stored_numbers(old)
    for path, layer in new.layers():
        before, after = describe(cast(Primitive, old.get_submodule(path))), describe(layer)
        if before is None or after is None or not after.scaled or before.sizes["K"] == after.sizes["K"]:
            continue
        if after.unscalable:
            raise ValueError(
                f"rule='rescale' cannot widen the keys of {path}: its {after.unscalable} takes the factor of "
                "W_k away; use rule='keep'"
            )
        layer.scale = default[path]["scale"]  # type: ignore[assignment]
        scale(f"{path}.{after.scaled}", stored[path]["scale"] / default[path]["scale"])
    if hidden:
        for path in _stream_norms(old):
            was, divisor = stored[path], default[path]["divisor"]
            norm = cast(RMSNorm, new.get_submodule(path))
            norm.divisor, norm.eps = int(divisor), was["eps"] * was["divisor"] / divisor
            scale(f"{path}.weight", math.sqrt(was["divisor"] / divisor))
        if old.options.tied:
            new.head_scale = default[""]["head_scale"]
            scale("norm.weight", old.head_scale / new.head_scale)


def check_growable(model: SequenceModel, verb: str) -> None:
    """Refuse a model that is not ours, and one that is set to a submodel: it is the whole that grows."""
    check_model(model, verb)
    for path, layer in nested_layers(model).items():
        whole = len(layer.widths) - 1
        if layer.granularity != whole:
            raise ValueError(
                f"{path} is set to granularity {layer.granularity}, and {verb} keeps what the whole model "
                f"computes; extract the submodel, or call set_granularity(model, {whole}) first"
            )


def check_total(to: int, now: int, word: str, whose: str) -> None:
    """Refuse a new total that is not a whole number, or below the old one."""
    if type(to) is not int:
        raise ValueError(f"to={shown(to)} is not a whole number; give the new {word}, such as to={now}")
    if to < now:
        raise ValueError(
            f"to={to} is below the {word} {now} of {whose}; growth only adds: choose {now} or more"
        )


def check_stream(model: SequenceModel) -> None:
    """Refuse a model whose function a wider stream would change."""
    if model.readout != "every":
        raise ValueError(
            "widen_hidden cannot keep a model with readout='last': its sinusoidal position code is another "
            "one at another width; widen its MLPs, heads, keys or values, or add layers"
        )
    for path, module in model.named_modules():
        if isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.BatchNorm1d):
            raise ValueError(
                f"widen_hidden cannot keep {path}, a {type(module).__name__}: zeros in new channels change "
                "its mean; use a layer with RMSNorm"
            )
    for path, layer in model.layers():
        if describe(layer) is None:
            raise ValueError(
                f"widen_hidden has no rule for {layer.name or type(layer).__name__} ({path}): which of its "
                f"widths follow the model's is not known; layers with rules are {KNOWN}, and those around a "
                "matrix state"
            )


def _stream_norms(model: SequenceModel) -> list[str]:
    """The norms over the model's width."""
    blocks = [f"{p}.norm" for p, m in model.named_modules() if isinstance(m, Block) and hasattr(m, "norm")]
    return [*blocks, "norm"]


def _axis(letters: str, where: dict[str, Tensor], sizes: dict[str, int]) -> Tensor:
    """New index of each old one along an axis that is a sum of products of letters."""
    parts, offset = [], 0
    for product in letters.split("+"):
        index, size = torch.zeros(1, dtype=torch.long), 1
        for letter in product:
            index = (index[:, None] * sizes[letter] + where[letter]).flatten()
            size *= sizes[letter]
        parts.append(index + offset)
        offset += size
    return torch.cat(parts)
