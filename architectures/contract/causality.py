"""Causality, asked of a built model: late tokens are changed, and no earlier logit may move.

A row of tokens is run twice, the second time with everything from some position on changed; each row of a
batch has its own position, so that a row which looks at another one is found as well. Both calls have the
same shapes and the same random numbers, so dropout makes no difference. It is asked in evaluation and in
training, in float64 where the model computes there, and away from the initial weights, whose zeros or closed
gates would hide a path; at last in float32 as the model is, which is what will be trained.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from architectures.builder import seeded
from architectures.contract.fault import REMEDIES, UNASKED, Fault, Kind
from architectures.contract.twin import Moved, moved_twin
from architectures.model import SequenceModel
from architectures.outside.surroundings import kept
from architectures.primitive import Context, Primitive
from architectures.registry import get

# Multiply-adds of one call, and numbers that it may hold: what bounds how many positions are asked. Fewer
# than FEWEST_ROWS are asked in training mode, and of a model above LARGE_MODEL parameters, which stays in
# float32.
MOST_WORK, MOST_NUMBERS, FEWEST_ROWS, LARGE_MODEL = 2**27, 2**22, 8, 2**25
# Multiply-adds of all calls on a trained model.
MOST_WORK_TRAINED = 2**34
# By how much a log-probability may move, relative to 1 nat or to its own size: layers of ours in float64, a
# user's, which may compute in float32 inside, and anything in float32.
TOLERANCE_OURS, TOLERANCE_THEIRS, TOLERANCE_FLOAT32 = 1e-9, 1e-5, 1e-4
# The same where rounding moves them more, and only what is worth seeing counts: in float32 at weights that
# nothing bounds.
TOLERANCE_COARSE = 1e-2
# How far from those of float64 the log-probabilities of float32 may be on average, for a path between
# positions to be no rounding of numbers that have grown without bounds.
STEADY_GAP = 0.05

Call = Callable[[Tensor], Tensor]


def require(
    model: nn.Module,
    tokens: Tensor,
    vocab_size: int,
    *,
    who: str,
    task: str,
    causal: bool = True,
    remedy: str = "use a causal layer",
) -> None:
    """Refuse a model that has a fault, or a layer that declares that it is not causal.

    tokens (B, T) are inputs of the task, at its full length; `who` names the model where no layer is at
    fault. With causal=False later tokens may be seen, and only the other faults count.
    """
    fault = find_fault(model, tokens, vocab_size, who=who, causal=causal)
    if fault is not None:
        raise ValueError(f"{fault}, on {task}; {remedy if fault.kind == 'later' else REMEDIES[fault.kind]}")
    if causal:
        require_declared(model, task=task, remedy=remedy)


def require_declared(model: nn.Module, *, task: str, remedy: str) -> None:
    """Refuse a layer that declares that it is not causal; the model need not have numbers."""
    for name in not_causal(model):
        raise ValueError(
            f"{name} declares that it sees later positions, and cannot be asked {task}; {remedy}"
        )


def not_causal(model: nn.Module) -> list[str]:
    """The layers that say that they are not causal, innermost first."""
    return [name for layer, name in reversed(_named(model)) if not layer.causal]


def find_fault(
    model: nn.Module, tokens: Tensor, vocab_size: int, *, who: str = "the model", causal: bool = True
) -> Fault | None:
    """The first fault of a model on tokens (B, T), or None; the model is left as it was."""
    size = sum(p.numel() for p in model.parameters())
    ours = isinstance(model, SequenceModel) and not any(get(n.name).source for n in model.spec.walk())

    def found(dtype: torch.dtype, moved: Moved, limit: float) -> Fault | None:
        with seeded(0, "probe"):
            twin = moved_twin(model, dtype, moved)
            fault = _first_fault(twin, tokens, vocab_size, size, who, limit, causal)
            if fault is None or moved == "not" or fault.kind == "repeat":
                return fault
            return fault if fault.kind != "nan" and _steady(twin, tokens) else UNASKED

    fine = TOLERANCE_OURS if ours else TOLERANCE_THEIRS
    attempts: list[tuple[torch.dtype, Moved, float]] = [
        (torch.float64, "far", fine),
        (torch.float64, "near", fine),
        (torch.float32, "near", TOLERANCE_FLOAT32),
        (torch.float32, "not", TOLERANCE_FLOAT32),
    ]
    for dtype, moved, limit in attempts[2 * (size > LARGE_MODEL) :]:
        try:
            fault = found(dtype, moved, limit)
        except Exception:  # A user's layer may hold constants of float32; what it cannot do at all is raised.
            if moved == "not":
                raise
            continue
        if fault is not UNASKED:
            break
    if moved == "not":
        return fault
    plain = found(torch.float32, "not", TOLERANCE_COARSE)
    if fault is not None:
        return dataclasses.replace(fault, hidden=fault.kind == "later" and plain is None)
    if plain is not None and plain.kind in ("later", "rows"):
        # Rounding may turn a choice between two that are nearly equal, but hardly for other tokens, too.
        tokens = (tokens + 1) % vocab_size
        return found(torch.float32, "not", TOLERANCE_COARSE)
    return plain


def require_trained(
    model: nn.Module,
    tokens: Tensor,
    vocab_size: int,
    *,
    who: str,
    steps: int,
    batch_size: int,
    causal: bool = True,
) -> None:
    """Refuse a trained model that sees later tokens or other rows: one that counts its calls may do so, or
    one that does it in batches of the training's size.

    As many positions are asked as it had steps, or all, as far as that is a hundredth of what the training
    took and a matter of seconds.
    """
    size = sum(p.numel() for p in model.parameters())
    positions = min(steps, MOST_WORK_TRAINED // (tokens.shape[1] * max(size, 1)))
    asked: Any = (tokens, vocab_size, size, who, TOLERANCE_COARSE, causal, positions, batch_size)
    mode = model.training
    with seeded(0, "probe"):
        try:
            fault = _first_fault(
                model if size > LARGE_MODEL else moved_twin(model, torch.float64, "not"), *asked
            )
        except Exception:  # It holds constants of float32, or what cannot be copied.
            fault = _first_fault(model, *asked)
    model.train(mode)
    if fault is not None and fault.kind in ("later", "rows"):
        raise ValueError(
            f"{fault}, after training and not before; its score is not kept: use a layer that does the same "
            "in every call"
        )


def _steady(model: nn.Module, tokens: Tensor) -> bool:
    """Whether float32 gives about the log-probabilities of the model's own precision."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    x = tokens[:2].to(device)
    with torch.no_grad(), _keyed(device):
        one = _caller(model.eval(), False)(x)
    with torch.no_grad(), _keyed(device):
        other = _caller(copy.deepcopy(model).float(), False)(x)
    gap = torch.where(one == other, 0.0, (one - other).abs()).nan_to_num(nan=torch.inf).clamp(max=1.0)
    return float(gap.mean()) < STEADY_GAP


def _first_fault(
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
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    generator = torch.Generator().manual_seed(length)
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
        probe = _Probe(model.train(training), who, limit, training)
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


def _caller(model: nn.Module, training: bool) -> Call:
    """A model as it is evaluated, or as a training step calls it; to log-probabilities (B, T, vocabulary)."""

    def call(tokens: Tensor) -> Tensor:
        if training and isinstance(model, SequenceModel):
            logits = model.call(tokens, Context(seed=0))[0]
        else:
            logits = model(tokens)
        return logits.detach().to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)

    return call


@dataclass(frozen=True)
class _Probe:
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
        with _keyed(x.device), torch.set_grad_enabled(self.training):
            found = _caller(self.model, self.training)(x)
        with torch.no_grad():
            for module, name, buffer, value in before:
                setattr(module, name, buffer.copy_(value))  # A layer may have put another in its place.
        return found

    def moved(self, first: Tensor, second: Tensor) -> Tensor:
        """(B, T): by how much log-probabilities differ; 0 for rounding, infinite where not a number."""
        # Two infinities of one sign are equal: tokens that a model excludes.
        gap = torch.where(first == second, 0.0, (first - second).abs()).nan_to_num(nan=torch.inf)
        limit = self.tolerance * (1 + first.abs().nan_to_num(posinf=0.0))
        return torch.where(gap > limit, gap, 0.0).amax(-1)

    def fault(self, kind: Kind, x: Tensor, changed: Tensor, position: int, token: int, moved: float) -> Fault:
        who = self.guilty(x, changed) or self.who
        return Fault(kind=kind, who=who, position=position, token=token, moved=moved, training=self.training)

    def guilty(self, x: Tensor, changed: Tensor) -> str | None:
        """The first layer to end whose output moves earlier in time than its input does."""
        names = _named(self.model)
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
        gap = torch.where(a == b, 0.0, (a - b).abs()).nan_to_num(nan=torch.inf).amax(-1)
        differs = gap > self.tolerance * a.abs().nan_to_num().max().clamp(min=1e-30)
        return torch.where(differs.any(1), differs.int().argmax(1), a.shape[1])


def _named(model: nn.Module) -> list[tuple[Primitive, str]]:
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
def _keyed(device: torch.device) -> Iterator[None]:
    with kept(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        yield
