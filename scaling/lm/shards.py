"""The cache of tokens: one file per split, mapped into memory, and never half-written.

A corpus is a folder named by the hash of its content and its options. It is built under another name, synced
to the disk and then renamed, so that a folder with its final name is whole, whoever was killed and whoever
builds at the same time.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from architectures.files import resolved
from mad.store.location import user_folder

# Folders of builders that were killed are removed when they are older than this: a day in seconds.
STALE = 86_400
BUILDING = ".building-"


def default_cache() -> Path:
    """$MAD_CACHE, else `mad-suite/corpora` in the platform's folder for caches."""
    if named := os.environ.get("MAD_CACHE"):
        return resolved(named)
    return user_folder("MAD_CACHE", "Caches", "XDG_CACHE_HOME", "~/.cache") / "corpora"


def folder(cache: Path, key: str, fill: Callable[[Path], None]) -> Path:
    """The folder `cache/key`, as it is or as `fill` makes it."""
    final = cache / key
    if final.is_dir():
        return final
    temporary = cache / f"{BUILDING}{uuid.uuid4().hex}"
    try:
        temporary.mkdir(parents=True)
        _sweep(cache)
        fill(temporary)
        for path in (*temporary.iterdir(), temporary):
            _sync(path)
        try:
            temporary.rename(final)
        except OSError:
            # Another builder may have been first; what it built is the same.
            if not final.is_dir():
                raise
        _sync(cache)
    except OSError as error:
        raise ValueError(
            f"the cache {cache} cannot be written ({error.strerror}); pass another, or set MAD_CACHE"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return final


def write(path: Path, documents: Iterable[np.ndarray], vocab_size: int) -> int:
    """Write the tokens of the documents one after another; how many they are."""
    kind, total = _kind(vocab_size), 0
    with open(path, "wb") as file:
        for tokens in documents:
            file.write(tokens.astype(kind).tobytes())
            total += len(tokens)
    return total


def read(path: Path, vocab_size: int, tokens: int) -> np.ndarray:
    """The tokens of a file, mapped into memory."""
    kind = _kind(vocab_size)
    size = path.stat().st_size if path.is_file() else 0
    if size != tokens * kind.itemsize:
        raise ValueError(
            f"{path} has {size} bytes instead of {tokens * kind.itemsize}; delete the folder {path.parent} "
            "and it is built again"
        )
    return np.memmap(path, kind, "r")


def _kind(vocab_size: int) -> np.dtype:
    return np.dtype("u1" if vocab_size <= 256 else "<u2")


def _sync(path: Path) -> None:
    if path.is_dir() and sys.platform == "win32":
        return  # Windows opens no folders.
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sweep(cache: Path) -> None:
    for path in cache.glob(f"{BUILDING}*"):
        try:
            old = time.time() - path.stat().st_mtime > STALE
        except FileNotFoundError:
            continue  # Its builder has just finished.
        if old:
            shutil.rmtree(path, ignore_errors=True)
