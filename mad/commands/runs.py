"""The command `mad runs`: the stored runs, one line each."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from mad import terminal
from mad.commands.flags import StoreOption, option
from mad.messages import counted, near, note, printable

if TYPE_CHECKING:
    from mad.data.stored import StoredRecord
    from mad.store.listing import Listing, Wanted

FORMATS = ("table", "csv", "json")
# Of a table where nothing else is asked for, and digits of an id, of which commands take as many.
SHOWN, DIGITS = 50, 10
# Values that are suggested where nothing is near.
FEW = 8
NUMBERS = ("lr", "decay", "seed", "accuracy", "loss", "seconds")


def runs(
    suite: Annotated[str | None, option("Runs made for this suite: quick, quick@1.")] = None,
    task: Annotated[str | None, option("Runs of this task, by its name.")] = None,
    architecture: Annotated[
        str | None,
        option("Runs of this whole spec, preset or label, not a part of one.", "--arch", "--architecture"),
    ] = None,
    status: Annotated[str | None, option("ok, stopped, diverged, failed or interrupted.")] = None,
    seed: Annotated[int | None, option("Runs with this seed.")] = None,
    since: Annotated[
        str | None, option("Runs made since then: 2026-11-01, 2026-11-01T18:00, 12h, 7d, 2w.")
    ] = None,
    limit: Annotated[int | None, option(f"Only so many, the newest; a table shows {SHOWN} else.")] = None,
    format: Annotated[str, option("table, csv or json.")] = "table",
    store: StoreOption = None,
) -> None:
    """List the stored runs with their ids, the newest last: `mad show ID` shows one."""
    from mad.store import Store
    from mad.store.listing import Wanted, frame, listing

    if format not in FORMATS:
        raise ValueError(
            f"unknown format {format!r}{near(format, FORMATS)}; choose one of {', '.join(FORMATS)}"
        )
    wanted = Wanted(suite=suite, task=task, architecture=architecture, status=status, seed=seed, since=since)
    table = format == "table"
    with Store(store, read_only=True) as opened:
        found = listing(opened, wanted, limit=SHOWN if table and limit is None else limit)
        path = opened.path
    left = found.count - len(found.runs)
    said = f"the newest {len(found.runs):,} of {counted(found.count, 'run')}" if left else ""
    if not table:
        from mad.board.cells import as_cell

        rows = frame(found)
        if format == "csv":
            sys.stdout.write(rows.map(as_cell).to_csv(index=False))
        else:
            content = json.loads(rows.to_json(orient="records", double_precision=15))
            sys.stdout.write(f"{json.dumps(content, indent=1)}\n")
        if said:
            note(said)
    elif not found.runs:
        sys.stdout.write(f"{printable(_nothing(found, wanted, path))}\n")
    else:
        _print(found)
        sys.stdout.write(f"\n{said or counted(found.count, 'run')}{'; --limit shows more' if left else ''}\n")


def _print(found: Listing) -> None:
    """Records come from other machines too: nothing in them is obeyed, hidden or read as markup."""
    from rich.text import Text

    from mad.store.listing import names_of

    shown = [name for name in NUMBERS if name != "loss" or any(_loss(run) for run in found.runs)]
    table = terminal.new_table("run", "architecture", "task", numbers=(*shown, "status", "made"))
    table.columns[0].no_wrap = table.columns[2].no_wrap = True
    for run in found.runs:
        config, (accuracy, loss) = run.config, run.outcome
        cells = {
            "lr": f"{config.lr:g}",
            "decay": f"{config.weight_decay:g}",
            "seed": str(config.seed),
            "accuracy": "-" if accuracy is None else f"{100 * accuracy:.1f}",
            "loss": f"{loss:.4f}" if _loss(run) else "-",
            "seconds": "-" if run.cost is None else f"{run.cost.seconds:.1f}",
        }
        words = [run.id[:DIGITS], names_of(run)[0], run.subject, *(cells[name] for name in shown)]
        made = run.created[:16].replace("T", " ")
        table.add_row(*(Text(printable(word)) for word in (*words, run.status, made)))
    terminal.console().print(table)


def _loss(run: StoredRecord) -> float | None:
    """Of a language model, whose runs have no accuracy."""
    accuracy, loss = run.outcome
    return loss if accuracy is None else None


def _nothing(found: Listing, wanted: Wanted, path: Path) -> str:
    """Why the list is empty, with what could have been meant."""
    if not wanted.given:
        return f'No run in {path} yet. Make some: mad bench "2*(hyena swiglu)"'
    asked = ", ".join(f"{name} {value!r}" for name, value in wanted.given.items())
    hints = []
    for name, values in found.known.items():
        value = wanted.given[name]
        if value not in values:
            hints.append(near(value, values) or f"; {name}: {_few(values)}")
    return f"No run in {path} has {asked}{''.join(hints)}"


def _few(values: Collection[str]) -> str:
    first = sorted(values)[:FEW]
    more = [f"and {len(values) - FEW} more"] if len(values) > FEW else []
    return ", ".join(first + more) or "none"
