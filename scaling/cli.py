"""`mad scaling`: from budgets to runs, from runs to laws, from laws to what the synthetic scores predict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from architectures.files import check_target
from mad.commands.flags import DeviceOption, ForceOption, ProtocolOption, StoreOption, SuiteOption
from mad.messages import say
from scaling.flags import (
    RATES,
    ApproachOption,
    BaselineOption,
    BatchOption,
    BootstrapOption,
    BudgetOption,
    BudgetsOption,
    ByOption,
    CacheOption,
    ColumnsOption,
    ConfidenceOption,
    CorpusOption,
    FormatOption,
    FormOption,
    HoursOption,
    RatesOption,
    RepeatsOption,
    ResampleOption,
    RunsArgument,
    ScoresOption,
    ScoresWhereOption,
    SeedOption,
    SharedOption,
    StudyOption,
    TokenizerOption,
    TrainOption,
    ValidationOption,
    VocabOption,
    WhereOption,
    WindowOption,
)

if TYPE_CHECKING:
    from scaling.study.sizes import Size

# Heavy imports stay inside the commands.
app = typer.Typer(
    help="Plan and train language models at equal compute, fit scaling laws, relate them to the scores.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def plan(
    archs: Annotated[list[str], typer.Argument(metavar="ARCH...", help="Specs or presets, or label=spec.")],
    budgets: Annotated[str, typer.Option(help="Training FLOPs of each isoFLOP group, by commas.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where to write the plan, a JSON file.")],
    corpus: CorpusOption = "sotu",
    tokenizer: TokenizerOption = "bytes",
    vocab_size: VocabOption = None,
    validation: ValidationOption = None,
    cache: CacheOption = None,
    sizes: Annotated[int, typer.Option(help="Sizes at each budget.")] = 5,
    span: Annotated[float, typer.Option(help="Factor from the centre of a grid to its outer sizes.")] = 4.0,
    tokens_per_param: Annotated[float, typer.Option(help="At the centre of each grid.")] = 20.0,
    seq_len: Annotated[int, typer.Option(help="Length of the context.")] = 128,
    batch_tokens: BatchOption = 2048,
    evaluations: Annotated[int, typer.Option(help="Evaluations a run, the last at its end.")] = 4,
    evaluation_tokens: Annotated[int, typer.Option(help="Held-out tokens of each evaluation.")] = 2**17,
    lrs: RatesOption = RATES,
    lr: Annotated[float | None, typer.Option(help="One rate for all; tunes nothing.")] = None,
    max_hours: HoursOption = None,
    allow_repeats: Annotated[
        bool, typer.Option("--allow-repeats", help="Let the text be read more than four times.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Training processes at once, one thread each.")] = 1,
    device: DeviceOption = "auto",
    seed: Annotated[int, typer.Option(help="Seed of weights and data order.")] = 0,
    force: ForceOption = False,
) -> None:
    """Lay out isoFLOP grids: sizes, tokens, predicted hours. Trains nothing."""
    from scaling.lm.corpus import load
    from scaling.reading import numbers
    from scaling.report import show
    from scaling.study.plan import plan as make
    from scaling.study.timing import seconds_per_step

    check_target(out, force=force, sources=[corpus])
    text = load(corpus, tokenizer=tokenizer, vocab_size=vocab_size, cache=cache, validation=validation)

    def measure(size: Size, rows: int) -> float:
        threads = 1 if workers > 1 else None
        return seconds_per_step(
            size, vocab_size=text.vocab_size, seq_len=seq_len, batch_size=rows, device=device, threads=threads
        )

    made = make(
        archs,
        budgets=numbers(budgets, "budget"),
        corpus=text.config,
        sizes=sizes,
        seq_len=seq_len,
        span=span,
        tokens_per_param=tokens_per_param,
        batch_tokens=batch_tokens,
        evaluations=evaluations,
        evaluation_tokens=evaluation_tokens,
        lrs=numbers(lrs, "rate"),
        lr=lr,
        seed=seed,
        workers=workers,
        measure=measure,
        max_hours=max_hours,
        allow_repeats=allow_repeats,
    )
    made.save(out, force=force)
    grid = [
        [str(arch), f"{budget:.3g}", "  ".join(f"{n:,.0f}" for n in rows["params"])]
        for (arch, budget), rows in made.frame()
        .query("role == 'grid'")
        .groupby(["arch", "budget"], sort=False)
    ]
    where = (f" --corpus {corpus}" if Path(corpus).is_file() else "") + " --allow-code" * bool(made.code)
    say(
        f"{made.summary()}\n\n{show.columns(['architecture', 'FLOPs', 'parameters'], grid)}\n\n"
        f"written to {out}; train it with: mad scaling train {out}{where}"
    )


@app.command()
def train(
    plan: Annotated[Path, typer.Argument(help="A plan that `mad scaling plan` wrote.")],
    store: StoreOption = None,
    corpus: Annotated[
        str | None, typer.Option(help="Where the plan's text lies; default what the plan calls it.")
    ] = None,
    cache: CacheOption = None,
    workers: Annotated[
        int | None, typer.Option(help="Training processes at once; default what the plan says.")
    ] = None,
    device: DeviceOption = "auto",
    devices: Annotated[int, typer.Option(help="Processes of one run, one a device.")] = 1,
    strategy: Annotated[str, typer.Option(help="Of several devices: ddp, or fsdp on CUDA.")] = "auto",
    loggers: Annotated[str, typer.Option(help="csv, wandb or both by commas; default none.")] = "",
    max_hours: Annotated[
        float | None, typer.Option(help="Begin no run after so long; call again to go on.")
    ] = None,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Train layers that the plan names as package.module:Class.")
    ] = False,
) -> None:
    """Train the runs of a plan that the store lacks: learning rates first, then the grid. Resumes."""
    from mad.store import Store
    from scaling.lm.corpus import load
    from scaling.report import show
    from scaling.study import design, run

    made = design.read(plan, allow_code=allow_code)
    held = made.corpus
    text = load(
        corpus or held.name,
        tokenizer="bpe" if held.tokenizer == "bpe" else "bytes",
        vocab_size=held.vocab_size if held.tokenizer == "bpe" else None,
        cache=cache,
        validation=held.validation or None,  # of a grammar 0
    )
    with Store(store) as opened:
        frame = run.run(
            made,
            text,
            store=opened,
            workers=made.workers if workers is None else workers,
            device=device,
            devices=devices,
            strategy=strategy,
            max_hours=max_hours,
            loggers=tuple(word.strip() for word in loggers.split(",") if word.strip()),
        )
    say(show.table(frame[["arch", "budget", "params", "tokens", "lr", "loss", "status"]]))
    problems = show.notes("\nto be looked at:", frame.attrs["problems"])
    where = f" --store {store}" if store else ""
    say(f"{problems}\n\nfit them with: mad scaling fit --study {made.id}{where}".lstrip("\n"))
    if len(frame) < len(made.runs):
        raise typer.Exit(1)


@app.command()
def fit(
    runs: RunsArgument = None,
    store: StoreOption = None,
    study: StudyOption = None,
    by: ByOption = None,
    where: WhereOption = None,
    columns: ColumnsOption = None,
    train: TrainOption = None,
    window: WindowOption = None,
    approach: ApproachOption = "all",
    form: FormOption = "standard",
    objective: Annotated[str, typer.Option(help="huber, lad or log-mse, on log loss.")] = "huber",
    delta: Annotated[float, typer.Option(help="Threshold of huber.")] = 1e-3,
    resample: ResampleOption = None,
    repeats: RepeatsOption = "refuse",
    shared: SharedOption = None,
    at: Annotated[str | None, typer.Option(help="Budgets to extrapolate to, by commas.")] = None,
    budgets: BudgetsOption = None,
    bootstrap: BootstrapOption = 1000,
    confidence: ConfidenceOption = 0.95,
    seed: SeedOption = 0,
    format: FormatOption = "text",
) -> None:
    """Fit scaling laws, each architecture its own, by three approaches, with intervals and verdicts."""
    from scaling import reading
    from scaling.report import answers, methods

    frame, curves = reading.read(runs, store, study=study, by=by, where=where, columns=columns)
    asked = methods.Request(
        approach=approach,
        train=train,
        form=form,
        objective=objective,  # type: ignore[arg-type]
        delta=delta,
        resample=resample,  # type: ignore[arg-type]
        repeats=repeats,  # type: ignore[arg-type]
        shared=tuple(word.strip() for word in shared.split(",")) if shared else (),
        at=tuple(reading.numbers(at, "target")) if at else (),
        budgets=tuple(reading.numbers(budgets, "budget")) if budgets else None,
        window=window,
        bootstrap=bootstrap,
        confidence=confidence,
        seed=seed,
    )
    say(answers.run(frame, asked, curves=curves, format=format))


@app.command()
def compare(
    runs: RunsArgument = None,
    store: StoreOption = None,
    study: StudyOption = None,
    by: ByOption = None,
    where: WhereOption = None,
    columns: ColumnsOption = None,
    baseline: BaselineOption = None,
    at: Annotated[float | None, typer.Option(help="FLOPs at which to compare; default each budget.")] = None,
    budgets: BudgetsOption = None,
    bootstrap: BootstrapOption = 1000,
    confidence: ConfidenceOption = 0.95,
    seed: SeedOption = 0,
    format: FormatOption = "text",
) -> None:
    """Perplexity of architectures at equal compute, and the penalty off the optimum, with intervals."""
    from scaling import reading
    from scaling.report import comparing

    frame, _ = reading.read(runs, store, study=study, by=by, where=where, columns=columns)
    say(
        comparing.run(
            frame,
            baseline=baseline,
            at=at,
            budgets=tuple(reading.numbers(budgets, "budget")) if budgets else None,
            bootstrap=bootstrap,
            confidence=confidence,
            seed=seed,
            format=format,
        )
    )


@app.command()
def relate(
    runs: RunsArgument = None,
    scores: ScoresOption = None,
    scores_where: ScoresWhereOption = None,
    suite: SuiteOption = "quick",
    protocol: ProtocolOption = "sound",
    store: StoreOption = None,
    study: StudyOption = None,
    by: ByOption = None,
    where: WhereOption = None,
    columns: ColumnsOption = None,
    budget: BudgetOption = None,
    target: Annotated[str, typer.Option(help="compute-optimal or state-optimal.")] = "compute-optimal",
    bootstrap: BootstrapOption = 2000,
    confidence: ConfidenceOption = 0.95,
    seed: SeedOption = 0,
    format: FormatOption = "text",
) -> None:
    """Do the synthetic scores predict the perplexity? Correlations with exact p, and what n allows to say."""
    from scaling import reading
    from scaling.report.relating import render
    from scaling.scores.relation import relate as find

    frame, _ = reading.read(runs, None if runs else store, study=study, by=by, where=where, columns=columns)
    found = find(
        reading.scores(scores, store, suite=suite, protocol=protocol, where=scores_where),
        frame,
        budget=budget,
        target=target,
        bootstrap=bootstrap,
        confidence=confidence,
        seed=seed,
    )
    say(render(found, format))


@app.command()
def report(
    runs: RunsArgument = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="The page to write.")] = Path("scaling.html"),
    figures: Annotated[Path | None, typer.Option(help="Folder for each figure as PNG and SVG.")] = None,
    scores: ScoresOption = None,
    suite: Annotated[str | None, typer.Option(help="Relate the store's scores of this suite.")] = None,
    store: StoreOption = None,
    study: StudyOption = None,
    by: ByOption = None,
    where: WhereOption = None,
    columns: ColumnsOption = None,
    budget: BudgetOption = None,
    budgets: BudgetsOption = None,
    repeats: RepeatsOption = "refuse",
    title: Annotated[str, typer.Option(help="Heading of the page.")] = "Scaling laws",
    bootstrap: BootstrapOption = 1000,
    confidence: ConfidenceOption = 0.95,
    seed: SeedOption = 0,
    force: ForceOption = False,
) -> None:
    """One self-contained HTML page: laws, optima, comparisons, verdicts, and what the runs cannot show."""
    from mad.store.store import default_path
    from scaling import reading
    from scaling.report.report import write

    held = store or (default_path() if runs is None else None)
    check_target(out, force=force, sources=[path for path in (runs, scores, held) if path is not None])
    frame, curves = reading.read(
        runs, None if runs else store, study=study, by=by, where=where, columns=columns
    )
    known = None
    if scores is not None or suite is not None:
        known = reading.scores(scores, store, suite=suite or "quick", protocol="sound")
    path = write(
        frame,
        out,
        curves=curves,
        scores=known,
        repeats=repeats,  # type: ignore[arg-type]
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
