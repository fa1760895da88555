"""From records to scores: of a setting, of a task, and the MAD score, each with a 95 % interval.

For one architecture, one setting and one seed, the runs of the grid form a group. The protocol's split
chooses the best of them, and its test accuracy counts; a group that diverged altogether counts at chance. A
setting's score is the mean over seeds, a task's the mean over its settings, and the MAD score the unweighted
mean over tasks. Runs belong to a suite by content, whatever they were called when they were made.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np

import synthetic_tasks
from mad.data.protocol import Protocol, Setting, Suite
from mad.data.records import DONE, Record, setting_key
from mad.data.tasks import name_of
from mad.messages import near
from mad.score.families import family
from mad.score.interval import RESAMPLES, Array, Estimate, average, mean, over_rows, over_seeds
from mad.score.naming import distinct, spelling
from mad.score.ranks import ranked
from mad.score.remarks import remarks
from mad.score.rows import ArchitectureScore, Scores, SettingScore, TaskScore
from mad.score.selection import Choice, Group, choose, metrics_of
from mad.score.signal import noise, signals

Answers = dict[str, dict[int, Group]]  # by setting key and seed

ARITHMETIC = ("precision", "backend", "compile")
COSTS = ("params", "core_params", "flops_per_token", "nominal_state")


def score(
    records: Iterable[Record],
    suite: Suite,
    protocol: Protocol,
    *,
    versions: Mapping[str, int] | None = None,
    reference: Iterable[Record] = (),
    makers: Mapping[str, str] | None = None,
    tasks: Collection[str] | None = None,
    seed: int = 0,
) -> Scores:
    """Score every architecture that has a run of the suite under the protocol.

    `reference` are runs that came with the package, which count where `records` lack them, and `makers` says
    by their ids what made them. `versions` are the primitives' current ones: an older one makes a row stale.
    `tasks` are those that count, None: all of the suite. `seed` is the bootstrap's.
    """
    whole = _exam(suite, protocol)
    asked = _asked(tasks, whole.values(), suite)
    exam = {key: question for key, question in whole.items() if question.task in asked}
    answers: dict[str, Answers] = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    own, packaged = {run.id: run for run in records}, {run.id: run for run in reference}
    packaged = {id: run for id, run in packaged.items() if id not in own}
    for record in chain(own.values(), packaged.values()):
        config = record.config
        key, point = config.setting_key, (config.lr, config.weight_decay)
        # A suite fixes the width as well; a factory of whole models has none to fix.
        if key in exam and point in exam[key].setting.grid and config.architecture.dim in (None, suite.dim):
            answers[config.architecture_key][key][config.seed][point] = record
    most = max((len(groups) for settings in answers.values() for groups in settings.values()), default=1)
    # A row of uniform numbers per seed: the same ones resample every setting and every architecture.
    uniform = np.random.default_rng(seed).random((most, RESAMPLES))
    rows = [
        _architecture(key, found, exam, suite, protocol, versions or {}, packaged, uniform)
        for key, found in sorted(answers.items())
    ]
    settings: dict[str, tuple[str, ...]] = {}
    for question in exam.values():
        settings[question.task] = (*settings.get(question.task, ()), question.label)
    return Scores(
        suite=suite.label,
        protocol=f"{protocol.name}@{protocol.version}",
        metric=protocol.metric,
        settings=settings,
        left_out=tuple(dict.fromkeys(q.task for q in whole.values() if q.task not in asked)),
        chance=_bound(rows, lambda setting: setting.chance),
        ceiling=_bound(rows, lambda setting: setting.ceiling),
        signal=signals(rows, settings),
        noise=noise(rows),
        architectures=tuple(ranked(distinct(rows))),
        own=sum(row.runs - row.reference for row in rows),
        reference=_makers(
            [run for found in answers.values() for run in _runs(found)], packaged, makers or {}
        ),
    )


@dataclass(frozen=True)
class _Question:
    """A setting of the suite, the name of its task and its label."""

    setting: Setting
    task: str
    label: str


def _exam(suite: Suite, protocol: Protocol) -> dict[str, _Question]:
    """The suite's settings by key. The first one of a task is its baseline, which names the others."""
    baselines: dict[str, Setting] = {}
    exam = {}
    for setting in suite.settings:
        task, count = synthetic_tasks.parse(setting.task), setting.train_examples
        baseline = baselines.setdefault(task.name, setting)
        budget = "" if count == baseline.train_examples else f", {count} examples"
        exam[setting_key(setting, protocol)] = _Question(setting, task.name, f"{task}{budget}")
    return exam


def _asked(tasks: Collection[str] | None, exam: Iterable[_Question], suite: Suite) -> Collection[str]:
    """The tasks that count; refuses what the suite does not have."""
    known = dict.fromkeys(question.task for question in exam)
    if tasks is not None and not tasks:
        raise ValueError(f"no task is named; name some of {', '.join(known)}, or leave tasks out for all")
    wanted = [name_of(name) for name in tasks or ()]
    for name in wanted:
        if name not in known:
            hint = near(name, known)
            raise ValueError(
                f"suite {suite.label} has no task {name!r}{hint}; choose from {', '.join(known)}"
            )
    return wanted or known


def _architecture(
    key: str,
    answers: Answers,
    exam: Mapping[str, _Question],
    suite: Suite,
    protocol: Protocol,
    versions: Mapping[str, int],
    packaged: Collection[str],
    uniform: Array,
) -> ArchitectureScore:
    chosen: dict[str, dict[int, Choice]] = {}
    missing: list[str] = []
    for at, question in exam.items():
        groups = dict(sorted(answers.get(at, {}).items()))
        choices = {seed: choose(group, question.setting, protocol) for seed, group in groups.items()}
        whole = {seed: choice for seed, choice in choices.items() if choice is not None}
        if whole:
            chosen[at] = whole
        missing += [_lack(question, seed, groups[seed]) for seed in choices if seed not in whole]
        missing += [] if groups else [f"{question.label}: not run"]

    counts = [len(choices) for choices in chosen.values()] or [0]
    kind: Literal["seeds", "rows"] = "seeds" if min(counts) >= 2 else "rows"
    parts: dict[str, list[tuple[SettingScore, Estimate]]] = defaultdict(list)
    for at, choices_of_seeds in chosen.items():
        parts[exam[at].task].append(_setting(exam[at], answers[at], choices_of_seeds, kind, uniform))
    numbers = {name: mean([number for _, number in pairs]) for name, pairs in parts.items()}
    number_of_settings = Counter(question.task for question in exam.values())
    tasks = {
        name: TaskScore(
            **number.numbers,
            settings=tuple(setting for setting, _ in parts[name]),
            complete=len(parts[name]) == number_of_settings[name],
        )
        for name, number in numbers.items()
    }
    complete = len(chosen) == len(exam)
    mad = mean(list(numbers.values())) if complete else None

    records = _runs(answers)
    config = records[0].config
    called = spelling(records)
    old = [
        f"{name}@{version} is now {name}@{versions[name]}"
        for name, version in config.architecture.versions.items()
        if version < versions.get(name, version)
    ]
    arithmetic: dict[str, Any] = {name: getattr(config, name) for name in ARITHMETIC}
    cost = next((setting.cost for task in tasks.values() for setting in task.settings), None)
    costs: dict[str, Any] = {name: getattr(cost, name, None) for name in COSTS}
    return ArchitectureScore(
        rank=None,
        label=called.label,
        given=called.given,
        spec=called.spec,
        family=family(config.architecture.versions),
        architecture_key=key,
        **arithmetic,
        **costs,
        state=cost.state.get("total") if cost and cost.state else None,
        mad=mad and Estimate(**mad.numbers),
        interval_kind=kind,
        tasks=tasks,
        seeds=min(counts),
        missing=tuple(missing),
        runs=len(records),
        imported=sum(record.imported for record in records),
        reference=sum(record.id in packaged for record in records),
        notes=tuple(remarks(tasks, number_of_settings, counts, suite.seeds, old, records, called)),
        stale=bool(old),
        complete=complete,
    )


def _setting(
    question: _Question,
    groups: Mapping[int, Group],
    choices: Mapping[int, Choice],
    kind: Literal["seeds", "rows"],
    uniform: Array,
) -> tuple[SettingScore, Estimate]:
    values = np.array([choice.value for choice in choices.values()])
    value = average(values)
    if kind == "seeds":
        drawn = (uniform[: len(values)] * len(values)).astype(int)  # (seeds, resamples), indices of seeds
        number: Estimate = over_seeds(value, values[drawn].mean(axis=0))
    else:
        # Seeds share the test rows, so more of them do not make more rows.
        number = over_rows(value, question.setting.test_examples)
    metrics = [metrics_of(choice.record) for choice in choices.values()]
    runs = [groups[seed][point] for seed in choices for point in question.setting.grid]
    setting = SettingScore(
        **number.numbers,
        setting=question.label,
        task=question.task,
        micro=average([choice.micro for choice in choices.values()]),
        macro=average([choice.macro for choice in choices.values()]),
        chance=average([found.chance for found in metrics]),
        ceiling=average([found.ceiling for found in metrics]),
        seeds=tuple(choices),
        chosen=tuple(choice.point for choice in choices.values()),
        ids=tuple(choice.record.id for choice in choices.values()),
        values=tuple(choice.value for choice in choices.values()),
        edges=tuple(sorted({edge for choice in choices.values() for edge in choice.edges})),
        diverged=sum(run.status == "diverged" for run in runs),
        apart=any(choice.apart for choice in choices.values()),
        cost=next(iter(choices.values())).record.cost,
    )
    return setting, number


def _runs(answers: Mapping[str, Mapping[int, Group]]) -> list[Record]:
    return [run for groups in answers.values() for group in groups.values() for run in group.values()]


def _makers(runs: Iterable[Record], packaged: Collection[str], makers: Mapping[str, str]) -> tuple[str, ...]:
    """What made the packaged ones of these runs, each once."""
    return tuple(sorted({makers.get(run.id, "an unknown version") for run in runs if run.id in packaged}))


def _lack(question: _Question, seed: int, group: Group) -> str:
    statuses = Counter(run.status for run in group.values())
    done = sum(statuses[status] for status in DONE)
    failed = f", {statuses['failed']} failed" if statuses["failed"] else ""
    return f"{question.label}: seed {seed} has {done} of {len(question.setting.grid)} runs{failed}"


def _bound(rows: Iterable[ArchitectureScore], of: Callable[[SettingScore], float]) -> dict[str, float]:
    """Chance or ceiling of each task: the mean over its settings, of the mean over those who answered."""
    seen: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        for name, task in row.tasks.items():
            for setting in task.settings:
                seen[name][setting.setting].append(of(setting))
    return {name: average([average(values) for values in found.values()]) for name, found in seen.items()}
