"""The layer under question, the inputs it is given, and what a question may answer.

A question is a function `(subject, size) -> str`: it returns what was seen where the contract holds, raises
`Violation` where it does not, and `NotApplicable` where it cannot be asked. Whatever else the layer raises
is a violation too.
"""

from __future__ import annotations

import inspect
import math
import traceback
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from architectures.builder import seeded
from architectures.grammar.spec import Layer, Spec
from architectures.model import build
from architectures.outside.foreign import Foreign
from architectures.primitive import Context, Primitive, State
from architectures.registry import get, unknown

# Ids that a layer may be told.
VOCABULARY = 4
# Sequences are at most this long, where a question does not need longer ones.
MAX_LEN = 80


class Violation(Exception):
    """The contract does not hold; the message says what was seen."""


class NotApplicable(Exception):
    """The question cannot be asked of this layer; the message says why."""


class Unbuildable(Exception):
    """The constructor raised at this width."""


class Size(NamedTuple):
    """Of an input (B, T, D)."""

    batch: int
    length: int
    dim: int

    def __str__(self) -> str:
        return f"batch {self.batch}, length {self.length}, width {self.dim}"


@dataclass(frozen=True)
class Finding:
    """What one check came to.

    seen      where it passed, what was measured; where it failed, what the smallest input shows; else why not
    smallest  (batch, length, width) of that input; None where the check has no input or was given one
    """

    check: str
    result: Literal["passed", "failed", "not applicable", "not run"]
    seen: str
    smallest: Size | None = None


@dataclass(frozen=True)
class Subject:
    """One layer of a spec; `dtype` is the widest in which it computes exactly."""

    item: Layer
    dtype: torch.dtype = torch.float64
    max_len: int = MAX_LEN

    @property
    def plain(self) -> bool:
        """A plain nn.Module, of which less is asked."""
        return issubclass(self.cls, Foreign)

    @property
    def cls(self) -> type[Primitive]:
        return get(self.item.name).cls

    @property
    def file(self) -> str:
        return inspect.getfile(self.cls.inner if issubclass(self.cls, Foreign) else self.cls)

    def build(self, dim: int, *, seed: int = 0, max_len: int | None = None) -> Primitive:
        """The layer as a model holds it, in float32; a plain module without its noise."""
        try:
            spec, length = Spec((self.item,)), max_len or self.max_len
            model = build(spec, vocab_size=VOCABULARY, dim=dim, max_len=length, seed=seed)
        except (Exception, SystemExit) as error:
            raise Unbuildable(describe(error, self.file)) from error
        layer = model.layers()[0][1]
        return layer.eval() if self.plain else layer

    def layer(self, dim: int, *, seed: int = 0) -> Primitive:
        """The layer in the widest dtype, away from an initialisation whose zeros would hide errors."""
        layer = self.build(dim, seed=seed)
        generator = torch.Generator().manual_seed(seed + 7)
        with torch.no_grad():
            for p in layer.parameters():
                if p.requires_grad:
                    p.add_(0.02 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
        return layer.to(self.dtype)

    def stepped(self, dim: int) -> Primitive:
        """The same, where it can decode token by token."""
        if self.plain:
            raise NotApplicable("a plain nn.Module has no step")
        if not self.build(dim).causal:
            raise NotApplicable("the layer declares causal = False")
        if self.cls.step is Primitive.step and self.cls.mixes != "channel":
            raise NotApplicable("the layer defines no step, so it can be trained and not decoded")
        return self.layer(dim)

    def noise(self, *shape: int, seed: int = 1) -> Tensor:
        return noise(*shape, seed=seed).to(self.dtype)

    def precisions(self) -> list[Subject]:
        """The layer in the widest dtype, and in the one that it is trained in."""
        return [self] if self.dtype == torch.float32 else [self, replace(self, dtype=torch.float32)]

    def near(self, tolerance: float, single: float = 1e-4) -> float:
        """A relative tolerance of float64; float32 is allowed what a few sums lose."""
        return tolerance if self.dtype == torch.float64 else single


def chosen(only: Collection[str] | None, known: Collection[str]) -> set[str]:
    """The checks that are asked: those that are named, else all."""
    wanted = set(known if only is None else only)
    for name in wanted - set(known):
        raise ValueError(f"unknown check {unknown(name, known)}")
    if not wanted:
        raise ValueError(f"no check is named; available: {', '.join(known)}")
    return wanted


def noise(*shape: int, seed: int = 1) -> Tensor:
    """Standard normal, float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def told(x: Tensor) -> Context:
    """What a model tells its layers: here the signs of the first channels of x (B, T, D) are the ids, so that
    whoever changes x at a position changes its token."""
    bits = x.detach()[..., : VOCABULARY.bit_length() - 1] > 0
    return Context(tokens=(bits.long() << torch.arange(bits.shape[-1], device=x.device)).sum(-1))


def run(layer: Primitive, x: Tensor, ctx: Context | None = None) -> Tensor:
    """A forward on a copy of x, as a model calls it; a plain module's noise is keyed, as the trainer does."""
    with seeded(0, "check"):
        return layer(x.clone(), told(x) if ctx is None else ctx)


def unroll(layer: Primitive, x: Tensor) -> tuple[Tensor, State]:
    """`step` from the first token to the last: (B, T, D) -> (B, T, D) and the state after them."""
    state, outputs = layer.init_state(x.shape[0]), []
    for t in range(x.shape[1]):
        y, state = advance(layer, x[:, t], state)
        outputs.append(y)
    return torch.stack(outputs, dim=1), state


def advance(layer: Primitive, x: Tensor, state: State) -> tuple[Tensor, State]:
    """One step; what it returns has the shapes of the contract."""
    y, after = layer.step(x.clone(), state, told(x[:, None]))
    if not isinstance(y, Tensor) or y.shape != x.shape:
        raise Violation(f"step returns {name_of(y)} for an input {tuple(x.shape)}; it maps (B, D) to (B, D)")
    if not isinstance(after, tuple) or len(after) != len(state):
        raise Violation(f"step returns {name_of(after)} for a state of {len(state)} tensors")
    return y, after


def gap(found: Tensor, expected: Tensor) -> float:
    """The largest difference relative to the largest value; infinite where one is not finite."""
    if found.shape != expected.shape:
        raise Violation(f"{name_of(found)} where {name_of(expected)} is expected")
    if not found.numel():
        return 0.0
    scale = expected.detach().abs().max().clamp(min=torch.finfo(expected.dtype).tiny)
    worst = float((found - expected).detach().abs().max() / scale)
    return worst if math.isfinite(worst) else math.inf


def where(found: Tensor, expected: Tensor) -> int:
    """The position in time of the largest difference of two (B, T, D)."""
    return int((found - expected).abs().nan_to_num(nan=math.inf).amax(dim=(0, 2)).argmax())


def name_of(value: Any) -> str:
    """A value by its shape or its type."""
    return f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def bare(name: str) -> str:
    """A parameter as its class knows it: the adapter of a plain nn.Module calls the module `module`."""
    return name.removeprefix("module.")


def describe(error: BaseException, file: str) -> str:
    """What an exception says, on one line, and the line of the user's file that it came through last."""
    text = " ".join(str(error).split())
    text = text if len(text) <= 240 else f"{text[:240]}..."
    lines: list[int | None] = []
    source: BaseException | None = error
    while not lines and source is not None:  # Building wraps what a constructor raises.
        lines = [f.lineno for f in traceback.extract_tb(source.__traceback__) if f.filename == file]
        source = source.__cause__
    place = f" ({Path(file).name}, line {lines[-1]})" if lines else ""
    return f"{type(error).__name__}: {text}{place}" if text else f"{type(error).__name__}{place}"
