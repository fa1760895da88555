"""Figures of fitted laws: isoFLOP curves, allocation against compute, the surface of loss, residuals.

Each takes tables and results, returns a matplotlib figure, and can be read alone: axes carry units, titles n.
Those that compare architectures are in `scaling.report.comparisons`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from scaling.laws.optima import grouped
from scaling.laws.runs.cleaning import clean
from scaling.report.style import (
    FONT,
    GREY,
    caption,
    columns_for,
    final_limits,
    finish,
    legend,
    looks,
    name_lines,
    number,
    panels,
    plain,
    spread,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from scaling.laws.envelope import Envelope
    from scaling.laws.fitting import FittedLaw
    from scaling.laws.isoflops import IsoFlop

Array = npt.NDArray[np.float64]

PARAMS, TOKENS, FLOPS = "parameters N", "training tokens D", "training FLOPs C"
LOSS = "loss L (nats per token)"
MOST_LABELS = 6


def figure_isoflop(frame: pd.DataFrame, found: IsoFlop) -> Figure:
    """Loss against N at each budget, parabolas, and optima with intervals; a panel an architecture."""
    table, _ = grouped(frame)
    archs = sorted(table["arch"].unique())
    look = looks(archs)
    columns = columns_for(len(archs))
    rows = -(-len(archs) // columns)
    figure, axes = panels(rows, columns)
    levels = sorted(table["budget"].unique())
    labels: list[tuple[Axes, list[tuple[float, float, float, str]]]] = []
    for axis, arch in zip(axes, archs, strict=False):
        mine = table[table["arch"] == arch]
        axis.set_xscale("log")
        ends: list[tuple[float, float, float, str]] = []
        for budget, group in mine.groupby("budget"):
            shade = _shade(look[arch].colour, levels.index(budget), len(levels))
            axis.plot(group["params"], group["loss"], look[arch].marker, color=shade, markersize=3.5)
            last = group.loc[group["params"].idxmax()]
            ends.append((float(budget), float(last["params"]), float(last["loss"]), shade))
        for row in found.optima[found.optima["arch"] == arch].itertuples():
            _parabola(axis, row, mine, _shade(look[arch].colour, levels.index(row.budget), len(levels)))
        labels.append((axis, ends))
        used = int(found.optima.loc[found.optima["arch"] == arch, "used"].sum())
        caption(axis, f"{plain(arch)}\n{len(mine)} runs, {used} of {len(ends)} optima used")
    # Room for labels at the right; an interval that has no end does not set the range.
    smallest, largest = float(table["params"].min()), float(table["params"].max())
    axes[0].set_xlim(smallest / 1.5, largest * (largest / smallest) ** 0.2)
    for axis, ends in labels:
        _budget_labels(axis, ends)
    for axis in axes[len(archs) :]:
        axis.set_visible(False)
    _outer(axes, columns, len(archs), f"{PARAMS}", LOSS)
    level = f"{100 * found.confidence:g} % interval"
    return finish(figure, f"Loss at equal compute (FLOPs at the curves); stars: optimum with {level}")


def figure_allocation(
    *,
    isoflop: IsoFlop | None = None,
    laws: Mapping[str, FittedLaw] | None = None,
    envelope: Mapping[str, Envelope] | None = None,
    span: tuple[float, float] | None = None,
) -> Figure:
    """N* and D* against C with bands, by the approaches that are given, side by side on shared axes.

    span  range of C to draw; without it that of the optima, or of a factor 100 below the largest run
    """
    parts: list[tuple[str, Mapping[str, Any]]] = []
    if envelope:
        parts.append(("Approach 1: envelope of all runs", envelope))
    if isoflop is not None:
        parts.append(("Approach 2: isoFLOP parabolas", isoflop.by_arch or {"all": isoflop}))
    if laws:
        parts.append(("Approach 3: law of loss", laws))
    if not parts:
        raise ValueError("there is nothing to draw; give isoflop=, laws= or envelope=")
    look = looks({arch for _, of in parts for arch in of})
    low, high = span or _span(isoflop, laws, envelope)
    grid = np.geomspace(low, high, 60)
    figure, axes = panels(2, len(parts), share_y="row")
    ends: list[list[tuple[str, float, float, str]]] = [[] for _ in axes]
    drawn: dict[str, list[float]] = {"params": [], "tokens": []}
    for column, (title, of) in enumerate(parts):
        top, bottom = axes[column], axes[len(parts) + column]
        caption(top, title)
        for axis, what in ((top, "params"), (bottom, "tokens")):
            axis.set_xscale("log")
            axis.set_yscale("log")
            for arch, result in sorted(of.items()):
                middle, under, over = _allocation(result, what, grid)
                axis.plot(grid, middle, look[arch].dash, color=look[arch].colour, linewidth=1.3)
                axis.fill_between(grid, under, over, color=look[arch].colour, alpha=0.16, linewidth=0)
                _points(axis, result, what, look[arch].marker, look[arch].colour)
                drawn[what] += [y for line in (middle, under, over) for y in line[np.isfinite(line)]]
                here = (arch, float(grid[-1]), float(middle[-1]), look[arch].colour)
                ends[column + len(parts) * (what == "tokens")].append(here)
    for axis, what in ((axes[0], "params"), (axes[-1], "tokens")):
        axis.set_ylim(min(drawn[what]) / 1.5, max(drawn[what]) * 1.5)
    for axis, names in zip(axes, ends, strict=True):
        name_lines(axis, names)
    _outer(axes, len(parts), 2 * len(parts), FLOPS, "")
    axes[0].set_ylabel(f"optimal {PARAMS}*")
    axes[len(parts)].set_ylabel(f"optimal {TOKENS}*")
    return finish(figure, "Compute-optimal size and data against compute; bands: intervals of the line")


def figure_surface(frame: pd.DataFrame, laws: Mapping[str, FittedLaw]) -> Figure:
    """Contours of the fitted loss over N and D with the runs, isoFLOP lines and the efficient frontier."""
    runs = clean(frame)
    look = looks(runs["arch"].unique())
    columns = columns_for(len(laws))
    rows = -(-len(laws) // columns)
    figure, axes = panels(rows, columns)
    n, d = (np.geomspace(runs[name].min() / 1.6, runs[name].max() * 1.6, 80) for name in ("params", "tokens"))
    levels = _levels(laws, runs)
    for axis, (arch, law) in zip(axes, laws.items(), strict=False):
        mine = runs[runs["arch"] == arch]
        axis.set_xscale("log")
        axis.set_yscale("log")
        surface = np.asarray(law.loss(n[None, :], d[:, None]))
        lines = axis.contour(n, d, surface, levels=levels, colors=GREY, linewidths=0.7)
        axis.clabel(lines, fmt="%.3g", fontsize=FONT - 2.5)
        axis.plot(mine["params"], mine["tokens"], look[arch].marker, color=look[arch].colour, markersize=3.5)
        compute = np.geomspace(6 * n[0] * d[0], 6 * n[-1] * d[-1], 100)
        best, data = np.asarray(law.n_opt(compute)), np.asarray(law.d_opt(compute))
        inside = (best >= n[0]) & (best <= n[-1]) & (data >= d[0]) & (data <= d[-1])
        axis.plot(best[inside], data[inside], color="black", linewidth=1.2, linestyle="--")
        error = 100 * float(np.sqrt(np.mean(law.residuals**2)))
        caption(axis, f"{plain(arch)}\n{law.n} runs, rms error {error:.2g} %")
    for axis in axes[len(laws) :]:
        axis.set_visible(False)
    _outer(axes, columns, len(laws), PARAMS, TOKENS)
    return finish(
        figure, "Fitted loss (contours, nats per token), runs, and the optimum N*(C), D*(C) (dashed)"
    )


def figure_residuals(frame: pd.DataFrame, laws: Mapping[str, FittedLaw]) -> Figure:
    """Residuals of the laws against N, D and C: what the form of the law does not hold."""
    runs = clean(frame)
    look = looks(runs["arch"].unique())
    figure, axes = panels(1, 3, width=3.0, share_x="none")
    for axis, (column, label) in zip(
        axes, (("params", PARAMS), ("tokens", TOKENS), ("flops", FLOPS)), strict=True
    ):
        axis.set_xscale("log")
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_xlabel(label)
        for arch, law in laws.items():
            rows = law.residuals.index if len(laws) == 1 else runs.index[runs["arch"] == arch]
            x = runs.loc[rows, column].to_numpy(float)
            axis.plot(
                x,
                100 * np.expm1(law.residuals.to_numpy(float)),
                look[arch].marker,
                color=look[arch].colour,
                markersize=3.5,
                alpha=0.75,
                label=plain(arch),
            )
    bound = max(map(abs, axes[0].get_ylim()))
    axes[0].set_ylim(-bound, bound)
    axes[0].set_ylabel("loss above the law (%)")
    if len(laws) > 1:
        legend(figure, axes[0])
    total = sum(law.n for law in laws.values())
    return finish(figure, f"Residuals of the fitted law, {total} runs; a trend is what the law misses")


def _parabola(axis: Axes, row: Any, mine: pd.DataFrame, shade: str) -> None:
    if not np.isfinite(row.loss):
        return
    sizes = mine.loc[mine["budget"] == row.budget, "params"]
    x = np.geomspace(sizes.min(), sizes.max(), 50)
    axis.plot(x, row.loss + row.curvature / 2 * np.log(x / row.params) ** 2, color=shade, linewidth=1.0)
    if row.flag == "vertex outside":
        return
    if np.isfinite(row.params_low):
        axis.plot([row.params_low, row.params_high], [row.loss] * 2, color="black", linewidth=0.9)
        axis.plot([row.params] * 2, [row.loss_low, row.loss_high], color="black", linewidth=0.9)
    face = "black" if row.used else "white"
    axis.plot(
        row.params, row.loss, "*", color="black", markerfacecolor=face, markersize=7, markeredgewidth=0.7
    )


def _budget_labels(axis: Axes, ends: Sequence[tuple[float, float, float, str]]) -> None:
    """The FLOPs (budget, x, y, colour) to the right of curves, of so many that they do not crowd."""
    step = -(-len(ends) // MOST_LABELS)
    shown = [end for i, end in enumerate(ends[::-1]) if i % step == 0]
    to_axes = final_limits(axis)
    places = [to_axes.transform((x, y)) for _, x, y, _ in shown]
    for (budget, _, _, colour), (x, _), spot in zip(
        shown, places, spread([float(y) for _, y in places], 0.055), strict=True
    ):
        axis.text(
            float(x) + 0.02,
            spot,
            number(budget),
            transform=axis.transAxes,
            fontsize=FONT - 2,
            color=colour,
            va="center",
        )


def _points(axis: Axes, result: Any, what: str, marker: str, colour: str) -> None:
    """The optima behind a line, with their intervals, or the points of an envelope; a law has none."""
    if isinstance(getattr(result, "points", None), pd.DataFrame):  # an envelope
        axis.plot(result.points["flops"], result.points[what], ".", color=colour, markersize=2, alpha=0.5)
    optima = getattr(result, "optima", None)
    if not isinstance(optima, pd.DataFrame):
        return
    used = optima[optima["used"]]
    y = used[what].to_numpy(float)
    bars = np.nan_to_num(np.abs(np.stack([y - used[f"{what}_low"], used[f"{what}_high"] - y])))
    axis.errorbar(used["flops"], y, bars, fmt=marker, color=colour, markersize=3.5, linewidth=0.9)


def _allocation(result: Any, what: str, grid: Array) -> tuple[Array, Array, Array]:
    """N* or D* over C, and its band."""
    draws = getattr(result, "draws", None)
    if isinstance(draws, pd.DataFrame):  # a law
        spans = [result.at(float(c)) for c in grid]
        middle = np.array([getattr(span, what) for span in spans])
        ends = [span.intervals.get(what) for span in spans]
    else:
        middle = np.asarray(result.n_opt(grid) if what == "params" else result.d_opt(grid))
        interval = getattr(result, "n_interval" if what == "params" else "d_interval", None)
        ends = [interval(float(c)) for c in grid] if interval else [None] * len(grid)
    low = np.array([end.low if end else np.nan for end in ends])
    high = np.array([end.high if end else np.nan for end in ends])
    return middle, low, high


def _span(
    isoflop: IsoFlop | None, laws: Mapping[str, FittedLaw] | None, envelope: Mapping[str, Envelope] | None
) -> tuple[float, float]:
    """The range of C of the optima, or the last hundredfold of the runs; ten times further at the top."""
    if isoflop is not None:
        flops = isoflop.optima["flops"]
        return float(flops.min()) / 2, float(flops.max()) * 10
    largest = [law.largest for law in (laws or {}).values()]
    largest += [float(found.points["flops"].max()) for found in (envelope or {}).values()]
    return max(largest) / 100, max(largest) * 10


def _levels(laws: Mapping[str, FittedLaw], runs: pd.DataFrame) -> Array:
    """Twelve contours, closer where the loss is low."""
    floor = min(law.E for law in laws.values())
    low, high = runs["loss"].min(), runs["loss"].max()
    return floor + np.geomspace(max(low - floor, 1e-3) * 0.97, (high - floor) * 1.05, 12)


def _shade(colour: str, place: int, of: int) -> str:
    """The colour of an architecture, lighter for its smaller budgets."""
    from matplotlib.colors import to_hex, to_rgb

    r, g, b = to_rgb(colour)
    white = 0.55 * (1 - (place + 1) / of)
    return to_hex((r + (1 - r) * white, g + (1 - g) * white, b + (1 - b) * white))


def _outer(axes: Sequence[Axes], columns: int, n: int, x: str, y: str) -> None:
    """Labels on the outer panels only."""
    for i, axis in enumerate(axes[:n]):
        if i + columns >= n:
            axis.set_xlabel(x)
            axis.tick_params(labelbottom=True)
        if i % columns == 0 and y:
            axis.set_ylabel(y)
