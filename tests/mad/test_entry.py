"""How a command ends: its streams, its signals, its options, and one line where it fails."""

import errno
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

from mad.entry import run
from mad.store import Store

MAD = [sys.executable, "-m", "mad.cli"]


@pytest.fixture(autouse=True)
def signals_as_in_a_terminal() -> Iterator[None]:
    """A shell ignores control-C for what it runs in the background, these tests for example."""
    usual: dict[signal.Signals, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
    }
    before = {
        number: signal.signal(number, handler)
        for number, handler in (usual | {signal.SIGHUP: signal.SIG_DFL}).items()
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def ends(
    body: Callable[[], object], capsys: pytest.CaptureFixture[str], words: list[str] | None = None
) -> tuple[int, str, str]:
    """Exit status and output of an app of one command."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(body)
    with pytest.raises(SystemExit) as end:
        run(lambda: app, words or [])
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err


def raising(error: BaseException) -> Callable[[], None]:
    def body() -> None:
        raise error

    return body


ERRORS = [
    (ValueError("a rule\nand its remedy"), "a rule and its remedy"),
    (OSError(errno.ENOSPC, "No space left on device"), "the output or a file cannot be"),
    (OSError(errno.EACCES, "Permission denied", "x.html"), "x.html cannot be read or written (Permission"),
    (FileNotFoundError("there is no file x"), "there is no file x"),
    (IsADirectoryError(errno.EISDIR, "Is a directory", "x"), "x cannot be read or written (Is a directory)"),
    (BrokenPipeError(errno.EPIPE, "Broken pipe"), "was closed before all of it was written"),
    (sqlite3.OperationalError("database or disk is full"), "database or disk is full"),
    (sqlite3.DatabaseError("malformed"), "malformed"),
    (MemoryError(), "there is not enough memory; give a smaller input"),
]


@pytest.mark.parametrize(("error", "words"), ERRORS, ids=[repr(row[0]) for row in ERRORS])
def test_what_the_user_or_the_system_does_wrong_is_one_line_and_status_2(
    error: Exception, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, out, err = ends(raising(error), capsys)
    assert (status, out) == (2, "") and words in err
    assert err.startswith("mad: ") and err.count("\n") == 1
    monkeypatch.setenv("MAD_TRACEBACK", "1")
    if not isinstance(error, BrokenPipeError):  # which typer does not let through
        with pytest.raises(type(error)):
            run(lambda: app_of(raising(error)), [])


def app_of(body: Callable[[], object]) -> typer.Typer:
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(body)
    return app


def test_a_fault_of_ours_is_not_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        run(lambda: app_of(raising(RuntimeError("a bug"))), [])


def test_the_status_of_a_command_is_the_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(raising(typer.Exit(1)), capsys)[0] == 1
    assert ends(lambda: print("well"), capsys) == (0, "well\n", "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("swallowed", [False, True])
def test_a_signal_ends_with_its_status_and_says_what_is_kept(
    number: signal.Signals, swallowed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    def body(store: Annotated[str, typer.Option()] = "") -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        except KeyboardInterrupt:
            if not swallowed:
                raise

    before = signal.getsignal(number)
    status, _, err = ends(body, capsys)
    assert status == 128 + number
    assert err == "mad: interrupted; what was finished is stored, run the same command to go on\n"
    assert signal.getsignal(number) is before


def test_an_interruption_that_python_drops_comes_again(capsys: pytest.CaptureFixture[str]) -> None:
    """What is raised where an object ends, or a lock of an import, is printed and forgotten."""
    went_on = []

    class Ends:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)

    def body() -> None:
        Ends()
        time.sleep(20)
        went_on.append(True)

    status, _, err = ends(body, capsys)
    assert status == 130 and err.count("\n") == 1 and "interrupted; nothing was written" in err
    assert not went_on


def test_a_signal_that_comes_after_the_end_changes_nothing() -> None:
    code = """
import atexit, os, signal, typer
atexit.register(lambda: [os.kill(os.getpid(), number) for number in (signal.SIGINT, signal.SIGTERM)])
from mad.entry import run
app = typer.Typer()
app.command()(lambda: print("done"))
run(lambda: app, [])
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")


def test_a_command_without_a_store_says_that_nothing_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    assert "nothing was written" in ends(raising(KeyboardInterrupt()), capsys)[2]


def test_an_ignored_signal_stays_ignored(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert ends(lambda: os.kill(os.getpid(), signal.SIGHUP), capsys)[0] == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_option_that_holds_one_value_is_not_given_twice(capsys: pytest.CaptureFixture[str]) -> None:
    found: list[Any] = []

    def body(
        out: Annotated[str, typer.Option("-o", "--out")] = "",
        force: Annotated[bool, typer.Option("--force")] = False,
        each: Annotated[list[str] | None, typer.Option()] = None,
    ) -> None:
        found.append((out, force, each))

    for words in (["-o", "a", "--out", "b"], ["--out=a", "-oa"], ["--force", "--force"]):
        status, _, err = ends(body, capsys, words)
        assert status == 2 and "is given 2 times; give it once" in err and not found
    assert ends(body, capsys, ["--each", "a", "-o", "b", "--each", "c"])[0] == 0
    assert found == [("b", False, ["a", "c"])]


def test_names_outside_the_encoding_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for encoding in ("ascii", "cp1252"):
        code = (
            "import mad.cli; mad.cli.app.command('say')(lambda: print('mod\\xe8le-\\u03b2')); mad.cli.main()"
        )
        words = [sys.executable, "-c", code, "say"]
        found = subprocess.run(words, capture_output=True, env=environment | {"PYTHONIOENCODING": encoding})
        assert found.returncode == 0, found.stderr
        assert found.stdout.strip() == {"ascii": b"mod?le-?", "cp1252": b"mod\xe8le-?"}[encoding]


@pytest.mark.parametrize(
    ("redirection", "status", "said"),
    [
        (">&-", 2, "standard output is closed"),
        (">/dev/full", 2, "No space left on device"),
        ("| true", 2, "was closed before all of it was written"),
        ("2>&- >/dev/null", 0, ""),
        ("<&- >/dev/null", 0, ""),
        ("2>/dev/full --wrong", 2, ""),
        ("2>&- --wrong", 2, ""),
    ],
)
def test_a_stream_that_is_closed_or_full(redirection: str, status: int, said: str) -> None:
    script = f"{sys.executable} -m mad.cli primitives {redirection}; exit ${{PIPESTATUS[0]}}"
    found = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert found.returncode == status and said in found.stderr and found.stdout == ""
    assert found.stderr.count("\n") == bool(said)


SAY = """
import sys, typer
from mad.entry import run
app = typer.Typer()
@app.command()
def say():
    {}
run(lambda: app, [])
"""


def said(body: str, redirection: str) -> subprocess.CompletedProcess[str]:
    script = f"{sys.executable} -c '{SAY.format(body)}' {redirection}"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment, timeout=60)


def test_a_file_is_never_opened_in_the_place_of_a_closed_stream() -> None:
    """What is written to the stream would end in it."""
    assert int(said("print(open(sys.executable).fileno())", "2>&- <&-").stdout) > 2


def test_an_error_after_output_that_nobody_takes_is_the_one_that_is_told() -> None:
    for redirection in (">/dev/full", "| true; exit ${PIPESTATUS[0]}"):
        found = said("print(1); raise ValueError(2)", redirection)
        assert (found.returncode, found.stderr) == (2, "mad: 2\n")


def test_a_layer_that_closes_a_stream_ends_on_one_line() -> None:
    found = said("sys.stdout.close()", "")
    assert found.returncode == 2 and found.stderr == "mad: I/O operation on closed file.\n"


def test_an_end_that_a_signal_brings_about_is_the_signals() -> None:
    """As Lightning makes of control-C."""
    body = "import os, signal\n    try: os.kill(os.getpid(), 15)\n    except KeyboardInterrupt: sys.exit(1)"
    found = said(body, "")
    assert found.returncode == 143 and found.stderr.startswith("mad: interrupted; nothing was written")
    assert found.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_the_middle_of_a_sweep_leaves_a_clean_store(
    number: signal.Signals, tmp_path: Path
) -> None:
    store = tmp_path / "s.sqlite"
    words = ["bench", "mamba", "--suite", "quick", "--tasks", "compression", "--device", "cpu"]
    environment = os.environ | {"MAD_STORE": str(store), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([*MAD, *words], env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None and "1 group," in process.stderr.readline()
        time.sleep(3)
        process.send_signal(number)
        err = process.stderr.read()
        assert process.wait(60) == 128 + number
    assert err == "mad: interrupted; what was finished is stored, run the same command to go on\n"
    with Store(store, read_only=True) as opened:
        assert [record.status for record in opened.records()] == ["interrupted"] * len(opened.records())
    with Store(store):
        pass  # Nobody holds the lock.
