"""One model of many sizes (MatFormer, arXiv:2310.07707): choose, mix, cut out and compare its submodels.

A granularity is a number per nested layer, 0 the smallest. `per_layer` is one number for all of them, or one
each, in the order of the spec.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from architectures.families.nested import Nested, probabilities
from architectures.grammar.spec import Layer
from architectures.model import SequenceModel, check_model
from architectures.primitive import Context, Primitive, State
from architectures.registry import get
from architectures.stored import carry_numbers
from architectures.thresholds import Thresholds, thresholded
from architectures.vision import ImageModel

PerLayer = int | Sequence[int]


_M = TypeVar("_M", bound=nn.Module)


def nested_layers(model: nn.Module) -> dict[str, Nested]:
    """The nested layers by their dotted names, in the order of the spec."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Nested)}


def granularities(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """How many units (inner channels, heads of keys and values) each size of each nested layer has."""
    return {name: layer.widths for name, layer in nested_layers(model).items()}


def by_layer(model: nn.Module, per_layer: PerLayer) -> dict[str, int]:
    """One granularity for each nested layer, by name, as a context takes them."""
    layers = _some_nested(model)
    chosen = list(per_layer) if isinstance(per_layer, Iterable) else len(layers) * [per_layer]
    if len(chosen) != len(layers):
        raise ValueError(
            f"{len(chosen)} granularities are given for {len(layers)} nested layers; give one each, or one "
            "number for all"
        )
    return {n: layer.check_granularity(g) for (n, layer), g in zip(layers.items(), chosen, strict=True)}


def _some_nested(model: nn.Module) -> dict[str, Nested]:
    found = nested_layers(model)
    if not found:
        raise ValueError("the model has no nested layer; use some, such as matformer-swiglu")
    return found


def set_granularity(model: nn.Module, per_layer: PerLayer) -> None:
    """Make the model one of its submodels, for every call whose context says nothing else."""
    layers = nested_layers(model)
    for name, granularity in by_layer(model, per_layer).items():
        layers[name].granularity = granularity


@contextlib.contextmanager
def as_submodel(model: nn.Module, per_layer: PerLayer) -> Iterator[None]:
    """The model as one of its submodels for a while, and afterwards as it was."""
    before = [(layer, layer.granularity) for layer in nested_layers(model).values()]
    set_granularity(model, per_layer)
    try:
        yield
    finally:
        for layer, granularity in before:
            layer.granularity = granularity


def count_params(model: nn.Module, per_layer: PerLayer) -> int:
    """Parameters of the whole model that `extract` would make."""
    count, layers = sum(p.numel() for p in model.parameters()), nested_layers(model)
    for name, granularity in by_layer(model, per_layer).items():
        count += sum(p.numel() for p in layers[name].prefix(granularity).values())
        count -= sum(p.numel() for p in model.get_submodule(name).parameters())
    return count


def mix_and_match(model: nn.Module, budget: float) -> tuple[int, ...]:
    """The largest mix within a budget of parameters, whole model: a granularity for each nested layer.

    Non-decreasing with depth and of least slope: the first t layers have one size, the others the next.
    """
    layers, count = len(nested_layers(model)), common_count(model)
    steps = itertools.product(reversed(range(count - 1)), range(1, layers + 1))
    slopes = ((g,) * t + (g + 1,) * (layers - t) for g, t in steps)
    for mix in ((count - 1,) * layers, *slopes):  # from the largest to the smallest
        if count_params(model, mix) <= budget:
            return mix
    raise ValueError(
        f"budget {budget:g} is below the {count_params(model, 0):,} parameters of the smallest submodel; "
        "raise it, or give the layers more granularities"
    )


def common_count(model: nn.Module) -> int:
    """The number of sizes, which all nested layers must share."""
    counts = {len(layer.widths) for layer in _some_nested(model).values()}
    if len(counts) > 1:
        found = ", ".join(map(str, sorted(counts)))
        raise ValueError(f"nested layers have {found} sizes; give all of them the same granularities=")
    return counts.pop()


def extract(model: _M, per_layer: PerLayer) -> _M:
    """A real smaller model: plain layers, copied weights, and the spec of exactly these shapes."""
    whole: Any = model
    if not isinstance(model, SequenceModel | ImageModel):
        raise ValueError(f"extract takes a SequenceModel or an ImageModel, not {type(model).__name__}")
    chosen = by_layer(model, per_layer)
    layers: Any = iter([(n, m) for n, m in model.named_modules() if isinstance(m, Primitive)])

    def plain(layer: Layer) -> Layer:
        """A nested layer spelled as the plain layer that its submodel is."""
        name, module = next(layers)
        if name not in chosen:
            return layer
        name, options = module.plain(chosen[name])
        return Layer(name, get(name).changed(options))

    small = whole.around(whole.spec.map(plain))
    weights = dict(model.state_dict())
    for name, granularity in chosen.items():
        prefix = nested_layers(model)[name].prefix(granularity)
        weights |= {f"{name}.{n}": p.detach() for n, p in prefix.items()}
    small = small.to(next(model.parameters()))  # before loading, which would round float64
    small.load_state_dict(weights)
    carry_numbers(model, small)  # a grown model computes with those of the widths that it was trained at
    return small.train(model.training)


@dataclass(frozen=True)
class Sampling:
    """How a model's nested layers are trained: from their option `draw`, in which they must agree.

    `probabilities` of each size in a step, the same for all layers; none where every step uses `all` of them.
    """

    probabilities: tuple[float, ...] = ()
    all: tuple[int, ...] = ()

    @classmethod
    def of(cls, model: nn.Module) -> Sampling:
        layers = nested_layers(model)
        if not layers:
            return cls()
        draws = {layer.config.draw for layer in layers.values()}
        if len(draws) > 1:
            raise ValueError(
                f"nested layers are drawn in {len(draws)} ways ({', '.join(sorted(draws))}), but a step uses "
                "one size for all; give every nested layer the same draw="
            )
        count = common_count(model)
        found = probabilities(draws.pop(), count)
        return cls(probabilities=found, all=() if found else tuple(range(count)))

    @property
    def passes(self) -> tuple[float, ...]:
        """How often a step runs each size, on average; none where there is only one."""
        return self.probabilities or tuple(1.0 for _ in self.all)

    def draw(self, seed: int, step: int) -> int | None:
        """The size of a step, keyed by (seed, step) alone; None where nothing is drawn."""
        if not self.probabilities:
            return None
        u = Context(seed=seed, step=step).noise("elastic/granularity", (), torch.empty(()))
        assert u is not None
        bounds = torch.tensor(self.probabilities, dtype=torch.float64).cumsum(0)[:-1]
        return int((u.double() >= bounds).sum())


@dataclass(frozen=True)
class Consistency:
    """A submodel beside the whole: share of equal greedy tokens, and KL(small || whole) in nats per token."""

    agreement: float
    kl: float


@torch.no_grad()
def consistency(small: Tensor, whole: Tensor) -> Consistency:
    """Compare logits (..., V) of two models for the same prefixes."""
    p, q = (z.to(torch.promote_types(z.dtype, torch.float32)).log_softmax(-1) for z in (small, whole))
    equal = (small.argmax(-1) == whole.argmax(-1)).double().mean()
    return Consistency(float(equal), float((p.exp() * (p - q)).sum(-1).double().mean()))


@dataclass(frozen=True)
class Speculation:
    """What was decoded: `tokens` (B, count), the whole model's greedy answer.

    `passes` of the whole model, and how many of the `drafted` tokens were `accepted`.
    """

    tokens: Tensor
    passes: int
    drafted: int
    accepted: int


@torch.no_grad()
def speculate(
    model: SequenceModel,
    prompt: Tensor,
    count: int,
    *,
    granularity: PerLayer = 0,
    drafts: int = 4,
    thresholds: Thresholds | None = None,
) -> Speculation:
    """Greedy decoding of `count` tokens after `prompt` (B, T): a submodel drafts, the whole model verifies.

    With `thresholds`, see `architectures.thresholds`, the draft leaves out small inputs; in a model without
    nested layers that is all that makes it cheap. One cache: the drafts start from the whole model's state,
    and what they added to it is thrown away for what the whole model computes in their place. Rows go on
    together, by the fewest accepted among them.
    """
    check_model(model, "speculate")
    if count < 1 or drafts < 1:
        raise ValueError(f"count={count} and drafts={drafts} must be at least 1")
    if prompt.dim() != 2 or not prompt.numel() or prompt.is_floating_point():
        raise ValueError(
            f"a prompt of shape {tuple(prompt.shape)} and {prompt.dtype} is not rows of tokens; give whole "
            "numbers (B, T), at least one row and token"
        )
    small, whole = None, None
    if thresholds is None or nested_layers(model):
        small, whole = by_layer(model, granularity), by_layer(model, common_count(model) - 1)
    start = model.init_state(prompt.shape[0], prompt.shape[1] + count)
    logits, state = model.prefill(prompt, start, Context(granularity=whole))
    found = [logits[:, -1].argmax(-1)]
    passes, drafted, accepted = 1, 0, 0
    while len(found) < count:
        ahead, draft = [found[-1]], state
        with thresholded(model, thresholds) if thresholds else contextlib.nullcontext():
            for _ in range(min(drafts, count - len(found) - 1)):
                logits, draft = model.step(ahead[-1], draft, Context(granularity=small))
                ahead.append(logits.argmax(-1))
        tokens = torch.stack(ahead, dim=1)
        logits, after = model.prefill(tokens, state, Context(granularity=whole))
        truth = logits.argmax(-1)  # (B, drafts + 1): what follows each of the tokens
        right = (tokens[:, 1:] == truth[:, :-1]).long().cumprod(dim=1).sum(dim=1)
        keep = int(right.min())
        passes, drafted, accepted = passes + 1, drafted + len(ahead) - 1, accepted + keep
        found += [truth[:, i] for i in range(keep + 1)]
        if keep < len(ahead) - 1:
            kept = _rewind(model, state, after, len(ahead), keep + 1)
            if kept is None:  # a state that cannot be cut is computed once more, from before the drafts
                kept = model.prefill(tokens[:, : keep + 1], state, Context(granularity=whole))[1]
                passes += 1
            after = kept
        state = after
    return Speculation(torch.stack(found, dim=1), passes, drafted, accepted)


def _rewind(
    model: SequenceModel, before: tuple[State, ...], after: tuple[State, ...], seen: int, keep: int
) -> tuple[State, ...] | None:
    """The state after `keep` of the `seen` tokens that lie between two states.

    None where it is more than a cache whose entries, one per token, stay as they were written.
    """
    if any(layer.rewrites for _, layer in model.layers()):
        return None
    rewound: list[State] = []
    for block, old, new in zip(model.blocks, before, after, strict=True):
        kinds: Any = block.state_kinds
        kept: list[Tensor] = []
        for kind, a, b in zip(kinds, old, new, strict=True):
            if kind == "growing" and b[:, : (past := a.shape[1])].equal(a) and b.shape[1] == past + seen:
                kept.append(b[:, : past + keep])
            elif kind == "counter" and torch.equal(b, a + seen):
                kept.append(a + keep)
            elif kind == "conv" and not b.numel():
                kept.append(b)
            else:
                return None
        rewound.append(tuple(kept))
    return tuple(rewound)
