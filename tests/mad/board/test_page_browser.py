"""The page in a browser: what a reader can do with it, and what it never does."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

import mad
from mad.api import leaderboard_page
from mad.data.protocol import get_suite
from mad.store import Store
from tests.mad.board.browser import Opened, browsing, opened
from tests.mad.board.crowd import crowd
from tests.mad.records import architecture, group

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PUBLISHED = """model,source,recall,compression,notes
Hyena,Somebody 2024,81.8,45.2,read from a figure
"=cmd()",Somebody 2024,50,,
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as found:
        yield found


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the packaged results and a few made-up rows of three seeds, and published scores."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "published.csv").write_text(PUBLISHED)
    quick = get_suite("quick@1")
    with Store(folder / "store.sqlite") as store:
        store.commit(crowd(quick, 6))
        store.commit(crowd(quick, 1, version=0))  # stale
        last = crowd(quick, 7)[-18:]
        store.commit([run for run in last if run.config.task["name"] == "compression"])
    return leaderboard_page(folder, store=folder / "store.sqlite", published=folder / "published.csv")


@pytest.fixture
def page(browser: Browser, real: Path) -> Iterator[Opened]:
    found = opened(browser, real)
    yield found
    assert found.quiet()
    found.page.context.close()


def names(page: Opened) -> list[str]:
    return page.text("#table tbody:not(.published) tr[data-row] .who button")


def column(page: Opened, key: str) -> list[str]:
    at = page.page.evaluate(
        "key => [...document.querySelectorAll('#table thead th')].findIndex(th => th.dataset.key === key)",
        key,
    )
    return page.text(f"#table tbody tr[data-row] > :nth-child({at + 1})")


def test_rows_are_sorted_by_any_column_and_back(page: Opened) -> None:
    ranked = names(page)
    assert len(ranked) >= 10
    head = page.page.locator("#table th[data-key=params]")
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    assert names(page) != ranked and sorted(names(page)) == sorted(ranked)
    head.locator("button").focus()
    page.page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert page.page.evaluate("document.activeElement.closest('th').dataset.key") == "params"
    recall = page.page.locator("#table th[data-key=task-0] button")
    recall.click()
    *shown, last = column(page, "task-0")
    assert last == "\u2013", "what has no value is last"
    values = [float(text) for text in shown]
    assert values == sorted(values, reverse=True)
    recall.click()
    recall.click()
    assert names(page) == ranked, "the third time is the board's own order"


def test_filters_narrow_the_table_and_say_so(page: Opened) -> None:
    every = names(page)
    page.page.keyboard.press("/")
    page.page.keyboard.type("swiglu gated-delta")
    assert 0 < len(names(page)) < len(every)
    assert f"{len(names(page))} of {len(every)} architectures" in page.text("#status")[0]
    page.page.locator("#find").fill("no such layer")
    assert names(page) == [] and page.text("#table tbody td")[0] == "No row passes these filters."
    page.page.locator("#find").fill("")
    page.page.get_by_role("checkbox", name="reference").uncheck(force=True)
    assert len(names(page)) < len(every) and "ref" not in page.text("#table tbody .mark")
    for which, mark in (("stale", "stale"), ("incomplete", "1/6 tasks")):
        assert mark in page.text("#table tbody .mark")
        page.page.get_by_role("checkbox", name=which).uncheck(force=True)
        assert mark not in page.text("#table tbody .mark")
    page.page.get_by_role("checkbox", name="published").uncheck(force=True)
    assert page.page.locator("tbody.published").count() == 0


def test_a_row_opens_to_what_stands_behind_it(page: Opened) -> None:
    opener = page.page.locator("#table tbody .who button").first
    opener.focus()
    page.page.keyboard.press("Enter")
    assert opener.get_attribute("aria-expanded") == "true"
    said = page.text(".detail .inner")[0]
    assert "mad bench" in said and "lr 0.003" in said and "torch 2.13" in said
    assert page.page.locator(".detail .layers li").count() >= 2
    opener.click()
    assert page.page.locator(".detail").count() == 0


def test_what_is_shown_can_be_copied(page: Opened) -> None:
    page.page.locator("#find").fill("swiglu")
    page.page.get_by_role("button", name="CSV").click()
    page.page.get_by_text("copied as CSV").wait_for()
    rows = list(csv.DictReader(io.StringIO(page.page.evaluate("navigator.clipboard.readText()"))))
    shown = names(page)
    assert [row["architecture"].split(" (")[0] for row in rows[: len(shown)]] == [
        name.split(" (")[0] for name in shown
    ]
    assert rows[-1]["architecture"].startswith("'=cmd()"), "no spreadsheet runs it"
    assert rows[-1]["recall"] == "50.0" and rows[-1]["#"] == ""
    page.page.get_by_role("button", name="Markdown").click()
    page.page.get_by_text("copied as Markdown").wait_for()
    assert page.page.evaluate("navigator.clipboard.readText()").startswith("| # | architecture |")
    page.page.get_by_role("button", name="LaTeX").click()
    page.page.get_by_text("copied as LaTeX").wait_for()
    latex = page.page.evaluate("navigator.clipboard.readText()")
    assert "\\toprule" in latex and "\\#" in latex and "$\\pm$" in latex


def test_two_rows_are_compared_as_by_the_command(page: Opened, real: Path) -> None:
    """Every difference, interval, p and number of seeds is that of `mad compare`, as far as it is shown."""
    rows = page.page.evaluate(
        "[...document.querySelectorAll('#first option')].map(option => [option.value, option.text])"
    )
    for a, b in (rows[:2], rows[1:3], (rows[0], rows[-1]), (rows[-1], rows[3])):
        page.page.locator("#first").select_option(a[0])
        page.page.locator("#second").select_option(b[0])
        page.settled()
        wanted = mad.compare(a[0], b[0], suite="quick@1", store=real.parent / "store.sqlite")
        shown = [[cell for cell in row.split("\t") if cell] for row in page.text("#verdict tbody tr")]
        lines = [row for row in shown if "\u00b1" in " ".join(row)]
        assert len(lines) == len(wanted.settings) + 1
        for line, one in zip(lines, wanted.settings, strict=False):
            apart, half = line[3].replace("\u2212", "-").split(" \u00b1")
            assert float(apart) == pytest.approx(100 * one.difference, abs=0.051)
            assert float(half) == pytest.approx(50 * (one.high - one.low), rel=0.01, abs=0.051)
            p = float(line[4].removeprefix("< "))
            assert p == pytest.approx(max(one.adjusted, 0.0001), rel=0.02, abs=0.0051 if p >= 0.01 else 1e-4)
            assert (line[5] in ("A is better", "B is better")) == one.separated
            if one.seeds_needed is not None:
                assert int(line[6]) == pytest.approx(one.seeds_needed, abs=1)
        assert ("is better over" in page.text("#verdict .verdict")[0]) == (wanted.mean.p < 0.05)


def test_plots_answer_to_keys_and_choices(page: Opened) -> None:
    before = page.page.locator("#tradeoff-plot svg").inner_html()
    page.page.locator("#tradeoff-x").select_option("params")
    assert page.page.locator("#tradeoff-plot svg").inner_html() != before
    page.page.locator("#tradeoff-plot [tabindex='0']").focus()
    page.page.keyboard.press("ArrowRight")
    tip = page.page.locator("#tip")
    assert tip.is_visible() and "MAD score" in tip.inner_text()
    page.page.keyboard.press("Escape")
    assert not tip.is_visible()
    assert page.page.locator("#learning svg[role=img]").count() == 6


def test_a_link_shows_what_its_sender_saw(page: Opened, browser: Browser, real: Path) -> None:
    page.page.locator("#table th[data-key=state] button").click()
    page.page.locator("#find").fill("swiglu")
    page.page.locator("#table tbody input").first.check()
    other = opened(browser, real, hash="#" + page.page.url.partition("#")[2])
    assert names(other) == names(page)
    assert other.page.locator("#table tr.picked").count() == 1 and other.quiet()
    other.page.context.close()


@pytest.mark.parametrize("width, dark", [(400, True), (1280, False)])
def test_nothing_keeps_anyone_out(browser: Browser, real: Path, width: int, dark: bool) -> None:
    """axe finds nothing, contrast included, with a row open; nothing but the table scrolls sideways."""
    page = opened(browser, real, width=width, dark=dark)
    page.page.locator("#table tbody .who button").first.click()
    page.page.locator("#table tbody input").nth(1).check()
    page.settled()
    assert page.violations() == []
    wide, window = page.widths()
    assert wide <= window
    page.quiet()
    page.page.context.close()


def test_the_toggle_turns_day_into_night(page: Opened) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    day = page.page.evaluate(ground)
    toggle = page.page.locator("#theme")
    toggle.click()
    assert page.page.evaluate(ground) != day and toggle.get_attribute("aria-pressed") == "true"
    toggle.click()
    assert page.page.evaluate(ground) == day


def test_paper_gets_all_rows_and_no_buttons(page: Opened) -> None:
    rows = len(names(page))
    page.page.set_viewport_size({"width": 1100, "height": 300})
    page.page.emulate_media(media="print")
    assert not page.page.locator("#tools").is_visible() and not page.page.locator("#theme").is_visible()
    height = page.page.evaluate("document.querySelector('#scroll').clientHeight")
    whole = page.page.evaluate("document.querySelector('#table').offsetHeight")
    assert height >= whole and len(names(page)) == rows
    assert page.page.pdf().startswith(b"%PDF")


NAMES = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\u202egnp.evil\u202c",
    "\"'`{{payload}}{{script}}",
    "\U0001f40d swiglu \U0001f1e9\U0001f1ea",
    "=HYPERLINK(1)",
    "<!-- -->",
    "x" * 10_000,
]


def test_hostile_names_stay_text(browser: Browser, tmp_path: Path) -> None:
    setting = get_suite("smoke").settings[0]
    runs = [
        run
        for i, name in enumerate(NAMES)
        for run in group(setting, 0.5 + i / 32, 0.5, who=architecture(name, versions={}), given=name)
    ]
    runs = [run.model_copy(update={"environment": {"device": NAMES[0], "torch": NAMES[1]}}) for run in runs]
    with Store(tmp_path / "store.sqlite") as store:
        store.merge(runs)
    file = leaderboard_page(tmp_path, suite="smoke", store=tmp_path / "store.sqlite", reference=False)
    page = opened(browser, file, width=400)
    for opener in page.page.locator("#table tbody .who button").all():
        opener.click()
    text = page.page.locator("#table").inner_text()
    assert "\u202e" not in page.page.content()
    assert "<img src=x" in text and "</script>" in text and "x" * 200 in text
    assert page.page.locator("img, #table script").count() == 0
    wide, window = page.widths()
    assert wide <= window
    assert page.quiet()
    page.page.context.close()


def test_an_empty_store_says_what_to_do(browser: Browser, tmp_path: Path) -> None:
    Store(tmp_path / "store.sqlite").close()
    page = opened(browser, leaderboard_page(tmp_path, store=tmp_path / "store.sqlite", reference=False))
    assert "No run of quick@" in page.text("#summary")[0] and "mad bench" in page.text("#summary")[0]
    assert page.violations() == [] and page.quiet()


def test_pictures_for_the_documentation(browser: Browser, tmp_path: Path) -> None:
    """Of the packaged results; `make pictures` keeps them in docs/figures. Here they have to be small."""
    folder = Path(os.environ.get("MAD_PICTURES", tmp_path))
    Store(tmp_path / "store.sqlite").close()
    file = leaderboard_page(tmp_path, store=tmp_path / "store.sqlite")
    for name, dark, width in (
        ("board", False, 1280),
        ("board-dark", True, 1280),
        ("board-phone", False, 400),
    ):
        page = opened(browser, file, dark=dark, width=width, height=820)
        page.page.screenshot(path=tmp_path / "shot.png")
        with Image.open(tmp_path / "shot.png") as shot:
            shot.convert("RGB").quantize(256).save(folder / f"{name}.png", optimize=True)
        assert (folder / f"{name}.png").stat().st_size < 150_000
        assert page.quiet()
        page.page.context.close()
