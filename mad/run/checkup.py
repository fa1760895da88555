"""`mad check`: whose contract is meant, and what came of it. Loads torch where it is used."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import synthetic_tasks
from mad.data import labels
from mad.data.protocol import Suite, get_protocol, get_suite
from mad.messages import counted, near
from synthetic_tasks import Task
from synthetic_tasks.spelling import NAME

if TYPE_CHECKING:
    from architectures.contract.subject import Finding

Report = Callable[[str], None]


def check(
    spec: str | Task,
    *,
    dim: int | None = None,
    compile: bool = False,
    only: Collection[str] | None = None,
    size: tuple[int, int, int] | None = None,
    suite: str | Path | Suite | None = None,
    report: Report = lambda check: None,
) -> list[Finding]:
    """Test one layer, a factory or a task against the contract that the registered ones keep, and return what
    each check found.

    spec     a layer: package.module:Class, a registered name, or either with options, "mamba[d_state=8]"; or
             package.module:factory of whole models, which is asked less, on the tasks of a suite; or a task:
             package.module:Task, a registered name, "compression[seq_len=8]", or the `Task` itself
    dim      of a layer: the width of most inputs, divisible by 16; None: 64
    compile  of a layer: torch.compile too, which takes seconds
    only     names of checks; None: all
    size     of a layer: (batch, length, width) of the one input to ask; None: several, and where a check
             fails the search for the smallest that shows it
    suite    of a factory: on whose tasks it is asked, as in `bench`; None: "smoke"
    report   told the name of each check before it runs

    What the layer or the task raises is a finding. With MAD_TRACEBACK in the environment it is raised.
    """
    from architectures.contract.checkup import examine
    from mad.run.driver import one_driver
    from mad.run.sweep import factory_named

    given = {"dim": dim, "compile": compile or None, "size": size, "suite": suite}
    with one_driver():
        task = spec if isinstance(spec, Task) else task_named(spec)
        if task is not None:
            _take(spec, "is a task", given)
            return _of_task(task, only, report)
        assert isinstance(spec, str)
        _, spec = labels.read(spec)
        if (factory := factory_named(spec)) is not None:
            _take(spec, "makes models for tasks, which have a size of their own", given, "suite")
            return _of_factory(spec, factory, suite, only, report)
        _take(spec, "is a layer", given, "dim", "compile", "size")
        width = 64 if dim is None else dim
        return examine(spec, dim=width, compile=compile, only=only, size=size, report=report)


def task_named(text: str) -> Task | None:
    """The task that a text spells; None where it is a layer, or a factory of models."""
    found = re.fullmatch(rf"\s*({NAME})\s*(\[.*)?", text, re.DOTALL)
    if found is None:
        return None
    name = found[1]
    if ":" in name:
        from architectures.registry import load_object

        loaded = load_object(name)
        return synthetic_tasks.parse(text) if isinstance(loaded, type) and issubclass(loaded, Task) else None
    from architectures.grammar.index import read
    from architectures.grammar.presets import PRESETS

    known = {entry["name"] for entry in read()} | set(PRESETS)
    if name in known:
        return None
    if name in synthetic_tasks.names():
        return synthetic_tasks.parse(text)
    if meant := near(name, synthetic_tasks.names(), cutoff=0.8):
        raise ValueError(f"{name!r} is neither a layer nor a task{meant}")
    return None


def _take(spec: Any, what: str, given: dict[str, Any], *options: str) -> None:
    """Refuse what is not asked of such a thing."""
    for option, value in given.items():
        if value is not None and option not in options:
            raise ValueError(f"{spec} {what}; leave {option} out")


def _of_task(task: Task, only: Collection[str] | None, report: Report) -> list[Finding]:
    from architectures.contract.subject import Finding
    from synthetic_tasks.contract.checkup import examine

    return [Finding(*found) for found in examine(task, only=only, report=report)]


def _of_factory(
    spec: str, factory: Any, suite: str | Path | Suite | None, only: Collection[str] | None, report: Report
) -> list[Finding]:
    from architectures.contract.whole import examine_models
    from mad.run.sweep import candidates

    exam = get_suite("smoke" if suite is None else suite)
    asked = candidates(factory, exam, get_protocol("sound"))
    where = f"{counted(len(asked), 'task')} of the {exam.name} suite"
    return examine_models(asked, where=where, only=only, report=report)
