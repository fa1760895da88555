"""The outputs that the pages show, made by running what the pages show.

    python docs/sessions.py --all start faq     # prints those pages as they should be, as JSON

A page is a session. Its files (`<!-- file: NAME -->` before a block of code) lie in an empty folder, the
store is empty, and its commands run in order, as in a terminal that nobody watches:

    <!-- output of: mad tasks show compression -->         before a block of text
    <!-- output, status 2, of: mad show mambo -->          what is refused, with standard error
    <!-- run: mad export runs.jsonl -->                    what needs no output on the page

Commands that train take seconds, and their numbers depend on the machine. They, and what follows them on the
page, run with --all only (`make docs`), and a test compares everything but the numbers.
"""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.stem: path for path in sorted((ROOT / "docs").glob("*.md"))}
FILE = re.compile(r"<!-- file: (\S+) -->\n+```\w+\n(.*?)```", re.DOTALL)
OUTPUT = re.compile(
    r"<!-- run: (?P<silent>.+?) -->|"
    r"(<!-- output(?:, status (?P<status>\d+),)? of: (?P<command>.+?) -->\n+```text\n)(?P<text>.*?)```",
    re.DOTALL,
)
TRAINING = re.compile(r"\bpython |\bmad (bench|train|elastic|sparsify|verify|doctor|scaling train)\b")
HEAVY = {"bench", "check", "doctor", "elastic", "grow", "show", "sparsify", "train", "verify"}
# Cut here and not by a shell, in which each call of `mad` would load everything anew.
CUT = re.compile(r"(.*?)(?: \| (head|tail) -n (\d+))?")
# What differs from machine to machine where something was trained, timed or dated.
VOLATILE = (
    (r"\d{4}-\d\d-\d\dT[\d:+]+.*", "TIME"),  # and the device behind it
    (r"\bmade on .*? with torch [\w.+]+", "DEVICE"),
    (r"\b(?=[0-9a-f]*\d)[0-9a-f]{10,}\b", "ID"),
    (r"\b(cpu|cuda) \(.*?\)", "DEVICE"),
    (r"[-+]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?[kMG]?", "0"),
    (r"(?m)[ -]{2,}| *$", " "),
)
SECONDS = 300


@dataclass(frozen=True)
class Output:
    """What a page says that a command prints and ends with; `rough` where the numbers are one machine's."""

    command: str
    status: int
    text: str | None
    rough: bool
    late: bool  # After something was trained.


def outputs(page: str) -> Iterator[Output]:
    late = False
    for found in OUTPUT.finditer(page):
        command = found["silent"] or found["command"]
        planned = "--dry-run" in command
        late = late or bool(TRAINING.search(command) and not planned)
        rough = late or planned or "mad check" in command
        yield Output(command, int(found["status"] or 0), found["text"], rough, late)


def played(page: str, *, everything: bool) -> str:
    """The page with what its commands print now: all, or those before the first that trains."""
    wanted = [output for output in outputs(page) if everything or not output.late]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        for file, text in FILE.findall(page):
            (folder / file).write_text(text, encoding="utf-8")
        texts = iter([printed(output, folder) for output in wanted])

    def fill(found: re.Match[str]) -> str:
        text = next(texts)
        return found[0] if found["silent"] else f"{found[2]}{text}```"

    # The wanted ones are the first ones.
    return OUTPUT.sub(fill, page, count=len(wanted)) if wanted else page


def constant(text: str) -> str:
    """What of an output is the same on every machine."""
    for pattern, kept in VOLATILE:
        text = re.sub(pattern, kept, text)
    return text


def printed(output: Output, folder: Path) -> str:
    """What the command prints in the folder; another status than the page says is an error."""
    whole, part, count = CUT.fullmatch(output.command).groups()  # type: ignore[union-attr]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        status = _run(whole, folder, out.fileno(), err.fileno())
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode())
    if status != output.status:
        raise ValueError(f"`{output.command}` ended with status {status}, not {output.status}: {texts}")
    said = (texts[0] + texts[1] if status else texts[0]).replace(f"{folder}/", "")
    lines = [line.rstrip() for line in said.strip("\n").splitlines()]
    kept = lines[-int(count) :] if part == "tail" else lines[: int(count)] if part else lines
    text = "".join(f"{line}\n" for line in kept)
    # A page does not change with every machine that writes it.
    known = output.text or ""
    return known if output.rough and constant(known) == constant(text) else text


def _run(command: str, folder: Path, out: int, err: int) -> int:
    """The status of a command whose streams are the two files."""
    program, *rest = shlex.split(command)
    quoted = r"'[^']*'|\"[^\"]*\""
    if program == "mad" and not re.search(r"[|&;<>*?$`]", re.sub(quoted, "", command)):
        return _forked(rest, folder, out, err)
    call = ["sh", "-c", command]
    environment = _environment(folder)
    return subprocess.run(
        call, cwd=folder, env=environment, stdout=out, stderr=err, timeout=SECONDS
    ).returncode


def _environment(folder: Path) -> dict[str, str]:
    """A stranger's shell: `mad` and modules of the folder are found, and nothing is configured."""
    calls = {"mad": f"{shlex.quote(sys.executable)} -m mad.cli", "python": shlex.quote(sys.executable)}
    (folder / ".bin").mkdir(exist_ok=True)
    for name, call in calls.items():
        (folder / ".bin" / name).write_text(f'#!/bin/sh\nexec {call} "$@"\n', encoding="utf-8")
        (folder / ".bin" / name).chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAD_", "WANDB_"))}
    return kept | {
        "PATH": os.pathsep.join([str(folder / ".bin"), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
        "MAD_STORE": str(folder / "store.sqlite"),
        "MAD_CACHE": str(folder / ".cache"),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "100",
    }


def _forked(words: list[str], folder: Path, out: int, err: int) -> int:
    """The command in a copy of this process, which loads once what most commands load."""
    import mad.cli

    if words[0] in HEAVY:
        import torch  # noqa: F401

    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 70
        try:
            signal.alarm(SECONDS)
            os.dup2(out, 1)
            os.dup2(err, 2)
            sys.stdout, sys.stderr = (os.fdopen(n, "w", encoding="utf-8") for n in (1, 2))
            known = _environment(folder)
            os.environ.clear()
            os.environ.update(known)
            os.chdir(folder)
            sys.path.insert(0, str(folder))
            sys.argv = ["mad", *words]
            mad.cli.main()
        except SystemExit as end:
            status = int(end.code or 0)
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(words: list[str]) -> None:
    """Print the pages that have outputs, as they should be."""
    os.environ["OMP_NUM_THREADS"] = "1"
    everything = "--all" in words
    names = [word for word in words if word != "--all"] or list(PAGES)
    texts = {name: PAGES[name].read_text(encoding="utf-8") for name in names}
    made = {name: played(text, everything=everything) for name, text in texts.items() if OUTPUT.search(text)}
    print(json.dumps(made))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main(sys.argv[1:])
