"""Shards: a split that every machine makes alike, and whose parts together are the whole."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import mad
from mad.data.records import Cost
from mad.run import shard as module
from mad.run.battery import prepare
from mad.run.cost import work
from mad.run.shard import Shard, part, read_shard, split
from mad.run.sweep import Group
from mad.store import Store
from tests.commands import Command

SPECS = ["mamba", "mh-attention", "2*swiglu"]
ASKED: dict[str, Any] = {"suite": "smoke", "protocol": "sound", "device": "cpu", "seeds": 2}


@pytest.fixture(scope="module")
def groups() -> list[Group]:
    return prepare(SPECS, **ASKED).groups


@pytest.mark.parametrize("of", [1, 2, 5, 36, 50])
def test_every_group_is_in_one_shard_whatever_the_order(of: int, groups: list[Group]) -> None:
    parts = split(groups, of)
    assert sorted(group.id for found in parts for group in found) == sorted(group.id for group in groups)
    assert len(parts) == min(of, len(groups)) and all(parts)
    mixed = list(groups)
    random.Random(of).shuffle(mixed)
    for found, again in zip(parts, split(mixed, of), strict=True):
        assert {group.id for group in again} == {group.id for group in found}
        assert found == [group for group in groups if group in found], "in their order"
    assert (
        part(groups, Shard(1, of)) == parts[0] and part(groups, Shard(of, of)) == (parts[of - 1 :] or [[]])[0]
    )


def test_the_same_groups_are_in_a_shard_on_every_machine(groups: list[Group]) -> None:
    """Pinned: machines with two versions that split otherwise would leave groups out."""
    found = {group.id for group in part(groups, Shard(2, 7))}
    assert {f"{g.cell.architecture.given} {g.cell.task.name} {g.seed}" for g in groups if g.id in found} == {
        "mamba fuzzy-in-context-recall 1",
        "mh-attention memorization 0",
        "2*swiglu in-context-recall 0",
        "2*swiglu compression 1",
        "2*swiglu memorization 0",
    }


def test_shards_have_about_the_same_work(groups: list[Group]) -> None:
    loads = [sum(work(group.cell) for group in found) for found in split(groups, 4)]
    longest = max(work(group.cell) for group in groups)
    assert max(loads) - min(loads) <= longest and max(loads) < 1.15 * min(loads)


def test_the_last_digits_of_a_cost_change_no_split(
    groups: list[Group], monkeypatch: pytest.MonkeyPatch
) -> None:
    def split_of(last: dict[str, float]) -> list[list[Group]]:
        def counted(cell: Any) -> Cost:
            flops = 1000.0 + last.get(cell.architecture.given, 0.0)
            return Cost(params=1, flops_per_token=flops, training_flops_per_token=flops)

        monkeypatch.setattr(module, "counted_cost", counted)
        return split(groups, 3)

    assert split_of({}) == split_of({"mamba": 1e-12}) == split_of({"mh-attention": 1e-12})
    assert split_of({}) != split_of({"mh-attention": 100.0})


def test_what_cannot_be_counted_weighs_as_the_others_do(
    groups: list[Group], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = module.counted_cost
    monkeypatch.setattr(
        module, "counted_cost", lambda cell: "why" if cell.architecture.given == "mamba" else counted(cell)
    )
    assert max(sizes := [len(found) for found in split(groups, 3)]) < 20 and sum(sizes) == len(groups)
    monkeypatch.setattr(module, "counted_cost", lambda cell: "why")
    assert [len(found) for found in split(groups, 3)] == [12, 12, 12]


@pytest.mark.parametrize(
    "wrong",
    ["", "3", "0/3", "4/3", "-1/3", "1/0", "1/2/3", "a/b", "1.5/3", " 1/3", "1/" + "9" * 5000, "\u0663/8"],
)
def test_a_bad_shard_is_answered_with_the_rule(wrong: str) -> None:
    with pytest.raises(ValueError, match="is not i/n with whole numbers 1 <= i <= n; give 3/8 for the third"):
        read_shard(wrong)


def test_a_merged_board_is_that_of_one_machine_digit_for_digit(tmp_path: Path, cli: Command) -> None:
    def bench(store: str, *words: str) -> str:
        asked = ["mh-attention", "2*swiglu", "--suite", "smoke", "--device", "cpu"]
        status, out, err = cli("bench", *asked, "--engine", "inline", "--store", tmp_path / store, *words)
        assert status == 0, err
        return out

    bench("whole.sqlite")
    files = []
    for number in (1, 2, 3):
        said = bench(f"{number}.sqlite", "--shard", f"{number}/3")
        assert re.search(rf"This is a part of the board: shard {number}/3 with \d of 12 groups\. For", said)
        files.append(tmp_path / f"{number}.jsonl")
        assert cli("export", files[-1], "--store", tmp_path / f"{number}.sqlite").status == 0
    assert cli("import", *files, "--store", tmp_path / "merged.sqlite").out == (
        "24 runs added, 0 replaced, 0 known\n"
    )
    whole, merged = (
        mad.leaderboard(suite="smoke", store=tmp_path / name) for name in ("whole.sqlite", "merged.sqlite")
    )
    assert merged.pop("imported").tolist() == [12, 12] and whole.pop("imported").tolist() == [0, 0]
    assert set(merged.pop("notes")) == {"12 of 12 runs imported"} and set(whole.pop("notes")) == {""}
    pd.testing.assert_frame_equal(whole, merged, check_exact=True)
    assert "part of the board" not in bench("merged.sqlite")
    with Store(tmp_path / "merged.sqlite", read_only=True) as store:
        assert len(store.records()) == 24, "what was merged is not run again"


def test_a_split_does_not_depend_on_what_is_stored(tmp_path: Path, cli: Command) -> None:
    words = ["bench", "swiglu", "--suite", "smoke", "--device", "cpu", "--store", tmp_path / "s.sqlite"]
    plan = [*words, "--shard", "2/2", "--dry-run"]
    before = cli(*plan).out
    assert "shard 2/2 with 3 of 6 groups: 3 cells, 3 groups to run (0 stored already)" in before
    assert cli(*words, "--shard", "1/2").status == 0
    after = cli(*plan).out
    assert before.splitlines()[:-1] == after.splitlines()[:-1]
    assert cli(*words, "--shard", "2/2").status == 0
    assert "3 cells, 0 groups to run (3 stored already)" in cli(*plan).out


def test_more_shards_than_groups_leave_some_with_nothing(tmp_path: Path, cli: Command) -> None:
    words = ["bench", "swiglu", "--suite", "smoke", "--device", "cpu", "--store", tmp_path / "s.sqlite"]
    status, out, _ = cli(*words, "--shard", "8/8")
    assert status == 0
    assert out == "Nothing to run: shard 8/8 with 0 of 6 groups, which are fewer than the shards.\n"
    assert not list(tmp_path.iterdir())


def test_the_table_of_a_part_says_that_it_is_one(tmp_path: Path) -> None:
    asked: dict[str, Any] = {
        "suite": "smoke",
        "device": "cpu",
        "store": tmp_path / "s.sqlite",
        "engine": "inline",
    }
    table = mad.bench("swiglu", shard="1/6", **asked)
    assert table.attrs == {"shard": "1/6"} and table["missing"][0].count("not run") == 5
    assert mad.bench("swiglu", **asked).attrs == {}


def test_a_shard_is_refused_before_anything_is_looked_at() -> None:
    with pytest.raises(ValueError, match="shard '9/8' is not i/n"):
        mad.bench("no-such-layer", shard="9/8")
