"""What people see of records is what can be read: no control characters anywhere, no formulas in CSV."""

import csv
import io
import json
import sys
from pathlib import Path

import pandas as pd
import pytest

import mad.cli
from mad.board import render
from mad.data.protocol import SUITES
from mad.messages import counted, one_line, printable
from mad.score import score
from mad.store import Store
from scaling.lm.records import LanguageRecord
from scaling.report.page import page
from scaling.report.section import Section, Table
from tests.commands import Command
from tests.mad.language_records import language
from tests.mad.records import SOUND, architecture, group, record
from tests.mad.store.test_reading import reading
from tests.mad.stores import filled

# Escape sequences, C1, overwriting, marks of direction and without width, breaks of lines.
HOSTILE = ("\x1b[31m", "\x9b2J", *"\r\x08\u202e\u2066\u200b\ufeff\x85\u2028\x00\n")
NAMES = {f"x{i}": f"mamba{mark}swiglu" for i, mark in enumerate(HOSTILE)}


@pytest.mark.parametrize("mark", HOSTILE)
def test_a_mark_that_a_terminal_obeys_is_a_question_mark(mark: str) -> None:
    assert (
        printable(f"a{mark}b")
        == "a"
        + "?" * len([c for c in mark if not c.isprintable()])
        + "".join(c for c in mark if c.isprintable())
        + "b"
    )
    assert one_line(f"a{mark}b").isprintable()


@pytest.mark.parametrize("mark", "\u034f\u115f\u180b\u2800\u3164\ufe0f\uffa0\U000e0100")
def test_letters_that_are_shown_as_nothing_are_question_marks(mark: str) -> None:
    assert mark.isprintable()
    assert printable(f"mam{mark}ba") == "mam?ba"


def test_what_can_be_read_stays_as_it_is() -> None:
    text = "2*(hyena swiglu) naive \u00e9\u03b1\u4e2d\U0001f600"
    assert printable(text) == text
    assert printable("two\nlines\x1b", lines=True) == "two\nlines?"


def test_no_command_prints_what_a_terminal_obeys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    specs = {f"{label}{spec}": spec for label, spec in list(NAMES.items())[:3]}
    store = filled(tmp_path / "store.sqlite", specs)
    at = SUITES["smoke"].settings[0]
    with Store(store) as opened:
        text = "".join(HOSTILE)
        failed = record(at, 7e-3, status="failed", given=text)
        opened.commit(
            [
                failed.model_copy(
                    update={"suite": text, "error": f"a{text}\nb", "environment": {"device_name": text}}
                )
            ]
        )
        opened.commit([language(label=text, study=text, seed=3)])
    more = [["rm", "--status", "failed", "--store", str(store)], ["show", HOSTILE[0]], ["bench", HOSTILE[0]]]
    more.append(["show", failed.id, "--store", str(store)])
    for words in [*reading(store, tmp_path), *more]:
        monkeypatch.setattr(sys, "argv", ["mad", *words])
        with pytest.raises(SystemExit):
            mad.cli.main()
        out, err = capfd.readouterr()
        assert printable(out, lines=True) == out, words
        assert printable(err, lines=True) == err, words


def test_names_are_shown_without_marks_in_every_form_of_the_board() -> None:
    runs = [
        run
        for spec in NAMES.values()
        for at in SUITES["smoke"].settings
        for run in group(at, 0.5, 0.6, who=architecture(spec), given=spec, backend=spec)
    ]
    scores = score(runs, SUITES["smoke"], SOUND)
    for form in ("table", "md", "csv"):
        text = render(scores, form)
        assert printable(text, lines=True) == text, form
    assert json.loads(render(scores, "json"))["architectures"]


def test_a_cell_that_a_spreadsheet_would_run_is_text() -> None:
    formulas = [
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        " =1",
        "\t=1",
        "\r=1",
        "\uff1d1",
        '=HYPERLINK("http://x","y")',
    ]
    plain = ["2*(mamba swiglu)", "mamba", "(mamba + hyena)"]
    runs = [
        run
        for spec in (*formulas, *plain)
        for run in group(SUITES["smoke"].settings[0], 0.5, 0.6, who=architecture(spec), given=spec)
    ]
    text = render(score(runs, SUITES["smoke"], SOUND), "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    specs = {row["spec"] for row in rows}
    assert specs >= set(plain) and len(rows) == len(formulas) + len(plain)
    for row in rows:
        for name, cell in row.items():
            assert cell.lstrip()[:1] not in ("=", "+", "@", "\uff1d"), (name, cell)
            assert cell[:1] != "-" or float(cell) < 0
    assert all(0 < float(row["in-context-recall"]) < 1 and int(row["params"]) == 412_345 for row in rows)


def test_a_page_shows_names_without_marks() -> None:
    table = pd.DataFrame({"arch": list(NAMES.values()), "loss": 2.0})
    section = Section(name="runs", title="Runs", notes=("".join(HOSTILE),), tables=(Table("all", table),))
    text = page("<b>", "a\x1b", [section])
    assert printable(text, lines=True) == text and "<b>" not in text


def test_markdown_gets_no_html() -> None:
    spec = "<script>alert(1)</script>|<b>"
    runs = group(SUITES["smoke"].settings[0], 0.5, 0.6, who=architecture(spec), given=spec)
    text = render(score(runs, SUITES["smoke"], SOUND), "md")
    assert "<" not in text and "&lt;script>" in text and "\\|&lt;b>" in text


def test_two_names_that_would_look_alike_are_refused(tmp_path: Path, cli: Command) -> None:
    store = filled(tmp_path / "store.sqlite", {"a\x00": "mamba", "a\x01": "mamba swiglu"})
    status, _, err = cli("scaling", "fit", "--store", store)
    assert status == 2 and "'a\\x01' and 'a\\x00' differ by characters that are not shown" in err


def test_a_run_that_no_table_may_hold_is_named_and_the_rest_is_fitted(tmp_path: Path, cli: Command) -> None:
    store = filled(tmp_path / "store.sqlite", {"m": "mamba swiglu"})
    words = ["scaling", "fit", "--approach", "law", "--bootstrap", "0", "--store", str(store)]
    status, before, _ = cli(*words)
    assert status == 0
    few = {"params": 5, "params_counted": 5, "embedding": 0, "core": 5, "active": 5}
    odd = language(2.0, label="m", cost=few)
    with Store(store) as opened:
        opened.commit([odd])
    status, out, _ = cli(*words)
    after = " ".join(out.split())
    assert status == 0
    assert after.startswith(f"about the table: - set aside: run {odd.id} (5 is too small for a count")
    assert after.endswith(" ".join(before.split()).removeprefix("about the table: "))


@pytest.mark.parametrize("words", [["scaling", "fit", "--bootstrap", "0"], ["show"], ["rm", "--dry-run"]])
def test_a_name_of_many_pages_is_cut(words: list[str], tmp_path: Path, cli: Command) -> None:
    store = filled(tmp_path / "store.sqlite", {"x" * 60_000: "mamba swiglu"})
    with Store(store, read_only=True) as opened:
        ids = [record.id for record in opened.records(LanguageRecord)]
    status, out, _ = cli(*words, *(ids[:1] if words[0] != "scaling" else []), "--store", store)
    assert status == 0 and max(map(len, out.splitlines())) < 5000


@pytest.mark.parametrize("count, words", [(0, "0 runs"), (1, "1 run"), (1200, "1,200 runs")])
def test_one_is_no_plural(count: int, words: str) -> None:
    assert counted(count, "run") == words


def test_a_message_of_megabytes_is_cut() -> None:
    shown = one_line("x" * 5_000_000)
    assert len(shown) < 4_100 and shown.endswith("(5,000,000 characters)")
