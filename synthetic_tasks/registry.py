"""Tasks by name, or by class as "package.module:Task": registration, lookup and discovery."""

import importlib
import pkgutil
import re
from collections.abc import Callable, Collection
from dataclasses import MISSING, fields
from difflib import get_close_matches
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Literal, TypeVar, get_origin, get_type_hints

from synthetic_tasks.outside import load
from synthetic_tasks.task import Task

T = TypeVar("T", bound=type[Task])

ENTRY_POINTS = "mad.tasks"  # each entry point of this group names an object whose import registers tasks
# What says of a task which it is, so that no field can: beside these there are its fields.
RESERVED = ("name", "version", "heading", "source")

_tasks: dict[str, type[Task]] = {}


def task(name: str, *, version: int, heading: str = "") -> Callable[[T], T]:
    """Registers a task class; `heading` is a short name for narrow tables.

    Raise the version whenever the same seed would draw other data than before.
    """

    def register(cls: T) -> T:
        _check(name, version, cls)
        cls.name, cls.version, cls.heading = name, version, heading
        _tasks[name] = cls
        return cls

    return register


def find(name: str) -> type[Task]:
    """The class of a registered name, or the one that "package.module:Task" names, which is imported."""
    known = names()  # First, so that no other class takes a name of ours.
    if ":" in name:
        return load(name)
    if name not in known:
        raise ValueError(unknown("task", name, known))
    return _tasks[name]


def get(name: str, /, **options: Any) -> Task:
    """The task of that name, with its default difficulty but for the options."""
    cls = find(name)
    known = [field.name for field in fields(cls)]
    for option in options:
        if option not in known:
            raise ValueError(unknown(f"option of {name}", option, known))
    return cls(**options)


def names() -> tuple[str, ...]:
    """Every registered name, sorted."""
    _discover()
    return tuple(sorted(_tasks))


def unknown(what: str, word: str, known: Collection[str]) -> str:
    """What to say about a name that is not known: the nearest one and all of them."""
    near = get_close_matches(word, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {what} {word!r}; {hint}Available: {', '.join(known)}"


def _check(name: str, version: int, cls: type[Task]) -> None:
    """Refuses what could not be looked up, spelled or hashed later; the error names the class at fault."""

    def require(holds: object, rule: str) -> None:
        if not holds:
            raise ValueError(f"task {name!r}: {rule}")

    require(re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name), "a name is lower-case words joined by '-'")
    require(type(version) is int and version >= 1, f"version {version!r} must be an int of at least 1")
    require(isinstance(cls, type) and issubclass(cls, Task), f"{cls!r} is not a Task; derive it from Task")
    made = "__dataclass_fields__" in vars(cls)
    require(made, f"{cls.__qualname__} is not a dataclass; write @dataclass(frozen=True, kw_only=True)")
    hints = get_type_hints(cls)
    for field in fields(cls):
        plain = hints[field.name] in (int, float, bool) or get_origin(hints[field.name]) is Literal
        require(plain, f"annotate {field.name} as int, float, bool or Literal of words, to be spelled")
        require(field.default is not MISSING, f"give {field.name} a default: the bare name must be a setting")
        require(field.name not in RESERVED, f"a field cannot be called {field.name}; choose another name")
    held, given = (f"{one.__module__}.{one.__qualname__}" for one in (_tasks.get(name, cls), cls))
    require(held == given, f"the name is taken by {held}; choose another")


@cache
def _discover() -> None:
    """Imports the package's own task files, then what other distributions announce, once names are needed."""
    package = __name__.rpartition(".")[0]
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        if not module.name.startswith("_") and not module.ispkg:
            importlib.import_module(f"{package}.{module.name}")
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            entry.load()
        except Exception as error:
            raise ValueError(
                f"entry point {entry.name!r} = {entry.value!r} of group {ENTRY_POINTS!r} failed to load: "
                f"{type(error).__name__}: {error}; repair or uninstall the package that announces it"
            ) from error
