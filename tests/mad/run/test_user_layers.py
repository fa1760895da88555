"""Layers of a user's own at run time: what they raise, how they end the program, and what they start."""

import importlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import mad
from mad.api import prepare
from mad.commands.bench import show_plan
from mad.messages import Failed, last_words
from mad.run.batches import load
from mad.run.cost import estimate
from mad.run.driver import one_driver
from mad.run.elastic import compare
from mad.run.learners import Turns
from mad.run.place import find_place
from mad.store import Store
from tests.scaling.lm.stand_in import tiny
from tests.scaling.lm.test_train import run

LAYERS = '''
import os, pty, sys
import torch
from torch import nn


class Layer(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.map = nn.Linear(dim, dim)
        self.made()

    def made(self):
        pass

    def act(self):
        pass

    def forward(self, x):
        self.act()
        return self.map(x)


class Where(Layer):
    """Says on which devices it was built, to a test that gives it a list."""

    found = []

    def made(self):
        Where.found.append(self.map.weight.device.type)


class Exits(Layer):
    def act(self):
        sys.exit(0)


class Silent(Layer):
    def made(self):
        sys.exit()


class Late(Layer):
    calls = 0

    def act(self):
        Late.calls += self.training and torch.is_grad_enabled()
        if Late.calls > 12:
            sys.exit(0)


class Opens(Layer):
    """Counts its calls, and sees the next token from the ninth step on; what it keeps cannot be copied."""

    def made(self):
        self.register_buffer("calls", torch.zeros(()))

    def act(self):
        if self.training:
            self.calls += 1

    def forward(self, x):
        self.act()
        self.last = self.map(x)
        return self.map(x) + (self.calls > 8) * x.roll(-1, 1)


class Holds(Layer):
    def made(self):
        self.system = sys


class Tosses(Layer):
    """Noise in evaluation, too."""

    def forward(self, x):
        return self.map(x) + 100 * torch.randn(x.shape[2])


class Raises(Layer):
    def act(self):
        raise RuntimeError("boom\\nand more")


class Picky(Layer):
    """Raises what is a refusal where we raise it."""

    def act(self):
        raise ValueError("no such shape")


class PickyInTraining(Layer):
    def act(self):
        if self.training:
            torch.nn.functional.cross_entropy(torch.zeros(2, 3), torch.zeros(3).long())


class Own(Layer):
    def act(self):
        class Unheard(BaseException):
            pass
        raise Unheard("of")


class Forks(Layer):
    def act(self):
        os.fork()


class Terminals(Layer):
    def act(self):
        pty.fork()


class Works(Layer):
    """Starts processes that end by themselves."""

    def act(self):
        import multiprocessing, subprocess
        process = multiprocessing.get_context("fork").Process(target=int)
        process.start()
        process.join()
        assert process.exitcode == 0
        subprocess.run([sys.executable, "-c", ""], check=True)
'''
WORDS = {
    "Exits": "SystemExit: 0",
    "Silent": "SystemExit",
    "Late": "SystemExit: 0",
    "Raises": "RuntimeError: boom and more",
    "Tosses": "when the same rows are asked again; use layers that draw no noise",
    "Holds": "the model cannot be copied (cannot pickle 'module' object); keep modules",
    "Own": "Unheard: of",
    "Picky": "ValueError: no such shape",
    "PickyInTraining": "ValueError: Expected input batch_size (2) to match target batch_size (3)",
    "Forks": "RuntimeError: os.fork() is refused here",
    "Terminals": "RuntimeError: os.forkpty() is refused here",
}
RECALL = "in-context-recall[vocab_size=8, seq_len=16]"


def few_processes() -> None:
    """A driver that multiplies is stopped by the system, and not by the machine's end."""
    resource.setrlimit(resource.RLIMIT_NPROC, (400, 400))
    resource.setrlimit(resource.RLIMIT_CPU, (120, 120))


def call(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "misbehaving.py").write_text(LAYERS)
    return subprocess.run(
        [sys.executable, "-m", "mad.cli", *words, "--store", "store.sqlite"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=few_processes,
    )


def statuses(folder: Path) -> list[tuple[str, str]]:
    with Store(folder / "store.sqlite", read_only=True) as opened:
        return sorted((record.given, record.status) for record in opened.records())


@pytest.mark.slow
@pytest.mark.parametrize("name", WORDS)
def test_whatever_a_layer_does_its_run_is_a_failed_record_and_exit_status_1(
    name: str, tmp_path: Path
) -> None:
    spec = f"misbehaving:{name}"
    ended = call(tmp_path, "train", spec, RECALL, "--dim", "16", "--examples", "2048", "--epochs", "1")
    assert ended.returncode == 1 and ended.stderr.count("\n") == 2  # of the group, and of the command
    last = ended.stderr.splitlines()[-1]
    assert WORDS[name] in last and "mad show" in last
    assert statuses(tmp_path) == [(spec, "failed")]


@pytest.mark.slow
def test_the_others_of_a_sweep_go_on(tmp_path: Path) -> None:
    specs = ["misbehaving:Exits", "misbehaving:Forks", "swiglu"]
    ended = call(tmp_path, "bench", *specs, "--suite", "smoke", "--tasks", "compression")
    assert ended.returncode == 1 and "4 runs failed; the first" in ended.stderr
    assert " of misbehaving:Exits: " in ended.stderr and "`mad check misbehaving:Exits` tests" in ended.stderr
    assert "Traceback" not in ended.stderr and "swiglu" in ended.stdout
    assert statuses(tmp_path) == sorted((s, "ok" if s == "swiglu" else "failed") for s in specs for _ in "ab")
    dry = call(tmp_path, "bench", *specs, "--suite", "smoke", "--tasks", "compression", "--dry-run")
    assert "Traceback" not in dry.stderr


@pytest.fixture
def layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "misbehaving_here.py").write_text(LAYERS)
    monkeypatch.syspath_prepend(tmp_path)
    return "misbehaving_here"


def test_a_value_error_of_a_layer_refuses_no_sweep(layers: str, tmp_path: Path) -> None:
    specs = [f"{layers}:Picky", f"{layers}:PickyInTraining", "mlp"]
    mad.bench(specs, suite="smoke", tasks="compression", store=tmp_path / "s", engine="inline")
    with Store(tmp_path / "s", read_only=True) as opened:
        found = {record.given: record for record in opened.records()}
    assert {given: record.status for given, record in found.items()} == dict(
        zip(specs, ("failed", "failed", "ok"), strict=True)
    )
    assert "no such shape" in str(found[specs[0]].error)


def test_a_dry_run_makes_no_weights_and_a_run_none_that_do_not_fit(
    layers: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found: list[str] = []
    monkeypatch.setattr(importlib.import_module(layers).Where, "found", found)
    asked: dict[str, Any] = {"suite": "smoke", "protocol": "sound", "device": "cpu", "tasks": ["compression"]}
    prepared = prepare(f"{layers}:Where", **asked)
    show_plan(prepared, tmp_path / "none.sqlite", Console())
    assert "1 cell, 1 group to run" in capsys.readouterr().out and set(found) == {"meta"}
    show_plan(prepare(json.dumps, **asked), tmp_path / "none.sqlite", Console())
    assert "json:dumps, which was not built without weights (TypeError: " in capsys.readouterr().out
    asked["tasks"] = ["memorization"]  # Sizes are counted once for each shape.
    monkeypatch.setattr("architectures.model.machine_memory", lambda: 2**16)
    found.clear()
    with pytest.raises(ValueError, match="needed 8 times: more than .*; choose smaller sizes"):
        prepare(f"{layers}:Where", **asked)
    assert set(found) <= {"meta"}
    monkeypatch.undo()
    with pytest.raises(ValueError, match="declares that it sees later positions"):
        prepare("lsh-attention[causal=false]", **asked)


def test_the_time_of_a_plan_is_within_its_factor_of_a_measured_step() -> None:
    """A step of an attention model on one core, which is most of what the plan knows nothing of."""
    asked: dict[str, Any] = {"suite": "quick", "protocol": "sound", "device": "cpu", "tasks": ["compression"]}
    cell = prepare("2*(mh-attention swiglu)", **asked).cells[0]
    group = cell.groups()[0]
    found = estimate([group], find_place("cpu"))
    assert found.steps == cell.setting.steps and not found.unknown
    rows = cell.setting.batch_size
    data = load(cell.task, seed=0, split="train", rows=rows, device=torch.device("cpu"), training=True)
    learner = Turns(cell.architecture.build(cell.task, 0), group.runs, find_place("cpu"))
    times = []
    for _ in range(8):
        start = time.perf_counter()
        learner.advance(data, [torch.arange(rows)], 0, [True], lambda replica, step: None)
        times.append(time.perf_counter() - start)
    # Twice the factor: the machine may be busy.
    assert 0.2 < found.seconds / found.steps / min(times) < 5


@pytest.mark.parametrize("name", ["Exits", "Silent", "Raises", "Forks", "Holds", "Tosses"])
def test_the_python_interface_raises_what_the_command_line_says(
    name: str, layers: str, tmp_path: Path
) -> None:
    with pytest.raises(Failed, match="failed: .*mad show") as caught:
        mad.train(
            f"{layers}:{name}", RECALL, dim=16, train_examples=32, epochs=1, store=tmp_path / "s.sqlite"
        )
    assert WORDS[name] in str(caught.value)


def test_what_comes_to_see_later_tokens_in_training_has_no_score(layers: str, tmp_path: Path) -> None:
    store = tmp_path / "s.sqlite"
    with pytest.raises(Failed, match=r"Opens sees later positions: .*, after training and not before"):
        mad.train(f"{layers}:Opens", RECALL, dim=16, train_examples=64, batch_size=8, epochs=2, store=store)
    with Store(store, read_only=True) as opened:
        assert [(record.status, record.metrics) for record in opened.records()] == [("failed", None)]
    with pytest.raises(ValueError, match=r"Opens sees later positions: .*, after training and not before"):
        compare(f"matformer-mlp {layers}:Opens", suite="smoke", tasks=["in-context-recall"], device="cpu")
    record = run(tiny(spec=f"{layers}:Opens mlp"))
    assert record.status == "failed" and "after training and not before" in str(record.error)


def test_processes_that_end_by_themselves_are_allowed(layers: str, tmp_path: Path) -> None:
    record = mad.train(
        f"{layers}:Works", "compression[vocab_size=8, seq_len=8]", dim=16, train_examples=16, batch_size=16,
        epochs=1, evaluations=1, store=tmp_path / "s.sqlite",
    )  # fmt: skip
    assert record.status == "ok"


def forked() -> int:
    """The exit status of a child that does nothing, or what os.fork raised."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_forks_are_refused_inside_and_allowed_outside() -> None:
    guarded: Callable[[], int] = one_driver()(forked)
    assert forked() == 0
    with one_driver():
        with pytest.raises(RuntimeError, match="subprocess"):
            guarded()
        with pytest.raises(RuntimeError, match="second driver"):
            forked()
    assert forked() == 0


def test_a_child_that_came_about_all_the_same_ends_where_it_would_go_on() -> None:
    code = """
import ctypes, os
from mad.run.driver import one_driver
with one_driver():
    child = ctypes.CDLL(None).fork()
print("a driver", flush=True)
if child:
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ended.stdout.split("\n") == ["a driver", "1", ""] and ended.returncode == 0


def test_leaving_python_is_refused_inside_but_to_other_threads_and_processes() -> None:
    code = """
import ctypes, multiprocessing, os, sys, threading
from mad.run.driver import one_driver
with one_driver():
    try:
        os._exit(0)
    except RuntimeError as error:
        print(error, flush=True)
    child = multiprocessing.get_context("fork").Process(target=os._exit, args=(5,))
    child.start()
    child.join()
    print(child.exitcode, flush=True)
    if sys.argv[1:]:
        thread = threading.Thread(target=os._exit, args=(6,))
        thread.start()
        thread.join()
os._exit(7)
"""
    for words, status in (([], 7), (["thread"], 6)):
        ended = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60
        )
        assert ended.returncode == status, ended.stderr
        assert ended.stdout.startswith("os._exit(0) is refused here: the run would end unseen") and (
            ended.stdout.endswith("\n5\n")
        )


def test_the_last_words_of_a_traceback_are_what_was_raised() -> None:
    trace = 'Traceback (most recent call last):\n  File "x", line 1, in f\n    g()\nKeyError: "a"\nb\n'
    assert last_words(trace) == 'KeyError: "a" b'
    assert last_words("") == last_words(None) == "nothing is known of it"
