"""The contract of a layer: `Primitive`, its state, its context and its hints.

Shape letters, everywhere in this package:

    B batch    T time    D model width    H heads    K key width per head    V value width per head
    N state width per channel    E experts    F inner width    R replicas    C chunk    W window

Heads are always laid out (B, T, H, K).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from architectures.axes import Axes
from architectures.context import Choices as Choices
from architectures.context import Context as Context
from architectures.context import choose as choose
from architectures.options import Options as Options
from architectures.options import config_options as config_options
from architectures.options import option as option

State = tuple[Tensor, ...]
# The state after many tokens is known from shorter sequences. The step is a multiple of all strides that are
# usual, so that lengths this far apart differ by as many tokens kept.
STEP = 5040
SETTLED = 4 * STEP


class UnknownState(ValueError):
    """The state of a layer that does not define one was asked for."""


@dataclass(frozen=True, kw_only=True)
class Hint:
    """How the optimiser should treat one parameter: decay it or not, and scale its learning rate."""

    decay: bool = True
    lr_scale: float = 1.0


class Primitive(nn.Module):
    """A layer that maps (B, T, D) to (B, T, D), with a parallel and a recurrent form of the same function.

    A subclass nests a frozen, keyword-only dataclass `Config`, calls `super().__init__` first, initialises
    all of its own parameters, and mutates nothing in `forward`. `index` counts the layers with the same
    `mixes` before this one, `depth` all of them; whether `index` is 0 may decide which tensors there are, and
    nothing else about the two may.
    """

    class Config(Options):
        pass

    # Each layer that reads it annotates its own, `config: Config`.
    config: object

    # Set by the registry.
    name: ClassVar[str] = ""
    mixes: ClassVar[str] = "time"
    version: ClassVar[int] = 1
    paper: ClassVar[str] = ""

    # No output depends on a later token. Where an option or a body decides that, the constructor sets it.
    causal: bool = True
    # False where rounding lets the future leak at the level of the last bit, as an FFT does.
    exact_causality: bool = True
    draws: ClassVar[bool] = False  # A user's module may, from the global random state; ours never do.
    # One of `grammar.index.KINDS`, for pictures; a family declares it. "": a user's layer that does not say.
    kind: ClassVar[str] = ""
    # The layer reads the ids of the tokens: `token_ids`. It takes and keeps `vocab_size`; earlier ids that
    # decoding needs are integers of the state, of kind "conv".
    reads_tokens: ClassVar[bool] = False
    vocab_size: int = 0
    # Tensors of a routed layer, of which one batch may use only a part.
    routed: ClassVar[tuple[str, ...]] = ()
    # The option that makes a wrapper with a wide stream keep the model's width, to name it in a refusal.
    keeps_width: ClassVar[str] = ""
    # Tensors, or modules of them, that write the output: with zeros in all of them the layer adds nothing.
    writers: ClassVar[tuple[str, ...]] = ("out",)
    # Tensors, or modules of them, that are not decayed, of those that the layer has.
    undecayed: tuple[str, ...] = ()
    # A token changes growing entries of earlier tokens, or is told by all: cutting its entry undoes nothing.
    rewrites: ClassVar[bool] = False
    # A discrete choice has a gradient that is an estimate, chosen to train, and not the slope.
    straight_through: ClassVar[bool] = False

    def __init__(self, config: object, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__()
        # The layer's dotted name in its model, set by the model: the key of its noise, losses and updates.
        self.path = ""
        self.config, self.dim, self.max_len = config, dim, max_len
        self.index, self.depth = index, depth

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Layers of the user's may still call these two methods by their old names."""
        super().__init_subclass__(**kwargs)
        for old, new in (("executed", "executed_flops"), ("unseen", "uncounted_flops")):
            if old in vars(cls):
                if new in vars(cls):
                    raise TypeError(
                        f"{cls.__name__} defines {new} and, by its old name, {old}; leave {old} out"
                    )
                setattr(cls, new, vars(cls)[old])

    @classmethod
    def body_len(cls, config: Any, max_len: int) -> int:
        """The most tokens that the body of a wrapper is given, of `max_len` that the wrapper is given."""
        return max_len

    @classmethod
    def respell(cls, config: Any, body: Any) -> Any:
        """The spec of a wrapper's body as it is built: with what the wrapper's options say of its layers."""
        return body

    @classmethod
    def passes(cls, config: Any) -> int:
        """How often a wrapper runs each layer of its body."""
        return 1

    @property
    def stream_width(self) -> int:
        """Channels that come in and go out: D. A wrapper that is a model's only item may have more: the model
        then makes its embedding, final norm and readout as wide."""
        return self.dim

    @property
    def value_widths(self) -> tuple[int, ...]:
        """Channels of the values that value-residual may mix, in each of the layer's sizes; () for none."""
        return ()

    @property
    def decodes(self) -> bool:
        """Whether the layer has a recurrent form: a `step` of its own, and nothing inside that has none."""
        own = self.mixes == "channel" or (self.causal and type(self).step is not Primitive.step)
        return own and all(m.decodes for m in self.modules() if isinstance(m, Primitive) and m is not self)

    @property
    def place(self) -> dict[str, int]:
        """What the layer was built with beside its config and its width."""
        place = {"max_len": self.max_len, "index": self.index, "depth": self.depth}
        return place | ({"vocab_size": self.vocab_size} if self.reads_tokens else {})

    def token_ids(self, ctx: Context | None) -> Tensor:
        """The ids of the tokens of this call, (B, T); (B, 1) in a step."""
        if ctx is None or ctx.tokens is None:
            raise ValueError(
                f"{self.name} reads the ids of the tokens, and this call has none; use it in a model of "
                "tokens, or call it with Context(tokens=ids), ids (B, T)"
            )
        return ctx.tokens

    def axes(self) -> Axes | None:
        """What widths the layer has and how they grow; None: it does not say."""
        return None

    def join(self, before: Sequence[Primitive]) -> None:
        """Refuse a place after the layers `before` of the same model, in the order of reading."""

    @property
    def state_kinds(self) -> tuple[str, ...]:
        """The kind of each tensor of the state.

        "recurrent", "conv" (the last inputs of a convolution), "growing" (an entry per token, or per a fixed
        number of them, along axis 1) or "counter" (the tokens so far).
        """
        return ()

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        """(B, T, D) -> (B, T, D), all positions at once."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def init_state(self, batch: int, length: int | None = None) -> State:
        """The state before the first token, for `batch` rows; () for a layer without one.

        `length`: how many tokens will follow, where known; more than `max_len` is refused.
        """
        self.check_length(length)
        return ()

    def step(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        """One token: (B, D) and a state -> (B, D) and the next state; the given state is left as it was."""
        if self.mixes == "channel":
            return self.forward(x[:, None], ctx)[:, 0], state
        raise NotImplementedError(f"{type(self).__name__} defines no step; it can be trained but not decoded")

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        """Many tokens at once: (B, T, D) and a state -> (B, T, D) and the state after them."""
        if self.mixes == "channel" and type(self).step is Primitive.step:
            return self.forward(x, ctx), state
        outputs = []
        for t in range(x.shape[1]):
            y, state = self.step(x[:, t], state, ctx)
            outputs.append(y)
        return torch.stack(outputs, dim=1), state

    def flops(self, length: int) -> int:
        """Forward FLOPs of one sequence of `length` tokens, algorithmic.

        A multiply-add is 2; visible pairs and selected experts only; the recurrence rather than its chunking;
        FFT 5 n log2 n. Norms, activations, biases and the softmax are not counted.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no flops")

    def executed_flops(self, length: int) -> int:
        """Forward FLOPs of one sequence as `forward` is written, masked pairs included."""
        return self.flops(length)

    def uncounted_flops(self, length: int) -> int:
        """The part of `executed_flops` that is element-wise or an FFT, which torch's counter does not see."""
        return 0

    def nominal_state(self, length: int) -> int:
        """State as the iso-state literature counts it: here the recurrent elements after `length` tokens."""
        return self.measure_state(length)["recurrent"]

    def reads(self, length: int) -> int | None:
        """State elements of one row that a step needs to read after `length` tokens; None: all of them."""
        return None

    def active_params(self) -> int:
        """Parameters that one token uses: all of them, unless the layer selects."""
        return sum(p.numel() for p in self.parameters())

    def hints(self) -> dict[str, Hint]:
        """Optimiser hints by dotted name, relative to this layer; matrices without one are decayed."""
        return {
            name: Hint(decay=False)
            for name, _ in self.named_parameters()
            if any(name == own or name.startswith(f"{own}.") for own in self.undecayed)
        }

    def check_length(self, length: int | None) -> None:
        check_length(0 if length is None else length, self.max_len)

    def size_step(self, option: str) -> int:
        """What the value of an option that sizes the layer, see `option`, is a multiple of."""
        return 1

    def measure_state(self, length: int) -> dict[str, int]:
        """Floating elements of one row's state after `length` tokens, by kind, measured on the state."""
        if not self.decodes:
            raise UnknownState(f"the state of {type(self).__name__} is unknown: it has no step")
        if length <= SETTLED:
            return self._state_after(length)
        # By the contract what grows does so in proportion to the tokens, and the rest only fills a window.
        first = STEP + length % STEP
        one, two, three = (self._state_after(first + i * STEP) for i in range(3))
        change = {kind: two[kind] - one[kind] for kind in one}
        regular = all(three[kind] - two[kind] == change[kind] for kind in one)
        if not regular or change["recurrent"] or change["conv"]:
            return self._state_after(length)  # a window that is not full
        return {kind: one[kind] + change[kind] * ((length - first) // STEP) for kind in one}

    def _state_after(self, length: int) -> dict[str, int]:
        weight = next(self.parameters(), torch.empty(0))
        with torch.no_grad():
            x = torch.zeros(1, length, self.stream_width, device=weight.device, dtype=weight.dtype)
            ctx = Context(tokens=torch.zeros(1, length, device=weight.device, dtype=torch.int64))
            state = self.init_state(1)
            state = self.prefill(x, state, ctx)[1] if state else state
        return count_state(state, self.state_kinds)


def check_length(length: int, max_len: int) -> None:
    if length > max_len:
        raise ValueError(
            f"{length} tokens are more than max_len {max_len}; build the model with max_len={length}"
        )


def count_state(state: State, kinds: tuple[str, ...]) -> dict[str, int]:
    """Floating elements by kind, and their `total`; whole numbers, such as counters, are not counted."""
    if len(state) != len(kinds):
        raise ValueError(
            f"a state of {len(state)} tensors has {len(kinds)} kinds; state_kinds must name each tensor"
        )
    sizes = {"recurrent": 0, "conv": 0, "growing": 0}
    for tensor, kind in zip(state, kinds, strict=True):
        if kind not in (*sizes, "counter"):
            raise ValueError(f"state kind {kind!r} is not one of recurrent, conv, growing, counter")
        if kind != "counter" and tensor.is_floating_point():
            sizes[kind] += tensor.numel()
    sizes["total"] = sum(sizes.values())
    return sizes


def round_up(value: float, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `value`."""
    return math.ceil(value / multiple) * multiple


def linear_flops(module: nn.Module) -> int:
    """Forward FLOPs per token of every `nn.Linear` in `module`, 2 a weight."""
    return sum(2 * m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))


def divisors(n: int) -> list[int]:
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return sorted({*small, *(n // d for d in small)})
