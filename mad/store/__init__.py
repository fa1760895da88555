"""The store of records: one SQLite file, its location, its exchange with others."""

from mad.store.location import default_path
from mad.store.store import Store

__all__ = ["Store", "default_path"]
