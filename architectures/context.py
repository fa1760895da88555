"""What a call of a model tells its layers, and what they tell it, beside the values that flow through."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


def keyed_seed(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little") % 2**63


@dataclass
class Choices:
    """Discrete choices of one call, in the order in which layers make them: written once, read in a replay.

    made   the choices so far
    given  those of the first run, where layers are run again to find their gradient
    """

    given: list[Tensor] | None = None
    made: list[Tensor] = field(default_factory=list)

    def choose(self, choice: Tensor) -> Tensor:
        choice = choice if self.given is None else self.given[len(self.made)]
        self.made.append(choice)
        return choice


@dataclass(frozen=True)
class When:
    """The step of a call, handed on as an object: a compiler that sees the number copied from context to
    context compiles anew for each step."""

    step: int


@dataclass
class Context:
    """What does not flow through x: one plain object per model call, never stored on a module.

    shared       values that an earlier layer leaves for later ones, for the same tokens
    losses       auxiliary terms, already weighted; the trainer adds them to the task's loss
    updates      new values of buffers (dotted name -> tensor), which the trainer writes after its step
    granularity  size of the nested layers, 0 the smallest: one for all, or one by the layer's dotted name;
                 the same for all replicas. None: what `architectures.elastic.set_granularity` set, else whole
    seed, step   key of the noise; a context without a seed has no noise, and layers are deterministic
    choices      discrete choices, where a wrapper runs layers a second time and must meet the same ones
    tokens       ids (B, T) of the positions that are called, (B, 1) in a step; the model sets them, and
                 leaves none where there are no tokens
    when         the step as inner contexts have it
    """

    shared: dict[str, Tensor] = field(default_factory=dict)
    losses: dict[str, Tensor] = field(default_factory=dict)
    updates: dict[str, Tensor] = field(default_factory=dict)
    granularity: Any = None
    seed: int | None = None
    step: int = 0
    choices: Choices | None = None
    tokens: Tensor | None = None
    when: When | None = None

    def __post_init__(self) -> None:
        self.when = When(self.step) if self.when is None else self.when

    def inner(self, **changes: Any) -> Context:
        """A context of a wrapper's own: other values, losses and choices, the same noise."""
        kept = {"updates": self.updates, "granularity": self.granularity, "seed": self.seed}
        return Context(**{**kept, "tokens": self.tokens, "when": self.when, **changes})

    def tell(self, tokens: Tensor | None) -> Tensor | None:
        """Set the ids of what is called from here on; the ones so far, which the caller puts back."""
        before, self.tokens = self.tokens, tokens
        return before

    def every(self, stride: int, start: int = 0) -> Tensor | None:
        """The ids of every `stride`-th position only."""
        return None if self.tokens is None else self.tokens[:, start::stride]

    # A compiler cannot trace the hash, and would compile anew for each step and name.
    @torch._disable_dynamo
    def noise(self, name: str, shape: tuple[int, ...], like: Tensor) -> Tensor | None:
        """Uniform noise in [0, 1) of `shape`, keyed by (seed, step, name); None without a seed.

        It depends on neither the device nor the number of replicas: drawn on the CPU, then moved. Its dtype
        is that of `like`, but at least float32: bfloat16 would round the largest values to 1.
        """
        if self.seed is None:
            return None
        assert self.when is not None
        generator = torch.Generator().manual_seed(keyed_seed(f"{self.seed}/{self.when.step}/{name}"))
        dtype = torch.promote_types(like.dtype, torch.float32)
        return torch.rand(shape, generator=generator).to(device=like.device, dtype=dtype)


def choose(choice: Tensor, ctx: Context | None) -> Tensor:
    """A mask or index that a layer found, or the one of its first run.

    Every choice whose result jumps (an argmax, a top-k, a bucket) passes through here: a layer that is run
    again on an input recovered up to rounding could otherwise choose differently.
    """
    return choice if ctx is None or ctx.choices is None else ctx.choices.choose(choice)
