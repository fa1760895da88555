"""The command `mad submit`: whole batteries as one file for a shared folder of results, and a look at one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from mad.commands.flags import ProtocolOption, StoreOption, SuiteOption, argument, option
from mad.messages import counted, one_line, say

if TYPE_CHECKING:
    from mad.trust.submission import Submission


def submit(
    specs: Annotated[
        list[str] | None,
        argument("Architectures, as in bench, or labels; none: every complete row.", "[SPEC]..."),
    ] = None,
    folder: Annotated[Path | None, option("Folder of results that people share.", "--folder", "-o")] = None,
    suite: SuiteOption = "quick",
    protocol: ProtocolOption = "sound",
    store: StoreOption = None,
    label: Annotated[str | None, option("How the file's name begins.")] = None,
    partial: Annotated[
        bool, option("Rows that lack settings or seeds, or are stale, too.", "--partial")
    ] = False,
    check: Annotated[
        Path | None, option("Look through this submission instead, without running anything.")
    ] = None,
) -> None:
    """Bundle the runs of architectures into one file that others can check, import and run again."""
    from mad import api

    if check is not None:
        if specs or folder is not None:
            raise ValueError("--check looks through a file that is there; leave SPEC and -o out")
        _tell(api.check_submission(check))
        return
    if folder is None:
        raise ValueError("no folder is given; add -o with the folder of results that you share")
    found = api.submit(
        specs or (),
        folder=folder,
        suite=suite,
        protocol=protocol,
        store=store,
        label=label,
        partial=partial,
    )
    _tell(found)
    say(f"Next: add it to the shared results; there one of its runs is run again: mad verify {found.path}\n")


def _tell(found: Submission) -> None:
    head = found.head
    counts = f"{counted(head.runs, 'run')} of {counted(len(head.architectures), 'architecture')}"
    say(f"{found.path}: {counts}, {head.suite}, protocol {head.protocol}\n")
    for place in head.environments:
        versions = ", ".join(f"{name} {place[name]}" for name in ("torch", "mad_suite") if name in place)
        say(f"made on {place.get('device_name')} with {versions}, threads: {place.get('threads')}\n")
    for sentence in found.lacks:
        say(f"not complete: {one_line(sentence)}\n")
    if found.code:
        say(
            f"names code of its makers, which nobody runs unasked (--allow-code): {', '.join(found.code)}; "
            "publish that beside the results\n"
        )
    if not found.lacks:
        say("complete: no setting and no seed is missing\n")
