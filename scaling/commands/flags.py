"""Options that several commands of `mad scaling` share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Runs = Annotated[
    Path | None,
    typer.Argument(
        metavar="[RUNS.csv]",
        help="CSV or JSON with params, tokens, loss (nats per token) ...; without it the store.",
    ),
]
Study = Annotated[str | None, typer.Option(help="Only the store's runs of this study.")]
By = Annotated[str | None, typer.Option("--by", help="Column that tells architectures apart.")]
Where = Annotated[
    str | None, typer.Option("--where", help="Only these rows, say 'cc_mult <= 1' (a pandas query).")
]
Columns = Annotated[
    list[str] | None,
    typer.Option("--columns", help="Which column is which, say params=N,tokens=D,flops=C,loss=val_loss."),
]
Budget = Annotated[
    float | None, typer.Option("--budget", help="FLOPs to compare or allocate at; default the largest.")
]
Budgets = Annotated[
    str | None, typer.Option("--budgets", help="Nominal FLOPs of the isoFLOP groups, comma-separated.")
]
Repeats = Annotated[
    str,
    typer.Option(help="Text read over four times: refuse, or effective tokens (arXiv:2305.16264)."),
]
Confidence = Annotated[float, typer.Option(help="Level of the intervals.")]
Bootstrap = Annotated[int, typer.Option(help="Draws behind the intervals: 100 or more, or 0 for none.")]
Seed = Annotated[int, typer.Option(help="Seed of the resampling.")]
Format = Annotated[str, typer.Option("--format", help="text or json.")]
Cache = Annotated[Path | None, typer.Option(help="Folder for tokens; default the user's cache.")]
Scores = Annotated[
    Path | None, typer.Option(help="CSV of scores by architecture; default the store's leaderboard.")
]
