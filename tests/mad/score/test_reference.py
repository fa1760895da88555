"""Results that come with the package, beside one's own."""

from pathlib import Path

import pytest

import mad
from mad.api import scores_of
from mad.board import render
from mad.data.protocol import SUITES
from mad.score import score
from mad.store import Store
from mad.store.reference import FOLDER, maker, reference_outlines, reference_records
from tests.mad.records import SOUND, group, setting, suite

RECALL = setting("in-context-recall[vocab_size=8, seq_len=16]")
TEST = suite(RECALL)


def test_packaged_runs_count_where_the_store_lacks_them() -> None:
    mine, theirs = group(RECALL, 0.5, 0.6), group(RECALL, 0.7, 0.8)
    mixed = score(mine[:1], TEST, SOUND, reference=theirs)
    (row,) = mixed.architectures
    assert (row.runs, row.reference, row.seeds) == (2, 1, 1)
    assert row.mad is not None and row.mad.value == 0.8
    text = render(mixed)
    assert "hyena swiglu: 1 of 2 runs are reference results." in text and "swiglu (ref)" not in text
    (own,) = score(mine, TEST, SOUND, reference=theirs).architectures
    assert (own.runs, own.reference) == (2, 0) and own.mad is not None and own.mad.value == 0.6
    assert score(mine, TEST, SOUND, reference=theirs).reference == ()


def test_a_reference_row_is_marked_and_its_making_is_said_once() -> None:
    made = maker({"mad_suite": "0.1.0", "torch": "2.13.0", "device": "cpu", "device_name": "[b]EPYC"})
    theirs = group(RECALL, 0.7, 0.8, spec="mamba")
    makers = {run.id: made for run in theirs}
    both = score(group(RECALL, 0.5, 0.6), TEST, SOUND, reference=theirs, makers=makers)
    text = " ".join(render(both).split())
    assert "mamba (ref)" in text and "hyena swiglu (ref)" not in text
    assert text.count("mad-suite 0.1.0, torch 2.13.0, cpu ([b]EPYC)") == 1 and "your own" not in text
    alone = render(score([], TEST, SOUND, reference=theirs, makers={theirs[0].id: maker({})}))
    assert alone.count("an unknown version") == 1 and "No run is your own yet" in alone


def test_a_stale_reference_row_is_shown_as_such_and_not_ranked() -> None:
    old, new = group(RECALL, 0.9, 0.8, spec="mamba"), group(RECALL, 0.5, 0.6)
    found = score(new, TEST, SOUND, versions={"mamba": 2}, reference=old)
    assert [(row.label, row.rank) for row in found.architectures] == [("hyena swiglu", 1), ("mamba", None)]
    text = render(found)
    assert "mamba (ref, stale)" in text and "mamba@1 is now mamba@2" in text


def test_damage_in_the_package_is_said_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mad.store.reference.FOLDER", tmp_path)
    whole = (FOLDER / "quick.jsonl").read_bytes().splitlines()[0]
    for bad in (
        b"{}",
        b"[]",
        b"version https://git-lfs",
        whole[:400],
        whole.replace(b'"micro":0.9', b'"micro":7'),
    ):
        (tmp_path / "quick.jsonl").write_bytes(bad + b"\n")
        with pytest.raises(
            ValueError, match="quick.jsonl are damaged .*install mad-suite again.*--no-reference"
        ):
            reference_outlines("quick")


def test_reference_results_need_no_store_unless_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAD_STORE", str(tmp_path / "store.sqlite"))
    shown = mad.leaderboard()
    assert len(shown) >= 4 and (shown["reference"] == shown["runs"]).all()
    for refused in ({"store": tmp_path / "store.sqlite"}, {"reference": False}, {"suite": "smoke"}):
        with pytest.raises(ValueError, match="no store at .*; run `mad bench` first"):
            scores_of(**refused)
    assert not list(tmp_path.iterdir())
    Store(tmp_path / "store.sqlite").close()
    assert scores_of() == scores_of(store=tmp_path / "store.sqlite") and scores_of(suite="smoke") is not None
    assert mad.leaderboard(reference=False).empty


@pytest.mark.parametrize("name", ["../quick", "quick@1", "", "*", "/etc/passwd"])
def test_the_name_of_a_suite_is_no_path(name: str) -> None:
    assert reference_records(name) == [] and reference_outlines(name) == ([], {})


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.jsonl")), ids=lambda path: path.stem)
def test_packaged_runs_are_of_their_suite_and_sorted(path: Path) -> None:
    records = reference_records(path.stem)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [run.id for run in records] == sorted({run.id for run in records}) and len(lines) == len(records)
    assert not any(run.imported for run in records)
    outlines, makers = reference_outlines(path.stem)
    for run, outline in zip(records, outlines, strict=True):
        assert (run.id, run.config.setting_key) == (outline.id, outline.config.setting_key)
        assert run.config.architecture_key == outline.config.architecture_key
        assert makers[run.id] == maker(run.environment)
    rows = score(records, SUITES[path.stem], SOUND).architectures
    assert sum(row.runs for row in rows) == len(records) and all(row.complete for row in rows)
