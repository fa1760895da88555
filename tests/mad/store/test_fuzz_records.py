"""Edited records by the thousand: a line is refused by its number, or every command that reads it works."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

from mad.data.records import RunConfig
from mad.store import Store
from mad.store.exchange import read_records
from scaling.lm.config import LanguageConfig
from tests.commands import Command
from tests.mad.store.test_reading import reading
from tests.mad.stores import filled

NUMBERS = [0, 1, -1, 2, 7, 0.0, 0.5, 1.0, -0.0, 1e-300, 1e300, 1e17, 25.0, 700.0, 800.0, -1e9, 2**31, 2**53]
NUMBERS += [2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**400, math.nan, math.inf, -math.inf]
WORDS = ["", "x", "ok", "stopped", "diverged", "failed", "grid", "nan", "1", "true", "=1+1", "\x1b[2J"]
WORDS += ["\u202e", "this:Layer", "2*(this:Layer swiglu)", "mamba", "transformer++", "9999*mamba", "(" * 99]
WORDS += ["x" * 300, "x" * 70_000, "2026-01-01", "2026-02-30T00:00:00Z", "9999-12-31T23:59:59Z", "0000-00-00"]
WORDS += ["a\nb", "public", "macro-batches", "test"]
NESTED = [[], {}, [1], {"total": 1}, {"name": "x", "version": 1}, {"a": {"b": {"c": [1, 2]}}}]
VALUES: list[Any] = [None, True, False, *NUMBERS, *WORDS, *NESTED, [[[[[[[[[[1]]]]]]]]]]]


def places(value: Any, way: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every part of a value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [way] * bool(way) + [place for key, part in inner for place in places(part, (*way, key))]


def edited(line: str, rng: random.Random) -> str:
    """One to three edits of a line, in most cases with the id of what it then says."""
    made = json.loads(line)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        *way, last = rng.choice(places(made))
        place = made
        for key in way:
            place = place[key]
        old = place[last]
        edit = rng.randrange(8)
        if edit == 0:
            del place[last]
        elif edit == 1 and isinstance(place, dict):
            place[rng.choice(("more", "kind", "name", "total", "\x00"))] = rng.choice(VALUES)
        elif edit == 2 and isinstance(old, int | float) and not isinstance(old, bool):
            place[last] = old * rng.choice((-1, 0, 2, 0.5, 10, 1e9, 1 + 1e-9)) + rng.choice((0, 0, 1, 1e-3))
        elif edit == 3 and isinstance(old, list) and old:
            place[last] = rng.choice((old[::-1], old * 2, old[:1], old * 3000))
        elif edit == 4:
            other = rng.choice(places(made))
            place[last] = rng.choice((other[-1], json.loads(json.dumps(old)), [old], {"total": old}))
        else:
            place[last] = rng.choice(VALUES)
    if rng.random() < 0.8:
        kind = LanguageConfig if made.get("kind") == "language" else RunConfig
        try:
            made["id"] = kind.model_validate(made.get("config")).id
        except ValueError:
            pass
    text = json.dumps(made)
    if rng.random() < 0.05:
        at = rng.randrange(len(text))
        text = (
            text[:at] + rng.choice(("", "\x00", '"', "{", "[", "\ufffd", text[at : at + 9])) + text[at + 1 :]
        )
    return text


def batch(base: list[str], folder: Path, seed: int, tries: int) -> tuple[Path, int]:
    """A store in which some of the lines are edited ones that an import took, and how many."""
    rng = random.Random(seed)
    lines, taken = list(base), 0
    for _ in range(tries):
        at = rng.randrange(len(lines))
        text = edited(base[at], rng)
        (folder / "one.jsonl").write_text(f"\n{text}\n", encoding="utf-8")
        try:
            read_records(folder / "one.jsonl")
        except ValueError as error:
            assert str(error).startswith("one.jsonl line 2: "), (text[:500], error)
            continue
        lines[at] = text
        taken += 1
    (folder / "runs.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with Store(folder / f"{seed}.sqlite") as store:
        store.merge(read_records(folder / "runs.jsonl"))
    return folder / f"{seed}.sqlite", taken


def check(store: Path, folder: Path, cli: Command) -> None:
    for words in reading(store, folder):
        status, out, err = cli(*words)  # What is not one sentence and status 2 is raised.
        refused = words[0] == "scaling" and status == 2 and len(err.splitlines()) == 1
        assert status == 0 or refused, (words, err)
        assert out.isprintable() or all(line.isprintable() for line in out.splitlines())


@pytest.fixture
def base(tmp_path: Path) -> list[str]:
    specs = {"a": "2*(mamba swiglu)", "b": "2*(hyena swiglu)", "c": "this:Layer"}
    filled(tmp_path / "whole.sqlite", specs)
    with Store(tmp_path / "whole.sqlite", read_only=True) as store:
        from mad.store.exchange import export_records

        export_records(store, tmp_path / "whole.jsonl")
    return (tmp_path / "whole.jsonl").read_text().splitlines()


def test_an_edited_record_is_refused_or_read_by_every_command(
    base: list[str], tmp_path: Path, cli: Command
) -> None:
    store, taken = batch(base, tmp_path, seed=0, tries=100)
    assert taken > 3
    check(store, tmp_path, cli)


@pytest.mark.slow
def test_thousands_of_edited_records_are_refused_or_read(
    base: list[str], tmp_path: Path, cli: Command
) -> None:
    for seed in range(1, 16):
        store, _ = batch(base, tmp_path, seed=seed, tries=300)
        check(store, tmp_path, cli)
        store.unlink()
