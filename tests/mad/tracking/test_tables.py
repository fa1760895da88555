"""CSV tables and TensorBoard's event files, read back."""

from __future__ import annotations

import csv
import struct
from pathlib import Path
from typing import Any

import pytest

import mad
from mad.data.records import Record
from mad.store import Store
from mad.tracking import Roster, Tracking
from mad.tracking.mirror import Mirror
from mad.tracking.trackers.csv import Table
from tests.mad.records import records_in

SMOKE: dict[str, Any] = {"suite": "smoke", "tasks": ["compression", "memorization"], "device": "cpu"}


def lines(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """The scalars of a run by their tags."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, list[tuple[int, float]]] = {}
    (file,) = folder.glob("events.out.tfevents.*")
    data, at = file.read_bytes(), 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)  # then a checksum, the event, a checksum
        event = Event()
        event.ParseFromString(data[at + 12 : at + 12 + length])
        at += 12 + length + 4
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_runs_and_curves_are_two_tables_and_a_folder_each_for_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    store = tmp_path / "store.sqlite"
    mad.bench("mlp", store=store, track="csv,tensorboard", track_dir=tmp_path / "to", **SMOKE)
    records = {record.id: record for record in records_in(store)}
    _agree(tmp_path / "to", records)
    before = {p: p.read_bytes() for p in (tmp_path / "to").rglob("*.csv")}
    mad.bench("mlp", store=store, track=["csv", "tensorboard"], track_dir=tmp_path / "to", **SMOKE)
    assert {p: p.read_bytes() for p in (tmp_path / "to").rglob("*.csv")} == before
    _agree(tmp_path / "to", records)


def _agree(folder: Path, records: dict[str, Record]) -> None:
    rows = lines(folder / "csv" / "runs.csv")
    assert sorted(row["run"] for row in rows) == sorted(records)
    curves = lines(folder / "csv" / "curves.csv")
    for row in rows:
        metrics = records[row["run"]].metrics
        assert metrics is not None and metrics.test is not None
        assert (row["status"], float(row["score"])) == ("ok", metrics.test.micro)
        assert float(row["score_low"]) <= metrics.test.micro <= float(row["score_high"])
        points = [point for point in curves if point["run"] == row["run"]]
        curve = [(p.step, p.accuracy) for p in metrics.curve]
        assert [(int(p["at"]), float(p["validation/accuracy"])) for p in points] == curve
        (where,) = folder.glob(f"tensorboard/smoke@1 mlp/* {row['run'][:6]}")
        found = events(where)
        assert found["validation/accuracy"] == [(step, pytest.approx(value)) for step, value in curve]
        assert found["summary/score"] == [(0, pytest.approx(metrics.test.micro))]


def test_a_table_replaces_what_is_put_again_and_appends_what_is_new(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    table = Table(path, ("run", "at"))
    table.put({"run": "a", "at": 1, "loss": 0.5})
    table.put({"run": "a", "at": 2, "loss": None, "name": 'a, "b"\nc'})
    table.put({"run": "b", "at": 1})
    assert lines(path) == [
        {"run": "a", "at": "1", "loss": "0.5", "name": ""},
        {"run": "a", "at": "2", "loss": "", "name": 'a, "b"\nc'},
        {"run": "b", "at": "1", "loss": "", "name": ""},
    ]
    inode = path.stat().st_ino
    again = Table(path, ("run", "at"))
    again.put({"run": "c", "at": 1, "loss": 2})
    again.put({"run": "a", "at": 1, "loss": 0.5})
    assert path.stat().st_ino == inode, "appended, not written anew"
    again.put({"run": "a", "at": 1, "loss": 0.25})
    assert [line["loss"] for line in lines(path)] == ["0.25", "", "", "2"]


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    Table(path, ("run",)).put({"run": "a", "loss": 1})
    path.write_text(path.read_text() + "b,0.12")
    table = Table(path, ("run",))
    table.put({"run": "c", "loss": 3})
    assert lines(path) == [{"run": "a", "loss": "1"}, {"run": "c", "loss": "3"}]


def test_what_another_writes_as_a_formula_stays_text(tmp_path: Path) -> None:
    Table(tmp_path / "t.csv", ("run",)).put({"run": "=1+1", "loss": -0.5})
    assert lines(tmp_path / "t.csv") == [{"run": "'=1+1", "loss": "-0.5"}]


def test_a_failed_run_is_told_as_such(tmp_path: Path) -> None:
    store = tmp_path / "store.sqlite"
    mad.bench("mlp", store=store, **SMOKE | {"tasks": ["compression"]})
    record = records_in(store)[0]
    lost = record.model_copy(update={"status": "failed", "metrics": None, "cost": None, "error": "it broke"})
    with Store(store, read_only=True), Mirror(Tracking(names=("csv",), folder=tmp_path), Roster()) as mirror:
        mirror.show([lost])
        mirror.show([record])
    (row,) = lines(tmp_path / "csv" / "runs.csv")
    assert (row["run"], row["status"]) == (record.id, "ok")
