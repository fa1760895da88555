"""The checkpoint of a run that was broken off: used where it is whole and of this run."""

from __future__ import annotations

import os
from pathlib import Path

from architectures.outside.archive import read_archive

CHECKPOINT = "last.ckpt"


def set_aside_unusable(folder: Path, id: str) -> str | None:
    """Make room where the folder's checkpoint is damaged, or of an older version; what is to be said of it.

    Raises ValueError for the checkpoint of another run.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    try:
        content = read_archive(path)
    except OSError:
        raise
    except Exception as error:  # The unpickler answers a damaged file with whatever it stumbles over.
        reason = " ".join(str(error).split()) or type(error).__name__
        return _set_aside(path, f"is damaged ({reason})", "damaged")
    other = content.get("run", {}).get("id") if isinstance(content, dict) else None
    if other != id:
        whose = "no run of ours" if other is None else f"run {other}"
        raise ValueError(f"{path} is the checkpoint of {whose}, and this is run {id}; pass another folder")
    return None if "optimizer" in content else _set_aside(path, "is of an older version", "old")


def _set_aside(path: Path, what: str, end: str) -> str:
    aside = path.with_name(f"{path.name}.{end}")
    os.replace(path, aside)
    return f"{path} {what}: the run begins anew, and the file is kept as {aside.name}"
