"""Tasks as the battery names them: read, identified with the code of the user's own, and spelled again."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
from collections.abc import Mapping
from typing import Any

import synthetic_tasks
from architectures.outside.identity import code_hash
from synthetic_tasks import Task
from synthetic_tasks.registry import find


def read_task(text: str, variant: str) -> Task:
    """The task that a text spells, with the generators that a protocol wants, where the task has several."""
    with _kept():
        cls = find(text.partition("[")[0].strip())
    return _read(cls, text, variant)


@functools.lru_cache(maxsize=1024)
def _read(cls: type[Task], text: str, variant: str) -> Task:
    """By its class as well: a module that was loaded anew has another one under the same name."""
    task = synthetic_tasks.parse(text)
    if "variant" in {field.name for field in dataclasses.fields(task)}:
        changes: dict[str, Any] = {"variant": variant}
        task = dataclasses.replace(task, **changes)
    return task


def _kept() -> contextlib.AbstractContextManager[None]:
    """A module of the user's own may set torch's defaults as it is imported."""
    if "torch" not in sys.modules:
        return contextlib.nullcontext()
    from architectures.outside.surroundings import kept

    return kept()


def identify(task: Task) -> dict[str, Any]:
    """What a run's identity holds of its task: name, version, every field; of one that is not ours where its
    class is, and the hash of its code as layers have it. ValueError where no other process finds that.
    """
    fixed = task.content() | {"train_targets": task.train_targets}
    cls = type(task)
    if cls.__module__.startswith("synthetic_tasks."):
        return fixed
    if cls.__module__ == "__main__" or "." in cls.__qualname__:
        lies = "in the program itself" if cls.__module__ == "__main__" else "inside a function or class"
        raise ValueError(
            f"task {task.name!r} is defined {lies}, where no other process finds it; put {cls.__name__} into "
            f"a file of its own, my_tasks.py for example, and name my_tasks:{cls.__name__}"
        )
    return fixed | {"class": f"{cls.__module__}:{cls.__qualname__}", "source": code_hash(cls)}


def name_of(text: str) -> str:
    """What a task is called in scores: of a class that is named by its path what it is registered as."""
    return find(text).name if ":" in text else text


def spelled(content: Mapping[str, Any]) -> str:
    """What names the task of a record again, with every field: nothing is looked up or imported for it."""
    apart = ("name", "version", "class", "source")
    options = [f"{name}={_word(value)}" for name, value in content.items() if name not in apart]
    return f"{content.get('class', content['name'])}[{','.join(options)}]"


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
