"""The identity of a user's code: what changes it, and what does not."""

from __future__ import annotations

import ast
import hashlib
import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from architectures.outside.identity import _digest, code_hash, spell

FILES = {
    "own_layers/__init__.py": "from own_layers.base import Base\n",
    "own_layers/base.py": "class Base:\n    pass\n",
    "own_layers/mixer.py": """
        import json, numpy
        import torch
        import own_layers.parts.maps as maps
        from . import near
        from .parts import deep
        from own_layers.base import Base

        class Mixer(Base):
            '''What it does.'''
            def forward(self, x):
                from own_late import scale  # only when it is called
                import own_layers.missing
                return maps.apply(x) * scale

        def make(task):
            return Mixer()
    """,
    "own_layers/near.py": "import own_layers.mixer\nK = 1\n",
    "own_layers/parts/__init__.py": "",
    "own_layers/parts/maps.py": "from ..far import F\ndef apply(x):\n    return x + F\n",
    "own_layers/parts/deep.py": "from own_layers.star import *\n",
    "own_layers/far.py": "F = 2.0\n",
    "own_layers/star.py": "S = 's'\n",
    "own_layers/unused.py": "U = 1\n",
    "own_late.py": "scale = 3\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    forget()


def forget() -> None:
    for name in [n for n in sys.modules if n.startswith("own_")]:
        del sys.modules[name]
    importlib.invalidate_caches()


def hashes(folder: Path) -> tuple[str, str]:
    """Of a class and a factory, without the imports of their functions being run."""
    forget()
    (folder / "own_layers" / "missing.py").touch()
    module = importlib.import_module("own_layers.mixer")
    (folder / "own_layers" / "missing.py").unlink()
    found = code_hash(module.Mixer), code_hash(module.make)
    assert "own_late" not in sys.modules
    return found


USED = [name for name in FILES if "unused" not in name]


@pytest.mark.parametrize("name", USED)
def test_a_change_of_any_module_of_ones_own_that_is_imported_changes_it(name: str, folder: Path) -> None:
    before = hashes(folder)
    with open(folder / name, "a") as file:
        file.write("\nADDED = 1\n")
    assert all(a != b for a, b in zip(before, hashes(folder), strict=True))


def other_text(folder: Path) -> None:
    for name in FILES:
        text = (folder / name).read_text()
        text = text.replace("What it does.", "What it\n    does not.").replace("  # only when", "  # when")
        (folder / name).write_text(f"'''About.'''\n# a comment\n\n{text}\n")


def other_module(folder: Path) -> None:
    (folder / "own_layers" / "unused.py").write_text("U = 2\n")
    (folder / "own_new.py").write_text("N = 1\n")


@pytest.mark.parametrize("change", [other_text, other_module])
def test_comments_docstrings_layout_and_what_is_not_imported_leave_it(
    change: Callable[[Path], None], folder: Path
) -> None:
    before = hashes(folder)
    change(folder)
    assert hashes(folder) == before


def test_a_module_that_comes_to_be_counts_from_then_on(folder: Path) -> None:
    before = hashes(folder)
    (folder / "own_layers" / "missing.py").write_text("M = 1\n")
    assert code_hash(sys.modules["own_layers.mixer"].Mixer) != before[0]


def test_the_folder_has_no_part_in_it(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    before = hashes(folder)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (folder / "own_layers").rename(elsewhere / "own_layers")
    (folder / "own_late.py").rename(elsewhere / "own_late.py")
    sys.path[sys.path.index(str(folder))] = str(elsewhere)
    assert hashes(elsewhere) == before


def test_what_is_installed_has_no_part_in_it_but_its_own_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site-packages"
    for name, text in {
        "own_plugin/__init__.py": "",
        "own_plugin/layer.py": "import own_other\nimport own_plugin.help\nclass Layer:\n    pass\n",
        "own_plugin/help.py": "H = 1\n",
        "own_other.py": "O = 1\n",
    }.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)
    monkeypatch.syspath_prepend(site)
    layer = importlib.import_module("own_plugin.layer").Layer
    before = code_hash(layer)
    (site / "own_other.py").write_text("O = 1234\n")
    assert code_hash(layer) == before
    (site / "own_plugin" / "help.py").write_text("H = 1234\n")
    forget()
    assert code_hash(importlib.import_module("own_plugin.layer").Layer) != before
    forget()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("x = 1", "x = 1  # one", True),
        ("x = (1 +\n     2)", "x = 1 + 2", True),
        ("x = 'a'", 'x = u"a"', True),
        ("def f():\n    'one'\n    return 1", "def f():\n    'two'\n    return 1", True),
        ("def f():\n    ''\n    return 1", "def f():\n    return 1", True),
        ("class A:\n    'one'", "class A: pass", True),
        ("'one'", "", True),
        ("x = f'a' 'b' f'{y}'", "x = f'ab{y}'", True),
        ("x = f'{y}a'", "x = f'{y}b'", False),
        ("x = 'a' 'b'", "x = 'ab'", True),
        ("x = 1", "x = 1.0", False),
        ("x = 1", "x = True", False),
        ("x = None", "x = ...", False),
        ("x = -0.0", "x = 0.0", False),
        ("f(a, b)", "f(b, a)", False),
        ("f([a], b)", "f([a, b])", False),
        ("x = a < b", "x = a > b", False),
        ("def f(x): return x", "def f(x, /): return x", False),
        ("async def f(): pass", "def f(): pass", False),
        ("def f():\n    return 'one'", "def f():\n    return 'two'", False),
    ],
)
def test_programs_are_told_apart_and_their_spellings_are_not(one: str, other: str, same: bool) -> None:
    assert (spell(ast.parse(one)) == spell(ast.parse(other))) == same


def test_the_spelling_is_the_same_in_every_version_of_python() -> None:
    """Pinned: fields that later versions add to every function and class are left out."""
    text = spell(ast.parse("class A:\n    def f(self, x=1): return f'{x}a'\n"))
    assert text == (
        "Module(body=1:ClassDef(name='A',body=1:FunctionDef(name='f',args=arguments(args=2:arg(arg='self',)"
        "arg(arg='x',)defaults=1:Constant(value=1,))body=1:Return(value=JoinedStr(values=2:FormattedValue("
        "value=Name(id='x',ctx=Load())conversion=-1,)Constant(value='a',))))))"
    )


# What versions of Python are known to read in their own way: f-strings above all.
SAMPLE = """
import os as o
from . import near
class A(object, metaclass=type):
    a: int = -0.0
    def f(self, x, /, y=1, *args: int, z: str = "\u00e9\u2028\U0001fae8", **kw) -> None:
        s = f"a{x!r:>{y}}b" "c" f"{x=}" f"{x:%Y-%m}" rf"\\d{y}" f"{{}}" f"" f"{x:{y}.{y}f}"
        async def g():
            async with a as b, c: await b
            async for i in x: yield i
        try: pass
        except* ValueError as e: raise
        match x:
            case {"a": 1, **rest} if y: pass
            case [1, *_] | A(b=2) | None: ...
        return x[1:2, ..., ::3] @ y if (z := 3) else {**x, "a": b"\\xff"}
@dec(1)
def g(a: "b" = 1j, *, c): return a < b <= c != d is not e not in [i for i in f if i]
numbers = 1e400, 0.1, 1e-7, 12345678901234567890123, u"\\ud800", lambda *a, k=1: (yield)
with (open("a") as f, open("b") as g): del f, g[0]
"""


def test_a_program_has_one_hash_in_every_version_of_python() -> None:
    """Pinned; of Python 3.11, 3.12 and 3.13."""
    digest = hashlib.sha256(spell(ast.parse(SAMPLE)).encode()).hexdigest()
    assert digest[:20] == "7edabeeb6769e1108e90"


@pytest.mark.filterwarnings("error")
def test_warnings_of_the_code_do_not_change_it(tmp_path: Path) -> None:
    (tmp_path / "own_odd.py").write_bytes(b"PATTERN = '\\d'\n")
    assert (
        _digest(tmp_path / "own_odd.py", "own_odd", 0, 0)[0] == _digest(tmp_path / "own_odd.py", "a", 1, 0)[0]
    )
    assert (
        _digest(tmp_path / "own_odd.py", "own_odd", 0, 0)[0]
        != hashlib.sha256(b"PATTERN = '\\d'\n").hexdigest()
    )


def test_a_whole_number_too_long_to_be_printed_is_read() -> None:
    assert spell(ast.parse("x = 0x" + "f" * 6000)) != spell(ast.parse("x = 0x" + "e" * 6000))


def test_a_deep_expression_is_read() -> None:
    assert len(spell(ast.parse("x = " + " + ".join(["1"] * 800)))) > 800


def test_what_has_no_file_is_refused() -> None:
    with pytest.raises(ValueError, match="Typed is not defined in a file"):
        code_hash(type("Typed", (), {"__module__": "builtins"}))


@pytest.mark.parametrize("name", ["own_layers.mixer", "own_layers.far"])
def test_a_file_that_changed_since_its_import_is_refused_until_it_is_loaded_again(
    name: str, folder: Path
) -> None:
    module = importlib.import_module("own_layers.mixer")
    before = code_hash(module.Mixer)
    path = folder / f"{name.replace('.', '/')}.py"
    path.write_text(path.read_text() + "Z = 9\n")
    for _ in range(2):
        with pytest.raises(ValueError, match=rf"{name} has changed since .*; start Python again"):
            code_hash(module.Mixer)
    importlib.reload(sys.modules[name])
    assert code_hash(module.Mixer) != before
