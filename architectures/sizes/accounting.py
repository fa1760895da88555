"""Parameters, FLOPs and state of a spec, counted on the meta device: no memory, no arithmetic."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from architectures.blocks import outermost
from architectures.elastic import Sampling, as_submodel
from architectures.grammar.presets import ModelOptions
from architectures.grammar.spec import Layer, Spec
from architectures.grammar.stripe import parse
from architectures.model import SequenceModel, check_model, resolve_options, sketch, sketched
from architectures.parts.linear import MultiplicativeLinear
from architectures.primitive import Primitive, UnknownState
from architectures.sizes.allowance import Allowance, Exceeded
from architectures.sizes.bounds import check_sizes

KINDS = ("recurrent", "conv", "growing", "total")


@dataclass(frozen=True, kw_only=True)
class LayerAccount:
    """One layer by its name in the spec.

    `params` its own parameters, `active` those that one token uses, `flops` forward FLOPs per token, `state`
    elements by kind, `reads` how many of them one more token reads.
    """

    name: str
    mixes: str
    params: int
    active: int
    flops: float
    state: dict[str, int] | None
    nominal: int | None
    reads: int | None


@dataclass(frozen=True, kw_only=True)
class Account:
    """A model at one sequence length.

    params     all parameters, and `embedding`: those of the embedding and an untied readout
    active     parameters that one token uses
    flops      forward FLOPs per token, averaged over the sequence; of a nested model, those of the whole
    training_flops  FLOPs per token of a training step, 3 x the forward passes that it makes: of a nested
               model those of its draw, on average. None where its nested layers disagree on a draw
    state      floating elements of one row after `seq_len` tokens, by kind; None where a layer's is unknown
    nominal    the state that the iso-state literature counts
    layers     the same for each layer, in the order of the spec; a wrapper counts the layers in its body
    """

    seq_len: int
    params: int
    embedding: int
    active: int
    flops: float
    training_flops: float | None
    state: dict[str, int] | None
    nominal: int | None
    layers: tuple[LayerAccount, ...]

    @property
    def core(self) -> int:
        """Parameters without the embedding and the readout, as the published comparisons count them."""
        return self.params - self.embedding

    def require_training_flops(self) -> float:
        """`training_flops`, or a ValueError where no step can train the model."""
        if self.training_flops is None:
            raise ValueError(
                "nested layers of the model differ in draw= or granularities=, but a step uses one size for "
                "all; give every nested layer the same"
            )
        return self.training_flops


def account(
    spec: str | Spec,
    *,
    vocab_size: int,
    dim: int = 128,
    seq_len: int,
    readout: str = "every",
    options: ModelOptions | None = None,
) -> Account:
    """Count a spec at a vocabulary, width and length without building it in memory."""
    check_sizes(seq_len=seq_len)
    options = resolve_options(spec) if options is None else options
    size = parse(spec), vocab_size, dim, seq_len, readout, options
    model = sketched(*size)
    if not model.embedding.weight.is_meta:
        # Its states may be large all the same.
        with contextlib.suppress(Exceeded), Allowance():
            return _count(model, seq_len, fresh=True)
        model = sketch(*size)
    return _count(model, seq_len, fresh=True)


def account_model(model: SequenceModel, seq_len: int) -> Account:
    """Count a model that is already built, on any device."""
    check_model(model, "account_model")
    return _count(model, seq_len, fresh=False)


def _count(model: SequenceModel, seq_len: int, *, fresh: bool) -> Account:
    """`fresh`: nobody has set anything on the layers, so that equal ones have equal accounts."""
    layers = []
    counted: dict[Any, LayerAccount] = {}
    for item, layer in _placed(model):
        # The first of a kind, also in a body, may lack tensors.
        firsts = tuple(m.index == 0 for m in layer.modules() if isinstance(m, Primitive))
        key: Any = (item, firsts) if fresh else layer
        if key not in counted:
            state, nominal = _measure(layer, seq_len)
            reads = layer.reads(seq_len)
            counted[key] = LayerAccount(
                name=item.name,
                mixes=layer.mixes,
                params=sum(p.numel() for p in layer.parameters()),
                active=layer.active_params(),
                flops=layer.flops(seq_len) / seq_len,
                state=state,
                nominal=nominal,
                reads=state["total"] if reads is None and state is not None else reads,
            )
        layers.append(counted[key])
    params = sum(p.numel() for p in model.parameters())
    head = 0 if model.options.tied else sum(p.numel() for p in model.head.parameters())
    embedding = model.embedding.weight.numel() + head
    states = [layer.state for layer in layers if layer.state is not None]
    complete = len(states) == len(layers)
    flops = sum(layer.flops for layer in layers) + readout_flops(model, seq_len)
    return Account(
        seq_len=seq_len,
        params=params,
        embedding=embedding,
        active=params - embedding - sum(layer.params - layer.active for layer in layers),
        flops=flops,
        training_flops=_training_flops(model, seq_len, flops),
        state={kind: sum(state[kind] for state in states) for kind in KINDS} if complete else None,
        nominal=sum(layer.nominal or 0 for layer in layers) if complete else None,
        layers=tuple(layers),
    )


def readout_flops(model: SequenceModel, seq_len: int) -> float:
    """Forward FLOPs per token of what follows the layers."""
    sparse = model.head if isinstance(model.head, MultiplicativeLinear) else None
    head = sparse.flops(seq_len) / seq_len if sparse else 2 * model.width * model.vocab_size
    return head + (0 if model.decoder is None else 4 * model.width**2)  # the decoder's two maps


def _training_flops(model: SequenceModel, seq_len: int, flops: float) -> float | None:
    """3 x the forward passes of a step: of the model as it is, or of each size as often as it is drawn."""
    try:
        passes = Sampling.of(model).passes
    except ValueError:  # such layers are not trained
        return None
    if passes:
        flops = 0.0
    for granularity, often in enumerate(passes):
        with as_submodel(model, granularity):
            inside = sum(layer.flops(seq_len) for _, layer in _placed(model)) / seq_len
        flops += often * (inside + readout_flops(model, seq_len))
    return 3 * flops


def _measure(layer: Primitive, seq_len: int) -> tuple[dict[str, int] | None, int | None]:
    """The state by kind and the nominal one; none for both where it is unknown."""
    try:
        state = layer.measure_state(seq_len)
        if type(layer).nominal_state is Primitive.nominal_state:
            return state, state["recurrent"]  # the default would measure once more
        return state, layer.nominal_state(seq_len)
    except UnknownState:
        # A plain nn.Module, or a layer without `step`: its state is unknown, which is not none.
        return None, None


def _placed(model: SequenceModel) -> list[tuple[Layer, Primitive]]:
    """Every layer that is inside no other one, which counts what it holds, with its item of the spec."""
    return list(zip(_items(model.spec), outermost(model.blocks), strict=True))


def _items(spec: Spec) -> Iterator[Layer]:
    for item in spec:
        if isinstance(item, Layer):
            yield item
        else:
            for branch in item.branches:
                yield from _items(branch)
