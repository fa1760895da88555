"""What the store's language-model runs add to the page of the leaderboard."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from mad.api import scores_of
from mad.board.page.assemble import assembled
from mad.store import Store
from scaling.report.board_sections import sections
from tests.mad.stores import filled

ROOT = Path(__file__).parents[3]


def test_a_store_with_studies_adds_its_results_to_the_page(tmp_path: Path) -> None:
    names = {f"</b>{i}": f"2*(hyena[order={i + 2}] swiglu)" for i in range(3)}
    store = filled(tmp_path / "store.sqlite", names)
    found = sections(store, scores_of(suite="smoke", store=store, reference=False))
    assert [part["name"] for part in found] == ["frontiers", "ratios", "relation"]
    text = "".join(part["html"] for part in found)
    assert "<svg" in text and "</b>0" not in text and "&lt;/b&gt;0" in text
    assert not re.findall(r"https?://(?!www\.w3\.org)", re.sub(r"<!DOCTYPE.*?>", "", text))
    page = assembled({"boards": []}, found)
    assert all(f'<section id="{part["name"]}">' in page for part in found)


def test_a_store_without_studies_adds_nothing(tmp_path: Path) -> None:
    Store(tmp_path / "store.sqlite").close()
    scores = scores_of(suite="smoke", store=tmp_path / "store.sqlite")
    assert sections(tmp_path / "store.sqlite", scores) == []
    assert sections(tmp_path / "missing.sqlite", scores) == []


def test_the_package_announces_them() -> None:
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    assert points["mad.page"] == {"scaling": "scaling.report.board_sections:sections"}
