"""The perplexity that scores are held against: of each architecture, at equal compute or at equal state.

given             a row per architecture, with ppl or loss
compute-optimal   the vertex of the isoFLOP parabola at the budget
state-optimal     that, read at one state size for all: ln P* - c (ln M - ln M0), with the shared c of
                  P* = k M^c (arXiv:2403.17844) and M0 the geometric mean of the states
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from mad.messages import near
from scaling.laws.comparison import Frontier
from scaling.laws.optima import OUTSIDE, THREE, by_architecture, grouped, interval
from scaling.laws.runs.cleaning import NotIdentified, Runs, Table, clean, tidy
from scaling.laws.runs.columns import folded
from scaling.laws.state import state_law

TARGETS = ("compute-optimal", "state-optimal", "given")
# Two budgets nearer than this (relative) are one.
SAME = 0.1
# An optimum with one of these flaws is used, and said: better to know it roughly than not at all.
KEPT = (THREE, OUTSIDE)


@dataclass(frozen=True, kw_only=True)
class Target:
    """Perplexities by architecture.

    frame  index arch; ppl with low and high (NaN without an interval), params (of the optimum, or given),
           short (the perplexity at the smallest common budget, where that is another one), flags (words)
    """

    kind: str
    budget: float | None
    frame: pd.DataFrame
    notes: tuple[str, ...]


def find_target(runs: Runs, *, target: str, budget: float | None, confidence: float, **drawn: int) -> Target:
    """The target of `relate`; a table of one row per architecture is "given", whatever was asked.

    Raises ValueError for an unknown target, an unusable table or budget, and NotIdentified where the runs
    have no optimum. drawn: bootstrap and seed.
    """
    if target not in TARGETS:
        known = ", ".join(TARGETS)
        raise ValueError(f"unknown target {target!r}{near(target, TARGETS)}; choose one of {known}")
    if budget is not None and not (np.isfinite(budget) and budget > 0):
        raise ValueError(f"budget is {budget}; give training FLOPs above 0, say 1e13")
    archs = runs.frame["arch"]
    if not archs.duplicated().any():
        return _given(runs, target, budget)
    if target == "given":
        twice = archs[archs.duplicated()].iloc[0]
        raise ValueError(
            f"target 'given' needs one row per architecture, and {twice!r} has several; "
            "choose compute-optimal, which finds the optimum among runs"
        )
    return _found(runs, target, budget, confidence, **drawn)


def runs_of(source: Table) -> Runs:
    """The table, tidy, by its architectures; where no column arch names them, `model` does."""
    runs = tidy(source)
    by = next((name for name in runs.frame if folded(name) == "model"), None)
    if not runs.labelled and by is not None:
        runs = tidy(runs, by=by)
        # The advice has been followed.
        runs = replace(runs, notes=tuple(note for note in runs.notes if f"--by {by}" not in note))
    if not runs.labelled:
        raise ValueError(
            f"no column 'arch' in the runs; say --by COLUMN, or rename one. Columns are: "
            f"{', '.join(runs.columns)}"
        )
    return runs


def _given(runs: Runs, asked: str, budget: float | None) -> Target:
    table = clean(runs, need=("loss",)).frame.set_index("arch")
    out = pd.DataFrame({"ppl": np.exp(table["loss"]), "params": np.nan, "flags": ""})
    out[["low", "high", "short"]] = np.nan
    if "params" in table:
        out["params"] = pd.to_numeric(table["params"], errors="coerce").astype(float)
    notes = list(runs.notes)
    if asked != "given":
        notes.append(f"One row per architecture: its perplexity is taken as given, not {asked}.")
    return Target(kind="given", budget=budget, frame=out, notes=tuple(notes))


def _found(runs: Runs, target: str, budget: float | None, confidence: float, **drawn: int) -> Target:
    table = grouped(runs)
    notes = [*table.notes, f"FLOPs of the runs: {table.convention}."]
    fronts: dict[str, Frontier] = {}
    for arch, found in by_architecture(table, keep=KEPT, confidence=confidence, **drawn).items():
        if found.used.empty:
            notes.append(f"{arch} has no optimum at any budget ({'; '.join(found.lost)}).")
        else:
            fronts[arch] = Frontier.of(found)
    if not fronts:
        raise NotIdentified("no architecture has an optimum at any budget: " + " ".join(notes[-3:]))
    first, *others = fronts.values()
    common = [c for c in np.sort(first.flops) if all(_near(front, c) for front in others)]
    if budget is None and not common:
        have = "; ".join(
            f"{arch}: {', '.join(f'{c:.3g}' for c in front.flops)}" for arch, front in fronts.items()
        )
        raise NotIdentified(
            f"no budget has an optimum of every architecture ({have}); train them at one, or name a budget"
        )
    at = float(common[-1] if budget is None else budget)
    short = float(common[0]) if common and common[0] * (1 + SAME) < at else None
    rows = {arch: _read(front, at, short, confidence) for arch, front in fronts.items()}
    out = pd.DataFrame.from_dict(rows, orient="index").rename_axis("arch")
    silent = [
        f"{arch}: no perplexity at {at:.3g} FLOPs ({flags})"
        for arch, flags in out["flags"][out["ppl"].isna()].items()
    ]
    out = out[out["ppl"].notna()]
    if out.empty:
        raise NotIdentified("; ".join(silent) + "; train a second budget, or name one that was trained")
    notes += [f"{said}." for said in silent]
    if target == "state-optimal":
        return _at_equal_state(runs, table.frame, out, at, notes)
    return Target(kind="compute-optimal", budget=at, frame=out, notes=tuple(notes))


def _at_equal_state(
    runs: Runs, table: pd.DataFrame, optimal: pd.DataFrame, at: float, notes: list[str]
) -> Target:
    """The state-optimal perplexities, without intervals: those of the optima do not hold for the law."""
    law = state_law(runs.only(runs.frame.assign(**{"class": runs.frame["arch"]})))
    states = []
    for arch, params in optimal["params"].items():
        sizes = table[table["arch"] == arch].groupby("params")["state"].mean()
        states.append(np.interp(np.log(params), np.log(sizes.index), np.log(sizes)))
    middle = float(np.exp(np.mean(states)))
    known = [arch for arch in optimal.index if arch in law.coefficients]
    out = optimal.loc[known].assign(low=np.nan, high=np.nan, flags="")
    out["ppl"] = [law.ppl(middle, group=arch) for arch in known]
    ends = f" ({law.interval.low:.3g} to {law.interval.high:.3g})" if law.interval else ""
    notes += [
        f"State-optimal perplexity is read at a state of {middle:.3g} elements, with c = "
        f"{law.exponent:.3g}{ends}.",
        *(f"State law: {warning}." for warning in law.warnings),
    ]
    return Target(kind="state-optimal", budget=at, frame=out, notes=tuple(notes))


def _read(front: Frontier, at: float, short: float | None, confidence: float) -> dict[str, object]:
    """One architecture at `at` FLOPs, by its frontier; of a single budget what is within SAME of it."""
    row: dict[str, object] = dict.fromkeys(("ppl", "low", "high", "params", "short"), np.nan)
    if short is not None:
        row["short"] = float(np.exp(front.losses[front.nearest(short)]))
    here, single = front.nearest(at), len(front.flops) < 2
    near = _near(front, at)
    if single and not near:
        return row | {"flags": f"one optimum, at {front.flops[0]:.3g}, so none at this budget"}
    c = float(front.flops[0]) if single else at
    loss, drawn = front.at(c)
    ends, beyond = interval(drawn, confidence), front.beyond(at)
    flags = f"extrapolated {beyond:.3g} times in compute" if beyond > 1 else "between two budgets"
    low, high = np.exp([ends.low, ends.high])
    row |= {"ppl": np.exp(loss), "low": low, "high": high, "params": front.params(c)}
    return row | {"flags": str(front.optima["flag"][here]) if near else flags}


def _near(front: Frontier, c: float) -> bool:
    """Whether the architecture has an optimum at this budget."""
    return bool(abs(np.log(front.flops[front.nearest(c)] / c)) <= np.log1p(SAME))
