"""What the tensors of a layer are made of: which axes grow, and what must be zero when they do.

An axis is spelled by the letters whose product it is, the slowest first: "GRK" is G groups of R query heads
of K channels. "+" joins parts that lie behind each other, "." is an axis that never grows.

    G groups of heads, each with one key and value head    R query heads a group    H heads without groups
    K key width    V value width    D model width    F inner width    P rank of a controller
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from architectures import registry
from architectures.families.key_values import KeyValueMemory
from architectures.families.matrix_memory import MatrixMemory
from architectures.families.nested import NestedInner
from architectures.grammar.spec import Layer
from architectures.primitive import Primitive
from architectures.primitives.mla import LatentAttention
from architectures.primitives.mlp import MLP, ReLU2MLP, SwiGLU
from architectures.primitives.moe_mlp import MoEMLP
from architectures.primitives.sparse_mlp import SparseMLP

KNOWN = (
    "the attention family, mla, mlp, relu2-mlp, swiglu, those of matformer, moe-mlp, sparse-mlp without sru"
)


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """sizes    letter -> its size
    axes     tensor -> its axes, apart by spaces
    zero     letter -> tensors whose new entries are zero when it grows; those of all others are free
    options  option that fixes a size -> its value here
    proved   whether the rules were written for this layer, rather than read from its shapes
    """

    sizes: dict[str, int]
    axes: dict[str, str]
    zero: Mapping[str, tuple[str, ...]]
    options: dict[str, int]
    proved: bool = True


def describe(layer: Primitive) -> Anatomy | None:
    """The anatomy of a layer; None if there is no rule for it."""
    for cls, rule in RULES:
        if isinstance(layer, cls):
            found = rule(layer)
            return found if found and set(found.axes) == _tensors(layer) else None
    return None


def options_of(layer: Primitive, sizes: dict[str, int]) -> dict[str, int]:
    """The options that give a layer these sizes."""
    if isinstance(layer, MLP | ReLU2MLP | SwiGLU | NestedInner | MoEMLP):
        return {"inner": sizes["F"]}
    if isinstance(layer, SparseMLP):
        return {"inner": sizes["F"]} | ({"rank": sizes["P"]} if "P" in sizes else {})
    if isinstance(layer, KeyValueMemory):
        groups, heads = sizes["G"], sizes["G"] * sizes["R"]
        return {"heads": heads, "kv_heads": groups, "key_dim": sizes["K"], "value_dim": sizes["V"]}
    widths = {"heads": sizes["H"], "key_dim": sizes["K"], "value_dim": sizes["V"]}
    if isinstance(layer, LatentAttention):
        widths |= {"latent": layer.latent, "rope_dim": layer.rope_dim}
    return widths


def sized(item: Layer, layer: Primitive, sizes: dict[str, int], dim: int) -> Layer:
    """The spec of a layer with these sizes at a width, stating no more options than it has to."""
    entry = registry.get(item.name)

    def fits(options: dict[str, Any]) -> bool:
        try:
            with torch.device("meta"):
                made = entry.cls(entry.config(options), dim=dim, **_place(layer))
        except ValueError:
            return False
        found = describe(made)
        return found is not None and found.sizes == sizes

    options: dict[str, Any] = dict(item.options)
    if not fits(options):
        pins = options_of(layer, sizes)
        options |= pins
        # Built once where a refusal may be raised: an odd key width under RoPE.
        with torch.device("meta"):
            entry.cls(entry.config(options), dim=dim, **_place(layer))
        if not fits(options):
            raise ValueError(
                f"{item.name} has widths beside its heads that follow the model's, and there is no rule for "
                f"them; layers with rules are {KNOWN}"
            )
        for name in reversed([n for n in pins if n not in dict(item.options)]):
            fewer = {k: v for k, v in options.items() if k != name}
            options = fewer if fits(fewer) else options
    return Layer(item.name, entry.changed(options), item.body)


def _attention(layer: Any) -> Anatomy:
    axes = {
        "query.weight": "GRK D",
        "key.weight": "GK D",
        "value.weight": "GV D",
        "out.weight": "D GRV",
        "gate.weight": "GRV D",
        "query_norm.weight": "K",
        "key_norm.weight": "K",
        "conv.weight": "GRK+GK+GV .",
        # fox
        "forget.weight": "GR D",
        "forget.bias": "GR",
        # path-attention: its reflections must not turn old key channels into new ones
        "w_down.weight": ". D",
        "w_up.weight": "GK .",
        "w_conv.weight": "GK .",
        "strength.weight": "G D",
        "strength.bias": "G",
    }
    sizes = {
        "G": layer.kv_heads,
        "R": layer.heads // layer.kv_heads,
        "K": layer.key_dim,
        "V": layer.value_dim,
    }
    zero = dict.fromkeys("GRVD", ("out.weight",)) | {"K": ("key.weight", "w_up.weight")}
    return Anatomy(sizes=sizes, axes=_present(axes, layer), zero=zero, options=options_of(layer, sizes))


def _latent_attention(layer: Any) -> Anatomy:
    axes = {
        "query.weight": "HQ D",
        "down.weight": ". D",
        "norm.weight": ".",
        "up.weight": "HU .",
        "out.weight": "D HV",
        "conv.weight": "HQ+L .",
    }
    sizes = {
        "H": layer.heads,
        "K": layer.key_dim,
        "V": layer.value_dim,
        "Q": layer.key_dim + layer.rope_dim,
        "U": layer.key_dim + layer.value_dim,
        "L": layer.latent + layer.rope_dim,
    }
    zero = dict.fromkeys("HD", ("out.weight",))
    return Anatomy(sizes=sizes, axes=_present(axes, layer), zero=zero, options=options_of(layer, sizes))


def _mlp(layer: Any) -> Anatomy:
    axes = {"up.weight": "F D", "gate.weight": "F D", "down.weight": "D F"}
    sizes, zero = {"F": layer.inner}, dict.fromkeys("FD", ("down.weight",))
    return Anatomy(sizes=sizes, axes=_present(axes, layer), zero=zero, options=options_of(layer, sizes))


def _moe_mlp(layer: Any) -> Anatomy:
    axes = {"router.weight": ". D", "up": ". F D", "gate": ". F D", "down": ". F D"}
    sizes, zero = {"F": layer.inner}, dict.fromkeys("FD", ("down",))
    return Anatomy(sizes=sizes, axes=_present(axes, layer), zero=zero, options=options_of(layer, sizes))


def _sparse_mlp(layer: Any) -> Anatomy:
    """Whole blocks: each chooses by itself, and a new one adds nothing while its rows of W_2 are zero."""
    axes = {
        "up": "F D",
        "up_bias": "F",
        "down": "F D",
        "down_bias": "D",
        "reduce.weight": "P D",
        "choose": "P F",
        "choose_bias": "F",
    }
    sizes = {"F": layer.inner} | ({} if layer.reduce is None else {"P": layer.reduce.out_features})
    zero = {"F": ("down",), "D": ("down", "down_bias")}
    return Anatomy(sizes=sizes, axes=_present(axes, layer), zero=zero, options=options_of(layer, sizes))


def _matrix_memory(layer: Any) -> Anatomy | None:
    """Read from the shapes: with the heads pinned, what follows the model's width reads or writes it."""
    sizes = {"H": layer.heads, "K": layer.key_dim, "V": layer.value_dim}
    entry_options = {**vars(layer.config), **options_of(layer, sizes)}
    try:
        with torch.device("meta"):
            config = type(layer.config)(**entry_options)
            wider = type(layer)(config, dim=2 * layer.dim, **_place(layer))
    except (ValueError, TypeError):
        return None
    shapes = {n: p.shape for n, p in wider.named_parameters()}
    axes = {}
    for name, p in layer.named_parameters():
        if name not in shapes or len(shapes[name]) != p.dim():
            return None
        letters = []
        for old, new in zip(p.shape, shapes[name], strict=True):
            if new not in (old, 2 * old) or (new != old and old != layer.dim):
                return None
            letters.append("." if new == old else "D")
        axes[name] = " ".join(letters)
    # One writer, and readers of the stream by their last axis.
    if any(a.count("D") > 1 or (a.startswith("D ") and n != "out.weight") for n, a in axes.items()):
        return None
    if axes.get("out.weight") != "D .":
        return None
    return Anatomy(
        sizes=sizes, axes=axes, zero={"D": ("out.weight",)}, options=options_of(layer, sizes), proved=False
    )


def _place(layer: Primitive) -> dict[str, int]:
    return {"max_len": layer.max_len, "index": layer.index, "depth": layer.depth}


def _tensors(layer: Primitive) -> set[str]:
    return {name for name, _ in layer.named_parameters()}


def _present(axes: dict[str, str], layer: Primitive) -> dict[str, str]:
    tensors = _tensors(layer)
    return {name: letters for name, letters in axes.items() if name in tensors}


RULES: tuple[tuple[Any, Callable[[Any], Anatomy | None]], ...] = (
    (KeyValueMemory, _attention),
    (LatentAttention, _latent_attention),
    ((MLP, ReLU2MLP, SwiGLU, NestedInner), _mlp),
    (MoEMLP, _moe_mlp),
    (SparseMLP, _sparse_mlp),
    (MatrixMemory, _matrix_memory),
)
