"""Each check of the contract fails for what it is about, and for a right task none."""

from __future__ import annotations

import pytest

from synthetic_tasks import Task
from synthetic_tasks.contract.checkup import CHECKS, FIRST, examine
from synthetic_tasks.registry import _tasks
from tests.synthetic_tasks.faulty_tasks import FAULTS, Good

# Broken tasks stay out of the listings, which other tests read.
for made in FAULTS:
    del _tasks[made.name]


def results(task: Task) -> dict[str, str]:
    return {found.check: found.result for found in examine(task)}


def test_a_right_task_passes() -> None:
    assert set(results(Good()).values()) == {"passed"}
    assert set(results(Good(vocab_size=3, seq_len=40)).values()) == {"passed"}


def test_every_check_has_its_fault() -> None:
    assert set(CHECKS) == {check for checks in FAULTS.values() for check in checks}


@pytest.mark.parametrize("cls", FAULTS, ids=lambda cls: cls.__name__)
def test_a_fault_is_found_by_the_checks_that_are_about_it(
    cls: type[Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(_tasks, cls.name, cls)
    found = results(cls())  # type: ignore[call-arg]
    failed = [name for name, result in found.items() if result == "failed"]
    assert failed == list(FAULTS[cls])
    after = list(CHECKS)[list(CHECKS).index(failed[0]) + 1 :] if failed[0] in FIRST else []
    assert [name for name, result in found.items() if result == "not run"] == after
