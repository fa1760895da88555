"""The registry of primitives: names, variants, discovery, typed options, layers of the user's own."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib
import importlib.metadata
import inspect
import os
import pkgutil
import re
import sys
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from architectures.grammar.outline import spell
from architectures.outside.foreign import Foreign, foreign_config
from architectures.outside.identity import code_hash
from architectures.outside.surroundings import kept
from architectures.primitive import Options, Primitive, config_options
from architectures.sizes.bounds import check_number

MIXES = ("time", "channel", "stream")
_KEBAB = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Entry:
    """A registered name: its class, the defaults that the name changes, and what identifies its numerics.

    `source` identifies the code of a class that is not ours (`identity.code_hash`), "" for one of ours;
    `example` spells the layer in the contract tests where the bare name is not enough (a wrapper needs a
    body); `equation` is that of a variant whose class states another one in its docstring; `known_as` other
    names, and models that use it.
    """

    name: str
    cls: type[Primitive]
    defaults: dict[str, Any]
    mixes: str
    version: int
    paper: str
    example: str
    source: str = ""
    equation: str = ""
    known_as: str = ""
    claim: str = ""

    @property
    def hypothesis(self) -> str:
        """What the layer should show in the battery: that of the name, else the last paragraph of the class's
        docstring, where it begins with "Hypothesis:"; "" for none."""
        last = (inspect.getdoc(self.cls) or "").split("\n\n")[-1]
        own = last.removeprefix("Hypothesis:") if last.startswith("Hypothesis:") else ""
        return " ".join((self.claim or own).split())

    def config(self, options: dict[str, Any]) -> Any:
        """The frozen config of this layer with `options`; unknown names and wrong types are refused."""
        for key, value in options.items():
            self.check(key, value)
        values = {k: _as_stored(v, self.kind(k)) for k, v in {**self.defaults, **options}.items()}
        return self.cls.Config(**values)

    def kind(self, option: str) -> Any:
        """The annotation of an option; a name that is not an option is refused."""
        hints = _hints(self.cls.Config)
        if option not in hints:
            raise ValueError(
                f"{self.name} has no option {option!r}{_suggest(option, hints)}; {self.choices()}"
            )
        return hints[option]

    def check(self, option: str, value: Any) -> None:
        """Refuse a value that the annotation of its option does not allow, and a number out of all bounds."""
        where = f"{self.name}[{option}]"
        _check_type(where, value, self.kind(option))
        check_number(where, value, _most(self.cls.Config).get(option))

    def choices(self) -> str:
        """The options of this layer, for a message."""
        return _list(_hints(self.cls.Config)) if _hints(self.cls.Config) else "it takes no options"

    def changed(self, options: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
        """The options that differ from this name's defaults, in the order of the fields."""
        given, default = config_options(self.config(options)), config_options(self.config({}))
        for name, value in given.items():
            if value is inspect.Parameter.empty:
                raise ValueError(
                    f"{self.cls.__name__} needs the argument {name!r}, which has no default; write "
                    f"{self.name}[{name}=...], or give it one"
                )
        return tuple((name, value) for name, value in given.items() if value != default[name])


_entries: dict[str, Entry] = {}
_P = TypeVar("_P", bound=type[Primitive])


def primitive(
    name: str, *, mixes: str, version: int = 1, paper: str = "", example: str = "", known_as: str = ""
) -> Callable[[_P], _P]:
    """Register a `Primitive` under a kebab-case name.

    `mixes`: "time", "channel" or "stream" (a wrapper around layers). `version` rises with any change of the
    numerics or the defaults. `paper`: its arXiv id, or where it stands. `known_as`: other names, and models
    that use it. A name that is taken is refused.
    """
    if mixes not in MIXES:
        raise ValueError(f"mixes={mixes!r} of primitive {name!r} is not one of {', '.join(MIXES)}")

    def register(cls: _P) -> _P:
        if not (isinstance(cls, type) and issubclass(cls, Primitive)):
            raise TypeError(
                f"{cls!r} cannot be primitive {name!r}: it is not a subclass of architectures.Primitive"
            )
        _check_config(cls)
        ours = cls.__module__.startswith("architectures.")
        source = "" if ours else code_hash(cls)
        _add(Entry(name, cls, {}, mixes, version, paper, example or name, source, known_as=known_as))
        cls.name, cls.mixes, cls.version, cls.paper = name, mixes, version, paper
        return cls

    return register


def variant(
    name: str,
    *,
    of: str,
    version: int | None = None,
    paper: str = "",
    example: str = "",
    equation: str = "",
    known_as: str = "",
    hypothesis: str = "",
    **defaults: Any,
) -> None:
    """Register another name for a primitive, with other defaults.

    variant("mh-attention", of="attention", heads=None)

    `example=""`: that of the primitive, under the new name. `equation=""`, `hypothesis=""`: those of the
    primitive. `known_as`: other names, and models that use it.
    """
    if of not in _entries:
        raise ValueError(f"variant {name!r} is of an unknown primitive {unknown(of, _entries)}")
    base = _entries[of]
    base.config(defaults)
    own: dict[str, Any] = {"version": version, "paper": paper, "equation": equation, "claim": hypothesis}
    own["example"] = example or base.example.replace(of, name, 1)
    given = {key: value for key, value in own.items() if value}
    _add(dataclasses.replace(base, name=name, defaults=defaults, known_as=known_as, **given))


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
        raise ValueError(f"unknown primitive {unknown(name, _entries)}")
    return _entries[name]


def _add(entry: Entry) -> None:
    if not _KEBAB.fullmatch(entry.name):
        raise ValueError(f"primitive {entry.name!r} is not in kebab-case; choose a name such as 'delta-net'")
    known = _entries.get(entry.name)
    # The same class again is a module that was reloaded.
    if known is not None and _identity(known) != _identity(entry):
        raise ValueError(
            f"primitive {entry.name!r} is already registered by {known.cls.__module__}; choose another name"
        )
    _entries[entry.name] = entry


def _identity(entry: Entry) -> tuple[Any, ...]:
    return entry.cls.__module__, entry.cls.__qualname__, entry.defaults


def _check_config(cls: type[Primitive]) -> None:
    config = cls.Config
    if not (dataclasses.is_dataclass(config) and config.__dataclass_params__.frozen):  # type: ignore[attr-defined]
        raise TypeError(
            f"{cls.__name__}.Config must be a frozen dataclass: @dataclass(frozen=True, kw_only=True)"
        )
    if not issubclass(config, Options):
        for f in dataclasses.fields(config):
            if f.metadata.get("least") is not None:
                raise TypeError(
                    f"{cls.__name__}.Config says the least {f.name}, which only a config that derives from "
                    "architectures.primitive.Options checks; derive it, and leave @dataclass out"
                )
    sizes = [f.metadata["sizes"] for f in dataclasses.fields(config) if f.metadata.get("sizes")]
    if len(sizes) > len(set(sizes)):
        raise TypeError(
            f"{cls.__name__}.Config has several options with sizes={max(sizes, key=sizes.count)}; leave one"
        )


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
                f"entry point {point.name!r} of group mad.primitives ({point.value}) cannot be loaded: "
                f"{error}; repair or uninstall its package"
            ) from error


def _foreign(name: str) -> Entry:
    cls = load_object(name)
    if not isinstance(cls, type):
        raise ValueError(
            f"{name} is a {type(cls).__name__}, not a class; name a Primitive or an nn.Module class; a "
            "function that makes whole models is for `mad bench`, `train` and `check`, by itself"
        )
    if not issubclass(cls, nn.Module):
        raise ValueError(f"{name} is the class {cls.__name__}; name a Primitive or an nn.Module class")
    source = code_hash(cls)
    if issubclass(cls, Primitive):
        try:
            _check_config(cls)
        except TypeError as error:
            raise ValueError(f"{name}: {error}") from error
        return Entry(name, cls, {}, cls.mixes, cls.version, cls.paper, name, source)
    return Entry(name, _adapter(typing.cast(Any, cls)), {}, "time", 1, "", name, source)


@functools.cache
def _adapter(cls: type[nn.Module]) -> type[Primitive]:
    namespace = {"inner": cls, "Config": foreign_config(cls), "__module__": cls.__module__}
    return type(cls.__name__, (Foreign,), namespace)


def load_object(path: str) -> Any:
    """The object that "package.module:name" names; the current directory is searched too."""
    module_name, _, attribute = path.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        with kept():
            module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{module_name}.".startswith(f"{error.name}."):
            raise ValueError(
                f"{path}: module {module_name} needs {error.name}, which is not installed"
            ) from error
        raise ValueError(
            f"{path}: there is no module {module_name}; run from the folder that holds it, "
            "or install its package"
        ) from error
    except Exception as error:
        raise ValueError(
            f"{path}: module {module_name} cannot be imported: {type(error).__name__}: {error}; repair it"
        ) from error
    found: Any = module
    for part in attribute.split("."):  # of a class, as the `__qualname__` of a function in it
        if not hasattr(found, part):
            where = f"module {module_name}" if found is module else path.removesuffix(f".{part}")
            public = [n for n in dir(found) if not n.startswith("_")]
            raise ValueError(f"{path}: {where} has no {part!r}{_suggest(part, public)}")
        found = getattr(found, part)
    return found


def unknown(name: str, known: typing.Iterable[str]) -> str:
    """What to say about a name that is not known: the nearest one and all of them."""
    known = set(known)
    name = name if len(name) <= 60 else f"{name[:60]}..."
    return f"{name!r}{_suggest(name, known)}; {_list(known)}"


def _suggest(name: str, known: typing.Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _list(known: typing.Iterable[str]) -> str:
    """All names, or the first of very many."""
    names = sorted(known)
    more = f" and {len(names) - 12} more, which `mad primitives` lists" if len(names) > 40 else ""
    return f"available: {', '.join(names[:12] if more else names)}{more}"


@functools.cache
def _hints(config: type) -> dict[str, Any]:
    """The annotations of a config's fields, in their order."""
    hints = typing.get_type_hints(config)
    return {f.name: hints[f.name] for f in dataclasses.fields(config)}


@functools.cache
def _most(config: type) -> dict[str, float | None]:
    """The largest number that each option of a config declares, none where it declares none."""
    return {f.name: f.metadata.get("most") for f in dataclasses.fields(config)}


def _allowed(hint: Any) -> tuple[Any, ...]:
    """The types of an annotation, one by one."""
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _as_stored(value: Any, hint: Any) -> Any:
    """An int for a float stored as one, and -0 as 0: two spellings of one number are one architecture."""
    allowed = _allowed(hint)
    if type(value) is int and float in allowed and int not in allowed:
        value = float(value)
    return value + 0.0 if type(value) is float else value


def _check_type(where: str, value: Any, hint: Any) -> None:
    """Refuse a value that the annotation does not allow; a bool is not an int, an int is a fine float."""
    if hint is Any:
        return
    names = {int: "an integer", float: "a number", bool: "true or false", str: "a word"}
    words = []
    for kind in _allowed(hint):
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
            words.append(names.get(kind, str(kind)))
    raise ValueError(f"{where}={spell(value)} is refused; expected {' or '.join(words)}")
