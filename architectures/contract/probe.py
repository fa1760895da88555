"""One question to a built model: do its logits move when later tokens, or other rows, are changed?

A row of tokens is run twice, the second time with everything from some position on changed; each row of a
batch has its own position, so that a row which looks at another one is found as well. Both calls have the
same shapes and the same random numbers, so dropout makes no difference.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from architectures.model import SequenceModel
from architectures.outside.surroundings import kept
from architectures.primitive import Context, Primitive

# Multiply-adds of one call, and numbers that it may hold: what bounds how many positions are asked. Fewer
# than FEWEST_ROWS are asked in training mode, and of a model above LARGE_MODEL parameters, which stays in
# float32.
MOST_WORK, MOST_NUMBERS, FEWEST_ROWS, LARGE_MODEL = 2**27, 2**22, 8, 2**25

Call = Callable[[Tensor], Tensor]
Kind = Literal["later", "rows", "repeat", "nan"]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is wrong with a model's logits: the log-probabilities at `position` move by `moved` nats.

    later   when the tokens from `token` on change, in the same row
    rows    when other rows change
    repeat  when the very same call is made again
    nan     they are not numbers

    `hidden`: not at the initial weights, but at others near them.
    """

    kind: Kind
    who: str
    position: int
    token: int
    moved: float
    training: bool
    hidden: bool = False

    def __str__(self) -> str:
        mode = " in training mode" if self.training else ""
        mode += ", once its weights leave their initial values," if self.hidden else ""
        at = f"the log-probabilities at position {self.position}"
        moved = f"{at} move by {self.moved:.2g}{mode}"
        return {
            "later": f"{self.who} sees later positions: {moved} when the tokens from {self.token} on change",
            "rows": f"{self.who} sees other rows of the batch: {moved} when only other rows change",
            "repeat": f"{self.who} is not repeatable: {moved} when the same tokens are given again with the "
            "same random state of torch",
            "nan": f"{self.who}: {at} are not numbers{mode} before any training",
        }[self.kind]


# What weights that nobody chose make of a model without bounds does not count against it.
UNASKED = Fault(kind="nan", who="", position=0, token=0, moved=0.0, training=False)

REMEDIES: dict[Kind, str] = {
    "rows": "use a layer that treats each row alone, such as a layer norm instead of a batch norm",
    "repeat": "draw noise from torch alone, and keep in buffers what outlasts a call",
    "nan": "repair its initial values",
}


def first_fault(
    model: nn.Module,
    tokens: Tensor,
    vocab_size: int,
    size: int,
    who: str,
    limit: float,
    causal: bool,
    positions: int = 0,
    batch_size: int = 2,
) -> Fault | None:
    length = tokens.shape[1]
    device, generator = device_of(model), torch.Generator().manual_seed(length)
    for training in (False, True):
        fewest = 2 if size > LARGE_MODEL else FEWEST_ROWS // (1 + training)
        rows = fewest if training else max(fewest, MOST_WORK // (length * max(size, 1)))
        rows = max(batch_size if size <= LARGE_MODEL else 2, min(rows, length))
        rows = max(2, min(rows, MOST_NUMBERS // (length * vocab_size)))
        x = tokens.repeat(-(-rows // len(tokens)), 1)[:rows].to(device)
        if causal:
            cuts = _cuts(max(rows, 0 if training else min(positions + 1, length)), length, generator)
        else:
            cuts = length * (torch.arange(rows) % 2)
        other = torch.randint(vocab_size, x.shape, generator=generator).to(device)
        other = torch.where(other == x, (other + 1) % vocab_size, other)
        probe = Probe(model.train(training), who, limit, training)
        for some in cuts.to(device).split(rows):
            fault = probe.ask(x[: len(some)], other[: len(some)], some)
            if fault is not None:
                return fault
    return None


def _cuts(rows: int, length: int, generator: torch.Generator) -> Tensor:
    """For each row the first position that is changed: all of 1 .. T - 1 if they are as many, else spread.

    In the last row nothing is changed. Of those that are spread one is the largest power of two, where chunks
    of most sizes meet.
    """
    offsets = torch.rand(rows - 1, generator=generator) if rows < length else torch.zeros(rows - 1)
    spread = (torch.arange(rows - 1) + offsets) * (length - 1) / max(rows - 1, 1)
    cuts = 1 + spread.long()
    if 1 < rows < length:
        edge = 1 << (length - 1).bit_length() - 1
        cuts[int((cuts - edge).abs().argmin())] = edge
    return torch.cat([cuts, torch.tensor([length])])


def caller(model: nn.Module, training: bool) -> Call:
    """A model as it is evaluated, or as a training step calls it; to log-probabilities (B, T, vocabulary)."""

    def call(tokens: Tensor) -> Tensor:
        if training and isinstance(model, SequenceModel):
            logits = model.call(tokens, Context(seed=0))[0]
        else:
            logits = model(tokens)
        return logits.detach().to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)

    return call


@dataclass(frozen=True)
class Probe:
    """One model in one mode."""

    model: nn.Module
    who: str
    tolerance: float
    training: bool

    def ask(self, x: Tensor, other: Tensor, cuts: Tensor) -> Fault | None:
        time = torch.arange(x.shape[1], device=x.device)
        late = time >= cuts[:, None]  # (B, T), what is changed
        changed = torch.where(late, other, x)
        first, second = self.run(x), self.run(changed)
        moved = self.moved(first, second).masked_fill(late, 0.0)
        if not bool(moved.any()):
            return None
        row, position = divmod(int(moved.argmax()), x.shape[1])
        token, size = int(cuts[row]), float(moved[row, position])
        if bool(first[row, position].isnan().any()):
            return self.fault("nan", x, x, position, token, size)
        again = self.moved(first, self.run(x))
        if bool(again.any()):
            row, position = divmod(int(again.argmax()), x.shape[1])
            return self.fault("repeat", x, x, position, token, float(again[row, position]))
        # One row alone is changed: the one that moves most, of those in which anything was.
        suspect = int((moved.amax(1) * (cuts < x.shape[1])).argmax())
        alone = x.clone()
        alone[suspect] = changed[suspect]
        itself = self.moved(first, self.run(alone))[suspect, : int(cuts[suspect])]
        if bool(itself.any()):
            position = int(itself.argmax())
            return self.fault("later", x, alone, position, int(cuts[suspect]), float(itself[position]))
        return self.fault("rows", x, changed, position, token, size)

    def run(self, x: Tensor) -> Tensor:
        """The call with the random numbers and buffers of every other."""
        modules = list(self.model.modules())
        before = [(m, name, b, b.clone()) for m in modules for name, b in m.named_buffers(recurse=False)]
        with keyed(x.device), torch.set_grad_enabled(self.training):
            found = caller(self.model, self.training)(x)
        with torch.no_grad():
            for module, name, buffer, value in before:
                setattr(module, name, buffer.copy_(value))  # A layer may have put another in its place.
        return found

    def moved(self, first: Tensor, second: Tensor) -> Tensor:
        """(B, T): by how much log-probabilities differ; 0 for rounding, infinite where not a number."""
        gap = distance(first, second).nan_to_num(nan=torch.inf)
        limit = self.tolerance * (1 + first.abs().nan_to_num(posinf=0.0))
        return torch.where(gap > limit, gap, 0.0).amax(-1)

    def fault(self, kind: Kind, x: Tensor, changed: Tensor, position: int, token: int, moved: float) -> Fault:
        who = self.guilty(x, changed) or self.who
        return Fault(kind=kind, who=who, position=position, token=token, moved=moved, training=self.training)

    def guilty(self, x: Tensor, changed: Tensor) -> str | None:
        """The first layer to end whose output moves earlier in time than its input does."""
        names = named(self.model)
        with _watched([layer for layer, _ in names]) as calls:
            self.run(x)
            before = calls.copy()
            calls.clear()
            self.run(changed)
        for (layer, into, out), (_, into_, out_) in zip(before, calls, strict=False):
            if out.shape == out_.shape and bool((self.since(out, out_) < self.since(into, into_)).any()):
                return dict(names)[layer]
        return None

    def since(self, a: Tensor, b: Tensor) -> Tensor:
        """The first time at which two (B, T, D) differ in a row; T for never, also where the input is NaN."""
        gap = distance(a, b).nan_to_num(nan=torch.inf).amax(-1)
        differs = gap > self.tolerance * a.abs().nan_to_num().max().clamp(min=1e-30)
        return torch.where(differs.any(1), differs.int().argmax(1), a.shape[1])


def distance(a: Tensor, b: Tensor) -> Tensor:
    """|a - b|, 0 between two infinities of one sign: tokens that a model excludes."""
    return torch.where(a == b, 0.0, (a - b).abs())


def device_of(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def named(model: nn.Module) -> list[tuple[Primitive, str]]:
    """The layers of a model of ours, by the words of its spec."""
    if not isinstance(model, SequenceModel):
        return []
    words = [str(dataclasses.replace(item, body=None)) for item in model.spec.walk()]
    return [(layer, word) for (_, layer), word in zip(model.layers(), words, strict=True)]


@contextlib.contextmanager
def _watched(layers: list[Primitive]) -> Iterator[list[tuple[Primitive, Tensor, Tensor]]]:
    """What goes into the layers and comes out of them, in the order in which their calls end."""
    calls: list[tuple[Primitive, Tensor, Tensor]] = []

    def keep(layer: Any, inputs: Any, output: Any) -> None:
        calls.append((layer, inputs[0].detach(), output.detach()))

    handles = [layer.register_forward_hook(keep) for layer in layers]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def keyed(device: torch.device) -> Iterator[None]:
    with kept(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield
