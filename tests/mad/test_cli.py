"""The command line as a user meets it: what is printed, what is refused, and what survives kill -9."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mad.messages import one_line
from mad.store import Store
from tests.commands import Command
from tests.mad.records import records_in


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "store.sqlite"
    monkeypatch.setenv("MAD_STORE", str(path))
    yield path


REFUSED = [
    (["bench", "2*(hyenna swiglu)"], "hyena", "hyenna"),
    (["bench", "2*(hyena swiglu"], "')'", "^"),
    (["bench", "mamba[d_stat=4] swiglu"], "d_state", "d_stat"),
    (["bench", "mamba[d_state=x] swiglu"], "integer", "x"),
    (["bench", "attention[heads=5]"], "64 is not divisible by heads 5", "choose"),
    (["bench", "mamba", "--suite", "quik"], "quik", "quick"),
    (["bench", "mamba", "--suite", "quick@7"], "quick@7", "quick@1"),
    (["bench", "mamba", "--protocol", "sond"], "sond", "sound"),
    (["bench", "mamba", "--tasks", "compresion"], "compresion", "compression"),
    (["bench", "mamba", "--seeds", "0"], "0", "at least 1"),
    (["bench", "mamba", "--seeds", "many"], "--seeds", "integer"),
    (["bench", "mamba", "--device", "tpu"], "tpu", "cpu"),
    (["bench", "mamba", "--precision", "8-bit"], "8-bit", "32-true"),
    (["bench", "mamba", "--replicas", "all"], "all", "batched"),
    (["bench", "no_such_module_here:Layer"], "no_such_module_here", "install"),
    (["bench"], "SPEC", "--help"),
    (["bench", "mamba", "--sede", "3"], "--sede", "--seeds"),
    (["nonsense"], "nonsense", "--help"),
    (["train", "mamba", "in-context-recall[seq_len=3]"], "seq_len=3", "choose"),
    (["train", "mamba", "in-context-recal"], "in-context-recal", "in-context-recall"),
    (["train", "mamba", "compression", "--epochs", "0"], "epochs", "0"),
    (["leaderboard", "--no-reference"], "no store", "mad bench"),
    (["leaderboard", "--suite", "smoke"], "no store", "mad bench"),
    (["leaderboard", "--store", "missing.sqlite"], "missing.sqlite", "mad bench"),
    (["leaderboard", "--format", "tabel"], "tabel", "table"),
    (["leaderboard", "--suite", "quik"], "quik", "quick"),
    (["leaderboard", "--sort", "parms"], "parms", "params"),
    (["leaderboard", "--filter", "params<"], "params<", "params<1e6"),
    (["leaderboard", "--filter", "family=delta"], "family=delta", "recurrence"),
    (["leaderboard", "--tasks", "compresion"], "compresion", "compression"),
    (["leaderboard", "--tasks", ","], "no task", "memorization"),
    (["show", "mambo"], "mambo", "mamba"),
    (["show", "abcdef123"], "no store", "mad bench"),
    (["tasks", "show", "recall"], "recall", "in-context-recall"),
    (["import", "nowhere.jsonl"], "nowhere.jsonl", "mad export"),
    (["export", "out.jsonl"], "no store", "mad bench"),
]


@pytest.mark.parametrize(("words", "value", "remedy"), REFUSED, ids=[" ".join(row[0]) for row in REFUSED])
def test_bad_input_gets_one_line_and_status_2_before_any_work(
    words: list[str], value: str, remedy: str, store: Path, cli: Command
) -> None:
    status, out, err = cli(*words)
    assert status == 2 and out == ""
    assert len(err.strip().splitlines()) == 1 and "Traceback" not in err
    assert value in err and remedy in err
    assert not store.exists()


def test_a_caret_is_kept_on_one_line() -> None:
    assert one_line("expected ')'\n  (hyena\n        ^") == "expected ')' (here ^): (hyena^"
    assert one_line("plain") == "plain"


def test_bench_leaderboard_show_export_import(store: Path, tmp_path: Path, cli: Command) -> None:
    def call(*words: object) -> str:
        status, out, err = cli(*words)
        assert status == 0, err
        return out

    spec = "mh-attention swiglu"
    words = ["bench", spec, "--suite", "smoke", "--tasks", "compression,memorization", "--device", "cpu"]
    dry = call(*words, "--dry-run")
    assert "2 groups to run (0 stored already), 4 runs, 32 steps" in dry and not store.exists()
    first = call(*words)
    assert spec in first and "mean of 2  compr.  memor." in first and "no MAD score" in first
    records = records_in(store)
    assert len(records) == 4 and {r.status for r in records} <= {"ok", "stopped"}
    assert call(*words) == first
    assert records_in(store) == records, "a second call repeats nothing"
    assert "(2 stored already), 0 runs, 0 steps" in call(*words, "--dry-run")

    board = json.loads(call("leaderboard", "--suite", "smoke", "--format", "json"))
    assert board["architectures"][0]["spec"] == spec
    assert call("leaderboard", "--suite", "smoke", "--format", "csv").startswith("rank,")
    assert "mad bench" in call("leaderboard", "--suite", "baseline"), "an empty board says what to run"
    shown = call("show", records[0].id)
    assert records[0].id in shown and "test accuracy" in shown and "lr" in shown

    file = tmp_path / "runs.jsonl"
    assert call("export", file) == f"4 runs written to {file}\n"
    other = tmp_path / "other.sqlite"
    assert call("import", file, "--store", other).startswith("4 runs added")
    assert call("import", file, "--store", other).startswith("0 runs added, 0 replaced, 4 known")
    same = " ".join(call("leaderboard", "--suite", "smoke", "--store", other).split())
    assert same.replace("; 4 of 4 runs imported", "") == " ".join(
        call("leaderboard", "--suite", "smoke").split()
    )
    assert "4 of 4 runs imported" in same and "imported" in call("show", records[0].id, "--store", other)


def test_train_prints_its_curve_and_is_stored(store: Path, cli: Command) -> None:
    words = ["train", "mamba swiglu", "memorization[vocab_size=16, seq_len=8]", "--examples", "32"]
    words += ["--epochs", "2", "--batch-size", "16", "--dim", "16", "--device", "cpu", "--evaluations", "2"]
    saved = str(store.with_name("model.pt"))
    status, out, err = cli(*words, "--save", saved)
    assert status == 0, err
    assert out.endswith(f"model written to {saved}\n") and "2 epochs, batch 16" in out
    assert "validation accuracy" in out and "test accuracy" in out and "mamba swiglu" in out
    with Store(store, read_only=True) as opened:
        assert len(opened.records()) == 1


def test_show_draws_the_layers_of_a_spec(cli: Command) -> None:
    status, out, _ = cli("show", "2*(hyena swiglu)")
    assert status == 0 and out.count("hyena") == 3 and "in all" in out and "4,096" in out


def test_tasks_and_primitives_are_listed(cli: Command) -> None:
    import synthetic_tasks
    from architectures.grammar.index import read

    _, out, _ = cli("tasks")
    assert all(name in out for name in synthetic_tasks.names())
    _, out, _ = cli("primitives")
    assert all(entry["name"] in out for entry in read()) and "striped-hyena" in out


@pytest.mark.parametrize("name", ["compression", "in-context-recall[seq_len=16]", "memorization"])
def test_a_task_is_drawn_with_its_answers(name: str, cli: Command) -> None:
    status, out, _ = cli("tasks", "show", name)
    assert status == 0 and "tokens" in out and "answer" in out and "chance" in out


BENCH = [sys.executable, "-m", "mad.cli", "bench", "mh-attention swiglu", "mamba"]
BENCH += ["--suite", "smoke", "--device", "cpu"]


@pytest.mark.slow
def test_a_store_killed_in_the_middle_resumes_and_loses_at_most_the_running_cell(tmp_path: Path) -> None:
    def bench(path: Path) -> subprocess.Popen[str]:
        environment = os.environ | {"MAD_STORE": str(path), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            BENCH, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    whole = bench(tmp_path / "whole.sqlite")
    broken = tmp_path / "broken.sqlite"
    seen: set[str] = set()
    for kills in range(3):
        with bench(broken) as process:
            assert process.stderr is not None
            # Killed after the line of a new group: the next one is running, or its records are being written.
            fresh = 0
            for line in process.stderr:
                fresh += line.startswith("[")
                if fresh > len(seen) // 2 + 1:
                    break
            time.sleep(0.02 * kills)
            process.send_signal(signal.SIGKILL)
        records = records_in(broken)
        assert seen <= {r.id for r in records}, "what was finished is kept"
        assert len(records) % 2 == 0 and len(records) >= 2 * (kills + 1), "whole groups, and at most one lost"
        seen = {r.id for r in records}
    last = bench(broken)
    out, err = last.communicate(timeout=300)
    assert last.returncode == 0, err
    expected, whole_err = whole.communicate(timeout=300)
    assert whole.returncode == 0, whole_err
    with Store(broken, read_only=True) as a, Store(tmp_path / "whole.sqlite", read_only=True) as b:
        ours, undisturbed = a.records(), b.records()
    assert {r.id for r in ours} == {r.id for r in undisturbed} and len(ours) == 24
    assert {r.id: r.metrics for r in ours} == {r.id: r.metrics for r in undisturbed}
    assert all(r.attempts == 1 for r in ours) and out == expected
