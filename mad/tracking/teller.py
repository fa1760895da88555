"""The process of a tracker: it hears what happens over a pipe, and tells the tracker.

Standard input brings the messages, and what was standard output takes sentences for the user away. What the
tracker prints goes to standard error, which is read where it fails. It ends with the process that trains,
however that ends, and then closes the tracker first.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, Literal

from mad.data.trails import Head, Row, Tail, Trail, axis_of
from mad.messages import one_line
from mad.tracking import Place, Roster, Tracker, Tracking, get_tracker
from mad.tracking.families import Families

# The process stands back behind those that train as far as it can: with a busy one it gets 1.5 % of a core.
NICE = 19


# "begin" with heads, "log" with rows by the ids of runs, "end" and "show" with records.
Message = tuple[Literal["begin", "log", "end", "show"], Any]


@dataclass(frozen=True, kw_only=True)
class Opening:
    """The first that is sent, before any `Message`."""

    name: str
    tracking: Tracking
    roster: Roster
    driver: int | None
    patience: float  # seconds that are left where the other side is killed


class Singles:
    """Tells a tracker of single runs, each point once."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker

    def begin(self, heads: Sequence[Head]) -> None:
        for head in heads:
            self.tracker.begin(head)

    def log(self, points: Mapping[str, Sequence[Row]]) -> None:
        for id, rows in points.items():
            self.tracker.log(id, rows)

    def end(self, tails: Mapping[str, Tail]) -> None:
        for id, tail in tails.items():
            self.tracker.end(id, tail)

    def show(self, trails: Sequence[Trail]) -> None:
        for trail in trails:
            self.tracker.show(trail)

    def close(self) -> None:
        self.tracker.close()


class Once:
    """Lets each point pass once: a record repeats what was said while the run went on."""

    def __init__(self) -> None:
        self.said: dict[str, set[float]] = defaultdict(set)

    def new(self, points: Mapping[str, Sequence[Row]]) -> dict[str, list[Row]]:
        fresh: dict[str, list[Row]] = {}
        for id, rows in points.items():
            fresh[id] = [row for row in rows if row[axis_of(row)] not in self.said[id]]
            self.said[id] |= {row[axis_of(row)] for row in rows}
        return fresh


def main() -> None:
    inbox, outbox = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The other side says when to end.
    opening: Opening = pickle.load(inbox)
    if hasattr(os, "nice"):
        os.nice(NICE)
    threading.Thread(target=_end, args=(os.getppid(), opening.patience), daemon=True).start()

    def tell(sentence: str) -> None:
        outbox.write(f"{one_line(sentence)}\n")

    kind, tracking = get_tracker(opening.name), opening.tracking
    tracker = kind(tracking.folder, Place(driver=opening.driver, tell=tell))
    whole = (tracking.by or kind.by) == "architecture"
    told: Singles | Families = Families(tracker, opening.roster) if whole else Singles(tracker)
    once = Once()
    for method, value in _messages(inbox):
        match method:
            case "begin":
                told.begin(value)
            case "log":
                told.log(once.new(value))
            case "end":
                trails = [record.trail() for record in value]
                told.log(once.new({trail.head.id: trail.rows for trail in trails}))
                told.end({trail.head.id: trail.tail for trail in trails})
            case "show":
                told.show([record.trail() for record in value])
    told.close()


def _end(parent: int, patience: float) -> None:
    """Let a tracker that hangs not outlive the process that trains by more than this."""
    while os.getppid() == parent:
        time.sleep(1.0)
    time.sleep(patience)
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _messages(inbox: IO[bytes]) -> Iterator[Message]:
    """What comes in until the other side is gone, which may cut the last one off."""
    with contextlib.suppress(EOFError, pickle.UnpicklingError):
        while True:
            yield pickle.load(inbox)
