"""Compute-optimal size and data by the three approaches of arXiv:2203.15556, side by side on equal runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mad.board.look import figures
from mad.board.look.figures import FLOPS, PARAMS, TOKENS, Label, Look
from scaling.laws.envelopes import Envelope, envelope
from scaling.laws.fitting import FittedLaw, fit
from scaling.laws.isoflops import IsoFlop, isoflop
from scaling.laws.law import Interval
from scaling.laws.powerlaw import PowerLaws
from scaling.laws.runs.cleaning import NotIdentified, clean, ends, tidy
from scaling.laws.runs.cleaning import Table as RunTable
from scaling.report.evidence import BEYOND, Evidence
from scaling.report.numbers import number
from scaling.report.section import Drawing, Section, Table

Found = IsoFlop | Envelope | FittedLaw
TITLES = ("Approach 1: envelope of all runs", "Approach 2: isoFLOP parabolas", "Approach 3: law of loss")


def allocation(found: Found | PowerLaws, c: float) -> dict[str, Any]:
    """N* and D* at C (params, tokens), and their intervals where there are any."""
    if isinstance(found, FittedLaw):
        return vars(found.at(c))
    if isinstance(found, PowerLaws):
        return {"flops": c, "params": float(found.at(c))}  # type: ignore[arg-type]
    row: dict[str, Any] = {"flops": c, "params": float(found.n_opt(c)), "tokens": float(found.d_opt(c))}  # type: ignore[arg-type]
    if isinstance(found, IsoFlop):
        row["intervals"] = {"params": found.n_interval(c), "tokens": found.d_interval(c)}
    return row


def exponents(found: Found | PowerLaws) -> dict[str, tuple[float, Interval | None]]:
    """The exponents of N* and D*, each with its interval where there is one."""
    if isinstance(found, PowerLaws):
        return {"N": (found.exponent, found.interval)}
    law = isinstance(found, FittedLaw)
    names = ("n_exponent", "d_exponent") if law else ("exponent", "tokens_exponent")
    return {
        of: (getattr(found, name), found.intervals.get(name)) for of, name in zip("ND", names, strict=True)
    }


def side_by_side(
    frame: RunTable,
    *,
    at: float | None = None,
    law: FittedLaw | None = None,
    budgets: Sequence[float] | None = None,
    **drawn: Any,
) -> pd.DataFrame:
    """One row per approach: exponents of N* and D* with intervals, and N*, D*, D/N at `at` FLOPs.

    at     FLOPs; without it those of the largest run
    law    the law of approach 3 where it is fitted already
    drawn  bootstrap, confidence and seed of the intervals

    Training curves (several rows per `run`) serve approach 1; their last rows are the runs of approaches 2
    and 3. An approach that these runs cannot serve has NaN, and the reason in `note`; `note` also holds the
    warnings. Raises what `clean` refuses, and NotIdentified where no approach is left.
    """
    runs = tidy(frame)
    table = clean(runs, duplicates="run" in runs.frame)
    if (count := table.frame["arch"].nunique()) > 1:
        raise ValueError(f"there are {count} architectures; give the runs of one at a time")
    c, last = float(table.frame["flops"].max()) if at is None else at, ends(table)
    approaches: dict[str, Callable[[], Found]] = {
        "envelope": lambda: envelope(table, **drawn),
        "isoflop": lambda: isoflop(last, budgets=budgets, **drawn),
        "law": lambda: law or fit(last, **drawn),
    }
    rows = []
    for name, make in approaches.items():
        row: dict[str, Any] = {"approach": name}
        rows.append(row)
        try:
            found = make()
        except NotIdentified as error:
            row["note"] = str(error)
            continue
        for of, (value, end) in exponents(found).items():
            low, high = (end.low, end.high) if end else (np.nan, np.nan)
            row |= {
                f"{of.lower()}_{what}": x for what, x in (("exponent", value), ("low", low), ("high", high))
            }
        n, d = float(found.n_opt(c)), float(found.d_opt(c))  # type: ignore[arg-type]
        row |= {"n_opt": n, "d_opt": d, "d_over_n": d / n, "note": "; ".join(found.warnings)}
    out = pd.DataFrame(rows)
    if "n_exponent" not in out:
        raise NotIdentified("; ".join(f"{row['approach']}: {row['note']}" for row in rows))
    return out.assign(flops=c)[[*[name for name in out if name != "note"], "flops", "note"]]


def allocations_section(known: Evidence) -> Section:
    """N* and D* by the approaches side by side."""
    tables = []
    for arch in known.archs:
        mine = known.runs.of(arch)
        if known.convention != "C as given":  # then FLOPs are derived again
            mine = mine.only(mine.frame.drop(columns="flops"))
        law = known.laws.get(arch)
        try:
            table = side_by_side(mine, at=known.target, law=law, budgets=known.budgets, **known.drawn)
        except NotIdentified:
            continue
        table.insert(0, "architecture", arch)
        tables.append(table.drop(columns="flops"))
    if known.iso is None and not known.laws and not known.envelopes:
        raise NotIdentified("Neither an isoFLOP power law nor a law of loss is identified; see above.")
    caption = (
        "Lines beyond the largest run are extrapolations: their bands hold only if the law does. An approach "
        "that is absent could not be used."
    )
    far = {arch: law.at(BEYOND * known.target).intervals.get("params") for arch, law in known.laws.items()}
    head = f"Three approaches, at {number(known.target)} FLOPs"
    return Section(
        verdicts=[f"{arch} at {found.allocation}." for arch, found in known.audits.items()],
        notes=[
            f"{arch} at {number(BEYOND)} times that compute: N* between {number(end.low)} and "
            f"{number(end.high)}, if the law holds."
            for arch, end in far.items()
            if end
        ],
        tables=(Table(head, pd.concat(tables, ignore_index=True)),) if tables else (),
        figures=(
            Drawing("allocation", caption, lambda: figure_allocation(known.iso, known.laws, known.envelopes)),
        ),
    )


def figure_allocation(
    isoflop: IsoFlop | None = None,
    laws: Mapping[str, FittedLaw] | None = None,
    envelope: Mapping[str, Envelope] | None = None,
) -> figures.Figure:
    """N* and D* against C with bands, by the approaches that are given, side by side on shared axes.

    C is the range of the optima, or without these the last hundredfold of the runs, and ten times more.
    """
    second = {} if isoflop is None else isoflop.by_arch or {"all": isoflop}
    given: tuple[Mapping[str, Any] | None, ...] = (envelope, second, laws)
    parts = [(title, of) for title, of in zip(TITLES, given, strict=True) if of]
    if not parts:
        raise ValueError("there is nothing to draw; give isoflop=, laws= or envelope=")
    look = figures.looks({arch for _, of in parts for arch in of})
    if isoflop is not None:
        lowest, largest = isoflop.optima["flops"].min() / 2, isoflop.optima["flops"].max()
    else:
        curves = [found.points["flops"].max() for found in (envelope or {}).values()]
        largest = max([*curves, *(law.largest for law in (laws or {}).values())])
        lowest = largest / 100
    grid = np.geomspace(lowest, largest * 10, 60)
    figure, axes = figures.panels(2, len(parts), share_y="row", log="xy")
    names: list[list[Label]] = [[] for _ in axes]
    drawn: dict[str, list[float]] = {"params": [], "tokens": []}
    for column, (title, of) in enumerate(parts):
        figures.caption(axes[column], title)
        for place, what in ((column, "params"), (len(parts) + column, "tokens")):
            for arch, result in sorted(of.items()):
                points = [allocation(result, float(c)) for c in grid]
                middle = np.array([point[what] for point in points])
                ends = [point.get("intervals", {}).get(what) for point in points]
                low, high = np.array([(end.low, end.high) if end else (np.nan, np.nan) for end in ends]).T
                figures.band(axes[place], look[arch], grid, middle, low, high)
                _optima(axes[place], result, what, look[arch])
                drawn[what] += [y for line in (middle, low, high) for y in line[np.isfinite(line)]]
                names[place].append((arch, grid[-1], middle[-1], look[arch].colour))
    for axis, what, label in ((axes[0], "params", PARAMS), (axes[len(parts)], "tokens", TOKENS)):
        axis.set(ylim=(min(drawn[what]) / 1.5, max(drawn[what]) * 1.5), ylabel=f"optimal {label}*")
    for axis, labels in zip(axes, names, strict=True):
        figures.name_lines(axis, labels)
    figures.label_bottom(axes, len(parts), FLOPS)
    said = "Compute-optimal size and data against compute; bands: intervals of the line"
    return figures.finish(figure, said)


def _optima(axis: figures.Axes, result: Found, what: str, look: Look) -> None:
    """The optima behind a line, with their intervals, or the points of an envelope; a law has none."""
    if isinstance(result, Envelope):
        points = result.points
        axis.plot(points["flops"], points[what], ".", color=look.colour, markersize=2, alpha=0.5)
    elif isinstance(result, IsoFlop):
        used = result.optima[result.optima["used"]]
        y, low, high = (used[name] for name in (what, f"{what}_low", f"{what}_high"))
        how: dict[str, Any] = {"fmt": look.marker, "color": look.colour, "markersize": 3.5}
        axis.errorbar(used["flops"], y, figures.bars(y, low, high), linewidth=0.9, **how)
