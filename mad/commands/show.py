"""Pictures in a terminal: an architecture layer by layer, a stored run, an example of a task."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mad.data.stored import StoredRecord
from mad.messages import brief, printable
from mad.store.store import Store
from synthetic_tasks import IGNORE, Task

# Lines of an example at its beginning, and as many at its end.
SHOWN = 100

if TYPE_CHECKING:
    from architectures import Account


def find_run(what: str, store: str | Path | None) -> StoredRecord | None:
    """The stored run with this id, or with an id that begins so (6 digits or more); None where `what` is no
    id. Runs of every kind are looked through alike.
    """
    if not re.fullmatch(r"[0-9a-f]{6,20}", what):
        return None
    with Store(store, read_only=True) as opened:
        found = opened.find(what)
    if found.record is None:
        raise ValueError(
            f"run {found.id} cannot be understood ({found.reason}); `mad rm {found.id}` removes it"
        )
    return found.record


def show_architecture(given: str, console: Console, *, dim: int, seq_len: int, vocab_size: int) -> None:
    """The layer table: parameters, forward FLOPs per token, state by kind."""
    import architectures
    from architectures.model import resolve_options
    from architectures.sizes.accounting import account_model

    spec = architectures.parse(given)
    options = resolve_options(given)
    found: Account
    if ":" in str(spec):  # A layer of the user's own need not run on the meta device.
        model = architectures.build(
            spec, vocab_size=vocab_size, dim=dim, max_len=seq_len, seed=0, options=options
        )
        found = account_model(model, seq_len)
    else:
        found = architectures.account(spec, vocab_size=vocab_size, dim=dim, seq_len=seq_len, options=options)
    console.print(f"{spec}   width {dim}, length {seq_len}, vocabulary {vocab_size}\n", markup=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("layer")
    for name in ("parameters", "FLOPs per token", "state", "recurrent", "conv", "growing", "nominal"):
        table.add_column(name, justify="right")
    readout = found.flops - sum(layer.flops for layer in found.layers)
    table.add_row("embedding, readout", f"{found.embedding:,}", f"{readout:,.0f}")
    for layer in found.layers:
        table.add_row(
            layer.name, f"{layer.params:,}", f"{layer.flops:,.0f}", *_state(layer.state, layer.nominal)
        )
    table.add_section()
    table.add_row(
        "in all",
        f"{found.params:,}",
        f"{found.flops:,.0f}",
        *_state(found.state, found.nominal),
        style="bold",
    )
    console.print(table)
    step = found.training_flops
    if step is not None and step != 3 * found.flops:
        console.print(
            f"\nA training step does {step:,.0f} FLOPs per token under the draw of the nested layers, "
            f"{step / (3 * found.flops):.2f} of what the whole model would take."
        )
    console.print(
        f"\n{found.core:,} parameters without embedding and readout (norms included). State: elements a row "
        f"after {seq_len} tokens. FLOPs: forward, multiply-add = 2, mean over the sequence.",
        style="dim",
    )


def _state(state: dict[str, int] | None, nominal: int | None) -> list[str]:
    if state is None:
        return ["unknown", "", "", "", ""]
    return [f"{state[kind]:,}" for kind in ("total", "recurrent", "conv", "growing")] + [f"{nominal:,}"]


def show_record(record: StoredRecord, console: Console) -> None:
    """A run: what it was, its curve, its scores and its cost."""
    sheet = record.sheet()
    for name, value in sheet.facts:
        console.print(f"{name:13} {brief(value)}", markup=False, soft_wrap=True)
    if sheet.columns:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in sheet.columns:
            table.add_column(name, justify="right")
        for row in sheet.curve:
            table.add_row(*row)
        console.print("")
        console.print(table)
    if sheet.result is not None:
        console.print(f"\n{sheet.result}", soft_wrap=True)
    if record.error is not None:
        console.print(f"\n{printable(record.error, lines=True)}", markup=False)


def draw_example(task: Task, seed: int, console: Console) -> None:
    """The task's description and one test example: what goes in, and the answers under the scored
    positions.
    """
    console.print(f"{task}   version {task.version}, chance {task.chance:.4f}", style="bold", markup=False)
    console.print((type(task).__doc__ or "").split(">>>")[0].rstrip(), markup=False)
    batch = task.draw(seed, "test", 1)
    inputs, targets = batch.inputs[0], batch.targets[0]
    width = len(str(task.vocab_size - 1)) + 1
    per_line = max(8, (console.width - 9) // width)
    console.print(f"\nAn example (seed {seed}): tokens, and below them what is to be answered there.\n")
    lines = range(0, task.seq_len, per_line)
    for start in [*lines[:SHOWN], *lines[max(SHOWN, len(lines) - SHOWN) :]]:
        if start == lines[-SHOWN:][0] and len(lines) > 2 * SHOWN:
            console.print(f"... {(len(lines) - 2 * SHOWN) * per_line:,} tokens left out\n")
        part = slice(start, start + per_line)
        console.print("tokens  " + "".join(f"{t:>{width}}" for t in inputs[part]), soft_wrap=True)
        answers = "".join(f"{'.' if t == IGNORE else t:>{width}}" for t in targets[part])
        console.print(Text("answer  " + answers, style="green"), soft_wrap=True)
        console.print("")
