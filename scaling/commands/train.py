"""`mad scaling train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mad.commands.flags import DeviceOption, StoreOption
from mad.messages import say
from scaling.commands import flags


def train(
    plan: Annotated[Path, typer.Argument(help="A plan that `mad scaling plan` wrote.")],
    store: StoreOption = None,
    corpus: Annotated[
        str | None, typer.Option(help="Where the plan's text lies; default what the plan calls it.")
    ] = None,
    cache: flags.Cache = None,
    workers: Annotated[
        int | None, typer.Option(help="Training processes at once; default what the plan says.")
    ] = None,
    device: DeviceOption = "auto",
    devices: Annotated[int, typer.Option(help="Processes of one run, one a device.")] = 1,
    strategy: Annotated[str, typer.Option(help="Of several devices: ddp, or fsdp on CUDA.")] = "auto",
    loggers: Annotated[str, typer.Option(help="csv, wandb or both, comma-separated; default none.")] = "",
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
    from scaling.report.printing import listing, table
    from scaling.study import run
    from scaling.study.plan import read

    made = read(plan, allow_code=allow_code)
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
    say(table(frame[["arch", "budget", "params", "tokens", "lr", "loss", "status"]]))
    problems = listing("\nto be looked at:", frame.attrs["problems"])
    where = f" --store {store}" if store else ""
    say(f"{problems}\n\nfit them with: mad scaling fit --study {made.id}{where}".lstrip("\n"))
    if len(frame) < len(made.runs):
        raise typer.Exit(1)
