"""The registry of primitives: names, variants, discovery, typed options, layers of the user's own."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import importlib
import importlib.metadata
import inspect
import os
import pkgutil
import sys
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from architectures.foreign import Foreign, foreign_config
from architectures.primitive import Primitive

MIXES = ("time", "channel", "stream")


@dataclass(frozen=True)
class Entry:
    """A registered name: its class, the defaults that the name changes, and what identifies its numerics.

    `source` is the SHA-256 of the file of a class that is not ours, "" for one of ours; `example` spells the
    layer in the contract tests where the bare name is not enough (a wrapper needs a body).
    """

    name: str
    cls: type[Primitive]
    defaults: dict[str, Any]
    mixes: str
    version: int
    paper: str
    example: str
    source: str = ""

    def config(self, options: dict[str, Any]) -> Any:
        """The frozen config of this layer with `options`; unknown names and wrong types are refused."""
        fields = {f.name: f for f in dataclasses.fields(self.cls.Config)}
        hints = _hints(self.cls.Config)
        for key, value in options.items():
            if key not in fields:
                raise ValueError(f"{self.name} has no option {key!r}{_suggest(key, fields)}; {_list(fields)}")
            _check_type(f"{self.name}[{key}]", value, hints[key])
        values = {**self.defaults, **options}
        # An int is a fine float; stored as one, so that both spellings are the same architecture.
        values = {k: float(v) if hints[k] is float else v for k, v in values.items()}
        return self.cls.Config(**values)

    def changed(self, options: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
        """The options that differ from this name's defaults, in the order of the fields."""
        given, default = self.config(options), self.config({})
        names = [f.name for f in dataclasses.fields(self.cls.Config)]
        return tuple((n, getattr(given, n)) for n in names if getattr(given, n) != getattr(default, n))


_entries: dict[str, Entry] = {}
_P = TypeVar("_P", bound=type[Primitive])


def primitive(name: str, *, mixes: str, version: int = 1, paper: str = "", example: str = "") -> Callable[[_P], _P]:
    """Register a `Primitive` under a kebab-case name.

    `mixes`: "time", "channel" or "stream" (a wrapper around layers). `version` rises with any change of the
    numerics or the defaults. `paper`: its arXiv id. A name that is taken is refused.
    """
    if mixes not in MIXES:
        raise ValueError(f"mixes={mixes!r} of primitive {name!r} is not one of {', '.join(MIXES)}")

    def register(cls: _P) -> _P:
        if not (isinstance(cls, type) and issubclass(cls, Primitive)):
            raise TypeError(f"{cls!r} cannot be primitive {name!r}: it is not a subclass of architectures.Primitive")
        config = cls.Config
        if not (dataclasses.is_dataclass(config) and config.__dataclass_params__.frozen):  # type: ignore[attr-defined]
            raise TypeError(f"{cls.__name__}.Config must be a frozen dataclass: @dataclass(frozen=True, kw_only=True)")
        cls.name, cls.mixes, cls.version, cls.paper = name, mixes, version, paper
        ours = cls.__module__.startswith("architectures.")
        source = "" if ours else source_hash(cls)
        _add(Entry(name, cls, {}, mixes, version, paper, example or name, source))
        return cls

    return register


def variant(name: str, *, of: str, version: int | None = None, paper: str = "", **defaults: Any) -> None:
    """Register another name for a primitive, with other defaults: variant("mh-attention", of="attention", heads=None)."""
    base = _entries[of]
    example = base.example.replace(of, name, 1)
    entry = dataclasses.replace(
        base, name=name, defaults=defaults, version=version or base.version, paper=paper or base.paper, example=example
    )
    entry.config({})
    _add(entry)


def names() -> list[str]:
    """All registered names, sorted."""
    _discover()
    return sorted(_entries)


def get(name: str) -> Entry:
    """The entry of a registered name, or of a layer of the user's own given as package.module:Class."""
    if ":" in name:
        return _foreign(name)
    _discover()
    if name not in _entries:
        raise ValueError(f"unknown primitive {name!r}{_suggest(name, _entries)}; {_list(_entries)}")
    return _entries[name]


def source_hash(obj: Any) -> str:
    """SHA-256 of the file that defines `obj`."""
    try:
        return hashlib.sha256(Path(inspect.getfile(obj)).read_bytes()).hexdigest()
    except (TypeError, OSError) as error:
        name = getattr(obj, "__name__", repr(obj))
        raise ValueError(f"{name} is not defined in a file, so its source cannot be hashed; put it in a module") from error


def _add(entry: Entry) -> None:
    known = _entries.get(entry.name)
    if known is not None and known.cls.__qualname__ != entry.cls.__qualname__:
        raise ValueError(f"primitive {entry.name!r} is already registered by {known.cls.__module__}; choose another name")
    _entries[entry.name] = entry


@functools.cache
def _discover() -> None:
    """Import every module of `architectures.primitives`, then the entry points of group mad.primitives."""
    package = importlib.import_module("architectures.primitives")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"architectures.primitives.{module.name}")
    for point in importlib.metadata.entry_points(group="mad.primitives"):
        try:
            point.load()
        except Exception as error:
            raise ValueError(
                f"entry point {point.name!r} of group mad.primitives ({point.value}) cannot be loaded: {error}; "
                "repair or uninstall its package"
            ) from error


def _foreign(name: str) -> Entry:
    cls = load_object(name)
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        raise ValueError(f"{name} is a {type(cls).__name__}, not a class; name a Primitive or an nn.Module class")
    source = source_hash(cls)
    if issubclass(cls, Primitive):
        return Entry(name, cls, {}, cls.mixes, cls.version, cls.paper, name, source)
    adapter = type(cls.__name__, (Foreign,), {"inner": cls, "Config": foreign_config(cls), "__module__": cls.__module__})
    return Entry(name, adapter, {}, "time", 1, "", name, source)


def load_object(path: str) -> Any:
    """The object that "package.module:name" names; the current directory is searched too."""
    module_name, _, attribute = path.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and not module_name.startswith(error.name):
            raise ValueError(f"{path}: module {module_name} needs {error.name}, which is not installed") from error
        raise ValueError(
            f"{path}: there is no module {module_name}; run from the folder that holds it, or install its package"
        ) from error
    if not hasattr(module, attribute):
        public = [n for n in vars(module) if not n.startswith("_")]
        raise ValueError(f"{path}: module {module_name} has no {attribute!r}{_suggest(attribute, public)}")
    return getattr(module, attribute)


def _suggest(name: str, known: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _list(known: typing.Iterable[str]) -> str:
    found = sorted(known)
    return f"available: {', '.join(found)}" if found else "it takes no options"


@functools.cache
def _hints(config: type) -> dict[str, Any]:
    return typing.get_type_hints(config)


def _check_type(where: str, value: Any, hint: Any) -> None:
    """Refuse a value that the annotation does not allow; a bool is no int, an int is a fine float."""
    if hint is Any:
        return
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        allowed = typing.get_args(hint)
    else:
        allowed = (hint,)
    words = []
    for kind in allowed:
        if typing.get_origin(kind) is typing.Literal:
            if value in typing.get_args(kind):
                return
            words += [str(v) for v in typing.get_args(kind)]
        elif kind is type(None):
            if value is None:
                return
            words.append("none")
        elif type(value) is kind or (kind is float and type(value) is int):
            return
        else:
            words.append({int: "an integer", float: "a number", bool: "true or false", str: "a word"}.get(kind, str(kind)))
    raise ValueError(f"{where}={spell(value)} is not {' or '.join(words)}")


def spell(value: Any) -> str:
    """A value as the grammar writes it: none, true, false, 4, 0.5, word."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
