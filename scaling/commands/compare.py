"""`mad scaling compare`."""

from __future__ import annotations

from typing import Annotated

import typer

from mad.commands.flags import StoreOption
from mad.messages import say
from scaling.commands import flags


def compare(
    runs: flags.Runs = None,
    store: StoreOption = None,
    study: flags.Study = None,
    by: flags.By = None,
    where: flags.Where = None,
    columns: flags.Columns = None,
    baseline: Annotated[
        str | None, typer.Option(help="Compare each with this one; default all pairs.")
    ] = None,
    at: Annotated[float | None, typer.Option(help="FLOPs at which to compare; default each budget.")] = None,
    budgets: flags.Budgets = None,
    bootstrap: flags.Bootstrap = 1000,
    confidence: flags.Confidence = 0.95,
    seed: flags.Seed = 0,
    format: flags.Format = "text",
) -> None:
    """Perplexity of architectures at equal compute, and the penalty off the optimum, with intervals."""
    from scaling.commands.reading import numbers, read
    from scaling.report.printing import writer
    from scaling.report.results.ratios import compared

    frame, _ = read(runs, store, study=study, by=by, where=where, columns=columns)
    nominal = tuple(numbers(budgets, "budget")) if budgets else None
    write = writer(format)
    drawn = {"bootstrap": bootstrap, "confidence": confidence, "seed": seed}
    say(write(compared(frame, baseline=baseline, at=at, budgets=nominal, **drawn)))
