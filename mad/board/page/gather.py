"""From a store to the page: every board that its runs belong to, and what other packages add."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import mad
from architectures.grammar.index import read
from mad.board.page.assemble import write_page
from mad.board.page.payload import payload
from mad.board.page.published import read_published
from mad.data.protocol import PROTOCOLS, Protocol, Suite, get_protocol, get_suite, known_suites
from mad.data.records import Record, setting_key
from mad.score import Scores, score
from mad.store import Store, default_path
from mad.store.reference import maker, reference_records

# A section of another package: name (an anchor), title, html.
Section = Mapping[str, str]


def leaderboard_page(
    folder: str | Path,
    *,
    suite: str | Path | Suite = "quick",
    protocol: str = "sound",
    store: str | Path | None = None,
    reference: bool = True,
    tasks: Sequence[str] | None = None,
    published: str | Path | None = None,
) -> Path:
    """Write the leaderboard as one self-contained page, `index.html` in a folder, and return its path.

    folder     is made where it is missing; the page that was there is replaced
    suite, protocol  what is shown first; the page has every other suite and protocol of which there are runs
    store, reference, tasks  as in `leaderboard`; tasks of the suite that is shown first
    published  CSV of published scores, to stand beside the measured ones: hollow, by source, never ranked

    The page opens from a disk, loads nothing and needs no server. Other packages add sections to it by entry
    points of the group mad.page: functions (store: path, scores) -> list of name, title and html.
    """
    content, sections = gathered(
        suite=suite, protocol=protocol, store=store, reference=reference, tasks=tasks, published=published
    )
    return write_page(folder, content, sections)


def gathered(
    *,
    suite: str | Path | Suite = "quick",
    protocol: str = "sound",
    store: str | Path | None = None,
    reference: bool = True,
    tasks: Sequence[str] | None = None,
    published: str | Path | None = None,
    others: bool = True,
) -> tuple[dict[str, Any], list[Section]]:
    """The page's data, as `mad.board.page.payload` describes them, and the sections of other packages, where
    these are asked for: to make them may take seconds.
    """
    asked, referee = get_suite(suite), get_protocol(protocol)
    told = read_published(published) if published is not None else []
    versions = {entry["name"]: entry["version"] for entry in read()}
    boards: list[tuple[Scores, Suite, Protocol]] = []
    runs: dict[str, Record] = {}
    # Packaged results are there before the first run is made; a store that was named must be.
    stored = store is not None or not reference or default_path().exists()
    with Store(store, read_only=True) if stored else nullcontext() as opened:
        for exam in _suites(asked):
            packaged = reference_records(exam.name) if reference else []
            makers = {run.id: maker(run.environment) for run in packaged}
            for name in dict.fromkeys((referee.name, *PROTOCOLS)):
                rules, wanted = get_protocol(name), tasks if exam is asked else None
                keys = {setting_key(setting, rules) for setting in exam.settings}
                own = [] if opened is None else list(opened.outlines(keys))
                scores = score(
                    own, exam, rules, versions=versions, reference=packaged, makers=makers, tasks=wanted
                )
                boards.append((scores, exam, rules))
                # Pages show what outlines lack: the curves, and where runs were made.
                whole = [opened.get(run.id) for run in own] if opened is not None else []
                runs |= {run.id: run for run in packaged if run.config.setting_key in keys}
                runs |= {run.id: run for run in whole if run is not None}
    sections = list(_sections(store, boards[0][0])) if others else []
    # A suite of one's own is found by what was typed, not by its label.
    words = {asked.label: str(suite)} if not isinstance(suite, Suite) and "+" in asked.label else {}
    content = payload(
        boards,
        runs,
        opened=(asked.label, f"{referee.name}@{referee.version}"),
        version=mad.__version__,
        published=told,
        sections=sections,
        words=words,
    )
    return content, sections


def _suites(asked: Suite) -> Iterator[Suite]:
    """The suite that was asked for, then the others."""
    yield asked
    yield from (suite for suite in known_suites().values() if suite.label != asked.label)


def _sections(store: str | Path | None, scores: Scores) -> Iterator[Section]:
    for point in importlib.metadata.entry_points(group="mad.page"):
        try:
            make: Callable[[Any, Scores], list[Section]] = point.load()
        except Exception as error:
            raise ValueError(
                f"entry point {point.name!r} of group mad.page ({point.value}) cannot be loaded: {error}; "
                "repair or uninstall its package"
            ) from error
        yield from make(store, scores)
