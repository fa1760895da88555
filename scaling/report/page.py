"""One self-contained HTML page: verdicts first, then parts of sentences, tables and inline SVG figures.

It loads nothing, opens from a disk, prints, and follows the reader's light or dark setting but for figures.
All text is escaped here: names of architectures come from other people's tables.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from mad.messages import printable
from scaling.report.style import number, svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """
:root { color-scheme: light dark; --rule: #8885; --soft: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; border-bottom: 1px solid var(--rule); }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .5rem 0 .2rem; font-weight: 600; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid var(--rule); text-align: right; vertical-align: top; }
th:first-child, td:first-child, td.text { text-align: left; }
.wide { overflow-x: auto; }
figure { margin: 1.2rem 0; padding: .6rem; background: #fff; color: #000; border: 1px solid var(--rule); }
figure svg { max-width: 100%; height: auto; } figcaption { font-size: .85rem; }
.why { background: var(--soft); padding: .5rem .8rem; border-left: 3px solid var(--rule); }
nav a { margin-right: 1rem; } ul { padding-left: 1.2rem; }
"""
# The page may run nothing and load nothing.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


Drawn = tuple[str, str, "Figure"]


@dataclass(frozen=True, kw_only=True)
class Part:
    """A section of the page.

    name      its anchor, [a-z-]
    verdicts  sentences that stand on top of the page too
    said      further sentences
    tables    (caption, table) each; floats are written with four digits, NaN as "-"
    figures   (name, caption, figure) each
    why       why the part could not be made, in place of all else
    """

    name: str
    title: str
    verdicts: tuple[str, ...] = ()
    said: tuple[str, ...] = ()
    tables: tuple[tuple[str, pd.DataFrame], ...] = ()
    figures: tuple[Drawn, ...] = ()
    why: str = ""


def page(title: str, about: str, parts: Sequence[Part]) -> str:
    """The HTML of the page; equal parts give equal text."""
    links = " ".join(f'<a href="#{part.name}">{_text(part.title)}</a>' for part in parts)
    verdicts = [
        f'<li><a href="#{part.name}">{_text(part.title)}</a>: {_text(sentence)}</li>'
        for part in parts
        for sentence in part.verdicts or ((f"not shown: {part.why}",) if part.why else ())
    ]
    body = "\n".join(_part(part) for part in parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{_text(title)}</h1>\n<p>{_text(about)}</p>\n<nav>{links}</nav>\n"
        f'<h2 id="verdicts">Verdicts</h2>\n<ul>\n{chr(10).join(verdicts)}\n</ul>\n{body}\n</body>\n</html>\n'
    )


def _part(part: Part) -> str:
    pieces = [f'<section id="{part.name}">\n<h2>{_text(part.title)}</h2>']
    if part.why:
        pieces.append(f'<p class="why">{_text(part.why)}</p>')
    if said := (*part.verdicts, *part.said):
        pieces.append("<ul>\n" + "\n".join(f"<li>{_text(sentence)}</li>" for sentence in said) + "\n</ul>")
    for name, caption, figure in part.figures:
        pieces.append(
            f"<figure>\n{svg(figure, name=name)}\n<figcaption>{_text(caption)}</figcaption>\n</figure>"
        )
    pieces += [_table(caption, table) for caption, table in part.tables]
    return "\n".join([*pieces, "</section>"])


def _table(caption: str, table: pd.DataFrame) -> str:
    head = "".join(f"<th>{_text(column)}</th>" for column in table.columns)
    rows = "\n".join(
        "<tr>" + "".join(_cell(value) for value in row) + "</tr>"
        for row in table.itertuples(index=False, name=None)
    )
    return (
        f'<div class="wide"><table>\n<caption>{_text(caption)}</caption>\n<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody>\n</table></div>"
    )


def _cell(value: object) -> str:
    if isinstance(value, str):
        return f'<td class="text">{_text(value)}</td>'
    return f"<td>{_text(shown(value))}</td>"


def shown(value: object) -> str:
    """A value as the tables write it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value, 4) if not value.is_integer() or abs(value) >= 1e5 else str(int(value))
    return str(value)


def span(value: float, low: float | None, high: float | None) -> str:
    """'0.512 [0.48, 0.55]', without brackets where there is no interval."""
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return shown(float(value))
    return f"{number(value)} [{number(low)}, {number(high)}]"


def _text(value: object) -> str:
    return html.escape(printable(str(value)))
