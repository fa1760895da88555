"""The report: one page that loads nothing, says what is not identified, and is the same each time."""

from __future__ import annotations

import html.parser
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from scaling.laws.law import Law
from scaling.report.numbers import shown, span
from scaling.report.page import page
from scaling.report.section import Section
from scaling.report.study_page import write
from tests.scaling.report.simulated import scores, simulated

NASTY = "<script>alert('x')</script> & $a_b$ \u6f22"
NAMES = ("Alpha", "Beta", NASTY)
VOID = {"meta", "br"}


def page_of(runs: pd.DataFrame, folder: Path, **how: Any) -> str:
    return write(runs, folder / "page.html", bootstrap=100, **how).read_text("utf-8")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("report")
    return page_of(simulated(NAMES), folder, scores=scores(NAMES), figures=folder / "figures"), folder


class Balanced(html.parser.HTMLParser):
    """Every element that is opened is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag


def test_the_page_is_sound_html_with_each_id_once(report: tuple[str, Path]) -> None:
    parser = Balanced()
    parser.feed(report[0])
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids)) > 50


def test_the_page_loads_nothing_and_is_small(report: tuple[str, Path]) -> None:
    text = report[0]
    assert len(text.encode()) < 3e6
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#)""", text)
    assert not re.search(r"@import|<script|<link|url\((?!#)", text)
    assert "default-src 'none'" in text


def test_names_are_escaped_everywhere(report: tuple[str, Path]) -> None:
    assert "<script>" not in report[0]
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; $a_b$ \u6f22" in report[0]


def test_verdicts_come_first_and_lead_to_their_parts(report: tuple[str, Path]) -> None:
    text = re.sub(r"<svg.*?</svg>", "", report[0], flags=re.DOTALL)
    first = text[text.index('id="verdicts"') : text.index("<section")]
    for part in ("isoflop", "laws", "allocation", "compare", "state", "overtraining", "relate"):
        assert f'<a href="#{part}">' in first and f'<section id="{part}">' in text, part
    assert "n is too small to conclude" in first
    assert "Alpha: N* grows as C to the 0.4" in first
    assert "times the perplexity of Alpha at equal compute (higher)" in first
    assert "What these runs can and cannot show" in text


def test_figures_stand_beside_the_page_as_png_and_svg(report: tuple[str, Path]) -> None:
    names = {path.name for path in (report[1] / "figures").iterdir()}
    figures = "isoflop surface residuals allocation frontiers states overtraining relate".split()
    assert names == {f"{name}.{ending}" for name in figures for ending in ("png", "svg")}
    assert (report[1] / "figures" / "relate.png").read_bytes().startswith(b"\x89PNG")
    assert report[0].count("<svg") == len(figures)
    assert sorted(path.name for path in report[1].iterdir()) == ["figures", "page.html"]


def test_equal_input_makes_an_equal_page(tmp_path: Path) -> None:
    runs = simulated(("Alpha",)).drop(columns="state")
    assert page_of(runs, tmp_path) == page_of(runs, tmp_path)


def test_what_is_not_identified_stands_as_the_reason(tmp_path: Path) -> None:
    runs = simulated(("Alpha",)).iloc[:4].drop(columns="state")
    text = page_of(runs, tmp_path)
    verdicts = text[text.index('id="verdicts"') : text.index("<section")]
    for reason in (
        "IsoFLOP optima</a>: not shown: a power law of the optimum needs two budgets",
        "Laws of loss</a>: not shown: law of Alpha: ",
        "There is one architecture",
        "no column state",
        "no scores were given",
    ):
        assert reason in verdicts, reason
    assert "Traceback" not in text and "<svg" not in text


def test_scores_of_other_architectures_are_a_reason_too(tmp_path: Path) -> None:
    text = page_of(simulated(("Alpha",)).iloc[:4], tmp_path, scores=scores(("X1", "X2", "X3")))
    assert "Synthetic scores</a>: not shown: 0 architectures are in both tables" in text


def test_bad_tables_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="column 'loss'"):
        write(simulated(NAMES).drop(columns="loss"), tmp_path / "page.html")
    with pytest.raises(ValueError, match="there are no scores"):
        write(simulated(NAMES), tmp_path / "page.html", scores=scores(NAMES).iloc[:0])
    assert list(tmp_path.iterdir()) == []


def test_runs_without_curves_make_a_page(tmp_path: Path) -> None:
    empty = pd.DataFrame(columns=["run", "step", "arch", "params", "tokens", "flops", "loss", "lr"])
    assert "15 runs of 1 architecture" in page_of(simulated(("Alpha",)), tmp_path, curves=empty)


def test_training_curves_add_the_envelope(tmp_path: Path) -> None:
    law = Law(E=1.8, A=400, B=1200, alpha=0.34, beta=0.33)
    rows = []
    for run, n in enumerate(np.geomspace(2e7, 6e8, 8)):
        for d in np.geomspace(2 * n, 2000 * n, 12):
            rows.append(("Alpha", run, n, d, float(law.loss(n, d))))
    curves = pd.DataFrame(rows, columns=["arch", "run", "params", "tokens", "loss"])
    text = page_of(curves, tmp_path)
    assert "Approach 1: envelope of all runs" in text
    assert "8 runs of 1 architecture" in text


def test_a_page_of_no_results_is_a_page() -> None:
    text = page("A & B", "about", [Section(name="x", title="<X>", why="because <")])
    assert "<title>A &amp; B</title>" in text and "&lt;X&gt;" in text and "because &lt;" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.nan, "-"),
        (None, "-"),
        (True, "yes"),
        (3.0, "3"),
        (1.5e19, "1.5e19"),
        (0.123456, "0.1235"),
        (7, "7"),
    ],
)
def test_values_are_written_short(value: object, text: str) -> None:
    assert shown(value) == text


def test_an_interval_follows_its_value() -> None:
    assert span(0.5, 0.4, 0.61234) == "0.5 [0.4, 0.612]"
    assert span(0.5, None, None) == "0.5" and span(0.5, float("nan"), 1.0) == "0.5"
