"""Reference results: records of known architectures that come with the package, to stand beside one's own.

They are files in `mad/reference/`, one for each name of a suite, as `mad export` writes them. What belongs to
a version of a suite is decided by content, as everywhere.
"""

from pathlib import Path

from mad.data.records import Record
from mad.store.exchange import read_records

FOLDER = Path(__file__).parents[1] / "reference"


def reference_records(suite: str) -> list[Record]:
    """The packaged runs for a suite, by its name without version; none where the package has none."""
    # The suite may be somebody else's: its name may be anything, a path too.
    paths = [path for path in FOLDER.glob("*.jsonl") if path.stem == suite]
    return [run for path in paths for run in read_records(path) if isinstance(run, Record)]
