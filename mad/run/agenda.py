"""What a driver has before it, where others may work at the same with the same store."""

from __future__ import annotations

import time
from collections.abc import Sequence

from mad.data.records import Record
from mad.messages import counted, note
from mad.run.engines import missing, store_of, stored_records
from mad.run.sweep import Group
from mad.store import Store

# Seconds between two looks at what other drivers do.
POLL = 1.0


class Agenda:
    """Groups in order, each taken when it is to begin: one that another driver runs is left for last, and one
    that another driver has stored meanwhile is not run again. Drivers of one command so divide its groups.
    """

    def __init__(self, groups: Sequence[Group], store: Store | None) -> None:
        self._left, self._store = list(groups), store
        self._waited = False

    def __len__(self) -> int:
        return len(self._left)

    def take(self) -> tuple[Group, list[Record] | None] | None:
        """The first group that no other driver runs: it is ours until `end`, or comes with the records that
        it has by now. None where others run all that is left.
        """
        for i, group in enumerate(self._left):
            store = store_of(group, self._store)
            if store is None or store.claim(group.id):
                del self._left[i]
                if store is None or missing(group, store):
                    return group, None
                self.end(group)
                return group, stored_records(group, store)
        return None

    def end(self, group: Group) -> None:
        """It has been run, and its records are stored."""
        if (store := store_of(group, self._store)) is not None:
            store.release(group.id)

    def wait(self) -> None:
        """Give others time for what they run."""
        if not self._waited:
            note(f"another driver of this store runs {counted(len(self), 'group')} of these; waiting for it")
            self._waited = True
        time.sleep(POLL)
