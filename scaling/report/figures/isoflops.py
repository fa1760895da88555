"""Loss at equal compute, with the parabolas of the isoFLOP method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scaling.laws.optima import grouped
from scaling.laws.runs.cleaning import Table
from scaling.report.figures.labels import Label, name_curves
from scaling.report.figures.style import PARAMS, caption, finish, looks, panel_each, plain
from scaling.report.numbers import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from scaling.laws.isoflops import IsoFlop

MOST_LABELS = 6


def figure_isoflop(frame: Table, found: IsoFlop) -> Figure:
    """Loss against N at each budget, parabolas, and optima with intervals; a panel per architecture."""
    table = grouped(frame).frame
    archs = sorted(table["arch"].unique())
    look = looks(archs)
    figure, axes = panel_each(len(archs), PARAMS, "loss L (nats per token)", log="x")
    levels = sorted(table["budget"].unique())
    labels: list[list[Label]] = []
    for axis, arch in zip(axes, archs, strict=True):
        mine, optima = table[table["arch"] == arch], found.optima[found.optima["arch"] == arch]
        shades = {
            budget: _shade(look[arch].colour, (place + 1) / len(levels))
            for place, budget in enumerate(levels)
        }
        ends: list[Label] = []
        for budget, group in mine.groupby("budget"):
            shade = shades[budget]
            axis.plot(group["params"], group["loss"], look[arch].marker, color=shade, markersize=3.5)
            last = group.loc[group["params"].idxmax()]
            ends.append((number(float(budget)), float(last["params"]), float(last["loss"]), shade))
        for row in optima.itertuples():
            _parabola(axis, row, mine, shades[row.budget])
        # So many that they do not crowd.
        labels.append(ends[::-1][:: -(-len(ends) // MOST_LABELS)])
        caption(
            axis, f"{plain(arch)}\n{len(mine)} runs, {int(optima['used'].sum())} of {len(ends)} optima used"
        )
    # Room for labels at the right; an interval that has no end does not set the range.
    smallest, largest = float(table["params"].min()), float(table["params"].max())
    axes[0].set_xlim(smallest / 1.5, largest * (largest / smallest) ** 0.2)
    for axis, ends in zip(axes, labels, strict=True):
        name_curves(axis, ends)
    level = f"{100 * found.confidence:g} % interval"
    return finish(figure, f"Loss at equal compute (FLOPs at the curves); stars: optimum with {level}")


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
    star: dict[str, Any] = {
        "markerfacecolor": "black" if row.used else "white",
        "markersize": 7,
        "markeredgewidth": 0.7,
    }
    axis.plot(row.params, row.loss, "*", color="black", **star)


def _shade(colour: str, share: float) -> str:
    """The colour of an architecture, lighter for its smaller budgets."""
    from matplotlib.colors import to_hex, to_rgb

    white = 0.55 * (1 - share)
    r, g, b = to_rgb(colour)
    return to_hex((r + (1 - r) * white, g + (1 - g) * white, b + (1 - b) * white))
