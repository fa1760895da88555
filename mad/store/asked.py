"""The runs that one architecture made of one task: which of a store's groups somebody means."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mad.data.protocol import Protocol, Setting, Suite, get_protocol, get_suite, known_suites
from mad.data.records import Record, setting_key
from mad.data.tasks import read_task
from mad.messages import near
from mad.score.selection import Group, choose
from mad.store.listing import Match, Wanted
from mad.store.location import default_path, holds
from mad.store.reference import reference_outlines, reference_records
from mad.store.store import Store

# What is run where nothing else is said.
DEFAULT = "quick"


@dataclass(frozen=True)
class Question:
    """A setting of a suite that is asked about."""

    suite: Suite
    setting: Setting
    key: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The runs of one group, and `chosen` of them the one that counts, None while runs are missing.

    others  what else would answer, as sentences
    """

    question: Question
    runs: list[Record]
    chosen: str | None
    seed: int
    others: tuple[str, ...]


def answer(
    architecture: str,
    task: str,
    *,
    suite: str | None = None,
    protocol: str = "sound",
    seed: int | None = None,
    store: str | Path | None = None,
) -> Answer:
    """What an architecture did on a task: the group of its first complete seed, or of the one asked for.

    architecture  a spec, a preset's name or a label
    task          its name, which means the first setting of it; with options, "compression[seq_len=8]", the
                  setting that is equal to it
    suite         None: the one that has such runs

    The store's runs count before those that come with the package. ValueError where there is none, which says
    how to make it, or where several suites have some.
    """
    referee = get_protocol(protocol)
    asked = list(_questions(task, suite, referee))
    found = _groups(asked, Match(Wanted(architecture=architecture)), store)
    if not found:
        first = next((question for question in asked if question.suite.name == DEFAULT), asked[0])
        name, bare = suite or first.suite.name, first.setting.resolve(referee).name
        words = ["mad", "bench", architecture, "--suite", name, "--tasks", bare]
        words += [] if protocol == "sound" else ["--protocol", protocol]
        raise ValueError(f"no run of {architecture} on {task} is stored; make it: {shlex.join(words)}")
    if len({question.key for question in found}) > 1:
        labels = ", ".join(question.suite.label for question in found)
        raise ValueError(f"{architecture} has runs of {task} in {labels}; choose one with --suite")
    return _group(*next(iter(found.items())), referee, seed, store)


def _questions(task: str, suite: str | None, protocol: Protocol) -> Iterator[Question]:
    """The first setting that is meant of each suite, or of the one that is named."""
    name = task.partition("[")[0].strip()
    suites = [get_suite(suite)] if suite is not None else _newest_first()
    wanted = read_task(task, protocol.variant) if "[" in task else None
    names: dict[str, None] = {}
    found = False
    for exam in suites:
        for setting in exam.settings:
            content = setting.resolve(protocol)
            names[content.name] = None
            if content.name == name and wanted in (None, content):
                found = True
                yield Question(exam, setting, setting_key(setting, protocol))
                break
    if not found:
        where = f"suite {suite}" if suite is not None else "no suite"
        said = f"has no task {task!r}" if suite is not None else f"has the task {task!r}"
        hint = near(name, names) if name not in names else "; give its name alone, or the options as they are"
        raise ValueError(f"{where} {said}{hint}; choose from {', '.join(names)}")


def _newest_first() -> list[Suite]:
    """Every suite that has a name: ours first, of several versions the newest."""
    order: dict[str, int] = {}
    for suite in known_suites().values():
        order.setdefault(suite.name, len(order))
    return sorted(known_suites().values(), key=lambda suite: (order[suite.name], -suite.version))


def _groups(
    asked: Sequence[Question], match: Match, store: str | Path | None
) -> dict[Question, dict[str, dict[int, Group]]]:
    """The runs of what matches, of the width and the grid of their suite: by question, architecture and seed.

    One run that matches stands for its architecture: a label was typed with some of them.
    """
    runs = list(_outlines(asked, store))
    meant = {run.config.architecture_key for run in runs if match(run)}
    found: dict[Question, dict[str, dict[int, Group]]] = {}
    for run in runs:
        config, point = run.config, (run.config.lr, run.config.weight_decay)
        for question in asked if config.architecture_key in meant else ():
            fits = point in question.setting.grid and config.architecture.dim in (None, question.suite.dim)
            if fits and config.setting_key == question.key:
                seeds = found.setdefault(question, {}).setdefault(config.architecture_key, {})
                seeds.setdefault(config.seed, {}).setdefault(point, run)
    return {question: found[question] for question in asked if question in found}


def _outlines(asked: Sequence[Question], store: str | Path | None) -> Iterator[Record]:
    """The runs of the store, if there is one or one was named, then those that come with the package."""
    keys = {question.key for question in asked}
    if store is not None or holds(default_path()):
        with Store(store, read_only=True) as opened:
            yield from opened.outlines(keys)
    for name in dict.fromkeys(question.suite.name for question in asked):
        yield from (run for run in reference_outlines(name)[0] if run.config.setting_key in keys)


def _group(
    question: Question,
    found: dict[str, dict[int, Group]],
    protocol: Protocol,
    seed: int | None,
    store: str | Path | None,
) -> Answer:
    """Of several arithmetics or versions of code the one with most runs."""
    counts = {key: sum(map(len, seeds.values())) for key, seeds in found.items()}
    first, *rest = sorted(counts, key=lambda key: (-counts[key], key))
    seeds = dict(sorted(found[first].items()))
    if seed is not None and seed not in seeds:
        raise ValueError(f"seed {seed} has no run there; choose from {', '.join(map(str, seeds))}")
    chosen = {number: choose(group, question.setting, protocol) for number, group in seeds.items()}
    complete = [number for number, choice in chosen.items() if choice is not None]
    which = seed if seed is not None else (complete or list(seeds))[0]
    choice = chosen[which]
    others = []
    if len(seeds) > 1:
        others.append(f"seeds {', '.join(map(str, seeds))} are there: --seed")
    if rest:
        others.append("it ran with other arithmetic or code, too: `mad runs --arch` lists all")
    return Answer(
        question=question,
        runs=[_whole(run, question.suite.name, store) for _, run in sorted(seeds[which].items())],
        chosen=choice.record.id if choice is not None else None,
        seed=which,
        others=tuple(others),
    )


def _whole(run: Record, suite: str, store: str | Path | None) -> Record:
    """The record of an outline, from where that is."""
    if store is not None or holds(default_path()):
        with Store(store, read_only=True) as opened:
            if (held := opened.get(run.id)) is not None:
                return held
    return next(record for record in reference_records(suite) if record.id == run.id)
