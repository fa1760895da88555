"""What a store's language-model runs add to the page of the leaderboard: frontiers, ratios, the relation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mad.board import frame
from mad.score import Scores
from mad.store import default_path
from scaling.commands.reading import read
from scaling.laws.runs.cleaning import NotIdentified
from scaling.report.evidence import Evidence
from scaling.report.page import section_html
from scaling.report.results.optima import isoflops_section
from scaling.report.section import Section, unidentified
from scaling.report.study_page import ratios_of, relation_of


def sections(store: str | Path | None, scores: Scores) -> list[dict[str, str]]:
    """Name, title and HTML of each section, for the entry-point group mad.page; none where the store has no
    language-model runs. What these do not identify is said in the section's place.
    """
    path = default_path() if store is None else Path(store).expanduser()
    if not path.is_file():
        return []
    runs, curves = read(None, path)
    if not len(runs):
        return []
    results: dict[tuple[str, str], Callable[[Evidence], Section]] = {
        ("frontiers", "Scaling: loss against compute"): isoflops_section,
        ("ratios", "Scaling: architectures at equal compute"): ratios_of,
        ("relation", "Scaling: scores beside perplexity"): lambda known: relation_of(known, frame(scores)),
    }
    found = []
    try:
        known = Evidence(runs, curves=curves)
    except ValueError as error:
        said = Section(name="scaling", title="Scaling", why=f"the store's runs cannot be read: {error}")
        return [_as_html(said)]
    for (name, title), make in results.items():
        try:
            made = replace(make(known), name=name, title=title)
        except NotIdentified as error:
            made = unidentified(title, error, name)
        found.append(_as_html(made))
    return found


def _as_html(section: Section) -> dict[str, str]:
    return {"name": section.name, "title": section.title, "html": section_html(section)}
