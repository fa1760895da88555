"""The generated parts of the documentation follow from the registry and from what was measured."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import architectures
from architectures.grammar import index

ROOT = Path(__file__).resolve().parents[1]


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_are_up_to_date() -> None:
    for path, text in generator().pages().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is stale: run `make docs`"


def test_the_page_has_every_layer_and_its_measured_step() -> None:
    module = generator()
    page = module.primitives_page()
    timed = {row["name"] for row in module.measured("primitives-cpu")["steps"]}
    assert timed == set(architectures.names()) == {row["name"] for row in index.read()}
    for name in architectures.names():
        assert f"| `{name}` |" in page


def test_every_time_mixer_was_decoded_and_every_layer_weighed() -> None:
    results = generator().measured("primitives-cpu")
    entries = {n: architectures.get(n) for n in architectures.names()}
    mixers = {n for n, entry in entries.items() if entry.mixes == "time" and entry.cls.causal}
    assert {row["name"] for row in results["decode"]} == mixers
    assert {row["name"] for row in results["memory"]} == set(architectures.names())
