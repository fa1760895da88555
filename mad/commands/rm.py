"""The command `mad rm`: records gone from a store."""

from __future__ import annotations

from typing import Annotated

import typer

from mad.commands.flags import StoreOption
from mad.messages import counted, say


def rm(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Runs, each by 6 digits of its id or more.")
    ] = None,
    suite: Annotated[str | None, typer.Option(help="Runs made for this suite: quick, quick@1.")] = None,
    task: Annotated[str | None, typer.Option(help="Runs of this task.")] = None,
    architecture: Annotated[
        str | None, typer.Option(help="Runs of this spec, preset or label, spelled as it is listed.")
    ] = None,
    status: Annotated[str | None, typer.Option(help="ok, stopped, diverged, failed or interrupted.")] = None,
    study: Annotated[str | None, typer.Option(help="Language-model runs of this study.")] = None,
    imported: Annotated[bool, typer.Option("--imported", help="Runs that came out of a file.")] = False,
    unreadable: Annotated[
        bool, typer.Option("--unreadable", help="What cannot be understood as a run.")
    ] = False,
    store: StoreOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs; remove nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove what the options select without ids.")] = False,
) -> None:
    """Remove runs from the store, and list them. Options narrow the ids, or without ids the whole store."""
    from mad.store import Store
    from mad.store.removal import line, matches

    options = {"suite": suite, "task": task, "architecture": architecture, "status": status, "study": study}
    wanted = {name: value for name, value in options.items() if value is not None}
    if not (ids or wanted or imported or unreadable):
        raise ValueError("nothing is selected; give ids, or an option such as --status failed")
    Store(store, read_only=True).close()  # There is one: to write would make one.
    with Store(store, read_only=dry_run) as opened:
        named = opened.entries() if not ids else {run.id: run for run in map(opened.find, ids)}.values()
        found = [run for run in named if matches(run, wanted, imported=imported, unreadable=unreadable)]
        if not found:
            raise ValueError(f"no run in {opened.path} matches; give fewer options, or see `mad leaderboard`")
        say("".join(f"{line(entry)}\n" for entry in found))
        count = counted(len(found), "run")
        if dry_run:
            say(f"{count} would be removed from {opened.path}\n")
            return
        if not ids and not yes:
            raise ValueError(f"{count} selected, and nothing was removed; to remove them, add --yes")
        opened.remove(found)
        say(f"{count} removed from {opened.path}\n")
