"""The frame of every command: its streams, its signals, its options, and what is said where it fails."""

import atexit
import contextlib
import errno
import functools
import gc
import io
import os
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn, cast

import typer

from architectures.files import system_error
from mad.messages import Failed, one_line

# What typer raises of a wrong command line. Its parser is an outside package in some releases and its own
# in others.
UsageError = cast("type[Exception]", typer.BadParameter.__bases__[0])
# Ends that are asked for, by the name of the signal: Windows lacks some.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room, or choose a path on another disk"),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS), "change its permissions, or choose another path"
    ),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EEXIST), "check the path"),
}


def run(make: Callable[[], typer.Typer], words: Sequence[str]) -> NoReturn:
    """Run a command line of the app that `make` returns, and exit with its status: 2 and one line on standard
    error where the command or the system refuses, 128 and the number of the signal where one ended it.
    """
    _end_undisturbed()
    gc.set_threshold(50_000)  # Else a fifth of the time of imports is the search for garbage among them.
    received: list[int] = []
    met: list[Any] = []
    with _streams(), _signals(received):
        try:
            status = _invoke(make(), words, met)
            if status == 128 + signal.SIGINT:  # What some releases of typer make of KeyboardInterrupt.
                raise KeyboardInterrupt
        except (KeyboardInterrupt, typer.Abort):
            received.append(signal.SIGINT)
        except SystemExit as end:
            # typer makes a silent end of a closed pipe.
            if not received:
                broken = system_error(end.__context__)
                ended = f"a layer ended the program: SystemExit: {end}"
                status = fail(ended, 1) if broken is None else _failed(broken)
        except Exception as error:
            if not received:
                status = _failed(error)
        if received:  # Whatever a layer in between made of it.
            kept = any(option.name == "store" for option in met[-1].params) if met else False
            what = "what was finished is stored" if kept else "nothing was written"
            status = fail(f"interrupted; {what}, run the same command to go on", 128 + received[0])
    raise SystemExit(status)


@functools.cache
def _end_undisturbed() -> None:
    """Libraries take a second to leave: a signal that comes then comes too late. What is registered first is
    called last, so that whatever else has to be done at the end can be interrupted.
    """
    atexit.register(lambda: [signal.signal(number, signal.SIG_IGN) for number in SIGNALS])


def fail(message: str, status: int = 2) -> int:
    """Say on one line of standard error why a command ends; returns its status."""
    with contextlib.suppress(OSError):  # Nobody may listen any more.
        sys.stderr.write(f"mad: {one_line(message)}\n")
        sys.stderr.flush()
    return status


def _invoke(app: typer.Typer, words: Sequence[str], met: list[Any]) -> int:
    command = typer.main.get_command(app)
    _refuse_repeats(command, met)
    status = command.main(args=list(words), prog_name="mad", standalone_mode=False)
    sys.stdout.flush()
    return status if isinstance(status, int) else 0


def _refuse_repeats(command: Any, met: list[Any]) -> None:
    """Let no option that holds one value be given twice: the parser would take the last one in silence.

    `met` gets each command that is parsed.
    """
    for part in getattr(command, "commands", {}).values():
        _refuse_repeats(part, met)
    parse_args = command.parse_args

    def checked(context: Any, words: list[str]) -> Any:
        met.append(command)
        _, _, order = command.make_parser(context).parse_args(args=list(words))
        for option in order:
            if order.count(option) > 1 and not option.multiple:
                name, count = max(option.opts, key=len), order.count(option)
                raise ValueError(f"{name} is given {count} times; give it once (a list is comma-separated)")
        return parse_args(context, words)

    command.parse_args = checked


def _failed(error: Exception) -> int:
    """The status of what went wrong and can be mended; anything else is a fault of ours, and raised."""
    if isinstance(error, Failed):
        return fail(str(error), 1)
    if isinstance(error, UsageError):
        return fail(f"{cast(Any, error).format_message()} See `mad --help`.")
    ours = not isinstance(error, ValueError | OSError | sqlite3.Error | MemoryError)
    if os.environ.get("MAD_TRACEBACK") or ours:
        raise error
    if isinstance(error, MemoryError):
        return fail(f"there is not enough memory{f' ({error})' if str(error) else ''}; give a smaller input")
    if isinstance(error, sqlite3.Error):
        return fail(
            f"the store cannot be read or written ({error}); make room, or pass another --store; what was "
            "finished before is kept"
        )
    if isinstance(error, OSError):
        return fail(_of_the_system(error))
    from pydantic import ValidationError  # Loaded where there is one.

    from mad.data.bounds import reason

    return fail(reason(error, "it") if isinstance(error, ValidationError) else str(error))


def _of_the_system(error: OSError) -> str:
    if isinstance(error, BrokenPipeError):
        return "the output was closed before all of it was written"
    if error.errno is None or error.strerror is None:
        return str(error)
    what = "the output or a file" if error.filename is None else str(error.filename)
    remedy = REMEDIES.get(error.errno)
    return f"{what} cannot be read or written ({error.strerror})" + (f"; {remedy}" if remedy else "")


@contextlib.contextmanager
def _streams() -> Iterator[None]:
    """Streams that take any text and are open; nothing of them is left to fail when the interpreter ends."""
    # What is closed is filled, lest a store be opened in its place and messages written into it.
    while (handle := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(handle, True)
    os.close(handle)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")
    if sys.stdout is None:
        raise SystemExit(fail("standard output is closed; send it somewhere, to /dev/null for example"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    ours = sys.stdout, sys.stderr
    try:
        yield
    finally:
        sys.stdout, sys.stderr = ours
        for stream in ours:
            if stream.closed:  # A layer can do that.
                continue
            try:
                stream.flush()
            except OSError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextlib.contextmanager
def _signals(received: list[int]) -> Iterator[None]:
    """Let the signals that ask for an end raise KeyboardInterrupt, which every part of the program tidies up
    after, and note which one it was. One that is ignored, as under nohup, stays so.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    def again(lost: Any) -> None:
        """Python drops what is raised while it tidies up, within an import for example."""
        if received and isinstance(lost.exc_value, KeyboardInterrupt):
            timers.append(threading.Timer(0.1, os.kill, (os.getpid(), received[-1])))
            timers[-1].start()
        else:
            unraisable(lost)

    timers: list[threading.Timer] = []
    unraisable, sys.unraisablehook = sys.unraisablehook, again
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in SIGNALS if main}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, stop)
    try:
        yield
    finally:
        sys.unraisablehook = unraisable
        for timer in timers:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
