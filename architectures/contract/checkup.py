"""Every question put to one layer, and for each that fails the smallest input that shows it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import torch

from architectures.contract import decoding, forward, statements, training
from architectures.contract.subject import (
    MAX_LEN,
    Finding,
    NotApplicable,
    Size,
    Subject,
    Unbuildable,
    Violation,
    chosen,
    describe,
)
from architectures.grammar.spec import Layer
from architectures.grammar.stripe import parse
from architectures.primitive import UnknownState
from architectures.registry import get, names


@dataclass(frozen=True, kw_only=True)
class Check:
    """A question, the inputs it is asked on, and what has to hold before it makes sense.

    lengths  of the sequences, in their order; none for a question without an input
    shrinks  the sides of the input that may shrink in the search for the smallest that fails
    widths   asked at other widths too
    """

    ask: Callable[[Subject, Size], str]
    lengths: tuple[int, ...] = ()
    batch: int = 2
    shrinks: tuple[str, ...] = ("length", "batch", "dim")
    widths: tuple[int, ...] = ()
    needs: tuple[str, ...] = ("builds", "shape", "repeatable")

    def sizes(self, dim: int) -> list[Size]:
        sizes = [Size(self.batch, length, dim) for length in self.lengths] or [Size(1, 1, dim)]
        return [Size(self.batch, 5, width) for width in self.widths if width != dim] + sizes


CHECKS = {
    "builds": Check(ask=statements.builds, needs=()),
    "shape": Check(
        ask=forward.shape, lengths=(1, 2, 3, 5, 16, 37, 65, MAX_LEN), widths=(16, 48, 80), needs=("builds",)
    ),
    "repeatable": Check(ask=forward.repeatable, lengths=(9,), needs=("builds", "shape")),
    "float64": Check(ask=forward.float64, lengths=(1, 37)),
    "causality": Check(ask=forward.causality, lengths=(2, 5, 16, 37, 67)),
    "rows": Check(ask=forward.rows, lengths=(1, 21), batch=3),
    "recurrence": Check(ask=decoding.recurrence, lengths=(1, 5, 37, 67)),
    "prefill": Check(ask=decoding.prefill, lengths=(1, 2, 5, 41)),
    "step": Check(ask=decoding.step, lengths=(9,)),
    "state": Check(ask=decoding.state, lengths=(1, 66, 33)),
    "growth": Check(ask=decoding.growth, lengths=(1024,), batch=1, shrinks=("dim",)),
    "max-len": Check(ask=decoding.refusal, needs=("builds",)),
    # All of max_len: a parameter may act on late positions only.
    "gradients": Check(ask=training.gradients, lengths=(MAX_LEN,), shrinks=("batch", "dim")),
    "slope": Check(ask=training.slope, lengths=(5,), needs=("builds", "shape", "repeatable", "float64")),
    "loud-inputs": Check(ask=training.loud, lengths=(37,)),
    "bfloat16": Check(ask=forward.bfloat16, lengths=(37,)),
    "kept": Check(ask=forward.kept, lengths=(9,)),
    "seed": Check(ask=statements.seed, needs=("builds",)),
    "vmap": Check(ask=training.replicas, lengths=(2, 21)),
    "compile": Check(ask=training.compiled, lengths=(1, 21), shrinks=("batch", "dim")),
    "meta": Check(ask=statements.meta, lengths=(9,), shrinks=("dim",)),
    "flops": Check(ask=statements.flops, lengths=(1, 2, 37, MAX_LEN), batch=1),
    "hints": Check(ask=statements.hints, needs=("builds",)),
    "options": Check(ask=statements.options, needs=("builds",)),
}


def examine(
    spec: str,
    *,
    dim: int = 64,
    compile: bool = False,
    only: Collection[str] | None = None,
    size: tuple[int, int, int] | None = None,
    report: Callable[[str], None] = lambda check: None,
) -> list[Finding]:
    """Put every question, or `only` some, to the layer of a spec; see `mad.check` for the arguments."""
    wanted = chosen(only, CHECKS)
    if only is None and not compile:
        wanted.remove("compile")
    given = Size(*size) if size is not None else None
    if given is not None and min(given) < 1:
        raise ValueError(f"size {tuple(given)} has a side below 1; expected (batch, length, width)")
    dim = dim if given is None else given.dim
    if dim < 16 or dim % 16:
        raise ValueError(f"width {dim} is not divisible by 16; layers are asked for such widths only")
    subject = Subject(one_layer(spec), max_len=max(MAX_LEN, given.length if given else 0))
    findings: dict[str, Finding] = {}
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        for name, check in CHECKS.items():
            # What decides whether and in which precision the others are asked.
            if name not in wanted and name not in ("builds", "float64"):
                continue
            report(name)
            found = _blocked(name, check, findings) or _ask(name, check, subject, dim, given)
            findings[name] = found
            if name == "float64" and found.result != "passed":
                subject = replace(subject, dtype=torch.float32)
    asked = [found for name, found in findings.items() if name in wanted]
    if only is None and not compile:
        asked.append(Finding("compile", "not run", "takes seconds; ask for it with --compile"))
    return asked


def one_layer(text: str) -> Layer:
    """The layer that a spec spells; a registered name is that layer, even where a preset has its name."""
    try:
        text = text.strip()
        layer, *others = parse(f"1*{get(text).example}" if text in names() else text)
    except ValueError:
        raise
    except Exception as error:  # The Config of a user's layer may raise anything.
        raise ValueError(
            f"{text} cannot be read: {type(error).__name__}: {error}; repair its Config"
        ) from error
    if others or not isinstance(layer, Layer):
        raise ValueError(
            f"{text!r} is a model of several layers; name one, such as 'mamba[d_state=8]' or module:Class"
        )
    return layer


def _blocked(name: str, check: Check, findings: dict[str, Finding]) -> Finding | None:
    """A check whose answer would only repeat an earlier failure is not run."""
    bad = (n for n in check.needs if n in findings and findings[n].result in ("failed", "not run"))
    need = next(bad, None)
    return None if need is None else Finding(name, "not run", f"needs the check {need!r}")


def _ask(name: str, check: Check, subject: Subject, dim: int, given: Size | None) -> Finding:
    sizes = check.sizes(dim) if given is None or not check.lengths else [given]
    seen = ""
    for size in sizes:
        try:
            seen = check.ask(subject, size)
        except (NotApplicable, UnknownState) as reason:
            return Finding(name, "not applicable", str(reason))
        except Unbuildable as error:
            # At another width the options may forbid it, which the check `builds` has judged.
            if name == "builds" or size.dim == dim:
                return Finding(name, "failed", str(error))
        except (Exception, SystemExit) as error:  # The user's layer may raise anything: a finding, no crash.
            if os.environ.get("MAD_TRACEBACK") and not isinstance(error, Violation):
                raise
            text = _text(error, subject)
            if given is not None or not check.lengths:
                return Finding(name, "failed", text)
            return Finding(name, "failed", *_smallest(check, subject, size, text, type(error)))
    return Finding(name, "passed", seen)


def _text(error: BaseException, subject: Subject) -> str:
    return str(error) if isinstance(error, Violation) else describe(error, subject.file)


def _smallest(
    check: Check, subject: Subject, size: Size, text: str, kind: type[BaseException]
) -> tuple[str, Size]:
    """Shrink one side after the other to the first value at which the check fails in the same way."""
    for side in check.shrinks:
        value = getattr(size, side)
        for smaller in range(16, value, 16) if side == "dim" else range(1, value):
            candidate = size._replace(**{side: smaller})
            try:
                check.ask(subject, candidate)
            except (Exception, SystemExit) as error:
                if type(error) is kind:
                    text, size = _text(error, subject), candidate
                    break
    return text, size
