"""The command `mad primitives`: the layers and presets. It reads an index that ships with the package."""

import importlib.metadata
import json
from typing import Any

from rich.markup import escape

from architectures.grammar.index import read
from architectures.grammar.presets import PRESETS
from mad import terminal


def primitives() -> None:
    """List the layers that a spec can name, and the presets."""
    console = terminal.console()
    table = terminal.new_table("layer", "mixes", "parameters", "state", "paper", "options")
    for entry in read():
        options = ", ".join(f"{name}={_spell(o['default'])}" for name, o in entry["options"].items())
        held = entry["state"]  # none where a layer has no step
        state = "-" if held is None else f"{held['total']:,}{' (grows)' if held['growing'] else ''}"
        if held is not None and entry["reads"] < held["total"]:
            state += f"\n{entry['reads']:,} read"
        paper = entry["paper"].rpartition("/")[2]  # the arXiv id, or the end of an address
        table.add_row(entry["name"], entry["mixes"], f"{entry['params']:,}", state, paper, options)
    console.print(table)
    console.print("Parameters at width 128; state: elements per row after 128 tokens.", style="dim")
    console.print("read: how many of them a step reads, where it need not read all.\n", style="dim")
    table = terminal.new_table("preset", "spec", "")
    for name, preset in PRESETS.items():
        table.add_row(name, preset.spec, preset.about)
    console.print(table)
    for point in importlib.metadata.entry_points(group="mad.primitives"):
        package = point.dist.name if point.dist else point.value
        console.print(f"{escape(point.name)}: from package {escape(package)}")


def _spell(value: Any) -> str:
    return "none" if value is None else json.dumps(value).strip('"')
