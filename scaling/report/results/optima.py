"""Compute-optimal models: isoFLOP parabolas, the envelope of training curves, and optima that are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from mad.board.look import figures
from mad.board.look.figures import PARAMS, Label, plain
from mad.messages import counted
from scaling.laws.envelopes import Envelope
from scaling.laws.isoflops import IsoFlop
from scaling.laws.optima import OUTSIDE, grouped
from scaling.laws.powerlaw import PowerLaws
from scaling.laws.runs.cleaning import NotIdentified, Status
from scaling.laws.runs.cleaning import Table as RunTable
from scaling.report.evidence import Evidence
from scaling.report.numbers import brackets, intervals, number, records, span, within
from scaling.report.results.allocation import allocation, exponents
from scaling.report.section import Drawing, Listing, Section, Table, stacked

SHARED = {True: "may share", False: "do not share", None: "cannot be told to share"}
# Budgets that are named at the curves of a panel, so that they do not crowd.
MOST_LABELS = 6


def isoflop_section(arch: str, found: IsoFlop, targets: Sequence[float] = ()) -> Section:
    """Optima and exponents of approach 2, of one architecture."""
    row = {
        "architecture": arch,
        "exponent of N*": within(found.exponent, found.intervals.get("exponent")),
        "exponent of D*": within(found.tokens_exponent, found.intervals.get("tokens_exponent")),
        "budgets used": f"{int(found.optima['used'].sum())} of {len(found.optima)}",
    }
    verdict = "{architecture}: N* grows as C to the {exponent of N*}, D* as C to the {exponent of D*}."
    shown = [name for name in found.optima if name not in ("arch", "curvature", "compute")]
    data = {
        "status": str(found.status),
        "runs": found.n,
        "convention": found.convention,
        "n_exponent": found.exponent,
        "d_exponent": found.tokens_exponent,
        "coefficient": found.coefficient,
        "tokens_coefficient": found.tokens_coefficient,
        "intervals": intervals(found.intervals),
        "optima": records(found.optima),
    }
    head = f"{arch}: parabolas of loss in ln N and ln D at each budget, {found.n} runs; {found.convention}"
    return Section(
        verdicts=(verdict.format_map(row),),
        tables=(Table("Exponents", pd.DataFrame([row])),),
        **_printed(head, data, found, targets, found.warnings, Table("", found.optima[shown])),
    )


def isoflops_section(known: Evidence) -> Section:
    """The same of all architectures, and whether they may share an exponent."""
    found = known.iso
    if found is None:
        raise NotIdentified(known.reasons["isoflop"])
    parts = [isoflop_section(arch, own) for arch, own in found.by_arch.items()]
    verdicts = [sentence for part in parts for sentence in part.verdicts]
    if len(parts) > 1 and found.sharing is not None:
        verdicts.append(
            f"The architectures {SHARED[found.sharing.allowed]} the exponent of N* "
            f"({within(found.exponent, found.intervals.get('exponent'))}; F test p = "
            f"{number(found.sharing.p)})."
        )
    optima = found.optima.drop(columns="budget")
    for name in ("params", "tokens", "loss"):
        low, high = optima.pop(f"{name}_low"), optima.pop(f"{name}_high")
        optima[name] = list(map(span, optima[name], low, high))
    caption = (
        "Runs of equal compute, the parabola through them in ln N, and its vertex (star; hollow: not used)."
    )
    return Section(
        verdicts=verdicts,
        notes=[f"{text}." for text in found.warnings],
        tables=(*stacked(parts), Table("Optima", optima)),
        figures=(Drawing("isoflop", caption, lambda: figure_isoflop(known.groups, found)),),
    )


def envelope_section(arch: str, found: Envelope, targets: Sequence[float]) -> Section:
    """The exponents of approach 1."""
    data = {
        "status": str(Status.CONVERGED),
        "runs": found.n,
        "n_exponent": found.exponent,
        "d_exponent": found.tokens_exponent,
        "intervals": intervals(found.intervals),
    }
    head = f"{arch}: lower envelope of the training curves, {found.n} runs"
    return Section(**_printed(head, data, found, targets, found.warnings))


def optima_section(arch: str, found: PowerLaws, lacking: int, targets: Sequence[float]) -> Section:
    """The power law through models that are compute-optimal already; `lacking` rows named none."""
    data = {
        "status": str(Status.CONVERGED),
        "runs": found.n,
        "n_exponent": found.exponent,
        "coefficient": found.coefficient,
        "r2": found.r2,
        "intervals": intervals({"n_exponent": found.interval}) if found.interval else {},
    }
    head = f"{arch}: a power law through {found.n} optima, r2 {found.r2:.5f}"
    warnings = [f"{counted(lacking, 'row')} without an optimum"] if lacking else []
    return Section(**_printed(head, data, found, targets, warnings))


def _printed(
    head: str,
    data: dict[str, Any],
    found: IsoFlop | Envelope | PowerLaws,
    targets: Sequence[float],
    warnings: Sequence[str],
    *tables: Table,
) -> dict[str, Any]:
    """Text and data of power laws: exponents, what they give at the targets, and warnings."""
    at = [allocation(found, c) for c in targets]
    powers = [f"{of}* ~ C^{value:.4f}{brackets(end)}" for of, (value, end) in exponents(found).items()]
    lines = [head, ", ".join(powers)]
    for point in at:
        ends = point.get("intervals", {})
        values = [
            f"{symbol} = {point[name]:.4g} {brackets(ends.get(name))}".rstrip()
            for symbol, name in (("N*", "params"), ("D*", "tokens"))
            if name in point
        ]
        lines.append(f"C = {point['flops']:.3g}: {', '.join(values)}")
    held = [p | ({"intervals": intervals(p["intervals"])} if "intervals" in p else {}) for p in at]
    return {
        "text": ("\n".join(lines), *tables, Listing("warnings:", warnings)),
        "data": data | {"at": held, "warnings": list(warnings)},
    }


def figure_isoflop(frame: RunTable, found: IsoFlop) -> figures.Figure:
    """Loss against N at each budget, parabolas, and optima with intervals; a panel per architecture."""
    table = grouped(frame).frame
    archs = sorted(table["arch"].unique())
    look = figures.looks(archs)
    figure, axes = figures.panel_each(len(archs), PARAMS, "loss L (nats per token)", log="x")
    levels = sorted(table["budget"].unique())
    labels: list[list[Label]] = []
    for axis, arch in zip(axes, archs, strict=True):
        mine, optima = table[table["arch"] == arch], found.optima[found.optima["arch"] == arch]
        shades = {budget: _shade(look[arch].colour, i / len(levels)) for i, budget in enumerate(levels, 1)}
        ends: list[Label] = []
        for budget, group in mine.groupby("budget"):
            axis.plot(group["params"], group["loss"], look[arch].marker, color=shades[budget], markersize=3.5)
            last = group.loc[group["params"].idxmax()]
            ends.append((number(budget), last["params"], last["loss"], shades[budget]))
        for row in optima.itertuples():
            _parabola(axis, row, mine.loc[mine["budget"] == row.budget, "params"], shades[row.budget])
        labels.append(ends[::-1][:: -(-len(ends) // MOST_LABELS)])
        used = f"{int(optima['used'].sum())} of {len(ends)} optima used"
        figures.caption(axis, f"{plain(arch)}\n{len(mine)} runs, {used}")
    # Room for labels at the right; an interval that has no end does not set the range.
    smallest, largest = table["params"].min(), table["params"].max()
    axes[0].set_xlim(smallest / 1.5, largest * (largest / smallest) ** 0.2)
    for axis, ends in zip(axes, labels, strict=True):
        figures.name_lines(axis, ends, aligned=False)
    level = f"{100 * found.confidence:g} % interval"
    return figures.finish(figure, f"Loss at equal compute (FLOPs at the curves); stars: optimum with {level}")


def _parabola(axis: figures.Axes, row: Any, sizes: pd.Series, shade: str) -> None:
    if not np.isfinite(row.loss):
        return
    x = np.geomspace(sizes.min(), sizes.max(), 50)
    axis.plot(x, row.loss + row.curvature / 2 * np.log(x / row.params) ** 2, color=shade, linewidth=1.0)
    if row.flag == OUTSIDE:
        return
    if np.isfinite(row.params_low):
        axis.plot([row.params_low, row.params_high], [row.loss] * 2, color="black", linewidth=0.9)
        axis.plot([row.params] * 2, [row.loss_low, row.loss_high], color="black", linewidth=0.9)
    how: dict[str, Any] = {"color": "black", "markersize": 7, "markeredgewidth": 0.7}
    axis.plot(row.params, row.loss, "*", markerfacecolor="black" if row.used else "white", **how)


def _shade(colour: str, share: float) -> str:
    """The colour of an architecture, lighter for its smaller budgets."""
    from matplotlib.colors import to_hex, to_rgb

    white = 0.55 * (1 - share)
    r, g, b = (part + (1 - part) * white for part in to_rgb(colour))
    return to_hex((r, g, b))
