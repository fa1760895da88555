"""The generated parts of the documentation follow from the registry and from what was measured."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

import architectures
from architectures.grammar import index
from tests.modules import module_at

ROOT = Path(__file__).resolve().parents[1]


def generator() -> ModuleType:
    return module_at("docs/generate.py")


def test_generated_pages_are_up_to_date() -> None:
    for path, text in generator().pages().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is stale: run `make docs`"


def test_the_page_has_every_layer_and_its_step_where_it_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    module = generator()
    results = module.measured("primitives-cpu")
    # A new layer needs no benchmark: here one that nobody has timed yet.
    results["steps"].pop()
    timed = {row["name"] for row in results["steps"]}
    others = {"agreement": module.measured("agreement")}
    monkeypatch.setattr(module, "measured", ({"primitives-cpu": results} | others).get)
    page = module.primitives_page()
    assert timed < {row["name"] for row in index.read()} == set(architectures.names())
    for name in architectures.names():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        assert row.endswith("| - |") == (name not in timed)


def test_public_models_are_specs() -> None:
    for row in generator().measured("agreement")["models"]["rows"]:
        model = architectures.build(f"2*({row['spec']})", vocab_size=61, dim=64, max_len=40, seed=0)
        assert sum(layer.mixes != "stream" for _, layer in model.layers()) == 4, row["name"]


def test_what_was_measured_is_registered_and_mixes_time_where_it_was_decoded() -> None:
    results = generator().measured("primitives-cpu")
    entries = {n: architectures.get(n) for n in architectures.names()}
    mixers = {n for n, entry in entries.items() if entry.mixes == "time" and entry.cls.causal}
    assert {row["name"] for row in results["decode"]} <= mixers
    assert {row["name"] for part in ("memory", "steps") for row in results[part]} <= set(entries)
