"""Several groups at a time, each in a process of its own with one thread: the default of several cores.

Threads of one process wait for each other at every product, and for whatever else the machine does; groups
share nothing.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from mad.data.records import Record
from mad.run.engines import Options
from mad.run.sweep import Group
from mad.run.workers import jobs
from mad.run.workers.pool import Pool, slots
from mad.store import Store

TAKES = ("workers", "cell_timeout")


def run(
    groups: Sequence[Group], store: Store | None, options: Options
) -> Generator[tuple[Group, list[Record]]]:
    """See `Engine`. A group whose process exits, is killed, hangs or floods its output fails, as one whose
    layer raises; the others go on.
    """
    with Pool(slots(options.place, options.workers)) as pool:
        yield from jobs.run(groups, store, options, pool)
