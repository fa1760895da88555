"""What training off the optimum costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scaling.report.figures.labels import Label, name_lines
from scaling.report.figures.style import GREY, caption, finish, looks, panels
from scaling.report.numbers import number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from scaling.laws.penalty import OverTraining


def figure_overtraining(found: OverTraining) -> Figure:
    """The loss above the optimum of the same compute against D / D*, with the fitted penalty and its band."""
    archs = sorted(found.basins)
    look = looks(archs)
    figure, (axis,) = panels(1, 1, width=5.4, height=3.2, log="x")
    axis.axhline(0, color="black", linewidth=0.8)
    axis.axvline(1, color=GREY, linewidth=0.8, linestyle=":")
    names: list[Label] = []
    for arch in archs:
        mine, basin, shown = found.points[found.points["arch"] == arch], found.basins[arch], look[arch]
        axis.plot(mine["ratio"], mine["penalty"], shown.marker, color=shown.colour, markersize=3, alpha=0.6)
        grid = np.geomspace(basin.lowest, basin.highest, 60)
        curve = [found.penalty(arch, float(ratio)) for ratio in grid]
        y, low, high = np.array([(p.loss, p.interval.low, p.interval.high) for p in curve]).T
        axis.plot(grid, y, shown.dash, color=shown.colour, linewidth=1.3)
        axis.fill_between(grid, low, high, color=shown.colour, alpha=0.16, linewidth=0)
        names.append((arch, float(grid[-1]), float(y[-1]), shown.colour))
    axis.set_xlabel("tokens over the optimal tokens of the same compute, D / D*")
    axis.set_ylabel("loss above the optimum (nats per token)")
    caption(
        axis, f"Points: {len(found.points)} runs at all budgets; lines: {number(found.at)} FLOPs, with bands"
    )
    name_lines(axis, names)
    return finish(figure, "Penalty of training off the optimum at equal compute")
