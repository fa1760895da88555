"""Tasks of a user's own: named by their class, identified by their code, found by workers alone."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mad
import synthetic_tasks
from mad.data.protocol import Suite, get_suite
from mad.data.tasks import identify, read_task, spelled
from mad.run.place import find_place
from mad.run.sweep import Group, plan
from mad.run.workers.worker import Unportable, pack, unpack
from mad.store import Store
from mad.store.exchange import export_records, read_records
from tests.commands import Command
from tests.mad.records import SOUND, records_in

TASK = '''
"""Reverse."""
from dataclasses import dataclass

import numpy as np

from synthetic_tasks import IGNORE, Batch, Task, task

print("IMPORTED", end="")


@task("reverse", version=1)
@dataclass(frozen=True, kw_only=True)
class Reverse(Task):
    """Say the first half backwards."""

    vocab_size: int = 16
    seq_len: int = 8
    chance = 1 / 15

    def sample(self, rng, n, *, split="test"):
        half = self.seq_len // 2  # how much is shown
        inputs = np.full((n, self.seq_len), self.vocab_size - 1)
        inputs[:, :half] = rng.integers(self.vocab_size - 1, size=(n, half))
        targets = np.where(np.arange(self.seq_len) < self.seq_len - half, IGNORE, self.solve(inputs))
        return Batch(inputs, targets)

    def solve(self, inputs):
        return inputs[:, ::-1].copy()
'''
SUITE = """
name = "mine"
dim = 16
[budget]
train_examples = 32
epochs = 1
batch_size = 16
lrs = [1e-3]
weight_decays = [0.0]
validation_examples = 16
test_examples = 16
[[settings]]
task = "own_tasks:Reverse"
[[settings]]
task = "compression[seq_len=8]"
"""
FEW: dict[str, Any] = {"train_examples": 32, "epochs": 1, "batch_size": 16, "dim": 16, "device": "cpu"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "own_tasks.py").write_text(TASK)
    (tmp_path / "mine.toml").write_text(SUITE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # It would be found by a time in seconds.
    synthetic_tasks.names()
    monkeypatch.setattr("synthetic_tasks.registry._tasks", dict(synthetic_tasks.registry._tasks))
    yield tmp_path
    sys.modules.pop("own_tasks", None)


def run(code: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


def reloaded(folder: Path, text: str) -> None:
    (folder / "own_tasks.py").write_text(text)
    importlib.reload(sys.modules["own_tasks"])


def test_a_class_is_the_task_that_it_registers(folder: Path) -> None:
    task = synthetic_tasks.parse("own_tasks:Reverse[vocab_size=9]")
    assert (task.name, task.version, str(task)) == ("reverse", 1, "reverse[vocab_size=9]")
    assert synthetic_tasks.get("own_tasks:Reverse", vocab_size=9) == task == synthetic_tasks.parse(str(task))
    assert identify(task) == identify(synthetic_tasks.parse("reverse[vocab_size=9]"))
    assert identify(task)["class"] == "own_tasks:Reverse" and len(identify(task)["source"]) == 64
    assert "class" not in identify(synthetic_tasks.get("compression"))


def test_the_identity_follows_the_code_and_not_the_comments(folder: Path) -> None:
    before = identify(read_task("own_tasks:Reverse", "repaired"))
    reloaded(
        folder, TASK.replace("# how much is shown", "# words").replace("Say the first", "Tell the first")
    )
    assert identify(read_task("own_tasks:Reverse", "repaired")) == before
    reloaded(folder, TASK.replace("[:, ::-1].copy()", "[:, ::-1] + 0"))
    after = identify(read_task("own_tasks:Reverse", "repaired"))
    assert {key for key in before if before[key] != after[key]} == {"source"}
    reloaded(folder, TASK.replace("vocab_size: int = 16", "vocab_size: int = 15"))
    assert identify(read_task("own_tasks:Reverse", "repaired"))["vocab_size"] == 15
    (folder / "own_tasks.py").write_text(TASK.replace("seq_len: int = 8", "seq_len: int = 10"))
    with pytest.raises(ValueError, match="own_tasks has changed since it was imported.*importlib.reload"):
        identify(read_task("own_tasks:Reverse", "repaired"))


def test_a_changed_task_runs_again_and_an_unchanged_one_does_not(folder: Path) -> None:
    def ids() -> set[str]:
        mad.train("mlp", "own_tasks:Reverse", store=folder / "s.sqlite", **FEW)
        mad.train("mlp", "reverse", store=folder / "s.sqlite", **FEW)
        return {record.id for record in records_in(folder / "s.sqlite")}

    assert len(ids()) == 1 == len(ids())
    reloaded(folder, TASK.replace("[:, ::-1].copy()", "[:, ::-1] + 0"))
    assert len(ids()) == 2


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("own_tasks:Revers", "module own_tasks has no 'Revers'; did you mean 'Reverse'?"),
        ("own_tasks:np", "own_tasks:np is not a task but module; name a class that derives from"),
        ("own_tasks:Batch", "own_tasks:Batch is not a task but Batch; name a class"),
        (
            "own_tasks:Reverse[seqlen=4]",
            "unknown option of own_tasks:Reverse 'seqlen'; did you mean 'seq_len'?",
        ),
        ("own_tasks:Reverse[seq_len=0]", "reverse: seq_len=0 is refused: a row has a token at least"),
        (
            "__main__:Reverse",
            "lies in the program itself, where no other process finds it; put the class into",
        ),
        ("no_tasks:Reverse", "there is no module no_tasks; run from the folder that holds it"),
        (
            "bad_tasks:Reverse",
            "module bad_tasks cannot be imported: ZeroDivisionError: division by zero; repair",
        ),
        ("needy_tasks:Reverse", "module needy_tasks needs no_such_library, which is not installed"),
        ("plain_tasks:Plain", "has neither name nor version; write @task('my-task', version=1) above it"),
        ("taken_tasks:Taken", "the name is taken by synthetic_tasks.compression.Compression; choose another"),
    ],
)
def test_what_is_no_task_is_said_wherever_it_is_named(
    words: str, answer: str, folder: Path, cli: Command
) -> None:
    (folder / "bad_tasks.py").write_text("1 / 0")
    (folder / "needy_tasks.py").write_text("import no_such_library")
    (folder / "plain_tasks.py").write_text("from own_tasks import Reverse\nclass Plain(Reverse):\n    pass\n")
    (folder / "taken_tasks.py").write_text(TASK.replace("reverse", "compression").replace("Reverse", "Taken"))
    (folder / "mine.toml").write_text(SUITE.replace("own_tasks:Reverse", words))
    for call in (
        ["tasks", "show", words],
        ["train", "mlp", words, "--store", "none.sqlite"],
        ["bench", "mlp", "--suite", "mine.toml", "--store", "none.sqlite"],
        ["check", words],
    ):
        if call[0] == "check" and words in ("own_tasks:np", "own_tasks:Batch", "__main__:Reverse"):
            continue  # It might be a layer.
        said = cli(*call)
        assert said.status == 2 and len(said.err.splitlines()) == 1 and answer in said.err, said
    assert not Path("none.sqlite").exists()
    for name in ("bad_tasks", "needy_tasks", "plain_tasks", "taken_tasks"):
        sys.modules.pop(name, None)


def test_tasks_that_no_other_process_finds_are_refused(folder: Path) -> None:
    done = run(TASK + '\nimport mad\nmad.train("mlp", "reverse", store="none.sqlite")\n')
    assert "task 'reverse' is defined in the program itself, where no other process finds it" in done.stderr
    assert "name my_tasks:Reverse" in done.stderr and not Path("none.sqlite").exists()


def test_records_are_read_moved_and_shown_without_the_module(folder: Path) -> None:
    record = mad.train("mlp", "own_tasks:Reverse[vocab_size=9]", store=folder / "s.sqlite", **FEW)
    with Store(folder / "s.sqlite", read_only=True) as opened:
        export_records(opened, folder / "runs.jsonl")
    calls = [
        ["import", "runs.jsonl", "--store", "new.sqlite"],
        ["show", record.id, "--store", "new.sqlite"],
        ["leaderboard", "--suite", "smoke", "--store", "new.sqlite"],
        ["track", "push", "new.sqlite", "--track", "csv", "--track-dir", "tracks"],
        ["export", "again.jsonl", "--store", "new.sqlite"],
        ["rm", "--task", "own_tasks:Reverse", "--yes", "--store", "new.sqlite"],
    ]
    code = f"""
import sys
from mad.cli import main
for words in {calls}:
    sys.argv = ["mad", *words]
    try:
        main()
    except SystemExit as end:
        assert not end.code, words
    assert "own_tasks" not in sys.modules, words
"""
    done = run(code)
    assert done.returncode == 0 and "IMPORTED" not in done.stdout, done.stderr
    assert "own_tasks:Reverse, code" in done.stdout and "reverse@1" in done.stdout
    assert records_in(folder / "new.sqlite") == []
    (again,) = read_records(folder / "again.jsonl")
    assert again.config == record.config


def test_a_record_spells_its_task_again(folder: Path) -> None:
    for text in ("own_tasks:Reverse[vocab_size=9]", "selective-copying[variant=public,seq_len=99]"):
        task = synthetic_tasks.parse(text)
        assert synthetic_tasks.parse(spelled(identify(task))) == task


@pytest.mark.parametrize("verb", ["check", "train"])
def test_a_worker_finds_the_task_or_says_that_it_is_another(verb: Any, folder: Path) -> None:
    cell = plan(["mlp"], get_suite("mine.toml"), SOUND)[0]
    job = pack(verb, cell if verb == "check" else cell.groups()[0], find_place("cpu"), "auto")
    del sys.modules["own_tasks"]
    found = unpack(job)
    assert "own_tasks" in job.modules and "own_tasks" in sys.modules
    assert str((found.cell if isinstance(found, Group) else found).task) == "reverse"
    (folder / "own_tasks.py").write_text(TASK.replace("[:, ::-1].copy()", "[:, ::-1] + 0"))
    del sys.modules["own_tasks"]
    with pytest.raises(Unportable, match="task reverse is another one in a new process"):
        unpack(job)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["inline", "process"])
def test_every_engine_runs_them(engine: str, folder: Path) -> None:
    suite = Suite.read("mine.toml")
    options: dict[str, Any] = {} if engine == "inline" else {"workers": 2}
    table = mad.bench("mlp", suite=suite, store=f"{engine}.sqlite", device="cpu", engine=engine, **options)
    assert table["missing"].tolist() == [""] and "reverse" in table
    some = mad.bench("mlp", suite=suite, store=f"{engine}.sqlite", device="cpu", tasks="own_tasks:Reverse")
    assert some["reverse"].tolist() == table["reverse"].tolist()
