"""A drawing as SVG: boxes, arrows and words, the same in every picture, and equal files for equal drawings.

Written by hand instead of by a plotting library: text stays text, a picture is a few kilobytes, and its own
pale ground keeps it readable on a dark page.
"""

import re
from collections.abc import Iterable
from html import escape
from typing import NamedTuple

WIDTH = 440
INK, GREY = "#1b1b1b", "#6b6b6b"
# What flows; a layer; what the mechanism adds; what is kept; what it is asked.
FILLS = {"value": "#ffffff", "layer": "#d3e6f5", "new": "#fbdcb4", "memory": "#cdebdd", "ask": "#f6d5d5"}
STYLE = (
    "text{font-family:Helvetica,Arial,'DejaVu Sans',sans-serif}"
    ".name{font-family:Menlo,Consolas,'DejaVu Sans Mono',monospace;font-weight:bold}"
)
HEAD = (
    '<marker id="head" markerWidth="7" markerHeight="7" refX="5.5" refY="3" orient="auto">'
    f'<path d="M0 0L6 3L0 6z" fill="{INK}"/></marker>'
)


class Box(NamedTuple):
    """A box by its centre and its size; a point has none."""

    x: float
    y: float
    w: float = 0
    h: float = 0


class Canvas:
    """A picture `WIDTH` wide."""

    def __init__(self, height: float) -> None:
        self.height = height
        self.parts: list[str] = []

    def text(
        self, x: float, y: float, words: str, *, size: float = 11, at: str = "middle", grey: bool = False
    ) -> None:
        """Words around the height y; `k_t` and `S_{t-1}` are set low."""
        colour = GREY if grey else INK
        place = f'x="{_n(x)}" y="{_n(y + 0.36 * size)}" font-size="{_n(size)}" text-anchor="{at}"'
        self.parts.append(f'<text {place} fill="{colour}">{_lowered(words, size)}</text>')

    def layer(self, x: float, y: float, name: str, *, size: float = 10.5, at: str = "middle") -> None:
        """The name of a layer as a spec writes it."""
        place = f'x="{_n(x)}" y="{_n(y + 0.36 * size)}" font-size="{_n(size)}" text-anchor="{at}"'
        self.parts.append(f'<text class="name" {place} fill="{INK}">{name}</text>')

    def rect(self, x: float, y: float, w: float, h: float, fill: str, *, edge: str = "none") -> None:
        """A plain rectangle by its upper left corner."""
        place = f'x="{_n(x)}" y="{_n(y)}" width="{_n(w)}" height="{_n(h)}"'
        self.parts.append(f'<rect {place} fill="{fill}" stroke="{edge}"/>')

    def box(
        self, x: float, y: float, words: str, kind: str = "layer", *, w: float = 64, h: float = 24
    ) -> Box:
        """A box around the point (x, y), with words in one line or, parted by `|`, in several."""
        place = f'x="{_n(x - w / 2)}" y="{_n(y - h / 2)}" width="{_n(w)}" height="{_n(h)}" rx="4"'
        self.parts.append(f'<rect {place} fill="{FILLS[kind]}" stroke="{GREY}"/>')
        lines = words.split("|")
        for i, line in enumerate(lines):
            self.text(x, y + 12 * (i - (len(lines) - 1) / 2), line, size=10.5)
        return Box(x, y, w, h)

    def disc(self, x: float, y: float, words: str = "+", kind: str = "value", *, r: float = 7) -> Box:
        place = f'cx="{_n(x)}" cy="{_n(y)}" r="{_n(r)}"'
        self.parts.append(f'<circle {place} fill="{FILLS[kind]}" stroke="{GREY}"/>')
        self.text(x, y, words, size=10.5)
        return Box(x, y, 2 * r, 2 * r)

    def path(self, points: Iterable[tuple[float, float]], *, head: bool = True, dashed: bool = False) -> None:
        """A line through points, with an arrow's head at its end."""
        corners = "L".join(f"{_n(x)} {_n(y)}" for x, y in points)
        more = (' marker-end="url(#head)"' if head else "") + (' stroke-dasharray="3 2"' if dashed else "")
        self.parts.append(f'<path d="M{corners}" fill="none" stroke="{INK}"{more}/>')

    def arrow(self, start: Box, end: Box, *, head: bool = True, dashed: bool = False) -> None:
        """A straight line between the edges of two boxes, from the sides or the ends that face each other."""
        across = abs(end.x - start.x) - (start.w + end.w) / 2 > abs(end.y - start.y) - (start.h + end.h) / 2
        if across:
            sign = 1 if end.x > start.x else -1
            ends = (start.x + sign * start.w / 2, start.y), (end.x - sign * end.w / 2, end.y)
        else:
            sign = 1 if end.y > start.y else -1
            ends = (start.x, start.y + sign * start.h / 2), (end.x, end.y - sign * end.h / 2)
        self.path(ends, head=head, dashed=dashed)

    def chain(self, *boxes: Box) -> None:
        """Arrows from each box to the next."""
        for start, end in zip(boxes, boxes[1:], strict=False):
            self.arrow(start, end)

    def row(self, y: float, *items: tuple[str, str], w: float = 70, h: float = 30) -> list[Box]:
        """Boxes at equal distances over the whole width, as (words, kind), each with an arrow to the next."""
        step = (WIDTH - w - 16) / (len(items) - 1)
        boxes = [
            self.box(8 + w / 2 + i * step, y, words, kind, w=w, h=h) for i, (words, kind) in enumerate(items)
        ]
        self.chain(*boxes)
        return boxes

    def cells(self, x: float, y: float, size: float, levels: list[list[int]], shades: list[str]) -> None:
        """A grid of squares from its upper left corner, one path for each shade; level 0 is left out."""
        for level, shade in enumerate(shades, start=1):
            runs = []
            for i, row in enumerate(levels):
                for run in re.finditer(f"{level}+", "".join(map(str, row))):
                    wide = _n(size * (run.end() - run.start()))
                    at = f"{_n(x + size * run.start())} {_n(y + size * i)}"
                    runs.append(f"M{at}h{wide}v{_n(size)}h-{wide}z")
            if runs:
                self.parts.append(f'<path d="{"".join(runs)}" fill="{shade}"/>')

    def svg(self, about: str) -> str:
        """The file; `about` is for those who cannot see it."""
        size = f'width="{WIDTH}" height="{_n(self.height)}" viewBox="0 0 {WIDTH} {_n(self.height)}"'
        ground = f'<rect width="{WIDTH}" height="{_n(self.height)}" rx="6" fill="#ffffff"/>'
        lines = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">']
        lines += [f"<title>{escape(about)}</title>", f"<defs>{HEAD}<style>{STYLE}</style></defs>", ground]
        return "\n".join([*lines, *self.parts, "</svg>", ""])


def _n(number: float) -> str:
    """A coordinate, as short as it can be."""
    return f"{number:.1f}".removesuffix(".0")


def _lowered(words: str, size: float) -> str:
    """Words with what follows an underscore in a smaller type below the line."""
    out, low = [], f'<tspan dy="{_n(0.2 * size)}" font-size="{_n(0.75 * size)}">'
    for i, piece in enumerate(re.split(r"_(\{[^}]*\}|\w)", words)):
        if i % 2:
            # The words behind it go up again.
            out.append(f'{low}{escape(piece.strip("{}"))}</tspan><tspan dy="-{_n(0.2 * size)}">')
        else:
            out.append(escape(piece) + ("</tspan>" if i else ""))
    return "".join(out)
