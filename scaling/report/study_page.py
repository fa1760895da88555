"""The page of a study: all that its runs show, and why they do not show the rest."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from architectures.files import check_target, whole_file
from mad.board.look.figures import save
from scaling.laws.comparison import compare
from scaling.laws.families import fit_families
from scaling.laws.penalty import overtraining
from scaling.laws.runs.cleaning import NotIdentified
from scaling.laws.runs.cleaning import Table as RunTable
from scaling.laws.runs.doubts import SERIOUS
from scaling.laws.state import state_law
from scaling.report.evidence import BEYOND, Evidence
from scaling.report.numbers import number
from scaling.report.page import page
from scaling.report.results.allocation import allocations_section
from scaling.report.results.law import families_section, laws_section
from scaling.report.results.optima import isoflops_section
from scaling.report.results.ratios import penalty_section, ratios_section, state_section
from scaling.report.results.relation import relation_section
from scaling.report.section import Section, Table, unidentified
from scaling.scores.relation import relate
from scaling.scores.table import read_scores


def write(
    frame: RunTable,
    out: str | Path,
    *,
    scores: pd.DataFrame | None = None,
    title: str = "Scaling laws",
    figures: str | Path | None = None,
    force: bool = True,
    **how: Any,
) -> Path:
    """Write the page for a table of runs (`scaling.laws.runs`) to `out`; equal input makes equal files.

    scores   synthetic scores by architecture, as `relate` reads them; without them that part says so
    figures  a folder for every figure as PNG and SVG
    force    whether files that exist are replaced; False refuses them, before anything is written
    how      what `Evidence` takes: curves, repeats, budget, budgets, bootstrap, confidence, seed

    What the runs do not identify stands on the page as the reason. ValueError for tables that `clean` or
    `read_scores` refuse, before anything is written.
    """
    check_target(out, force=force)
    if figures is not None:
        Path(figures).mkdir(parents=True, exist_ok=True)
    if scores is not None:
        read_scores(scores)
    known = Evidence(frame, **how)
    results: dict[tuple[str, str], Callable[[Evidence], Section]] = {
        ("runs", "Runs"): runs_section,
        ("isoflop", "IsoFLOP optima"): isoflops_section,
        ("laws", "Laws of loss"): laws_section,
        ("allocation", "Compute-optimal allocation"): allocations_section,
        ("compare", "Architectures at equal compute"): ratios_of,
        ("multipliers", "Compute multipliers"): _multipliers,
        ("state", "Architectures at equal state"): _state,
        ("overtraining", "Training off the optimum"): _penalties,
        ("relate", "Synthetic scores"): lambda known: relation_of(known, scores),
        ("limits", "What these runs can and cannot show"): limits_section,
    }
    sections = []
    for (name, heading), make in results.items():
        try:
            sections.append(replace(make(known), name=name, title=heading))
        except NotIdentified as error:
            sections.append(unidentified(heading, error, name))
    text = page(title, known.summary, sections)
    if figures is not None:
        drawn = {
            Path(figures) / f"{drawing.name}{ending}": drawing.figure
            for section in sections
            for drawing in section.figures
            for ending in (".png", ".svg")
        }
        for path in drawn:
            check_target(path, force=force)
        for path, figure in drawn.items():
            save(figure, path)
    with whole_file(out, force=force) as half:
        half.write_text(text, encoding="utf-8")
    return Path(out)


def ratios_of(known: Evidence) -> Section:
    if len(known.archs) < 2:
        raise NotIdentified("There is one architecture; train another at the same budgets to compare them.")
    return _sentences(ratios_section(compare(known.groups, baseline=known.best, **known.drawn), known.iso))


def _multipliers(known: Evidence) -> Section:
    if len(known.archs) < 2:
        raise NotIdentified("There is one architecture; compute multipliers need two.")
    found = fit_families(known.ends, repeats=known.repeats, **known.drawn)
    return families_section(found, (known.target,), reference=known.best, shared=found.shared)


def _state(known: Evidence) -> Section:
    if "state" not in known.ends.frame:
        raise NotIdentified("The runs have no column state (elements of recurrent state); add it.")
    try:
        law = state_law(known.groups, confidence=known.drawn["confidence"])
    except ValueError as error:
        # The runs were read before: what is left is that not all have a state, a fact that the page states.
        raise NotIdentified(str(error)) from None
    return _sentences(state_section(law, known.iso))


def _penalties(known: Evidence) -> Section:
    return _sentences(penalty_section(overtraining(known.groups, **known.drawn)))


def relation_of(known: Evidence, scores: pd.DataFrame | None) -> Section:
    if scores is None:
        raise NotIdentified(
            "no scores were given; give a leaderboard or a table of scores to relate them to these runs"
        )
    try:
        found = relate(scores, known.groups, budget=known.budget, **known.drawn)
    except ValueError as error:
        # Both tables were read before: what is left is that they do not meet, a fact that the page states.
        raise NotIdentified(str(error)) from None
    return relation_section(found)


def _sentences(section: Section) -> Section:
    return replace(section, notes=[f"{note}." for note in section.notes])


def runs_section(known: Evidence) -> Section:
    """What was trained, and the notes on the table."""
    rows = []
    for arch, mine in known.ends.frame.groupby("arch"):
        ratio = mine["tokens"] / mine["params"]
        columns = {
            "N": mine["params"],
            "D": mine["tokens"],
            "D/N": ratio,
            "C": mine["flops"],
            "loss": mine["loss"],
        }
        row = {"architecture": str(arch), "runs": len(mine)}
        rows.append(row | {name: _range(values) for name, values in columns.items()})
    return Section(
        verdicts=[f"{note}." for note in known.notes if note.startswith(SERIOUS)],
        notes=[f"{note}." for note in known.notes if not note.startswith(SERIOUS)],
        tables=(Table("What was trained", pd.DataFrame(rows)),),
    )


def limits_section(known: Evidence) -> Section:
    """What these runs can and cannot show."""
    flops = _range(known.ends.frame["flops"], " and ")
    between = f"between {flops} FLOPs" if " and " in flops else f"at {flops} FLOPs"
    budgets = 0
    if known.iso is not None:
        budgets = known.iso.optima.loc[known.iso.optima["used"], "budget"].nunique()
    count = len(known.archs)
    said = [
        f"They can show how loss goes with size and data {between}."
        if count == 1
        else f"They can show which of {count} architectures has the lower loss at equal compute {between}, "
        "as far as the intervals part them.",
        f"Usable budgets: {budgets}. A difference of .05 in an exponent of N* is a factor "
        f"{number(BEYOND**0.05)} in size at {number(BEYOND)} times the compute; narrower intervals than that "
        "are needed to tell exponents apart.",
        "They cannot show what happens at larger compute: intervals there assume that the fitted form holds.",
        "They cannot tell the architecture from the recipe: the text, the tokenizer, the context length, the "
        "rule for learning rate and batch. Another recipe can reorder architectures.",
        f"Parameters and FLOPs are as the table's maker counted them ({known.convention}); "
        "exponents depend on whether embeddings and the output head count.",
    ]
    if "seed" not in known.ends.frame or known.ends.frame["seed"].nunique() < 2:
        said.append(
            "No run was repeated with another seed: their noise is judged by the scatter around the fits."
        )
    if 1 < count < 10:
        said.append(
            f"{count} architectures cannot settle whether synthetic scores predict perplexity; agreement in "
            "rank over so few is a hint."
        )
    if known.reasons:
        said.append(f"Not identified, for the reasons above: {', '.join(known.reasons)}.")
    return Section(notes=said)


def _range(values: pd.Series, to: str = " to ") -> str:
    low, high = number(values.min()), number(values.max())
    return low if low == high else f"{low}{to}{high}"
