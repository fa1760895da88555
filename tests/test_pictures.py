"""The pictures of the page of layers; that they are up to date, `test_docs.py` tests with the pages."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

import architectures
from tests.modules import module_at

ROOT = Path(__file__).resolve().parents[1]
PICTURES = module_at("docs/generate.py").PICTURES


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_small_names_layers_and_stays_inside(name: str) -> None:
    text = (ROOT / "docs" / "figures" / f"{name}.svg").read_text(encoding="utf-8")
    assert len(text) < 60_000
    root = ElementTree.fromstring(text)
    width, height = (float(root.attrib[side]) for side in ("width", "height"))
    named = {element.text for element in root.iter() if element.get("class") == "name"}
    assert named and named <= set(architectures.names())
    for element in root.iter():
        x, y = float(element.get("x", 0)), float(element.get("y", 0))
        right, low = x + float(element.get("width", 0)), y + float(element.get("height", 0))
        assert 0 <= x <= right <= width and 0 <= y <= low <= height, element.attrib


def test_the_page_shows_every_picture() -> None:
    page = (ROOT / "docs" / "primitives.md").read_text(encoding="utf-8")
    assert re.findall(r"!\[[^]]+\]\(figures/(.*)\.svg\)", page) == list(PICTURES)
    headings = {line.removeprefix("### ").lower() for line in page.splitlines() if line.startswith("### ")}
    anchors = re.findall(r"\]\(#([\w-]+)\)", page)
    assert len(anchors) == len(PICTURES)
    assert {re.sub(r"[^\w ]", "", heading).replace(" ", "-") for heading in headings} >= set(anchors)


def test_who_sees_whom_is_what_the_layers_do() -> None:
    module = module_at("docs/draw_views.py")
    views = {spec: module.influence(spec, 1) for spec, _ in module.ATTENTION[:3]}
    everything, both, window = ([[level > 0 for level in row] for row in view] for view in views.values())
    length = range(module.LENGTH)
    assert everything == [[s <= t for s in length] for t in length]
    assert both == [[True for _ in length] for _ in length]
    assert window == [[t - 6 < s <= t for s in length] for t in length]
