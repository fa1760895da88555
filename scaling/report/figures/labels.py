"""Labels in panels, moved apart where they would overlap: (text, x, y, colour) of each point."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from scaling.report.figures.style import FONT, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Label = tuple[str, float, float, str]


def name_points(axis: Axes, names: Sequence[Label]) -> None:
    """Names beside points, towards the middle, moved apart where points stand close.

    To be called when the limits of the axes are final.
    """
    places = _places(axis, names)
    for left in (True, False):
        here = [i for i, (_, x, _, _) in enumerate(places) if (x < 0.5) == left]
        spots = spread([places[i][2] for i in here], 0.052)
        for i, spot in zip(here, spots, strict=True):
            name, x, y, colour = names[i]
            axis.annotate(
                plain(name, 26),
                (x, y),
                xytext=(places[i][1] + (0.03 if left else -0.03), spot),
                textcoords="axes fraction",
                fontsize=FONT - 2,
                color=colour,
                va="center",
                ha="left" if left else "right",
                arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.4, "shrinkA": 0, "shrinkB": 2},
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.3},
            )


def name_lines(axis: Axes, names: Sequence[Label]) -> None:
    """Names to the right of the last points of lines, below one another, moved apart in height."""
    places = _places(axis, names)
    right = max((x for _, x, _, _ in places), default=1.0) + 0.025
    _write(axis, [(plain(name, 22), right, y, colour) for (name, _, y, colour) in places], 0.06)


def name_curves(axis: Axes, names: Sequence[Label]) -> None:
    """Names just behind the last points of curves, moved apart in height."""
    places = _places(axis, names)
    _write(axis, [(name, x + 0.02, y, colour) for name, x, y, colour in places], 0.055)


def spread(positions: Iterable[float], least: float) -> list[float]:
    """Positions at least `least` apart, in the same order, moved as little as that takes: for labels."""
    order = sorted(range(len(given := list(positions))), key=lambda i: given[i])
    blocks: list[tuple[float, list[int]]] = []  # centre and members, from below
    for i in order:
        centre, members = given[i], [i]
        while blocks:
            below, theirs = blocks[-1]
            if centre - below >= least * (len(members) + len(theirs)) / 2 - 1e-12:
                break
            blocks.pop()
            both = len(members) + len(theirs)
            centre = (centre * len(members) + below * len(theirs)) / both
            members = theirs + members
        blocks.append((centre, members))
    out = [0.0] * len(given)
    for centre, members in blocks:
        for place, i in enumerate(members):
            out[i] = centre + least * (place - (len(members) - 1) / 2)
    return out


def _write(axis: Axes, labels: Sequence[Label], least: float) -> None:
    spots = spread([y for _, _, y, _ in labels], least)
    for (text, x, _, colour), y in zip(labels, spots, strict=True):
        axis.text(x, y, text, transform=axis.transAxes, fontsize=FONT - 2, color=colour, va="center")


def _places(axis: Axes, names: Sequence[Label]) -> list[Label]:
    """In shares of the panel, once the limits that drawing would set are set."""
    axis.set(xlim=axis.get_xlim(), ylim=axis.get_ylim())
    to_axes = axis.transData + axis.transAxes.inverted()
    return [(name, *map(float, to_axes.transform((x, y))), colour) for name, x, y, colour in names]  # type: ignore[misc]
