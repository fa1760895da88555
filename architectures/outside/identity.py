"""The identity of code that is not ours: its syntax trees, without comments, docstrings and layout.

They are those of the file that defines a layer or a factory, and of the modules of the user's own that it
imports, and so on: not of the standard library, nor of what is installed, nor of ours, which have versions.
Nothing is imported for it.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.machinery
import inspect
import itertools
import os
import site
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Top-level names whose versions are kept beside a run, wherever they lie.
VERSIONED = {"architectures", "mad", "scaling", "synthetic_tasks", "torch"}
INSTALLED = {"site-packages", "dist-packages"}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code_hash(obj: Any) -> str:
    """SHA-256 of the code of a class or function and of what it imports; refused where there is no file."""
    name = getattr(obj, "__name__", repr(obj))
    try:
        start = Path(inspect.getfile(obj))
        found = {obj.__module__: _read(start, obj.__module__)}
    except (TypeError, OSError) as error:
        raise ValueError(
            f"{name} is not defined in a file, so its source cannot be hashed; put it in a module"
        ) from error
    top = obj.__module__.partition(".")[0]
    waiting = [*_above(obj.__module__), *found[obj.__module__][1]]
    while waiting:
        module = waiting.pop()
        path = None if module in found else _own_file(module, top)
        if path is not None:
            found[module] = _read(path, module)
            waiting += found[module][1]
    for module, (digest, _) in found.items():
        _check_loaded(module, digest)
    text = "\n".join(f"{module} {digest}" for module, (digest, _) in sorted(found.items()))
    return hashlib.sha256(text.encode()).hexdigest()


# Of each module that is loaded, what loaded it and the hash of its file when it was first seen.
_loaded: dict[str, tuple[Any, str]] = {}


def _check_loaded(module: str, digest: str) -> None:
    """Refuse a file that is no longer what runs: its hash would name code that was never tried."""
    spec = getattr(sys.modules.get(module), "__spec__", None)
    before, first = _loaded.get(module, (None, digest))
    if spec is not None and spec is before and digest != first:
        raise ValueError(
            f"the file of module {module} has changed since it was imported, and what runs is what it was; "
            f"start Python again, or importlib.reload({module}) and what imports it"
        )
    _loaded[module] = spec, digest


def _read(path: Path, module: str) -> tuple[str, tuple[str, ...]]:
    """The hash of a file and the modules that it names in imports, read anew where the file changed."""
    state = path.stat()
    return _digest(path, module, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=4096)
def _digest(path: Path, module: str, changed: int, size: int) -> tuple[str, tuple[str, ...]]:
    content = path.read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Else it depends on whether warnings are errors.
            tree = ast.parse(content)
    except (SyntaxError, ValueError):  # compiled, or not for this Python
        return hashlib.sha256(content).hexdigest(), ()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return hashlib.sha256(spell(tree).encode()).hexdigest(), tuple(dict.fromkeys(_imports(tree, package)))


def _imports(tree: ast.Module, package: str) -> Iterator[str]:
    """Every module that an import statement may load, in functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from (*_above(alias.name), alias.name)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            near = parts[: len(parts) - node.level + 1] if node.level else []
            base = ".".join([*near, *([node.module] if node.module else [])])
            yield from (*_above(base), base)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _above(module: str) -> list[str]:
    """The packages that a module is in, outermost first."""
    return [module[:i] for i, letter in enumerate(module) if letter == "."]


def _own_file(module: str, top: str) -> Path | None:
    """The file of a module, where it belongs to the user: to the package at hand, or not installed at all."""
    first = module.partition(".")[0]
    if first in VERSIONED or not (spec := _spec(module)) or not spec.has_location or not spec.origin:
        return None
    path = Path(os.path.realpath(spec.origin))
    installed = any(folder in path.parents for folder in _installed()) or not INSTALLED.isdisjoint(path.parts)
    return path if path.is_file() and (first == top or not installed) else None


def _spec(module: str) -> importlib.machinery.ModuleSpec | None:
    """Where a module is or would be loaded from."""
    known = getattr(sys.modules.get(module), "__spec__", None)
    if known is not None:
        return known
    above, where = module.rpartition(".")[0], None
    if above:
        holder = _spec(above)
        where = None if holder is None else holder.submodule_search_locations
        if where is None:
            return None
    return importlib.machinery.PathFinder.find_spec(module, where)


@functools.cache
def _installed() -> tuple[Path, ...]:
    """The folders of the standard library and of installed packages."""
    named = ("stdlib", "platstdlib", "purelib", "platlib")
    found = [sysconfig.get_path(name) for name in named] + site.getsitepackages()
    return tuple(Path(os.path.realpath(folder)) for folder in [*found, site.getusersitepackages()])


def spell(tree: ast.AST) -> str:
    """A syntax tree as text: the same for every version of Python that reads the same program."""
    words: list[str] = []
    waiting: list[Any] = [tree]
    while waiting:  # Not by recursion: long expressions are deep.
        node = waiting.pop()
        if isinstance(node, ast.AST):
            words.append(f"{type(node).__name__}(")
            waiting.append(_End)
            for field, value in reversed(list(ast.iter_fields(node))):
                if field == "body" and isinstance(node, DOCUMENTED) and _has_docstring(node):
                    # A function of a docstring alone does what `pass` does.
                    value = value[1:] or ([] if isinstance(node, ast.Module) else [ast.Pass()])
                if isinstance(node, ast.JoinedStr):
                    value = _joined(value)
                # Fields that a later version adds are empty where an earlier one reads the program.
                if field not in ("kind", "type_comment") and value is not None and value != []:
                    waiting += [value, _Field(field)]
        elif isinstance(node, list):
            words.append(f"{len(node)}:")
            waiting += reversed(node)
        elif node is _End:
            words.append(")")
        else:
            words.append(f"{node}=" if isinstance(node, _Field) else f"{_value(node)},")
    return "".join(words)


def _joined(parts: list[ast.expr]) -> list[ast.expr]:
    """The parts of an f-string, of text no empty one and no two in a row: versions cut it differently."""
    found: list[ast.expr] = []
    for is_text, run in itertools.groupby(parts, lambda part: isinstance(part, ast.Constant)):
        alike = list(run)
        text = "".join(str(part.value) for part in alike if isinstance(part, ast.Constant))
        found += alike if not is_text else [ast.Constant(text)] if text else []
    return found


def _has_docstring(node: Any) -> bool:
    return ast.get_docstring(node, clean=False) is not None


def _value(value: Any) -> str:
    """A constant or a name. What is printable differs between versions, and so do long whole numbers."""
    return hex(value) if type(value) is int and abs(value) >= 2**64 else ascii(value)


class _Field(str):
    """The name of a field, between its node and its value."""


_End = object()
