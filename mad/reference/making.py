"""Makes the reference results: trains what a store of their own lacks, and writes the package's files."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from architectures.files import whole_file
from mad.data.records import Record
from mad.run.battery import Prepared, execute, prepare, watching
from mad.store import Store
from mad.store.exchange import lines_of
from mad.store.reference import FOLDER

LIST = FOLDER / "architectures.toml"


def listed() -> dict[str, list[str]]:
    """The architectures, by what is special about them."""
    return tomllib.loads(LIST.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Written:
    """What a file holds by now, and the architectures that it lacks."""

    path: Path
    records: int
    architectures: int
    lacking: tuple[str, ...]


def make(
    suites: Sequence[str],
    store: Path,
    *,
    specs: Sequence[str] | None = None,
    seeds: int | None = None,
    device: str = "cpu",
    workers: int | None = None,
    train: bool = True,
    folder: Path = FOLDER,
) -> list[Written]:
    """Train each architecture on these suites, but for what the store holds, and write `folder/NAME.jsonl`
    for each name of a suite, of all its versions that are asked for.

    specs   the architectures; None: those of `architectures.toml`
    seeds   of each suite; None: its own number
    train   False: write what is stored already

    An architecture is written once all its runs are done; the bytes of a file follow from the store alone.
    """
    asked = [spec for family in listed().values() for spec in family] if specs is None else specs
    plans = [prepare(asked, suite=suite, protocol="sound", seeds=seeds, device=device) for suite in suites]
    folder.mkdir(parents=True, exist_ok=True)  # Before the hours of training, not after.
    if train:
        for plan in plans:
            print(
                f"{plan.suite.label}: {len(asked)} architectures, {len(plan.groups)} groups; store {store}",
                flush=True,
            )
            with watching(plan.groups, plan.place, progress=True) as watcher:
                execute(plan, store=store, workers=workers, watcher=watcher)
    by_name: dict[str, list[Prepared]] = {}
    for plan in plans:
        by_name.setdefault(plan.suite.name, []).append(plan)
    with Store(store, read_only=True) as opened:
        return [_write(folder / f"{name}.jsonl", plans, opened) for name, plans in by_name.items()]


def _write(path: Path, plans: Sequence[Prepared], store: Store) -> Written:
    """The runs of what is complete, sorted by id."""
    found: dict[str, Record] = {}
    whole, lacking = set(), []
    for plan in plans:
        groups: dict[str, list[dict[str, Record]]] = {}
        for group in plan.groups:
            hits = store.hits(group.id, group.run_ids)
            done = hits if len(hits) == len(group.run_ids) else {}
            groups.setdefault(group.cell.architecture.given, []).append(done)
        for name, parts in groups.items():
            if all(parts):
                whole.add(name)
                found |= {id: run for part in parts for id, run in part.items()}
            else:
                lacking.append(f"{name} on {plan.suite.label}")
    if not found:
        raise ValueError(f"no architecture is complete in {store.path}; {path} stays as it is")
    with whole_file(path, force=True) as part:
        part.write_text(lines_of(sorted(found.values(), key=lambda run: run.id)), encoding="utf-8")
    return Written(path, len(found), len(whole), tuple(lacking))
