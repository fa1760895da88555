"""The contract put to a layer, or on the tasks of the smoke suite to a factory of whole models."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection

import torch

from architectures.contract import checkup
from architectures.contract.subject import Finding
from architectures.contract.whole import Candidate, examine_models
from mad.data.protocol import get_protocol, get_suite
from mad.run.driver import one_driver
from mad.run.sweep import factory_named

ROWS = 32


@one_driver()
def examine(
    spec: str,
    *,
    dim: int,
    compile: bool,
    only: Collection[str] | None,
    size: tuple[int, int, int] | None,
    report: Callable[[str], None],
) -> list[Finding]:
    """See `mad.check`."""
    factory = factory_named(spec)
    if factory is None:
        return checkup.examine(spec, dim=dim, compile=compile, only=only, size=size, report=report)
    if size is not None:
        raise ValueError(f"{spec} makes models for tasks, which have a size of their own; leave size out")
    protocol = get_protocol("sound")
    tasks = [setting.resolve(protocol) for setting in get_suite("smoke").settings]
    candidates = [
        Candidate(
            name=str(task),
            file=inspect.getfile(factory),
            make=functools.partial(factory, task),
            tokens=torch.from_numpy(task.draw(0, "train", ROWS).inputs),
            vocab_size=task.vocab_size,
            causal=task.readout == "every",
        )
        for task in tasks
    ]
    where = f"the {len(tasks)} tasks of the smoke suite"
    return examine_models(candidates, where=where, only=only, report=report)
