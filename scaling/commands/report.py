"""`mad scaling report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from architectures.files import check_target
from mad.commands.flags import ForceOption, StoreOption
from mad.messages import say
from scaling.commands import flags


def report(
    runs: flags.Runs = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="The page to write.")] = Path("scaling.html"),
    figures: Annotated[Path | None, typer.Option(help="Folder for each figure as PNG and SVG.")] = None,
    scores: flags.Scores = None,
    suite: Annotated[str | None, typer.Option(help="Relate the store's scores of this suite.")] = None,
    store: StoreOption = None,
    study: flags.Study = None,
    by: flags.By = None,
    where: flags.Where = None,
    columns: flags.Columns = None,
    budget: flags.Budget = None,
    budgets: flags.Budgets = None,
    repeats: flags.Repeats = "refuse",
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Scaling laws",
    bootstrap: flags.Bootstrap = 1000,
    confidence: flags.Confidence = 0.95,
    seed: flags.Seed = 0,
    force: ForceOption = False,
) -> None:
    """One self-contained HTML page: laws, optima, comparisons, verdicts, and what the runs cannot show."""
    from mad.store.store import default_path
    from scaling.commands import reading
    from scaling.report.study_page import write

    held = store or (default_path() if runs is None else None)
    check_target(out, force=force, sources=[path for path in (runs, scores, held) if path is not None])
    frame, curves = reading.read(
        runs, None if runs else store, study=study, by=by, where=where, columns=columns
    )
    known = None
    if scores is not None or suite is not None:
        known = reading.read_scores(scores, store, suite=suite or "quick", protocol="sound")
    path = write(
        frame,
        out,
        curves=curves,
        scores=known,
        repeats=repeats,
        budget=budget,
        budgets=reading.numbers(budgets, "budget") if budgets else None,
        title=title,
        figures=figures,
        bootstrap=bootstrap,
        confidence=confidence,
        seed=seed,
        force=force,
    )
    say(f"written to {path}" + (f", figures to {figures}" if figures else ""))
