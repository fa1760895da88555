"""`mad scaling fit`."""

from __future__ import annotations

from typing import Annotated

import typer

from mad.commands.flags import StoreOption
from mad.messages import say
from scaling.commands import flags


def fit(
    runs: flags.Runs = None,
    store: StoreOption = None,
    study: flags.Study = None,
    by: flags.By = None,
    where: flags.Where = None,
    columns: flags.Columns = None,
    train: Annotated[
        str | None, typer.Option("--train", help="Fit these rows only, and predict the others.")
    ] = None,
    window: Annotated[
        float | None, typer.Option(help="Sizes of a parabola: within this factor of the best.")
    ] = None,
    approach: Annotated[
        str, typer.Option(help="all, law, isoflop, envelope, optima (rows are optima) or over-training.")
    ] = "all",
    form: Annotated[
        str,
        typer.Option(help="Of the law: standard, over-training or joint-exponent, see docs/scaling.md."),
    ] = "standard",
    objective: Annotated[str, typer.Option(help="huber, lad or log-mse, on log loss.")] = "huber",
    delta: Annotated[float, typer.Option(help="Threshold of huber.")] = 1e-3,
    resample: Annotated[
        str | None,
        typer.Option(help="What the bootstrap draws: pairs, budget or run (a law of all rows of the runs)."),
    ] = None,
    repeats: flags.Repeats = "refuse",
    shared: Annotated[
        str | None, typer.Option(help="What architectures have in common: E, alpha, beta, comma-separated.")
    ] = None,
    at: Annotated[str | None, typer.Option(help="Budgets to extrapolate to, comma-separated.")] = None,
    budgets: flags.Budgets = None,
    bootstrap: flags.Bootstrap = 1000,
    confidence: flags.Confidence = 0.95,
    seed: flags.Seed = 0,
    format: flags.Format = "text",
) -> None:
    """Fit scaling laws, each architecture its own, by three approaches, with intervals and verdicts."""
    from scaling.commands.reading import numbers, read
    from scaling.report.approaches import Request, fitted
    from scaling.report.printing import writer

    frame, curves = read(runs, store, study=study, by=by, where=where, columns=columns)
    asked = Request(
        approach=approach,
        train=train,
        shared=tuple(word.strip() for word in shared.split(",")) if shared else (),
        at=tuple(numbers(at, "target")) if at else (),
        budgets=tuple(numbers(budgets, "budget")) if budgets else None,
        window=window,
        how={
            "form": form,
            "objective": objective,
            "delta": delta,
            "resample": resample,
            "repeats": repeats,
        },
        drawn={"bootstrap": bootstrap, "confidence": confidence, "seed": seed},
    )
    write = writer(format)
    say(write(fitted(frame, asked, curves=curves)))
