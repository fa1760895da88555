"""Every question put to one task."""

import os
import random
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import numpy as np

from synthetic_tasks.contract import answers, bounds, statements, streams
from synthetic_tasks.contract.subject import Finding, NotApplicable, Subject, Violation, describe
from synthetic_tasks.registry import unknown
from synthetic_tasks.task import Task

# In their order: where one of the first five fails, what comes after it could only repeat that.
CHECKS: dict[str, Callable[[Subject], str]] = {
    "declared": statements.declared,
    "shapes": answers.shapes,
    "repeatable": streams.repeatable,
    "ids": answers.ids,
    "asked": answers.asked,
    "fields": statements.fields,
    "options": statements.options,
    "oracle": answers.oracle,
    "causality": answers.causality,
    "chance": bounds.chance,
    "ceiling": bounds.ceiling,
    "streams": streams.streams,
    "rows": streams.rows,
    "overlap": streams.overlap,
}
FIRST = ("declared", "shapes", "repeatable", "ids", "asked")


def examine(
    task: Task,
    *,
    only: Collection[str] | None = None,
    report: Callable[[str], None] = lambda check: None,
) -> list[Finding]:
    """Put every question, or `only` some, to a task; `report` is told the name of each before it is asked.

    What the task raises is a finding. With MAD_TRACEBACK in the environment it is raised instead.
    """
    wanted = set(CHECKS if only is None else only)
    for name in wanted - set(CHECKS):
        raise ValueError(unknown("check", name, CHECKS))
    if not wanted:
        raise ValueError(f"no check is named; available: {', '.join(CHECKS)}")
    subject, found, broken = Subject(task), [], ""
    with _untouched():
        for name in [name for name in CHECKS if name in wanted]:
            if broken:
                found.append(Finding(name, "not run", f"needs the check {broken!r}"))
                continue
            report(name)
            found.append(_ask(name, subject))
            if name in FIRST and found[-1].result == "failed":
                broken = name
    return found


def _ask(name: str, subject: Subject) -> Finding:
    try:
        return Finding(name, "passed", CHECKS[name](subject))
    except NotApplicable as reason:
        return Finding(name, "not applicable", str(reason))
    except Violation as violation:
        return Finding(name, "failed", str(violation))
    except (Exception, SystemExit) as error:  # The user's task may raise anything: a finding, no crash.
        if os.environ.get("MAD_TRACEBACK"):
            raise
        return Finding(name, "failed", describe(error, subject.file))


@contextmanager
def _untouched() -> Iterator[None]:
    """Global generators are put back, and a task's warnings are nobody's business here."""
    states = np.random.get_state(), random.getstate()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        np.random.set_state(states[0])
        random.setstate(states[1])
