"""Compute-optimal perplexity of architectures, against compute and against state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from scaling.report.figures.labels import Label, name_lines, name_points
from scaling.report.figures.style import FLOPS, PPL, Look, caption, finish, looks, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from scaling.laws.isoflops import IsoFlop
    from scaling.laws.state import StateLaw


def figure_frontiers(found: IsoFlop, state: StateLaw | None = None) -> Figure:
    """Compute-optimal perplexity against compute, and against the state of those models, by architecture.

    The lines of the left panel join the optima; those of the right are the state-optimal law P* = k M^c.
    """
    used = found.optima[found.optima["used"]]
    look = looks(found.optima["arch"].unique())
    figure, axes = panels(1, 2 if state is not None else 1, width=3.7, share_x="none", log="x")
    left = axes[0]
    left.set_yscale("log")
    names: list[Label] = []
    for arch, mine in used.groupby("arch"):
        y, low, high = (np.exp(mine[name].to_numpy(float)) for name in ("loss", "loss_low", "loss_high"))
        bars = np.nan_to_num(np.abs(np.stack([y - low, high - y])))
        shown = look[str(arch)]
        fmt = shown.marker + shown.dash
        left.errorbar(mine["flops"], y, bars, fmt=fmt, color=shown.colour, markersize=4, linewidth=1.1)
        names.append((str(arch), float(mine["flops"].iloc[-1]), float(y[-1]), shown.colour))
    left.set(xlabel=FLOPS, ylabel=f"compute-optimal {PPL}")
    caption(left, f"At equal compute: {len(used)} optima\n{100 * found.confidence:g} % intervals")
    if state is not None:
        _states(axes[1], state, look)
    name_lines(left, names)
    which = "Compute- and state-optimal" if state is not None else "Compute-optimal"
    return finish(figure, f"{which} perplexity, from {found.n} runs")


def _states(axis: Axes, state: StateLaw, look: Mapping[str, Look]) -> None:
    """Classes that are architectures keep their colours, and their names are those of the other panel."""
    points = state.points
    classes = sorted(map(str, points["class"].unique()))
    named = set(classes) <= set(look)
    look = look if named else looks(classes)
    names: list[Label] = []
    for group in classes:
        mine, shown = points[points["class"] == group], look[group]
        axis.plot(mine["state"], mine["ppl"], shown.marker, color=shown.colour, markersize=4)
        if group in state.exponents:
            x = np.geomspace(mine["state"].min(), mine["state"].max(), 20)
            axis.plot(x, np.asarray(state.ppl(x, group=group)), shown.dash, color=shown.colour, linewidth=1.1)
        names.append((group, float(mine["state"].max()), float(mine["ppl"].min()), shown.colour))
    axis.set_xlabel("total state M of the optimal model (elements)")
    one = state.shared or len(state.exponents) == 1
    interval = state.interval if one else None
    band = f" ({interval.low:.2f} to {interval.high:.2f})" if interval else ""
    said = f"c = {state.exponent:.2f}{band}" if one else "each class its own c"
    caption(axis, f"At equal state: {state.n} optima\nP* = k M^c, {said}")
    if not named:
        name_points(axis, names)
