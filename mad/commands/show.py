"""The command `mad show`: an architecture layer by layer, or a stored run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console

from mad import terminal
from mad.commands.flags import StoreOption, argument, option
from mad.messages import brief, printable

if TYPE_CHECKING:
    from architectures.sizes.accounting import Account, LayerAccount
    from mad.data.stored import StoredRecord


def show(
    what: Annotated[str, argument("An architecture or its label, or the id of a stored run.", "SPEC|RUN")],
    task: Annotated[
        str | None,
        argument("How the architecture learned this task: its name, or with options.", "[TASK]"),
    ] = None,
    dim: Annotated[int, option("Width of the model.")] = 128,
    seq_len: Annotated[int, option("Length at which FLOPs and state are counted.")] = 128,
    vocab_size: Annotated[int, option("Size of the vocabulary.")] = 16,
    suite: Annotated[str | None, option("Of TASK, where several suites have it.")] = None,
    protocol: Annotated[str, option("Of the runs of TASK: sound or public-code.")] = "sound",
    seed: Annotated[int | None, option("Of the runs of TASK; the first complete one else.")] = None,
    store: StoreOption = None,
) -> None:
    """Show an architecture layer by layer (parameters, FLOPs, state), how it learned a task, or a run."""
    console, record = terminal.console(), find_run(what, store)
    if task is not None:
        if record is not None:
            raise ValueError(f"{what} is a run, which has its task; leave {task!r} out")
        from mad.board.curve import show_answer
        from mad.store.asked import answer

        found = answer(what, task, suite=suite, protocol=protocol, seed=seed, store=store)
        show_answer(found, console)
    elif suite is not None or seed is not None:
        raise ValueError(f"--suite and --seed are those of a task; say which: mad show {what!r} TASK")
    elif record is not None:
        show_record(record, console)
    else:
        from mad.store.labels import spelled

        show_architecture(spelled(what, store), console, dim=dim, seq_len=seq_len, vocab_size=vocab_size)


def find_run(what: str, store: str | Path | None) -> StoredRecord | None:
    """The stored run with this id, or with an id that begins so (6 digits or more); None where `what` is not
    an id. Runs of every kind are looked through alike.
    """
    from mad.store import Store

    if not re.fullmatch(r"[0-9a-f]{6,20}", what):
        return None
    with Store(store, read_only=True) as opened:
        found = opened.find(what)
    if found.record is None:
        remedy = f"`mad rm {found.id}` removes it"
        raise ValueError(f"run {found.id} cannot be understood ({found.reason}); {remedy}")
    return found.record


def show_record(record: StoredRecord, console: Console) -> None:
    """A run: what it was, its curve, its scores and its cost."""
    sheet = record.sheet()
    for name, value in sheet.facts:
        console.print(f"{name:13} {brief(value)}", markup=False, soft_wrap=True)
    if sheet.columns:
        table = terminal.new_table(numbers=sheet.columns)
        for row in sheet.curve:
            table.add_row(*row)
        console.print("")
        console.print(table)
    if sheet.result is not None:
        console.print(f"\n{sheet.result}", soft_wrap=True)
    if record.error is not None:
        console.print(f"\n{printable(record.error, lines=True)}", markup=False)


def show_architecture(given: str, console: Console, *, dim: int, seq_len: int, vocab_size: int) -> None:
    """The layer table: parameters, forward FLOPs per token, state by kind."""
    import architectures
    from architectures.model import resolve_options
    from architectures.sizes.accounting import account_model
    from mad.data.labels import read

    label, asked = read(given)
    spec = architectures.parse(asked)
    size: dict[str, Any] = {"vocab_size": vocab_size, "dim": dim, "options": resolve_options(asked)}
    if ":" in str(spec):  # A layer of the user's own need not run on the meta device.
        found = account_model(architectures.build(spec, max_len=seq_len, seed=0, **size), seq_len)
    else:
        found = architectures.account(spec, seq_len=seq_len, **size)
    console.print(
        f"{f'{label}: ' if label else ''}{spec}   width {dim}, length {seq_len}, vocabulary {vocab_size}\n",
        markup=False,
    )
    numbers = ("parameters", "FLOPs per token", "state", "recurrent", "conv", "growing", "nominal")
    table = terminal.new_table("layer", numbers=numbers)
    readout = found.flops - sum(layer.flops for layer in found.layers)
    table.add_row("embedding, readout", f"{found.embedding:,}", f"{readout:,.0f}")
    for layer in found.layers:
        table.add_row(layer.name, *_counts(layer))
    table.add_section()
    table.add_row("in all", *_counts(found), style="bold")
    console.print(table)
    step = found.training_flops
    if step is not None and step != 3 * found.flops:
        console.print(
            f"\nA training step does {step:,.0f} FLOPs per token under the draw of the nested layers, "
            f"{step / (3 * found.flops):.2f} of what the whole model would take."
        )
    console.print(
        f"\n{found.core:,} parameters without embedding and readout (norms included). State: elements per "
        f"row after {seq_len} tokens. FLOPs: forward, multiply-add = 2, mean over the sequence.",
        style="dim",
    )


def _counts(found: Account | LayerAccount) -> list[str]:
    size = [f"{found.params:,}", f"{found.flops:,.0f}"]
    if found.state is None:
        return [*size, "unknown", "", "", "", ""]
    kinds = ("total", "recurrent", "conv", "growing")
    return [*size, *(f"{found.state[kind]:,}" for kind in kinds), f"{found.nominal:,}"]
