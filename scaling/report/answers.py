"""`mad scaling fit`: every approach that was asked for, each architecture by itself, as text or JSON.

What a design cannot identify is answered with the reason in its place; where nothing is identified, the
command fails with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from difflib import get_close_matches

import pandas as pd

from scaling.laws.families import fit_families
from scaling.laws.forms import FORMS
from scaling.laws.runs.cleaning import NotIdentified
from scaling.laws.runs.columns import chosen
from scaling.laws.runs.rows import without_notes
from scaling.report import show
from scaling.report.methods import METHODS, Answer, Request, Runs

SIDE_BY_SIDE = ("law", "isoflop", "envelope")
ENDS = ("low", "high")


def run(
    frame: pd.DataFrame, asked: Request, *, curves: pd.DataFrame | None = None, format: str = "text"
) -> str:
    """The answers as "text" or "json"; NotIdentified where no approach determines anything.

    curves  the training curves of the runs, with a column `run`, for the envelope
    """
    if format not in ("text", "json"):
        raise ValueError(f"format {format!r} is not one of text, json")
    frame, notes = without_notes(frame)
    curves = None if curves is None else without_notes(curves)[0]
    answers = list(_answers(frame, curves, asked))
    if not any(answer.identified for answer in answers):
        raise NotIdentified("; ".join(f"{a.arch}, {a.approach}: {a.content['reason']}" for a in answers))
    if format == "json":
        return json.dumps(
            [{"arch": a.arch, "approach": a.approach, "notes": list(notes)} | a.content for a in answers],
            indent=1,
            allow_nan=False,
        )
    return "\n\n".join([*show.about_table(notes), *(answer.text for answer in answers)])


def _answers(frame: pd.DataFrame, curves: pd.DataFrame | None, asked: Request) -> Iterator[Answer]:
    names = SIDE_BY_SIDE if asked.approach == "all" else (_known(asked.approach),)
    if frame.empty:
        raise ValueError("there are no runs; name a table, or train some with `mad scaling train`")
    fitted = frame if asked.train is None else chosen(frame, asked.train)
    held_out = frame.drop(index=fitted.index)
    rows = fitted
    if asked.resample == "run" and curves is not None:
        rows = curves if asked.train is None else chosen(curves, asked.train)
    for arch, mine in fitted.groupby("arch", sort=False):
        rest = held_out[held_out["arch"] == arch]
        runs = Runs(
            fitted=mine,
            rows=rows[rows["arch"] == arch],
            curves=None if curves is None else curves[curves["arch"] == arch],
            held_out=None if rest.empty else rest,
        )
        for name in names:
            try:
                yield METHODS[name](str(arch), runs, asked)
            except NotIdentified as error:
                text = f"{arch}, {name}: not identified: {error}"
                content = {"status": "not identified", "reason": str(error)}
                yield Answer(str(arch), name, text, content, False)
    if asked.shared:
        yield _families(rows, asked)


def _known(approach: str) -> str:
    if approach not in METHODS:
        close = get_close_matches(approach, METHODS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"approach {approach!r} is unknown; {hint}choose from all, {', '.join(METHODS)}")
    return approach


def _families(frame: pd.DataFrame, asked: Request) -> Answer:
    name, shared = "all", " and ".join(asked.shared)
    try:
        found = fit_families(
            frame,
            shared=asked.shared,
            form=asked.form,
            objective=asked.objective,  # type: ignore[arg-type]
            delta=asked.delta,
            bootstrap=asked.bootstrap,
            resample=asked.resample,
            confidence=asked.confidence,
            seed=asked.seed,
            repeats=asked.repeats,
        )
    except NotIdentified as error:
        text = f"{name}, shared {shared}: not identified: {error}"
        return Answer(name, "shared", text, {"status": "not identified", "reason": str(error)}, False)
    rows = pd.DataFrame(
        [
            {"arch": arch}
            | {key: getattr(law, key) for key in (*FORMS[asked.form].parameters, "n_exponent")}
            | {
                f"{key}_{end}": getattr(ends, end)
                for key, ends in found.intervals[arch].items()
                for end in ENDS
            }
            for arch, law in found.laws.items()
        ]
    )
    shown = [column for column in rows if column.removesuffix("_low").removesuffix("_high") != "d_exponent"]
    targets = asked.at or (max(found.largest.values()),)
    reference = next(iter(found.laws))
    multipliers = found.multipliers(targets, reference=reference)
    multipliers = multipliers[multipliers["arch"] != reference]
    content = {
        "status": str(found.status),
        "runs": found.n,
        "shared": list(asked.shared),
        "reference": reference,
        "multipliers": show.records(multipliers),
        "laws": show.records(rows),
        "sharing": None if found.sharing is None else str(found.sharing),
        "warnings": list(found.warnings),
    }
    lines = [
        f"all architectures with {shared} in common: {found.n} runs; {found.convention}; {found.status}",
        "" if found.sharing is None else str(found.sharing),
        show.table(rows[shown]),
        "",
        show.table(found.frontier(targets)),
        "",
        f"compute for the loss of {reference}, over its compute (multiplier); below 1 is cheaper",
        show.table(multipliers.rename(columns={"low": "multiplier_low", "high": "multiplier_high"})),
    ]
    warned = show.notes("warnings:", found.warnings)
    return Answer(name, "shared", "\n".join(lines) + (f"\n\n{warned}" if warned else ""), content)
