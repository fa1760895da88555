"""How figures look: one colour and marker an architecture, text that stays text, files equal byte by byte.

Figures are made without pyplot, so nothing global changes and no window opens. The colours are those of
Okabe and Ito, which the common kinds of colour blindness keep apart; markers do it once more.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from architectures.files import whole_file
from scaling.report.numbers import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

Share = Literal["none", "all", "row", "col"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C510A")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
DASHES = ("-", "--", ":", "-.")
GREY = "#666666"
PARAMS, TOKENS, FLOPS = "parameters N", "training tokens D", "training FLOPs C"
PPL = "perplexity exp(L)"
LONGEST = 34
FONT = 9.0
# Beyond Latin, Greek and Cyrillic letters the font that comes with matplotlib has gaps.
READABLE = re.compile(r"[\x20-\x7e\xa0-\u024f\u0370-\u052f]")
SIZES: dict[Any, Any] = {
    "font.size": FONT,
    "axes.titlesize": FONT,
    "axes.labelsize": FONT,
    "xtick.labelsize": FONT - 1,
    "ytick.labelsize": FONT - 1,
    "legend.fontsize": FONT - 1,
    "figure.titlesize": FONT + 1,
    "font.family": "DejaVu Sans",
    "mathtext.default": "regular",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": False,
}


@dataclass(frozen=True)
class Look:
    """Of one architecture, in every figure."""

    colour: str
    marker: str
    dash: str


def looks(names: Iterable[str]) -> dict[str, Look]:
    """By name; the same set of names always looks the same."""
    found = sorted(set(names))
    return {
        name: Look(COLOURS[i % 8], MARKERS[(i + i // 8) % 8], DASHES[i // 8 % 4])
        for i, name in enumerate(found)
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
    outer_labels(axes[:n], columns, x, y)
    return figure, axes[:n]


def outer_labels(axes: Sequence[Axes], columns: int, x: str, y: str) -> None:
    """Labels on the outer panels only."""
    for i, axis in enumerate(axes):
        if i + columns >= len(axes):
            axis.set_xlabel(x)
            axis.tick_params(labelbottom=True)
        if i % columns == 0 and y:
            axis.set_ylabel(y)


def finish(figure: Figure, text: str) -> Figure:
    """What the figure shows, at its upper left, and readable ticks on logarithmic axes."""
    wide = int(figure.get_figwidth() * 72 / (0.58 * (FONT + 1)))
    figure.suptitle(textwrap.fill(text, wide), x=0.01, ha="left", fontsize=FONT + 1)
    for axes in figure.axes:
        for axis, scale, ends in (
            (axes.xaxis, axes.get_xscale(), axes.get_xlim()),
            (axes.yaxis, axes.get_yscale(), axes.get_ylim()),
        ):
            if scale == "log":
                _ticks(axis, math.log10(ends[1] / ends[0]))
    return figure


def _ticks(axis: Axis, decades: float) -> None:
    """Powers of ten, or where the axis has few, numbers between them as well."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if decades < 1.7:
        steps = (1.0, 2.0, 5.0) if decades > 0.7 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
        axis.set_major_locator(LogLocator(subs=steps))
        axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axis.set_minor_formatter(NullFormatter())


def caption(axis: Axes, text: str) -> None:
    """What one panel shows, above it."""
    axis.set_title(text, loc="left", fontsize=FONT)


def legend(figure: Figure, axis: Axes) -> None:
    """Names below the panels, where lines cannot carry them."""
    handles = axis.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, frameon=False, fontsize=FONT - 1)


def plain(name: object, longest: int = LONGEST) -> str:
    """A name as a label: no mathematics by a dollar sign, nothing that the font lacks, not too long."""
    text = "".join(c if READABLE.match(c) else "?" for c in str(name))
    text = text if len(text) <= longest else f"{text[: longest - 3]}..."
    return text.replace("$", r"\$")


def svg(figure: Figure, *, name: str = "figure") -> str:
    """The figure as an <svg> element, text as text. Its ids begin with `name`: a page can hold many."""
    import matplotlib as mpl

    target = io.StringIO()
    with mpl.rc_context({**SIZES, "svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(target, format="svg", metadata={"Date": None, "Creator": None})
    text = target.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'(\sid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    return re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)


def save(figure: Figure, path: str | Path) -> Path:
    """Write a PNG (200 dots an inch) or an SVG, by the ending of the path; equal figures make equal files.

    A file that exists is replaced; folders that lack are made.
    """
    import matplotlib as mpl

    path = Path(path)
    if path.suffix not in (".png", ".svg"):
        raise ValueError(f"{path.name!r} is neither .png nor .svg; give one of them")
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, force=True) as part:
        if path.suffix == ".svg":
            part.write_text('<?xml version="1.0" encoding="utf-8"?>\n' + svg(figure, name=path.stem), "utf-8")
        else:
            with mpl.rc_context(SIZES):
                figure.savefig(part, dpi=200, metadata={"Software": None})
    return path
