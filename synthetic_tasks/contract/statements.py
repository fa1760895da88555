"""What a task says of itself: its name, its fields, and what they do."""

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

from synthetic_tasks.contract.subject import Subject, Violation
from synthetic_tasks.spelling import parse
from synthetic_tasks.task import Task

READOUTS = {"every": "each position", "last": "the last position"}
TRAINED = ("answers", "next-token")
# What is no value of a field.
WRONG: dict[object, list[Any]] = {
    int: [True, 64.0, "64", None, np.int64(64)],
    float: ["0.5", True, None, float("nan"), float("inf")],
    bool: [1, "true", None],
}


def declared(subject: Subject) -> str:
    """Name, version, a frozen dataclass whose spelling reads back equal, known words where words stand."""
    task = subject.task
    cls = type(task)
    if "version" not in vars(cls) or "name" not in vars(cls):
        raise Violation("it has no name and version of its own; write @task('my-task', version=1) above it")
    params = getattr(cls, "__dataclass_params__", None)
    if params is None or not params.frozen:
        raise Violation("it can be changed after it was made; write @dataclass(frozen=True, kw_only=True)")
    if (cls.__doc__ or "").startswith(f"{cls.__name__}("):
        raise Violation("it has no docstring; its first line is what `mad tasks` says of it")
    if task.readout not in READOUTS:
        raise Violation(f"readout = {task.readout!r} is not one of {', '.join(READOUTS)}")
    words = get_args(get_type_hints(cls)["train_targets"])
    if not words or not set(words) <= set(TRAINED):
        raise Violation(f"train_targets may be {words or 'anything'}; it is among {', '.join(TRAINED)}")
    if parse(str(task)) != task:
        raise Violation(f"{task} reads back as {parse(str(task))}")
    return f"{task.name}@{task.version}, answers at {READOUTS[task.readout]}, trained on {task.train_targets}"


def fields(subject: Subject) -> str:
    """Every field refuses values of a wrong type with a ValueError, and sizes refuse what is no size."""
    task = subject.task
    hints = get_type_hints(type(task))
    names = [field.name for field in dataclasses.fields(task)]
    for name in names:
        sizes = [-1, 0] if name in ("vocab_size", "seq_len") else []
        for value in [*WRONG.get(hints[name], ["nonsense", 1, None]), *sizes]:
            try:
                _changed(task, name, value)
            except ValueError:
                continue
            except Exception as error:
                told = f"{type(error).__name__}: {error}"
                raise Violation(f"{name}={value!r} raises {told}; refuse it with a ValueError") from error
            remedy = (
                "call super().__post_init__() first in __post_init__, and self.require(...) for your rules"
            )
            raise Violation(f"{name}={value!r} is accepted; {remedy}")
    return f"{', '.join(names)}: wrong values are refused"


def options(subject: Subject) -> str:
    """Every field but `train_targets` changes what is drawn, at the default difficulty."""
    default: Any = type(subject.task)
    task: Task = default()
    names = [field.name for field in dataclasses.fields(task) if field.name != "train_targets"]
    asked: list[str] = []
    left: list[str] = []
    for name in names:
        others = list(_others(task, name))
        (asked if others else left).append(name)
        if others and all(_equal(task, other) for other in others):
            values = ", ".join(repr(getattr(other, name)) for other in others)
            remedy = "leave the field out, or make it act"
            raise Violation(f"{name}={getattr(task, name)!r} draws the rows of {name}={values}; {remedy}")
    text = f"{', '.join(asked)}: another value draws other rows"
    return f"{text}; no other value was found for {', '.join(left)}" if left else text


def _equal(one: Task, other: Task) -> bool:
    """Whether the same random numbers give the same rows."""
    drawn = (task.sample(np.random.default_rng(0), 300, split="train") for task in (one, other))
    return all(np.array_equal(x, y) for x, y in zip(*drawn, strict=True))


def _others(task: Task, name: str) -> Iterator[Task]:
    """The task with another value of the field, where it allows one."""
    value, hint = getattr(task, name), get_type_hints(type(task))[name]
    if get_origin(hint) is Literal:
        values = [word for word in get_args(hint) if word != value]
    elif isinstance(value, bool):
        values = [not value]
    elif isinstance(value, float):
        values = [value / 2, value + 0.1, value + 1.0]
    else:
        values = [value + 2, value - 2, value + 1, value - 1, 2 * value]
    for other in values:
        try:
            yield _changed(task, name, other)
        except ValueError:
            continue


def _changed(task: Task, name: str, value: Any) -> Task:
    changes: dict[str, Any] = {name: value}
    return dataclasses.replace(task, **changes)
