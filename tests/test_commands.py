"""Every command under the mishaps of a system: one line, a status, and files that are whole or untouched."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import architectures
import mad.cli
from architectures.checkpoint import save
from mad.data.protocol import SUITES
from mad.store import Store
from mad.store.exchange import export_records
from mad.trust.asking import Answer
from mad.trust.doctor import TRIED
from scaling import cli as scaling_cli
from scaling.lm.corpus import load
from scaling.lm.frames import language_frame
from scaling.study.layout import plan
from tests.commands import Command
from tests.mad.records import record
from tests.mad.stores import filled
from tests.scaling.study.fake_training import Training

GRAMMAR = "grammar[vocab_size=32]"
SPECS = {"a": "mlp", "b": "swiglu", "c": "mlp mlp", "d": "swiglu mlp", "e": "mlp swiglu"}
FEW = ["--examples", "32", "--epochs", "1", "--batch-size", "16", "--dim", "16", "--device", "cpu"]
PLAN = ["--corpus", GRAMMAR, "--budgets", "1e10,3e10,1e11", "--seq-len", "32", "--lr", "4e-3"]
# A call of each that works; IN and OUT are folders.
COMMANDS = {
    "bench": ["mlp", "--suite", "smoke", "--tasks", "compression", "--device", "cpu"],
    "train": ["mlp", "compression[seq_len=8]", *FEW, "--save", "OUT/m.pt"],
    "elastic": ["matformer-mlp", "--suite", "smoke", "--tasks", "compression", "--json", "OUT/e.json"],
    "sparsify": ["mlp", "--suite", "smoke", "--tasks", "compression", "--json", "OUT/s.json"],
    "leaderboard": ["--suite", "smoke"],
    "runs": [],
    "compare": ["mlp", "swiglu", "--suite", "smoke"],
    "show": ["mlp"],
    "check": ["mlp", "--only", "hints"],
    "tasks": [],
    "tasks show": ["compression"],
    "track push": ["--track", "csv", "--track-dir", "OUT/tracks"],
    "primitives": [],
    "suites": ["IN/suite.toml"],
    "grow": ["IN/small.pt", "--to", "2*mlp", "-o", "OUT/big.pt"],
    "export": ["OUT/runs.jsonl"],
    "import": ["IN/runs.jsonl", "--store", "OUT/new.sqlite"],
    "rm": ["--status", "ok", "--yes"],
    "verify": ["IN/failed.jsonl"],
    "doctor": ["--json"],
    "submit": ["mlp", "-o", "OUT/.", "--suite", "smoke"],
    "scaling plan": ["mlp swiglu", *PLAN, "-o", "OUT/plan.json"],
    "scaling train": ["IN/plan.json", "--store", "OUT/new.sqlite", "--device", "cpu"],
    "scaling fit": ["IN/runs.csv", "--approach", "law", "--bootstrap", "100"],
    "scaling compare": ["IN/runs.csv", "--bootstrap", "100"],
    "scaling relate": ["IN/runs.csv", "--suite", "smoke", "--bootstrap", "100"],
    "scaling report": ["IN/runs.csv", "--where", "arch == 'a'", "--bootstrap", "100", "-o", "OUT/page.html"],
}
# Where the work of those that write a file begins, which must not be reached in vain.
WORK = {
    "train": "mad.run.engines.inline.run_group",
    "elastic": "mad.run.elastic.compare",
    "sparsify": "mad.run.sparsify.compare",
    "grow": "architectures.checkpoint.load",
    "export": "mad.store.store.Store.records",
    "scaling plan": "scaling.lm.corpus.load",
    "scaling report": "scaling.commands.reading.read",
}
STORING = ["bench", "train", "import", "rm", "scaling train"]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands read."""
    folder = tmp_path_factory.mktemp("given")
    with Store(filled(folder / "store.sqlite", SPECS), read_only=True) as store:
        export_records(store, folder / "runs.jsonl")
        language_frame(store).to_csv(folder / "runs.csv", index=False)
    failed = record(SUITES["smoke@1"].settings[0], status="failed")
    (folder / "failed.jsonl").write_text(failed.model_dump_json(exclude={"imported"}))
    save(architectures.build("mlp", vocab_size=8, dim=16, max_len=8, seed=0), folder / "small.pt")
    budgets = [1e10, 3e10, 1e11]
    made = plan(["mlp swiglu"], budgets=budgets, corpus=load(GRAMMAR).config, seq_len=32, lr=4e-3)
    made.save(folder / "plan.json")
    (folder / "suite.toml").write_text(SUITES["smoke"].toml())
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.fixture(autouse=True)
def here(
    given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[None]:
    """A store, a working folder and a time limit of their own for each call."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAD_STORE", str(tmp_path / "store.sqlite"))
    (tmp_path / "store.sqlite").write_bytes((given / "store.sqlite").read_bytes())
    monkeypatch.setenv("MAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("scaling.study.timing.seconds_per_step", lambda *size, **how: 0.001)
    monkeypatch.setattr("scaling.lm.train.train", Training(tmp_path))
    nothing = {name: Answer({"absent": ""}) for names in TRIED for name in names}
    monkeypatch.setattr("mad.trust.doctor.ask", lambda seconds: nothing)
    monkeypatch.setattr(mad.cli.app, "registered_groups", [*mad.cli.app.registered_groups])
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


Call = Callable[[list[str]], tuple[int, str, str]]


@pytest.fixture
def call(given: Path, out: Path, cli: Command) -> Call:
    """Status and output of a command line about the files that are given."""

    def call(words: list[str]) -> tuple[int, str, str]:
        return cli(*(w.replace("IN/", f"{given}/").replace("OUT/", f"{out}/") for w in words))

    return call


def refused(status: int, err: str) -> str:
    """One line says why; what a command says on the way does not count."""
    assert status == 2 and "Traceback" not in err, err
    lines = [line for line in err.splitlines() if line.startswith("mad: ")]
    assert len(lines) == 1 and err.rstrip("\n").endswith(lines[0])
    return lines[0]


def leaves(command: Any, name: str = "") -> set[str]:
    parts = getattr(command, "commands", {})
    here = set() if parts and not command.invoke_without_command else {name}
    return here.union(*(leaves(part, f"{name} {part.name}".strip()) for part in parts.values()))


def words_of(command: str) -> list[str]:
    return [*command.split(), *COMMANDS[command]]


def place_of(folder: str, words: list[str]) -> int:
    (place,) = (i for i, word in enumerate(words) if word.startswith(folder))
    return place


def test_every_command_is_tried_here() -> None:
    app = typer.main.get_command(mad.cli.app)
    app.commands["scaling"] = typer.main.get_command(scaling_cli.app)  # type: ignore[attr-defined]
    app.commands["scaling"].name = "scaling"  # type: ignore[attr-defined]
    assert leaves(app) - {"scaling"} == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_output_is_one_line(command: str, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        status, _, err = call(words_of(command))
        monkeypatch.undo()
    assert "No space left on device" in refused(status, err)


@pytest.mark.parametrize("command", sorted({*STORING, *WORK}))
def test_on_a_full_disk_targets_are_untouched(command: str, call: Call, out: Path) -> None:
    """No file can grow. Libraries are loaded before, and what a command needs of them."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        status, _, err = call(words_of(command))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    refused(status, err)
    assert not [path for path in out.iterdir() if not path.name.startswith("new.sqlite")]


@pytest.mark.parametrize("command", WORK)
@pytest.mark.parametrize("kind", ["file", "source", "fifo", "device", "folder", "no folder", "full"])
def test_a_target_that_will_not_do_is_refused_before_the_work(
    command: str, kind: str, given: Path, out: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = words_of(command)
    place = place_of("OUT/", words)
    target = Path(words[place].replace("OUT/", f"{out}/"))
    precious = "precious"
    if kind == "file":
        target.write_text(precious)
    elif kind == "source":
        source = Path(os.environ["MAD_STORE"])
        if read := [word for word in words if word.startswith("IN/")]:
            source = Path(read[0].replace("IN/", f"{given}/"))
        if command in ("elastic", "sparsify", "scaling plan"):
            pytest.skip("reads no file")
        target.symlink_to(source)
        words.append("--force")
    elif kind == "fifo":
        os.mkfifo(target)
    elif kind == "device":
        target.symlink_to("/dev/null")
    elif kind == "folder":
        target.mkdir()
    elif kind == "no folder":
        words[place] = words[place].replace("OUT/", "OUT/nowhere/")
    else:
        monkeypatch.setattr("tempfile.TemporaryFile", full)
    if kind in ("fifo", "device", "folder", "no folder", "full"):
        words.append("--force")
    before = sorted(out.rglob("*"))

    def reached(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the work began")

    monkeypatch.setattr(WORK[command], reached)
    status, _, err = call(words)
    refused(status, err)
    assert sorted(out.rglob("*")) == before
    assert kind != "file" or target.read_text() == precious
    assert Path("/dev/null").is_char_device()


def full(*arguments: Any, **options: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_user_without_a_home_is_told_what_to_set(
    command: str, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HOME", "MAD_STORE", "MAD_CACHE", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(uid: int) -> None:
        raise KeyError(f"uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    status, printed, err = call(words_of(command))
    if command == "doctor":  # That is a finding.
        assert status == 1 and "set HOME or MAD_STORE" in printed
        return
    needs = command in (
        "bench",
        "train",
        "track push",
        "leaderboard",
        "runs",
        "compare",
        "export",
        "rm",
        "submit",
        "scaling relate",
    )
    if needs:
        assert "set HOME or MAD_STORE" in refused(status, err)
    else:
        assert status == 0, err
    assert not Path("~").exists()


READ = [
    "import",
    "verify",
    "grow",
    "suites",
    *(f"scaling {name}" for name in ("train", "fit", "compare", "relate", "report")),
]
CONTENT = {
    "empty": b"",
    "zeros": bytes(5000),
    "latin-1": b"arch,params\n\xe9,\xff\n",
    "other": b"%PDF\n1,2\n",
}


@pytest.mark.parametrize("command", READ)
@pytest.mark.parametrize("kind", ["missing", "folder", "fifo", "device", "loop", "nobody", *CONTENT])
def test_a_file_that_cannot_be_read_is_one_line(command: str, kind: str, call: Call, tmp_path: Path) -> None:
    words = words_of(command)
    place = place_of("IN/", words)
    path = tmp_path / words[place].replace("IN/", "odd-")
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "nobody":
        path = Path("~nobody-of-this-name") / path.name
    elif kind != "missing":
        content = {
            "empty": b"",
            "zeros": bytes(5000),
            "latin-1": b"arch,params\n\xe9,\xff\n",
            "other": b"%PDF\n1,2\n",
        }
        path.write_bytes(content[kind])
    words[place] = str(path)
    status, printed, err = call(words)
    if (command, kind) == ("import", "empty"):  # A store of no runs exports such a file.
        assert status == 0
        return
    assert len(said := refused(status, err)) < 600
    # What reads as a table is refused for what is in it.
    assert printed == "" and (path.name in said or (path.suffix == ".csv" and kind in CONTENT))
