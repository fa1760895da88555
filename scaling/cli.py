"""`mad scaling`: from budgets to runs, from runs to laws, from laws to what the synthetic scores predict.

Each command is a thin layer over the functions of the package; heavy imports stay inside the commands.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mad.flags import DeviceOption, StoreOption

app = typer.Typer(
    help="Plan and train language models at equal compute, fit scaling laws, relate them to the scores.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

RunsArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="[RUNS.csv]", help="Columns params, tokens, loss (nats a token) ...; without it the store."
    ),
]
StudyOption = Annotated[str | None, typer.Option(help="Only the store's runs of this study.")]
ByOption = Annotated[str | None, typer.Option("--by", help="Column that tells architectures apart.")]
WhereOption = Annotated[
    str | None, typer.Option("--where", help="Only these rows, say 'cc_mult <= 1' (a pandas query).")
]
BudgetsOption = Annotated[
    str | None, typer.Option("--budgets", help="Nominal FLOPs of the isoFLOP groups, by commas.")
]
ConfidenceOption = Annotated[float, typer.Option(help="Level of the intervals.")]
BootstrapOption = Annotated[int, typer.Option(help="Resamples behind the intervals.")]
SeedOption = Annotated[int, typer.Option(help="Seed of the resampling.")]
FormatOption = Annotated[str, typer.Option("--format", help="text or json.")]
CorpusOption = Annotated[
    str, typer.Option(help="sotu, 'grammar[...]' or a .txt, .jsonl or .bin file of yours.")
]
TokenizerOption = Annotated[str, typer.Option(help="bytes, or bpe (trained on the training split).")]
VocabOption = Annotated[int | None, typer.Option(help="Vocabulary of the bpe.")]
CacheOption = Annotated[Path | None, typer.Option(help="Folder for tokens; default the user's cache.")]


@app.command()
def plan(
    archs: Annotated[list[str], typer.Argument(metavar="ARCH...", help="Specs or presets, or label=spec.")],
    budgets: Annotated[str, typer.Option(help="Training FLOPs of each isoFLOP group, by commas.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where to write the plan, a JSON file.")],
    corpus: CorpusOption = "sotu",
    tokenizer: TokenizerOption = "bytes",
    vocab_size: VocabOption = None,
    cache: CacheOption = None,
    sizes: Annotated[int, typer.Option(help="Sizes at each budget.")] = 5,
    span: Annotated[float, typer.Option(help="Factor from the centre of a grid to its outer sizes.")] = 4.0,
    tokens_per_param: Annotated[float, typer.Option(help="At the centre of each grid.")] = 20.0,
    seq_len: Annotated[int, typer.Option(help="Length of the context.")] = 128,
    batch_tokens: Annotated[float, typer.Option(help="Tokens a step at 1e12 FLOPs; grows as C^(1/3).")] = 2048,
    lr: Annotated[float | None, typer.Option(help="One rate for all; default is to tune it.")] = None,
    max_hours: Annotated[
        float | None, typer.Option(help="Refuse a plan that takes longer, by measured steps.")
    ] = None,
    allow_repeats: Annotated[
        bool, typer.Option("--allow-repeats", help="Let the text be read more than four times.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Training processes at once, one thread each.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of weights and data order.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
) -> None:
    """Lay out isoFLOP grids: sizes, tokens, predicted hours. Trains nothing."""
    from scaling.corpus import load
    from scaling.plan import plan as make
    from scaling.reading import numbers
    from scaling.timing import seconds_per_step

    text = load(corpus, tokenizer=tokenizer, vocab_size=vocab_size, cache=cache)
    made = make(
        archs,
        budgets=numbers(budgets, "budget"),
        corpus=text.config,
        sizes=sizes,
        seq_len=seq_len,
        span=span,
        tokens_per_param=tokens_per_param,
        batch_tokens=batch_tokens,
        lr=lr,
        seed=seed,
        workers=workers,
        measure=seconds_per_step,
        max_hours=max_hours,
        allow_repeats=allow_repeats,
    )
    made.save(out, force=force)
    _print(f"{made}\n\nwritten to {out}; train it with: mad scaling train {out}")


@app.command()
def fit(
    runs: RunsArgument = None,
    store: StoreOption = None,
    study: StudyOption = None,
    by: ByOption = None,
    where: WhereOption = None,
    train: Annotated[
        str | None, typer.Option("--train", help="Fit these rows only, and predict the others.")
    ] = None,
    approach: Annotated[
        str, typer.Option(help="all, law, isoflop, envelope, optima (rows are optima) or over-training.")
    ] = "all",
    objective: Annotated[str, typer.Option(help="huber, lad or log-mse, on log loss.")] = "huber",
    delta: Annotated[float, typer.Option(help="Threshold of huber.")] = 1e-3,
    resample: Annotated[str, typer.Option(help="pairs, budget or run: what the bootstrap draws.")] = "pairs",
    repeats: Annotated[
        str, typer.Option(help="refuse, or effective: repeated tokens count as arXiv:2305.16264 says.")
    ] = "refuse",
    shared: Annotated[
        str | None, typer.Option(help="What architectures have in common: E, alpha, beta, by commas.")
    ] = None,
    at: Annotated[str | None, typer.Option(help="Budgets to extrapolate to, by commas.")] = None,
    budgets: BudgetsOption = None,
    bootstrap: BootstrapOption = 1000,
    confidence: ConfidenceOption = 0.95,
    seed: SeedOption = 0,
    format: FormatOption = "text",
) -> None:
    """Fit scaling laws, each architecture its own, by three approaches, with intervals and verdicts."""
    from scaling import answers, reading

    frame = reading.read(runs, store, study=study, by=by, where=where)
    asked = answers.Request(
        approach=approach,
        train=train,
        objective=objective,
        delta=delta,
        resample=resample,
        repeats=repeats,
        shared=tuple(word.strip() for word in shared.split(",")) if shared else (),
        at=tuple(reading.numbers(at, "target")) if at else (),
        budgets=tuple(reading.numbers(budgets, "budget")) if budgets else None,
        bootstrap=bootstrap,
        confidence=confidence,
        seed=seed,
    )
    _print(answers.run(frame, asked, format))
