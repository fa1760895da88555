"""Commands that read records: they run nothing that a record names, and one odd record stops none of them."""

import json
import math
import sqlite3
import sys
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

import pytest

import mad
import mad.cli
import scaling
from mad.store import Store
from scaling.lm.frames import language_frame
from scaling.study.plan import Plan, read
from tests.commands import Command
from tests.mad.stores import filled
from tests.scaling.study.test_plan import PLAN

SPECS = {
    "foreign": "2*(innocent_mod:Layer[width=3] this)",
    "not-a-spec": '=HYPERLINK("http://x")',
    "wrapped": "antigravity:Wrap{mamba swiglu}",
    "unknown": "2*(layer-of-tomorrow[size=2] swiglu)",
    "known": "2*(mamba swiglu)",
}
NAMED = {"innocent_mod", "this", "antigravity", "tests.mad.innocent_mod"}


class Watch(MetaPathFinder):
    def __init__(self) -> None:
        self.asked: list[str] = []

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name in NAMED:
            self.asked.append(name)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watch]:
    found = Watch()
    monkeypatch.setattr(sys, "meta_path", [found, *sys.meta_path])
    monkeypatch.syspath_prepend(Path(__file__).parent)
    yield found
    assert not found.asked and not NAMED & set(sys.modules)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filled(tmp_path_factory.mktemp("store") / "store.sqlite", SPECS)


def reading(store: Path, folder: Path) -> list[list[str]]:
    """Every command that reads records."""
    with Store(store, read_only=True) as opened:
        ids = [entry.id for entry in opened.entries()]
    where = ["--store", str(store)]
    fit = [*where, "--bootstrap", "100"]
    return [
        *(["leaderboard", "--suite", "smoke", "--format", f, *where] for f in ("table", "md", "csv", "json")),
        *(["runs", "--format", f, *where] for f in ("table", "csv", "json")),
        *(["show", id, *where] for id in ids[:: max(1, len(ids) // 8)]),
        ["export", str(folder / "out.jsonl"), "--force", *where],
        ["scaling", "fit", *fit],
        ["scaling", "compare", *fit],
        ["scaling", "relate", "--suite", "smoke", *fit],
    ]


def test_no_command_that_reads_records_runs_what_they_name(
    store: Path, tmp_path: Path, watch: Watch, cli: Command
) -> None:
    for words in reading(store, tmp_path):
        status, _, err = cli(*words)
        assert status == 0, (words, err)
    assert cli("import", tmp_path / "out.jsonl", "--store", tmp_path / "other.sqlite").status == 0
    assert cli("bench", "mamba", "--suite", "smoke", "--dry-run", "--store", store).status == 0


@pytest.mark.slow
def test_the_report_runs_nothing_that_records_name(
    store: Path, tmp_path: Path, watch: Watch, cli: Command
) -> None:
    out = str(tmp_path / "page.html")
    words = ["scaling", "report", "--suite", "smoke", "-o", out, "--bootstrap", "100", "--store", str(store)]
    assert cli(*words).status == 0


def test_no_function_that_reads_records_runs_what_they_name(store: Path, watch: Watch) -> None:
    assert set(mad.leaderboard(suite="smoke", store=store)["spec"]) == set(SPECS.values())
    frame = language_frame(store)
    depths = dict(zip(frame["arch"], frame["depth"], strict=True))
    assert depths["foreign"] == 4 and math.isnan(depths["not-a-spec"])
    relation = scaling.relate(mad.leaderboard(suite="smoke", store=store), frame, bootstrap=100)
    assert len(relation.pairs) == 3, "each is the same architecture in both tables"


def test_layers_of_somebodys_own_meet_by_the_pattern_of_their_text(watch: Watch) -> None:
    from scaling.scores.matching import match

    names = {"a": ["2*(this:Layer swiglu)"], "b": ["innocent_mod:Layer[a=1]"], "c": ["hyena swiglu"]}
    found, _ = match(names, ["8*(this:Layer swiglu)", "innocent_mod:Layer[a=2]", "4*(hyena swiglu)"])
    assert found == {"a": "8*(this:Layer swiglu)", "c": "4*(hyena swiglu)"}


def test_a_sweep_says_before_its_work_which_stored_run_it_cannot_understand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Command
) -> None:
    path = tmp_path / "store.sqlite"
    words = ["bench", "swiglu", "--suite", "smoke", "--tasks", "compression", "--store", str(path)]
    assert cli(*words).status == 0
    with sqlite3.connect(path) as db:
        db.execute("UPDATE runs SET record = replace(record, 'smoke@1', 'smoke') || '}' WHERE rowid = 2")
    db.close()
    with Store(path, read_only=True) as store:
        (lost,) = [entry.id for entry in store.entries() if entry.record is None]
    monkeypatch.setattr("mad.run.engines.inline.run_group", lambda *a, **k: pytest.fail("work was begun"))
    status, _, err = cli(*words[:5], "in-context-recall,compression", *words[6:])
    assert status == 2 and f"run {lost} in store {path} cannot be understood" in err
    monkeypatch.undo()
    assert cli("rm", lost, "--store", path).status == 0
    assert cli(*words).status == 0


def test_a_plan_that_names_code_is_trained_only_where_that_is_allowed(
    tmp_path: Path, watch: Watch, cli: Command
) -> None:
    content = PLAN.model_dump(mode="json")
    content["runs"][0]["size"]["spec"] = "this:Layer"
    plan = Plan.model_validate_json(json.dumps(content))
    plan.save(tmp_path / "plan.json")
    status, _, message = cli("scaling", "train", tmp_path / "plan.json")
    assert status == 2
    assert "'this:Layer', whose code would run here; if you trust it, add --allow-code" in message
    assert read(tmp_path / "plan.json", allow_code=True) == plan
    PLAN.save(tmp_path / "ours.json")
    assert read(tmp_path / "ours.json") == PLAN
