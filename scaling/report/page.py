"""One self-contained HTML page: verdicts first, then parts of sentences, tables and inline SVG figures.

It loads nothing, opens from a disk, prints, and follows the reader's light or dark setting but for figures.
All text is escaped here: names of architectures come from other people's tables.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from mad.board.look.figures import svg
from mad.messages import printable
from scaling.report.numbers import shown
from scaling.report.section import Section, Table

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


def page(title: str, about: str, sections: Sequence[Section]) -> str:
    """The HTML of the page; equal sections give equal text."""
    links = " ".join(f'<a href="#{section.name}">{_text(section.title)}</a>' for section in sections)
    verdicts = [
        f'<li><a href="#{section.name}">{_text(section.title)}</a>: {_text(sentence)}</li>'
        for section in sections
        for sentence in section.verdicts or ((f"not shown: {section.why}",) if section.why else ())
    ]
    body = "\n".join(section_html(section) for section in sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{_text(title)}</h1>\n<p>{_text(about)}</p>\n<nav>{links}</nav>\n"
        f'<h2 id="verdicts">Verdicts</h2>\n<ul>\n{chr(10).join(verdicts)}\n</ul>\n{body}\n</body>\n</html>\n'
    )


def section_html(section: Section) -> str:
    """One section as an element that a page holds, everything in it escaped."""
    pieces = [f'<section id="{section.name}">\n<h2>{_text(section.title)}</h2>']
    if section.why:
        pieces.append(f'<p class="why">{_text(section.why)}</p>')
    if said := (*section.verdicts, *section.notes):
        pieces.append("<ul>\n" + "\n".join(f"<li>{_text(sentence)}</li>" for sentence in said) + "\n</ul>")
    for drawing in section.figures:
        caption = f"<figcaption>{_text(drawing.caption)}</figcaption>"
        pieces.append(f"<figure>\n{svg(drawing.figure, name=drawing.name)}\n{caption}\n</figure>")
    pieces += map(_table, section.tables)
    return "\n".join([*pieces, "</section>"])


def _table(table: Table) -> str:
    head = "".join(f"<th>{_text(column)}</th>" for column in table.frame.columns)
    rows = "\n".join(
        "<tr>" + "".join(_cell(value) for value in row) + "</tr>"
        for row in table.frame.itertuples(index=False, name=None)
    )
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{_text(table.caption)}">'
        f"<table>\n<caption>{_text(table.caption)}</caption>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>"
    )


def _cell(value: object) -> str:
    if isinstance(value, str):
        return f'<td class="text">{_text(value)}</td>'
    return f"<td>{_text(shown(value))}</td>"


def _text(value: object) -> str:
    return html.escape(printable(str(value)))
