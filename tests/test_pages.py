"""Every page of the site: its commands exist, its outputs are real, and its links lead somewhere."""

from __future__ import annotations

import functools
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import mad.cli
from architectures.grammar.stripe import parse
from mad.data.labels import label_of, read
from mad.data.protocol import get_suite
from scaling import cli as scaling_cli
from tests.modules import module_at

ROOT = Path(__file__).resolve().parents[1]
PAGES = {path.stem: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
PAGES |= {name: (ROOT / f"{name}.md").read_text() for name in ("README", "CONTRIBUTING")}
SESSIONS = module_at("docs/sessions.py")


@functools.cache
def tree() -> Any:
    """The command line with all its commands."""
    root: Any = typer.main.get_command(mad.cli.app)
    root.commands["scaling"] = typer.main.get_command(scaling_cli.app)
    return root


def shell_lines(page: str) -> Iterator[str]:
    """The lines of the blocks of shell, those that go on in the next put together, without comments."""
    for block in re.findall(r"```(?:sh|bash)\n(.*?)```", page, flags=re.S):
        for line in block.replace("\\\n", " ").splitlines():
            yield re.split(r"(?:^|\s)# ", line)[0].strip()


def calls(line: str) -> Iterator[list[str]]:
    """The words of each call of `mad` in a line of shell."""
    words = shlex.shlex(line, posix=True, punctuation_chars="|&;>")
    words.whitespace_split = True
    call: list[str] = []
    for word in [*words, ";"]:
        if word in ("|", "||", "&", "&&", ";"):
            if call[:1] == ["mad"]:
                yield [word for at, word in enumerate(call) if at and ">" not in (word, call[at - 1])]
            call = []
        elif call or word not in ("if", "then", "{", "exec"):
            call.append(word)


def refusal(words: list[str], labels: Collection[str] = ()) -> str | None:
    """What the command line has against the words, without running anything, where these labels are known."""
    command, words = tree(), [word for word in words if word != "$@"]
    while parts := getattr(command, "commands", None):
        if not words or words[0].startswith("-"):
            return None
        if words[0] not in parts:
            return f"no command {words[0]}"
        command, *words = parts[words[0]], *words[1:]
    try:
        context = command.context_class(command)
        values, spare, _ = command.make_parser(context).parse_args(list(words))
    except Exception as error:  # The parser's own class is in another package in some releases of typer.
        return str(error) or repr(error)
    if spare:
        return f"unexpected {spare}"
    try:
        own = str(values.get("suite")).endswith(".toml") or ":" in str(values.get("suite"))
        if values.get("suite") and not own:
            get_suite(values["suite"])
        for spec in values.get("specs") or ():
            if ":" not in spec and not spec.startswith("$") and spec not in labels:
                parse(read(spec)[1])
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("page", PAGES)
def test_every_command_on_a_page_exists(page: str) -> None:
    lines = [line for line in shell_lines(PAGES[page]) if "mad " in line and not line.startswith("pip ")]
    found = [words for line in lines for words in calls(line)]
    labels = {label_of(word) for words in found for word in words}
    for words in found:
        assert refusal(words, labels) is None, f"mad {shlex.join(words)}: {refusal(words, labels)}"


@pytest.mark.parametrize("page", PAGES)
def test_every_command_in_the_prose_exists(page: str) -> None:
    prose = re.sub(r"```.*?```", "", PAGES[page], flags=re.S)
    root = tree()
    for code in re.findall(r"`mad ([a-z][^`]*)`", prose):
        first, *rest = code.split()
        command = root.commands.get(first)
        assert command is not None, f"mad {code}"
        if rest and rest[0] in getattr(command, "commands", {}):
            command = command.commands[rest[0]]
        known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
        unknown = {word.partition("=")[0] for word in rest if word.startswith("-")} - known - {"--help"}
        assert not unknown, f"mad {code}: {unknown}"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("mad bench mamba --suit quick", "--suit"),
        ("mad bensh mamba", "bensh"),
        ("mad bench mambo --suite quick", "mambo"),
        ("mad bench mamba --suite quikc", "quikc"),
        ("mad track pusch x", "pusch"),
        ("mad tasks show compression more", "more"),
        ("true && mad scaling fit --form", "form"),
    ],
)
def test_a_command_that_does_not_exist_is_found(line: str, said: str) -> None:
    (found,) = [refusal(words) for words in calls(line)]
    assert found is not None and said in found


def with_outputs() -> list[str]:
    return [name for name, text in PAGES.items() if name in SESSIONS.PAGES and SESSIONS.OUTPUT.search(text)]


@pytest.mark.parametrize("how", [[], pytest.param(["--all"], marks=pytest.mark.slow)], ids=["quick", "all"])
def test_outputs_are_what_the_commands_print(how: list[str]) -> None:
    words = [sys.executable, str(ROOT / "docs" / "sessions.py"), *how, *with_outputs()]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, page in json.loads(done.stdout).items():
        for shown, real in zip(SESSIONS.outputs(PAGES[name]), SESSIONS.outputs(page), strict=True):
            kept = SESSIONS.constant if shown.rough else str
            same = kept(shown.text or "") == kept(real.text or "")
            assert same, f"{name}.md, `{shown.command}`: run `make docs`"


@pytest.mark.parametrize("page", with_outputs())
def test_a_command_is_shown_before_its_output(page: str) -> None:
    for found in SESSIONS.OUTPUT.finditer(PAGES[page]):
        command = found["silent"] or found["command"]
        assert command in list(shell_lines(PAGES[page][: found.start()])), command


def test_numbers_of_a_machine_do_not_count_and_words_do() -> None:
    shown = "1  mamba   27.3k  15.9 +-3.6 (cpu (EPYC)) 287c7c629150, made on EPYC with torch 2.13+cpu"
    other = "1  mamba     9k   0.25 +-0   (cpu (M7, 8)) ffff7c629150bede6935, made on M7 with torch 2.99\n"
    assert SESSIONS.constant(shown).strip() == SESSIONS.constant(other).strip()
    times = ("made 2026-11-28T10:13:38+00:00  AMD EPYC", "made 2027-01-02T00:00:00+00:00  M7")
    assert len({SESSIONS.constant(time) for time in times}) == 1
    assert SESSIONS.constant("1 run failed") != SESSIONS.constant("1 run")


def test_a_page_is_a_session(tmp_path: Path) -> None:
    page = (
        "<!-- file: own.py -->\n```python\nprint('mine')\n```\n"
        "<!-- output of: cat own.py > kept && cat kept kept | tail -n 1 -->\n```text\nold\n```\n"
        "<!-- run: cp kept copy -->\n<!-- output of: cat copy -->\n\n```text\n```\n"
        "<!-- output, status 2, of: mad tasks show compresion -->\n```text\n```\n"
        "<!-- output of: mad train mlp compression -->\n```text\nkept\n```\n"
        "<!-- output of: cat kept -->\n```text\nkept\n```\n"
    )
    words = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT / 'docs')!r}); import sessions"]
    words[-1] += f"; sys.path.insert(0, {str(ROOT)!r}); print(sessions.played({page!r}, everything=False))"
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    texts = [output.text for output in SESSIONS.outputs(done.stdout)]
    assert texts[:3] == ["print('mine')\n", None, "print('mine')\n"] and texts[4:] == ["kept\n", "kept\n"]
    assert texts[3].startswith("mad: ") and "did you mean 'compression'?" in texts[3]


# A block of Python, and a block of text right behind it, which is what it prints.
PYTHON = re.compile(
    r"(?P<mark><!-- (?:file|not run): [^\n]*-->\n)?```python\n(?P<code>.*?)```\n"
    r"(?:\n```text\n(?P<text>.*?)```)?",
    flags=re.S,
)


def snippets(page: str) -> list[re.Match[str]]:
    """The blocks that run one after the other, in one program; those that need more say so."""
    return [found for found in PYTHON.finditer(page) if found["mark"] is None]


@pytest.mark.parametrize("page", [n for n in SESSIONS.PAGES if snippets(PAGES[n])])
def test_python_on_a_page_runs_and_prints_what_is_shown(page: str, tmp_path: Path) -> None:
    for name, text in [*SESSIONS.FILE.findall(PAGES["README"]), *SESSIONS.FILE.findall(PAGES[page])]:
        (tmp_path / name).write_text(text)
    blocks = snippets(PAGES[page])
    program = "".join(f"{found['code']}\nprint(chr(0), end='')\n" for found in blocks)
    environment = os.environ | {
        "MAD_STORE": str(tmp_path / "store.sqlite"),
        "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]),
        "OMP_NUM_THREADS": "1",
    }
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for found, printed in zip(blocks, done.stdout.split("\0"), strict=False):
        assert found["text"] is None or found["text"] == printed, found["code"]


def slug(heading: str) -> str:
    """What GitHub and the site call a heading."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", plain).strip().lower().replace(" ", "-")


def anchors(text: str) -> set[str]:
    prose = re.sub(r"```.*?```", "", text, flags=re.S)
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", prose, flags=re.M)}


@pytest.mark.parametrize(
    "page", [*sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("*.md"))], ids=str
)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    prose = re.sub(r"```.*?```", "", text, flags=re.S)
    for target in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)[^)]*\)", prose):
        name, _, anchor = target.partition("#")
        other = page.parent / name if name else page
        assert other.exists(), target
        if page.parent != ROOT:
            assert (ROOT / "docs") in other.resolve().parents, f"{target} is not on the site"
        if anchor:
            assert anchor in anchors(other.read_text()), target


def test_the_glossary_is_in_order_and_says_each_thing_once() -> None:
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", PAGES["glossary"], flags=re.M)[1:]
    terms = [term for term, _ in rows]
    assert len(terms) > 90 and terms == sorted(terms, key=str.lower)
    assert len({term.lower() for term in terms}) == len(terms)
    assert all(meaning.endswith(".") for _, meaning in rows)


@pytest.mark.parametrize("page", ["start", "concepts", "running", "board", "faq", "glossary"])
def test_a_page_is_short(page: str) -> None:
    assert len(PAGES[page].splitlines()) <= 200
