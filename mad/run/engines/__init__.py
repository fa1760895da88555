"""Engines run the groups of a sweep; a new one is an entry here."""

from mad.run.engines import inline
from mad.run.engines.engine import Engine, Options, missing

__all__ = ["ENGINES", "Engine", "Options", "missing"]

ENGINES: dict[str, Engine] = {"inline": inline.run}
