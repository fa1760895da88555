"""The listings: tasks and layers. They read what ships with the package and load no torch."""

from __future__ import annotations

import importlib.metadata
import json
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

import synthetic_tasks
from architectures.grammar.index import read
from architectures.grammar.presets import PRESETS


def list_tasks(console: Console) -> None:
    """Every registered task with its defaults."""
    table = new_table("task", "defaults", "chance", "answers at", "what is asked")
    for name in synthetic_tasks.names():
        task = synthetic_tasks.get(name)
        options = ", ".join(f"{k}={v}" for k, v in task.content().items() if k not in ("name", "version"))
        where = {"every": "each position", "last": "the end, all at once"}[task.readout]
        about = (type(task).__doc__ or "").strip().splitlines()[0]
        table.add_row(name, options, f"{task.chance:.3f}", where, about)
    console.print(table)


def list_primitives(console: Console) -> None:
    """Every registered layer, the presets, and the packages that add layers of their own."""
    table = new_table("layer", "mixes", "parameters", "state", "paper", "options")
    for entry in read():
        options = ", ".join(
            f"{name}={_spell(option['default'])}" for name, option in entry["options"].items()
        )
        held = entry["state"]  # none where a layer has no step
        state = "-" if held is None else f"{held['total']:,}{' (grows)' if held['growing'] else ''}"
        table.add_row(entry["name"], entry["mixes"], f"{entry['params']:,}", state, entry["paper"], options)
    console.print(table)
    console.print("Parameters at width 128; state: elements a row after 128 tokens.\n", style="dim")
    table = new_table("preset", "spec", "")
    for name, preset in PRESETS.items():
        table.add_row(name, preset.spec, preset.about)
    console.print(table)
    for point in importlib.metadata.entry_points(group="mad.primitives"):
        package = point.dist.name if point.dist else point.value
        console.print(f"{escape(point.name)}: from package {escape(package)}")


def new_table(*columns: str) -> Table:
    """A plain table that folds long cells."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _spell(value: Any) -> str:
    return "none" if value is None else json.dumps(value).strip('"')
