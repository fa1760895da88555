"""The command `mad rm`: records gone from a store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

from mad.commands.flags import StoreOption, argument, option
from mad.data.labels import meanings
from mad.messages import brief, counted, say

if TYPE_CHECKING:
    from mad.store.entry import Entry


def rm(
    ids: Annotated[list[str] | None, argument("Runs, each by 6 digits of its id or more.", "[ID]...")] = None,
    suite: Annotated[str | None, option("Runs made for this suite: quick, quick@1.")] = None,
    task: Annotated[str | None, option("Runs of this task.")] = None,
    architecture: Annotated[
        str | None, option("Runs of this spec, preset or label, spelled as it is listed.")
    ] = None,
    status: Annotated[str | None, option("ok, stopped, diverged, failed or interrupted.")] = None,
    study: Annotated[str | None, option("Language-model runs of this study.")] = None,
    imported: Annotated[bool, option("Runs that came out of a file.", "--imported")] = False,
    unreadable: Annotated[bool, option("What cannot be understood as a run.", "--unreadable")] = False,
    store: StoreOption = None,
    dry_run: Annotated[bool, option("List the runs; remove nothing.", "--dry-run")] = False,
    yes: Annotated[bool, option("Remove what the options select without ids.", "--yes")] = False,
) -> None:
    """Remove runs from the store, and list them. Options narrow the ids, or without ids the whole store."""
    from mad.store import Store

    options = {"suite": suite, "task": task, "architecture": architecture, "status": status, "study": study}
    wanted = {name: value for name, value in options.items() if value is not None}
    if not (ids or wanted or imported or unreadable):
        raise ValueError("nothing is selected; give ids, or an option such as --status failed")
    Store(store, read_only=True).close()  # There is one: to write would make one.
    with Store(store, read_only=dry_run) as opened:
        named = opened.scan() if not ids else {run.id: run for run in map(opened.find, ids)}.values()
        found = [run for run in named if _matches(run, wanted, imported=imported, unreadable=unreadable)]
        if not found:
            raise ValueError(f"no run in {opened.path} matches; give fewer options, or see `mad runs`")
        say("".join(f"{_line(entry)}\n" for entry in found))
        count = counted(len(found), "run")
        if dry_run:
            say(f"{count} would be removed from {opened.path}\n")
            return
        if not ids and not yes:
            raise ValueError(f"{count} selected, and nothing was removed; to remove them, add --yes")
        kept = len(found) - len(opened.remove(found))
        others = f"; {kept} changed meanwhile and stayed" if kept else ""
        say(f"{counted(len(found) - kept, 'run')} removed from {opened.path}{others}\n")


def _matches(entry: Entry, wanted: Mapping[str, str], *, imported: bool, unreadable: bool) -> bool:
    """Whether a row is all that was asked for; a record that cannot be understood is nothing but that."""
    record = entry.record
    if record is None:
        return not wanted and not imported
    if unreadable or (imported and not record.imported):
        return False
    known = record.known()
    said = {name: meanings(value) if name == "architecture" else (value,) for name, value in wanted.items()}
    return all(set(texts) & known.get(name, set()) for name, texts in said.items())


def _line(entry: Entry) -> str:
    """The row for a person."""
    record = entry.record
    if record is None:
        return brief(f"{entry.id}  not understood: {entry.reason}")
    mark = ", imported" if record.imported else ""
    what = f"{record.config.architecture.label}  {record.subject}"
    return brief(f"{entry.id}  {record.status}{mark}  {what}")
