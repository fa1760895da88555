"""How figures look: one colour and marker per architecture, text that stays text, files equal byte by byte.

Figures are made without pyplot, so nothing global changes and no window opens. The colours are those of
Okabe and Ito, which the common kinds of colour blindness keep apart; markers tell them apart once more.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from scipy.optimize import isotonic_regression

from architectures.files import whole_file
from mad.board.look.numbers import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Share = Literal["none", "all", "row", "col"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C510A")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
DASHES = ("-", "--", ":", "-.")
GREY = "#666666"
PARAMS, TOKENS, FLOPS = "parameters N", "training tokens D", "training FLOPs C"
PPL = "perplexity exp(L)"
FONT = 9.0
# Beyond Latin, Greek and Cyrillic letters the font that comes with matplotlib has gaps.
UNREADABLE = re.compile(r"[^\x20-\x7e\xa0-\u024f\u0370-\u052f]")
SIZES: dict[Any, Any] = {
    **dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize"), FONT),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), FONT - 1),
    "figure.titlesize": FONT + 1,
    "font.family": "DejaVu Sans",
    "mathtext.default": "regular",
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "axes.unicode_minus"), False),
}
# The name of a point, its x and y, and a colour.
Label = tuple[str, float, float, str]


class Look(NamedTuple):
    """How one architecture looks in every figure."""

    colour: str
    marker: str
    dash: str


def looks(names: Iterable[str]) -> dict[str, Look]:
    """By name; the same set of names always looks the same."""
    return {
        name: Look(COLOURS[i % 8], MARKERS[(i + i // 8) % 8], DASHES[i // 8 % 4])
        for i, name in enumerate(sorted(set(names)))
    }


def panels(
    rows: int,
    columns: int,
    *,
    width: float = 3.2,
    height: float = 2.7,
    share_x: Share = "all",
    share_y: Share = "all",
    log: str = "",
) -> tuple[Figure, list[Axes]]:
    """A figure of rows x columns panels of width x height inches, and its axes row by row.

    log: "x" or "xy", the axes that are logarithmic
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context(SIZES):
        figure = Figure(figsize=(width * columns + 0.4, height * rows + 0.5), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, sharex=share_x, sharey=share_y, squeeze=False)
        for axis in axes.flat:
            axis.grid(True, which="major", color="#e4e4e4", linewidth=0.6)
            axis.set_axisbelow(True)
            axis.set(**{f"{side}scale": "log" for side in log})
        return figure, list(axes.flat)


def panel_each(n: int, x: str, y: str, *, log: str) -> tuple[Figure, list[Axes]]:
    """A figure of n panels that share their axes: three in a row at most, two where that leaves no gap."""
    columns = n if n < 4 else 2 if n == 4 else 3
    figure, axes = panels(-(-n // columns), columns, log=log)
    for axis in axes[n:]:
        axis.set_visible(False)
    label_bottom(axes[:n], columns, x)
    for axis in axes[:n:columns]:
        axis.set_ylabel(y)
    return figure, axes[:n]


def label_bottom(axes: Sequence[Axes], columns: int, x: str) -> None:
    """Label the x axis of the lowest panel of each column."""
    for axis in axes[-columns:]:
        axis.set_xlabel(x)
        axis.tick_params(labelbottom=True)


def finish(figure: Figure, text: str) -> Figure:
    """What the figure shows, at its upper left, and readable ticks on logarithmic axes.

    Ticks are powers of ten, or where the axis has few of these, numbers between them as well.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    wide = int(figure.get_figwidth() * 72 / (0.58 * (FONT + 1)))
    figure.suptitle(textwrap.fill(text, wide), x=0.01, ha="left", fontsize=FONT + 1)
    for axes in figure.axes:
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
            if axis.get_scale() != "log":
                continue
            if (decades := math.log10(high / low)) < 1.7:
                steps = (1.0, 2.0, 5.0) if decades > 0.7 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
                axis.set_major_locator(LogLocator(subs=steps))
                axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
            axis.set_minor_formatter(NullFormatter())
    return figure


def caption(axis: Axes, text: str) -> None:
    """What one panel shows, above it."""
    axis.set_title(text, loc="left", fontsize=FONT)


def legend(figure: Figure, axis: Axes) -> None:
    """Names below the panels, where lines cannot carry them."""
    handles = axis.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, frameon=False, fontsize=FONT - 1)


def band(axis: Axes, look: Look, x: Any, y: Any, low: Any, high: Any) -> None:
    """A line and the band of its intervals."""
    axis.plot(x, y, look.dash, color=look.colour, linewidth=1.3)
    axis.fill_between(x, low, high, color=look.colour, alpha=0.16, linewidth=0)


def bars(y: Any, low: Any, high: Any) -> Any:
    """The lengths of error bars (2, n), 0 where an end is not known."""
    return np.nan_to_num(np.abs(np.stack([y - low, high - y])))


def name_points(axis: Axes, names: Sequence[Label]) -> None:
    """Names beside points, towards the middle, moved apart where points stand close.

    To be called when the limits of the axes are final, as `name_lines` is.
    """
    places = _places(axis, names)
    for left in (True, False):
        here = [i for i, (x, _) in enumerate(places) if (x < 0.5) == left]
        spots = spread([places[i][1] for i in here], 0.052)
        for i, spot in zip(here, spots, strict=True):
            name, x, y, colour = names[i]
            line = {"arrowstyle": "-", "color": colour, "linewidth": 0.4, "shrinkA": 0, "shrinkB": 2}
            axis.annotate(
                plain(name, 26),
                (x, y),
                xytext=(places[i][0] + (0.03 if left else -0.03), spot),
                textcoords="axes fraction",
                ha="left" if left else "right",
                arrowprops=line,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.3},
                **_small(colour),
            )


def name_lines(axis: Axes, names: Sequence[Label], *, aligned: bool = True) -> None:
    """Names to the right of the last points of lines, moved apart in height; aligned: below one another."""
    places = _places(axis, names)
    right = max((x for x, _ in places), default=1.0) + 0.025
    spots = spread([y for _, y in places], 0.06 if aligned else 0.055)
    for (name, _, _, colour), (x, _), y in zip(names, places, spots, strict=True):
        x = right if aligned else x + 0.02
        axis.text(x, y, plain(name, 22), transform=axis.transAxes, **_small(colour))


def spread(positions: Iterable[float], least: float) -> list[float]:
    """Positions at least `least` apart, in the same order, moved as little as that takes: for labels."""
    given = np.array(list(positions), float)
    order = np.argsort(given, kind="stable")
    steps = least * np.arange(len(given))
    given[order] = isotonic_regression(given[order] - steps).x + steps
    return list(map(float, given))


def _small(colour: str) -> dict[str, Any]:
    return {"fontsize": FONT - 2, "color": colour, "va": "center"}


def _places(axis: Axes, names: Sequence[Label]) -> list[tuple[float, float]]:
    """The points in shares of the panel, once the limits that drawing would set are set."""
    axis.set(xlim=axis.get_xlim(), ylim=axis.get_ylim())
    to_axes = axis.transData + axis.transAxes.inverted()
    return [tuple(map(float, to_axes.transform((x, y)))) for _, x, y, _ in names]  # type: ignore[misc]


def plain(name: object, longest: int = 34) -> str:
    """A name as a label: dollar signs are not mathematics, the font has every letter, not too long."""
    text = UNREADABLE.sub("?", str(name))
    return (text if len(text) <= longest else f"{text[: longest - 3]}...").replace("$", r"\$")


def svg(figure: Figure, *, name: str = "figure") -> str:
    """The figure as an <svg> element, text as text. Its ids begin with `name`: a page can hold many."""
    import matplotlib as mpl

    target = io.StringIO()
    with mpl.rc_context({**SIZES, "svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None})
    text = target.getvalue()
    text = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{name}-", text[text.index("<svg") :])
    return re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)


def save(figure: Figure, path: str | Path) -> Path:
    """Write a PNG (200 dots per inch), SVG or PDF, by the ending of the path; equal figures make equal files.

    A file that exists is replaced; missing folders are made.
    """
    import matplotlib as mpl

    path = Path(path)
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise ValueError(f"{path.name!r} is neither .png nor .svg nor .pdf; give one of them")
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, force=True) as part:
        if path.suffix == ".svg":
            part.write_text('<?xml version="1.0" encoding="utf-8"?>\n' + svg(figure, name=path.stem), "utf-8")
        else:
            # What differs from one writing to the next is left out.
            told = {"CreationDate": None} if path.suffix == ".pdf" else {"Software": None}
            with mpl.rc_context({**SIZES, "pdf.fonttype": 42}):
                figure.savefig(part, dpi=200, metadata=told)
    return path
