"""From a store to the page: every board that its runs belong to, and what other packages add."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mad
from architectures.grammar.index import read
from mad.board.page.assemble import write_page
from mad.board.page.payload import payload
from mad.board.page.published import read_published
from mad.data.protocol import PROTOCOLS, Suite, get_protocol, get_suite, known_suites
from mad.data.records import Record
from mad.score import Scores, score
from mad.store import Store, default_path
from mad.store.reference import reference_records

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
) -> tuple[dict[str, Any], list[Section]]:
    """The page's data, as `mad.board.page.payload` describes them, and the sections of other packages."""
    asked, referee = get_suite(suite), get_protocol(protocol)
    told = read_published(published) if published is not None else []
    own, packaged = _records(asked, store, reference)
    versions = {entry["name"]: entry["version"] for entry in read()}
    boards = []
    first: Scores | None = None
    for exam in _suites(asked):
        for judge in dict.fromkeys((referee.name, *PROTOCOLS)):
            rules = get_protocol(judge)
            wanted = tasks if exam is asked else None
            scores = score(own, exam, rules, versions=versions, reference=packaged, tasks=wanted)
            boards.append((scores, exam, rules))
            first = first or scores
    assert first is not None
    sections = list(_sections(store, first))
    # A suite of one's own is found by what was typed, not by its label.
    words = {asked.label: str(suite)} if not isinstance(suite, Suite) and "+" in asked.label else {}
    content = payload(
        boards,
        [*packaged, *own],
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


def _records(asked: Suite, store: str | Path | None, reference: bool) -> tuple[list[Record], list[Record]]:
    """Those of the store and those of the package."""
    names = dict.fromkeys(suite.name for suite in _suites(asked))
    packaged = [run for name in names for run in reference_records(name)] if reference else []
    if store is None and packaged and not default_path().exists():
        return [], packaged
    with Store(store, read_only=True) as opened:
        return opened.records(), packaged


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
