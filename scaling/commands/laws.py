"""`mad scaling fit`, `compare`, `relate` and `report`: what the runs of a file or a store say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from architectures.files import check_target
from mad.commands.flags import ForceOption, ProtocolOption, StoreOption, SuiteOption, argument, option
from mad.messages import say

Runs = Annotated[
    Path | None,
    argument(
        "CSV or JSON with params, tokens, loss (nats per token) ...; without it the store.", "[RUNS.csv]"
    ),
]
Study = Annotated[str | None, option("Only the store's runs of this study.")]
By = Annotated[str | None, option("Column that tells architectures apart.")]
Where = Annotated[str | None, option("Only these rows, say 'cc_mult <= 1' (a pandas query).")]
Columns = Annotated[
    list[str] | None, option("Which column is which, say params=N,tokens=D,flops=C,loss=val_loss.")
]
Budget = Annotated[float | None, option("FLOPs to compare or allocate at; default the largest.")]
Budgets = Annotated[str | None, option("Nominal FLOPs of the isoFLOP groups, comma-separated.")]
Repeats = Annotated[str, option("Text read over four times: refuse, or effective tokens (arXiv:2305.16264).")]
Confidence = Annotated[float, option("Level of the intervals.")]
Bootstrap = Annotated[int, option("Draws behind the intervals: 100 or more, or 0 for none.")]
Seed = Annotated[int, option("Seed of the resampling.")]
Format = Annotated[str, option("text or json.")]
Scores = Annotated[Path | None, option("CSV of scores by architecture; default the store's leaderboard.")]


def fit(
    runs: Runs = None,
    store: StoreOption = None,
    study: Study = None,
    by: By = None,
    where: Where = None,
    columns: Columns = None,
    train: Annotated[str | None, option("Fit these rows only, and predict the others.")] = None,
    window: Annotated[float | None, option("Sizes of a parabola: within this factor of the best.")] = None,
    approach: Annotated[
        str, option("all, law, isoflop, envelope, optima (rows are optima) or over-training.")
    ] = "all",
    form: Annotated[str, option("Of the law; docs/scaling-fits.md lists them.")] = "standard",
    objective: Annotated[str, option("huber, lad or log-mse, on log loss.")] = "huber",
    delta: Annotated[float, option("Threshold of huber.")] = 1e-3,
    resample: Annotated[
        str | None, option("What the bootstrap draws: pairs, budget or run (a law of all rows of the runs).")
    ] = None,
    repeats: Repeats = "refuse",
    shared: Annotated[
        str | None, option("What architectures have in common: E, alpha, beta, comma-separated.")
    ] = None,
    at: Annotated[str | None, option("Budgets to extrapolate to, comma-separated.")] = None,
    budgets: Budgets = None,
    bootstrap: Bootstrap = 1000,
    confidence: Confidence = 0.95,
    seed: Seed = 0,
    format: Format = "text",
) -> None:
    """Fit scaling laws, each architecture its own, by three approaches, with intervals and verdicts."""
    from scaling.commands.reading import numbers, read
    from scaling.report.approaches import Request, fitted
    from scaling.report.section import writer

    frame, curves = read(runs, store, study=study, by=by, where=where, columns=columns)
    how = {"form": form, "objective": objective, "delta": delta, "resample": resample, "repeats": repeats}
    asked = Request(
        approach=approach,
        train=train,
        shared=tuple(word.strip() for word in shared.split(",")) if shared else (),
        at=numbers(at, "target") if at else (),
        budgets=numbers(budgets, "budget") if budgets else None,
        window=window,
        how=how,
        drawn={"bootstrap": bootstrap, "confidence": confidence, "seed": seed},
    )
    write = writer(format)
    say(write(fitted(frame, asked, curves=curves)))


def compare(
    runs: Runs = None,
    store: StoreOption = None,
    study: Study = None,
    by: By = None,
    where: Where = None,
    columns: Columns = None,
    baseline: Annotated[str | None, option("Compare each with this one; default all pairs.")] = None,
    at: Annotated[float | None, option("FLOPs at which to compare; default each budget.")] = None,
    budgets: Budgets = None,
    bootstrap: Bootstrap = 1000,
    confidence: Confidence = 0.95,
    seed: Seed = 0,
    format: Format = "text",
) -> None:
    """Perplexity of architectures at equal compute, and the penalty off the optimum, with intervals."""
    from scaling.commands.reading import numbers, read
    from scaling.report.results.ratios import compared
    from scaling.report.section import writer

    frame, _ = read(runs, store, study=study, by=by, where=where, columns=columns)
    nominal, write = numbers(budgets, "budget") if budgets else None, writer(format)
    drawn = {"bootstrap": bootstrap, "confidence": confidence, "seed": seed}
    say(write(compared(frame, baseline=baseline, at=at, budgets=nominal, **drawn)))


def relate(
    runs: Runs = None,
    scores: Scores = None,
    scores_where: Annotated[str | None, option("Only these rows of the scores, as --where.")] = None,
    suite: SuiteOption = "quick",
    protocol: ProtocolOption = "sound",
    store: StoreOption = None,
    study: Study = None,
    by: By = None,
    where: Where = None,
    columns: Columns = None,
    budget: Budget = None,
    target: Annotated[str, option("compute-optimal or state-optimal.")] = "compute-optimal",
    bootstrap: Bootstrap = 2000,
    confidence: Confidence = 0.95,
    seed: Seed = 0,
    format: Format = "text",
) -> None:
    """Do the synthetic scores predict the perplexity? Correlations with exact p, and what n allows to say."""
    from scaling.commands.reading import read, read_scores
    from scaling.report.results.relation import relation_section
    from scaling.report.section import writer
    from scaling.scores import relation

    frame, _ = read(runs, None if runs else store, study=study, by=by, where=where, columns=columns)
    write = writer(format)
    known = read_scores(scores, store, suite=suite, protocol=protocol, where=scores_where)
    drawn: dict[str, Any] = {"bootstrap": bootstrap, "confidence": confidence, "seed": seed}
    say(write(relation_section(relation.relate(known, frame, budget=budget, target=target, **drawn))))


def report(
    runs: Runs = None,
    out: Annotated[Path, option("The page to write.", "-o", "--out")] = Path("scaling.html"),
    figures: Annotated[Path | None, option("Folder for each figure as PNG and SVG.")] = None,
    scores: Scores = None,
    suite: Annotated[str | None, option("Relate the store's scores of this suite.")] = None,
    store: StoreOption = None,
    study: Study = None,
    by: By = None,
    where: Where = None,
    columns: Columns = None,
    budget: Budget = None,
    budgets: Budgets = None,
    repeats: Repeats = "refuse",
    title: Annotated[str, option("Heading of the page.")] = "Scaling laws",
    bootstrap: Bootstrap = 1000,
    confidence: Confidence = 0.95,
    seed: Seed = 0,
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
