"""What a fitted law says of the loss: its surface over size and data, and what it leaves over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from scaling.laws.runs.cleaning import Table, clean
from scaling.report.figures.style import (
    FLOPS,
    FONT,
    GREY,
    PARAMS,
    TOKENS,
    caption,
    finish,
    legend,
    looks,
    panel_each,
    panels,
    plain,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from scaling.laws.fitting import FittedLaw


def figure_surface(frame: Table, laws: Mapping[str, FittedLaw]) -> Figure:
    """Contours of the fitted loss over N and D with the runs, isoFLOP lines and the efficient frontier."""
    runs = clean(frame).frame
    look = looks(runs["arch"].unique())
    figure, axes = panel_each(len(laws), PARAMS, TOKENS, log="xy")
    n, d = (np.geomspace(runs[name].min() / 1.6, runs[name].max() * 1.6, 80) for name in ("params", "tokens"))
    levels = _levels(laws, runs)
    for axis, (arch, law) in zip(axes, laws.items(), strict=True):
        mine = runs[runs["arch"] == arch]
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
    return finish(
        figure, "Fitted loss (contours, nats per token), runs, and the optimum N*(C), D*(C) (dashed)"
    )


def figure_residuals(frame: Table, laws: Mapping[str, FittedLaw]) -> Figure:
    """Residuals of the laws against N, D and C: what the form of the law does not hold."""
    runs = clean(frame).frame
    look = looks(runs["arch"].unique())
    figure, axes = panels(1, 3, width=3.0, share_x="none", log="x")
    names = {"params": PARAMS, "tokens": TOKENS, "flops": FLOPS}
    for axis, (column, label) in zip(axes, names.items(), strict=True):
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_xlabel(label)
        for arch, law in laws.items():
            rows = law.residuals.index if len(laws) == 1 else runs.index[runs["arch"] == arch]
            x = runs.loc[rows, column].to_numpy(float)
            # A residual is ln of the prediction over the loss.
            y = 100 * np.expm1(-law.residuals.to_numpy(float))
            how: dict[str, Any] = {
                "color": look[arch].colour,
                "markersize": 3.5,
                "alpha": 0.75,
                "label": plain(arch),
            }
            axis.plot(x, y, look[arch].marker, **how)
    bound = max(map(abs, axes[0].get_ylim()))
    axes[0].set(ylim=(-bound, bound), ylabel="loss above the law (%)")
    if len(laws) > 1:
        legend(figure, axes[0])
    total = sum(law.n for law in laws.values())
    return finish(figure, f"Residuals of the fitted law, {total} runs; a trend is what the law misses")


def _levels(laws: Mapping[str, FittedLaw], runs: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Twelve contours, closer where the loss is low."""
    floor = min(law.E for law in laws.values())
    low, high = runs["loss"].min(), runs["loss"].max()
    return floor + np.geomspace(max(low - floor, 1e-3) * 0.97, (high - floor) * 1.05, 12)
