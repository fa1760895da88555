"""The project's own files: one version, extras that are used, a site that has everything and builds."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from tests.modules import module_at

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REFERENCE = sorted((ROOT / "docs" / "api").glob("*.md"))
# Tools that are run and not imported.
TOOLS = {"docs", "dev"}


def named(page: Path) -> list[str]:
    return re.findall(r"^::: ([\w.]+)$", page.read_text(), flags=re.M)


def reference() -> ModuleType:
    return module_at("docs/reference.py")


def test_the_version_is_the_same_everywhere() -> None:
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"^version: (.*)$", citation, flags=re.M) == [PROJECT["version"]]


@pytest.mark.parametrize("extra", sorted(set(PROJECT["optional-dependencies"]) - TOOLS))
def test_every_extra_is_imported_somewhere(extra: str) -> None:
    folders = ("architectures", "benchmarks", "mad", "scaling", "synthetic_tasks")
    text = "\n".join(path.read_text() for folder in folders for path in (ROOT / folder).rglob("*.py"))
    modules = {"scikit-learn": "sklearn"}
    for requirement in PROJECT["optional-dependencies"][extra]:
        name = re.split(r"[<>=\[;]", requirement)[0].strip()
        assert re.search(rf"(from|import) {modules.get(name, name)}\b", text), requirement


def test_the_reference_has_every_public_name_and_each_is_documented() -> None:
    # `synthetic_tasks.task` is the decorator, and the module of the contract.
    found = {name.replace("registry.task", "task") for page in REFERENCE for name in named(page)}
    packages = ("mad", "architectures", "architectures.growth", "synthetic_tasks", "scaling")
    public = {f"{p}.{name}" for p in packages for name in importlib.import_module(p).__all__}
    assert found == public
    for name in sorted(public - {"synthetic_tasks.IGNORE", "architectures.State"}):
        package, _, last = name.rpartition(".")
        assert (getattr(importlib.import_module(package), last).__doc__ or "").strip(), name


def test_every_page_is_on_the_site() -> None:
    listed = set(re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), flags=re.M))
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert listed == pages


def test_lists_of_arguments_become_lists_and_formulas_stay() -> None:
    pytest.importorskip("griffe")
    text = "One.\n\nfirst   what it is,\n        on two lines\nb, c    others\n\n    y = f(x)\n\nLast."
    assert reference().as_markdown(text).split("\n") == [
        *("One.", "", "- `first`: what it is,", "    on two lines", "- `b, c`: others", ""),
        *("```text", "y = f(x)", "```", "", "Last.", ""),
    ]


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("zensical")
    config = (ROOT / "mkdocs.yml").read_text()
    assert "paths: [.]" in config
    (tmp_path / "mkdocs.yml").write_text(config.replace("paths: [.]", f"paths: ['{ROOT}']"))
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    words = [sys.executable, "-m", "zensical", "build", "--strict", "-f", "mkdocs.yml"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "site" / "api" / "mad.html").read_text()
    assert "bench" in page and "<li><code>suite</code>" in page
