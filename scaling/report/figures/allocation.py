"""Compute-optimal size and data against compute."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from scaling.laws.envelopes import Envelope
from scaling.laws.isoflops import IsoFlop
from scaling.report.allocations import allocation
from scaling.report.figures.labels import Label, name_lines
from scaling.report.figures.style import FLOPS, PARAMS, TOKENS, caption, finish, looks, outer_labels, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from scaling.laws.fitting import FittedLaw

TITLES = (
    "Approach 1: envelope of all runs",
    "Approach 2: isoFLOP parabolas",
    "Approach 3: law of loss",
)


def figure_allocation(
    isoflop: IsoFlop | None = None,
    laws: Mapping[str, FittedLaw] | None = None,
    envelope: Mapping[str, Envelope] | None = None,
) -> Figure:
    """N* and D* against C with bands, by the approaches that are given, side by side on shared axes."""
    second = {} if isoflop is None else isoflop.by_arch or {"all": isoflop}
    given: tuple[Mapping[str, Any] | None, ...] = (envelope, second, laws)
    parts = [(title, of) for title, of in zip(TITLES, given, strict=True) if of]
    if not parts:
        raise ValueError("there is nothing to draw; give isoflop=, laws= or envelope=")
    look = looks({arch for _, of in parts for arch in of})
    grid = np.geomspace(*_span(isoflop, laws, envelope), 60)
    figure, axes = panels(2, len(parts), share_y="row", log="xy")
    ends: list[list[Label]] = [[] for _ in axes]
    drawn: dict[str, list[float]] = {"params": [], "tokens": []}
    for column, (title, of) in enumerate(parts):
        caption(axes[column], title)
        for place, what in ((column, "params"), (len(parts) + column, "tokens")):
            axis = axes[place]
            for arch, result in sorted(of.items()):
                band = [allocation(result, float(c)) for c in grid]
                middle = np.array([point[what] for point in band])
                shown = [point.get("intervals", {}).get(what) for point in band]
                under, over = (
                    np.array([getattr(end, side) if end else np.nan for end in shown])
                    for side in ("low", "high")
                )
                axis.plot(grid, middle, look[arch].dash, color=look[arch].colour, linewidth=1.3)
                axis.fill_between(grid, under, over, color=look[arch].colour, alpha=0.16, linewidth=0)
                _points(axis, result, what, look[arch].marker, look[arch].colour)
                drawn[what] += [y for line in (middle, under, over) for y in line[np.isfinite(line)]]
                ends[place].append((arch, float(grid[-1]), float(middle[-1]), look[arch].colour))
    for axis, what in ((axes[0], "params"), (axes[-1], "tokens")):
        axis.set_ylim(min(drawn[what]) / 1.5, max(drawn[what]) * 1.5)
    for axis, names in zip(axes, ends, strict=True):
        name_lines(axis, names)
    outer_labels(axes, len(parts), FLOPS, "")
    axes[0].set_ylabel(f"optimal {PARAMS}*")
    axes[len(parts)].set_ylabel(f"optimal {TOKENS}*")
    return finish(figure, "Compute-optimal size and data against compute; bands: intervals of the line")


def _points(axis: Axes, result: Any, what: str, marker: str, colour: str) -> None:
    """The optima behind a line, with their intervals, or the points of an envelope; a law has none."""
    if isinstance(result, Envelope):
        axis.plot(result.points["flops"], result.points[what], ".", color=colour, markersize=2, alpha=0.5)
    elif isinstance(result, IsoFlop):
        used = result.optima[result.optima["used"]]
        y = used[what].to_numpy(float)
        bars = np.nan_to_num(np.abs(np.stack([y - used[f"{what}_low"], used[f"{what}_high"] - y])))
        axis.errorbar(used["flops"], y, bars, fmt=marker, color=colour, markersize=3.5, linewidth=0.9)


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
