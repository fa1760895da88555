"""Language-model runs as trackers show them."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from mad.store import Store
from mad.tracking import Roster, Tracking
from mad.tracking.mirror import Mirror
from mad.tracking.push import push
from scaling.lm.train import train
from tests.scaling.lm.stand_in import StandIn, tiny


def lines(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run_is_told_while_it_goes_on_and_its_record_at_the_end(tmp_path: Path) -> None:
    config, where = tiny(), tmp_path / "to"
    how = {"device": "cpu", "progress": False, "loggers": (), "label": "mine", "study": "s1", "role": "grid"}
    with Store(tmp_path / "s.sqlite") as store:
        record = train(config, StandIn(), store=store, track="csv", track_dir=where, **how)  # type: ignore
    assert record.metrics is not None and record.metrics.loss is not None and record.cost is not None
    (run,) = lines(where / "csv" / "runs.csv")
    assert (run["run"], run["group"], run["job"], run["status"]) == (record.id, "study s1", "grid", "ok")
    assert float(run["loss"]) == record.metrics.loss and float(run["flops"]) == record.cost.flops
    curve = lines(where / "csv" / "curves.csv")
    # The first step, which the record does not keep, was told as it was made.
    assert [int(row["at"]) for row in curve] == [1, *(point.step for point in record.metrics.curve)]
    last = curve[-1]
    assert float(last["validation/loss"]) == record.metrics.loss
    assert float(last["flops"]) == pytest.approx(record.cost.flops)
    before = [path.read_bytes() for path in sorted(where.rglob("*.csv"))]
    with Store(tmp_path / "s.sqlite", read_only=True) as store:
        assert push(store, Tracking(names=("csv",), folder=where)) == 1
    assert [path.read_bytes() for path in sorted(where.rglob("*.csv"))] == before


def test_trackers_that_are_open_hear_of_a_run_that_the_store_holds(tmp_path: Path) -> None:
    with (
        Store(tmp_path / "s.sqlite") as store,
        Mirror(Tracking(names=("csv",), folder=tmp_path), Roster()) as mirror,
    ):
        record = train(tiny(), StandIn(), store=store, device="cpu", progress=False, loggers=())
        again = train(tiny(), StandIn(), store=store, device="cpu", progress=False, loggers=(), track=mirror)
    assert again == record
    assert [run["run"] for run in lines(tmp_path / "csv" / "runs.csv")] == [record.id]
