"""`mad scaling fit`: every approach that was asked for, each architecture by itself, as text or JSON.

What a design cannot identify is answered with the reason in its place; where nothing is identified, the
command fails with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
import pandas as pd

from scaling import show
from scaling.audit import audit
from scaling.envelope import envelope
from scaling.families import fit_families
from scaling.fit import COEFFICIENTS, FittedLaw
from scaling.fit import fit as fit_law
from scaling.gadre import fit_overtraining_law
from scaling.isoflop import isoflop
from scaling.law import Interval
from scaling.powerlaw import power_law
from scaling.reading import chosen
from scaling.runs import NotIdentified, clean

APPROACHES = ("law", "isoflop", "envelope", "optima", "over-training")
SIDE_BY_SIDE = ("law", "isoflop", "envelope")


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked of `mad scaling fit`; `at` holds training FLOPs, `train` a condition over the columns."""

    approach: str = "all"
    train: str | None = None
    objective: str = "huber"
    delta: float = 1e-3
    resample: str = "pairs"
    repeats: str = "refuse"
    shared: tuple[str, ...] = ()
    at: tuple[float, ...] = ()
    budgets: tuple[float, ...] | None = None
    bootstrap: int = 1000
    confidence: float = 0.95
    seed: int = 0


@dataclass(frozen=True)
class Answer:
    """What one approach said of one architecture: text for people, `content` for JSON."""

    arch: str
    approach: str
    text: str
    content: dict[str, Any]
    identified: bool = True


def run(frame: pd.DataFrame, asked: Request, format: str = "text") -> str:
    """The answers as "text" or "json"; NotIdentified where no approach determines anything."""
    if format not in ("text", "json"):
        raise ValueError(f"format {format!r} is not one of text, json")
    answers = list(_answers(frame, asked))
    if not any(answer.identified for answer in answers):
        raise NotIdentified("; ".join(f"{a.arch}, {a.approach}: {a.content['reason']}" for a in answers))
    if format == "json":
        return json.dumps(
            [{"arch": a.arch, "approach": a.approach} | a.content for a in answers], indent=1, allow_nan=False
        )
    return "\n\n".join(answer.text for answer in answers)


def _answers(frame: pd.DataFrame, asked: Request) -> Iterator[Answer]:
    names = SIDE_BY_SIDE if asked.approach == "all" else (_known(asked.approach),)
    fitted, held_out = _split(frame, asked.train)
    grouped = _by_architecture(fitted)
    for arch, mine in grouped.items():
        for name in names:
            rest = held_out[held_out["arch"] == arch] if held_out is not None else None
            try:
                yield METHODS[name](arch, mine, rest, asked)
            except NotIdentified as error:
                text = f"{arch}, {name}: not identified: {error}"
                yield Answer(arch, name, text, {"status": "not identified", "reason": str(error)}, False)
    if asked.shared:
        yield _families(fitted, asked)


def _known(approach: str) -> str:
    if approach not in APPROACHES:
        close = get_close_matches(approach, APPROACHES, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"approach {approach!r} is unknown; {hint}choose from all, {', '.join(APPROACHES)}")
    return approach


def _split(frame: pd.DataFrame, train: str | None) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    named = frame if "arch" in frame else frame.assign(arch="all")
    if train is None:
        return named, None
    fitted = chosen(named, train)
    return fitted, named.drop(index=fitted.index)


def _by_architecture(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    if frame.empty:
        raise ValueError("there are no runs; add rows, or train some with `mad scaling train`")
    return {str(arch): rows for arch, rows in frame.groupby(frame["arch"].astype(str), sort=False)}


def _law(arch: str, mine: pd.DataFrame, rest: pd.DataFrame | None, asked: Request) -> Answer:
    law = fit_law(
        mine,
        objective=asked.objective,  # type: ignore[arg-type]
        delta=asked.delta,
        bootstrap=asked.bootstrap,
        resample=asked.resample,  # type: ignore[arg-type]
        confidence=asked.confidence,
        seed=asked.seed,
        repeats=asked.repeats,  # type: ignore[arg-type]
    )
    targets = asked.at or (law.largest,)
    content: dict[str, Any] = {
        "status": str(law.status),
        "runs": law.n,
        "convention": law.convention,
        "objective": law.objective,
        "delta": law.delta,
        "sum": law.value,
        "condition": law.condition,
        **{name: getattr(law, name) for name in (*COEFFICIENTS, "n_exponent", "d_exponent")},
        "intervals": show.intervals(law.intervals),
        "at": [_allocation(law, target) for target in targets],
        "warnings": list(law.warnings),
    }
    text = show.law_text(arch, law, targets)
    findings = [str(finding) for finding in audit(mine, at=targets[-1], law=law).findings]
    content["findings"] = findings
    parts = [text, show.notes("verdicts:", findings)]
    if rest is not None and len(rest):
        content["held_out"] = _errors(clean(rest), law.loss)
        parts.append(_errors_text(content["held_out"]))
    return Answer(arch, "law", "\n\n".join(part for part in parts if part), content)
