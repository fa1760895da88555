"""Figures: each drawn, readable alone, one look per architecture, equal byte by byte."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from mad.board.look import figures
from scaling.laws.fitting import FittedLaw, fit
from scaling.laws.isoflops import IsoFlop, isoflop
from scaling.laws.penalty import overtraining
from scaling.laws.state import state_law
from scaling.report.numbers import number
from scaling.report.results.allocation import figure_allocation
from scaling.report.results.law import figure_residuals, figure_surface
from scaling.report.results.optima import figure_isoflop
from scaling.report.results.ratios import figure_frontiers, figure_overtraining
from scaling.report.results.relation import figure_relate
from scaling.scores.relation import relate
from tests.scaling.report.simulated import scores, simulated

NAMES = ("Alpha", "Beta $x^2$", "3*(gated-delta-net swiglu) gated-attention swiglu")

RUNS = simulated(NAMES)
ALPHA = RUNS[RUNS["arch"] == "Alpha"].drop(columns="arch").reset_index(drop=True)


@pytest.fixture(scope="module")
def iso() -> IsoFlop:
    return isoflop(RUNS, bootstrap=100)


@pytest.fixture(scope="module")
def laws() -> dict[str, FittedLaw]:
    return {str(arch): fit(mine, bootstrap=100) for arch, mine in RUNS.groupby("arch")}


@pytest.fixture(scope="module")
def drawn(iso: IsoFlop, laws: dict[str, FittedLaw]) -> dict[str, Figure]:
    return {
        "isoflop": figure_isoflop(RUNS, iso),
        "allocation": figure_allocation(isoflop=iso, laws=laws),
        "surface": figure_surface(RUNS, laws),
        "residuals": figure_residuals(RUNS, laws),
        "frontiers": figure_frontiers(iso, state_law(RUNS)),
        "overtraining": figure_overtraining(overtraining(RUNS, bootstrap=100)),
        "relate": figure_relate(relate(scores(NAMES), RUNS, bootstrap=100)),
    }


@pytest.fixture(scope="module")
def texts(drawn: dict[str, Figure]) -> dict[str, str]:
    return {name: figures.svg(figure, name=name) for name, figure in drawn.items()}


WORDS = {
    "isoflop": ["parameters N", "loss L (nats per token)", "15 runs, 3 of 3 optima used", "1e19"],
    "allocation": ["training FLOPs C", "optimal parameters N*", "optimal training tokens D*", "Approach 3"],
    "surface": ["parameters N", "training tokens D", "15 runs, rms error", "nats per token"],
    "residuals": ["loss above the law (%)", "training FLOPs C", "45 runs"],
    "frontiers": ["compute-optimal perplexity", "total state M", "9 optima", "from 45 runs"],
    "overtraining": ["loss above the optimum (nats per token)", "D / D*", "45 runs"],
    "relate": ["mean score (%)", "perplexity", "n = 3, Spearman -1.00, one-sided p .17", "3 architectures"],
}


@pytest.mark.parametrize("name", WORDS)
def test_a_figure_names_its_axes_units_and_number_of_runs(texts: dict[str, str], name: str) -> None:
    for word in WORDS[name]:
        assert word in texts[name], word


def test_text_stays_text_and_dollar_signs_are_not_mathematics(texts: dict[str, str]) -> None:
    for name in ("isoflop", "allocation", "frontiers", "relate"):
        assert "<text" in texts[name] and "Beta $x^2$" in texts[name], name


def test_figures_are_equal_byte_by_byte_and_carry_no_date(
    iso: IsoFlop, texts: dict[str, str], tmp_path: Path
) -> None:
    again = figures.svg(figure_isoflop(RUNS, iso), name="isoflop")
    assert again == texts["isoflop"]
    assert "Date" not in again and "date" not in again and "Matplotlib" not in again
    first, second = (figures.save(figure_frontiers(iso), tmp_path / name) for name in ("a.png", "b.png"))
    assert first.read_bytes() == second.read_bytes()


def test_one_architecture_has_one_colour_in_every_figure(texts: dict[str, str]) -> None:
    look = figures.looks(NAMES)
    assert len({item.colour for item in look.values()}) == len({item.marker for item in look.values()}) == 3
    for name in ("allocation", "surface", "residuals", "frontiers", "overtraining", "relate"):
        for item in look.values():
            assert item.colour.lower() in texts[name], name


def test_no_two_of_many_architectures_look_alike() -> None:
    look = figures.looks(f"arch {i}" for i in range(32))
    assert len(set(look.values())) == 32
    assert figures.looks(["b", "a"]) == figures.looks(["a", "b", "a"])


def test_labels_do_not_overlap_and_stay_in_the_figure(drawn: dict[str, Figure]) -> None:
    for name, figure in drawn.items():
        figure.canvas.draw()
        whole = figure.bbox
        renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
        for axis in figure.axes:
            if not axis.get_visible():
                continue
            boxes = [text.get_window_extent(renderer) for text in axis.texts if text.get_text()]
            boxes += [axis.title.get_window_extent(renderer)]
            for box in boxes:
                inside = box.x0 >= whole.x0 - 1 and box.x1 <= whole.x1 + 1 and box.y1 <= whole.y1 + 1
                assert inside, (name, box)
            if name == "surface":
                continue  # labels of contours are placed by matplotlib
            for i, one in enumerate(boxes):
                for other in boxes[:i]:
                    assert not one.overlaps(other), (name, one, other)


@pytest.mark.parametrize(
    "draw",
    [
        lambda frame, iso, laws: figure_isoflop(frame, iso),
        lambda frame, iso, laws: figure_allocation(isoflop=iso),
        lambda frame, iso, laws: figure_allocation(laws=laws),
        lambda frame, iso, laws: figure_surface(frame, laws),
        lambda frame, iso, laws: figure_residuals(frame, laws),
        lambda frame, iso, laws: figure_frontiers(iso),
    ],
)
def test_one_architecture_is_enough(draw: Callable[..., Figure]) -> None:
    found = isoflop(ALPHA, bootstrap=100)
    assert "<svg" in figures.svg(draw(ALPHA, found, {"all": fit(ALPHA, bootstrap=0)}))


def test_a_run_whose_loss_is_too_high_stands_above_the_line() -> None:
    one = ALPHA.copy()
    one.loc[3, "loss"] *= 1.05
    lines = figure_residuals(one, {"all": fit(one, bootstrap=0)}).axes[0].lines
    (line,) = [line for line in lines if line.get_label() == "all"]
    assert np.argmax(line.get_ydata()) == 3 and np.max(line.get_ydata()) == pytest.approx(5, abs=0.7)


def test_an_optimum_that_is_not_used_is_hollow() -> None:
    lopsided = RUNS[(RUNS["arch"] != "Alpha") | (RUNS["params"] * RUNS["tokens"] > 2e17)]
    few = RUNS[(RUNS["arch"] == "Alpha") & (RUNS["params"] * RUNS["tokens"] < 2e17)].iloc[:3]
    frame = pd.concat([lopsided, few], ignore_index=True)
    figure = figure_isoflop(frame, isoflop(frame, bootstrap=100))
    faces = [line.get_markerfacecolor() for line in figure.axes[1].lines if line.get_marker() == "*"]
    assert "15 runs" not in figure.axes[1].get_title(loc="left")
    assert faces.count("black") == 2


def test_labels_are_moved_apart_and_no_further() -> None:
    assert figures.spread([0.0, 1.0, 2.0], 0.5) == [0.0, 1.0, 2.0]
    assert figures.spread([1.0, 1.0], 0.5) == [0.75, 1.25]
    rng = np.random.default_rng(0)
    for _ in range(20):
        given = rng.uniform(0, 1, 7)
        found = np.array(figures.spread(given, 0.1))
        assert (np.diff(np.sort(found)) >= 0.1 - 1e-9).all()
        assert (found[np.argsort(given, kind="stable")] == np.sort(found)).all()
        assert found.mean() == pytest.approx(given.mean())
    assert figures.spread([], 1.0) == []


def test_names_become_labels() -> None:
    assert figures.plain("a$b") == r"a\$b"
    assert figures.plain("\u6f22\n") == "??"
    assert figures.plain("x" * 50, 10) == "xxxxxxx..."
    assert [number(x) for x in (1e18, 12345.0, 0.5, 3e-7)] == ["1e18", "1.23e4", "0.5", "3e-7"]


def test_only_png_svg_and_pdf_are_written(iso: IsoFlop, tmp_path: Path) -> None:
    figure = figure_frontiers(iso)
    with pytest.raises(ValueError, match=r"'a.eps' is neither .png nor .svg nor .pdf"):
        figures.save(figure, tmp_path / "a.eps")
    assert figures.save(figure, tmp_path / "deep" / "a.svg").read_text("utf-8").startswith("<?xml")
    first, second = (
        figures.save(figure_frontiers(iso), tmp_path / f"{name}.pdf").read_bytes() for name in "ab"
    )
    assert first.startswith(b"%PDF") and first == second


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="give isoflop=, laws= or envelope="):
        figure_allocation()
