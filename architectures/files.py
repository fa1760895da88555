"""Files that are whole or untouched: a target is checked before the work, and replaced by a finished copy."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

Name = str | os.PathLike[str]


def check_target(path: Name, *, force: bool = False, sources: Iterable[Name] = ()) -> Path:
    """The file that a path names, links followed; ValueError where it cannot or may not be written.

    force    whether a file that exists may be replaced; what is not a regular file never is
    sources  files that are read, and so never written
    """
    target = resolved(path)
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        mode = None
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error.strerror}); choose another path") from None
    if mode is not None:
        if stat.S_ISDIR(mode):
            raise ValueError(f"{path} is a folder; give the path of a file in it")
        if not stat.S_ISREG(mode):
            raise ValueError(f"{path} is not a regular file; choose another path")
        for source in sources:
            if os.path.exists(source) and os.path.samefile(source, target):
                raise ValueError(f"{path} is read by this command; choose another path to write to")
        if not force:
            raise ValueError(f"{path} exists; choose another name, or replace it with --force")
        if not os.access(target, os.W_OK):
            raise ValueError(f"{path} is write-protected; choose another path, or change its permissions")
    if not target.parent.is_dir():
        raise ValueError(f"{path} is in no folder; create {target.parent}, or choose another path")
    try:
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written ({error.strerror}); choose a path in another folder"
        ) from None
    return target


def resolved(path: Name) -> Path:
    """The absolute path, ~ replaced and links followed; a user or a link that leads nowhere stays in it."""
    return Path(os.path.realpath(os.path.expanduser(path)))


@contextmanager
def whole_file(path: Name, *, force: bool = False, sources: Iterable[Name] = ()) -> Iterator[Path]:
    """A path beside the target, of the same suffix, to write to; it takes the target's place at the end.

    The target is checked as in `check_target`. What fails leaves it as it was, and nothing beside it; an
    error of the system names it.
    """
    target = check_target(path, force=force, sources=sources)
    part = target.with_name(f".{secrets.token_hex(8)}.part{target.suffix}")
    try:
        yield part
        with open(part, "rb+") as written:
            os.fsync(written.fileno())
        if target.exists():
            shutil.copymode(target, part)
        os.replace(part, target)
    except Exception as error:
        found = system_error(error)
        if found is None or found.errno is None:
            raise
        raise OSError(found.errno, found.strerror, str(path)) from error
    finally:
        part.unlink(missing_ok=True)


def system_error(error: BaseException | None) -> OSError | None:
    """The error of the system behind another one: torch hides a full disk behind a RuntimeError."""
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error
