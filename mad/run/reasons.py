"""Why groups run although the store knows their architecture: what differs from the runs that it holds."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import architectures
from mad.data.labels import label_of
from mad.data.outline import Outline
from mad.data.protocol import PROTOCOLS
from mad.data.records import BUDGET, RunConfig, Status
from mad.messages import counted
from mad.run.engines import split
from mad.run.sweep import Group
from mad.store import Store, default_path
from mad.store.location import holds

# Of one architecture so many are said.
MOST_REASONS = 3
VAIN: dict[Status, str] = {
    "failed": "failed",
    "interrupted": "did not end",
    "stopped": "stopped when a point of another grid was solved",
}


def lacking(groups: Sequence[Group], path: str | Path | None = None) -> tuple[list[Group], list[str]]:
    """The groups that a store does not hold whole, and why: see `reasons`."""
    if not holds(where := Path(path or default_path()).expanduser()):
        return list(groups), []
    with Store(where, read_only=True) as store:
        wanted = split(groups, store)[1]
        return wanted, reasons([group for group in wanted if group.cell.architecture.stored], store)


def reasons(groups: Sequence[Group], store: Store) -> list[str]:
    """A line for each architecture that the store has runs of, under its spec or its label, why these groups
    of it are not among them. The store is read by keys: whole records of few runs alone.
    """
    wanted: dict[str, list[Group]] = defaultdict(list)
    for group in groups:
        wanted[group.runs[0].architecture_key].append(group)
    firsts = {key: found[0].runs[0] for key, found in wanted.items()}
    alike = {other: key for key, run in firsts.items() for other in (*_under_protocols(run), key)}
    mine: dict[str, list[Outline]] = defaultdict(list)
    for held in store.outlines(architectures=alike):
        mine[alike[held.config.architecture_key]].append(held)
    strange = {run.setting_key for key, run in firsts.items() if key not in mine}
    others = sorted(store.outlines(strange), key=lambda run: run.created, reverse=True) if strange else []
    lines = []
    for key, asked in wanted.items():
        said = _of_settings(asked, mine[key], store) if key in mine else _of_others(asked, others)
        if said:
            count = Counter(said.values())
            parts = [f"{text} ({counted(n, 'group')})" for text, n in count.most_common(MOST_REASONS)]
            more = [f"{len(count) - MOST_REASONS} other reasons"] if len(count) > MOST_REASONS else []
            given = asked[0].cell.architecture.given
            lines.append(f"{given} was run before, but {'; '.join([*parts, *more])}")
    return lines


def _under_protocols(run: RunConfig) -> Iterable[str]:
    """The keys that the architecture has under the protocols, which decide some options of the model."""
    default = vars(architectures.ModelOptions())
    who = run.architecture
    own = {name: value for name, value in who.options.items() if name not in run.protocol.model}
    for protocol in PROTOCOLS.values():
        theirs = {name: value for name, value in protocol.model.items() if value != default[name]}
        changed = who.model_copy(update={"options": own | theirs})
        yield run.model_copy(update={"architecture": changed}).architecture_key


def _of_settings(groups: Sequence[Group], mine: Sequence[Outline], store: Store) -> dict[str, str]:
    """The reason of each group by its id, where this very architecture was run."""
    by_setting: dict[str, list[Outline]] = defaultdict(list)
    for held in mine:
        by_setting[held.config.setting_key].append(held)
    # One whole record of each setting says what was asked there.
    whole = [store.get(found[0].id) for found in by_setting.values()]
    known = [record.config for record in whole if record is not None]
    new_seeds = {
        group.seed
        for group in groups
        if (here := by_setting.get(group.runs[0].setting_key)) and group.seed not in _seeds(here)
    }
    seeds = ", ".join(map(str, sorted(new_seeds)))
    fresh = f"seed{'s' * (len(new_seeds) > 1)} {seeds} {'are' if len(new_seeds) > 1 else 'is'} new"
    said = {}
    for group in groups:
        run = group.runs[0]
        here = by_setting.get(run.setting_key, [])
        if here:
            said[group.id] = fresh if group.seed not in _seeds(here) else _of_runs(group, here)
            continue
        same = [_asked(old, run) for old in known if old.task["name"] == run.task["name"]]
        if same:
            least = min(same, key=len)
            said[group.id] = ", ".join(least)
    return said


def _seeds(runs: Iterable[Outline]) -> set[int]:
    return {run.config.seed for run in runs}


def _of_runs(group: Group, here: Sequence[Outline]) -> str:
    """Where the seed was run in this setting: with another grid, or in vain."""
    held = {run.id: run for run in here if run.config.seed == group.seed}
    if not held.keys() >= set(group.run_ids):
        axes = (("lr", lambda run: run.lr), ("weight decay", lambda run: run.weight_decay))
        fresh = []
        for name, of in axes:
            old = {of(run.config) for run in held.values()}
            new = sorted({of(run) for run in group.runs} - old)
            fresh += [f"{name} {', '.join(f'{value:g}' for value in new)}"] if new else []
        return f"its grid is new in {' and '.join(fresh) or 'some points'}"
    statuses = Counter(held[id].status for id in group.run_ids)
    return " and ".join(f"{counted(statuses[s], 'run')} {words}" for s, words in VAIN.items() if statuses[s])


def _asked(old: RunConfig, new: RunConfig) -> list[str]:
    """What differs in what is asked."""
    said = []
    for name in sorted({*old.task, *new.task}):
        was, now = old.task.get(name), new.task.get(name)
        if was == now or (name == "variant" and old.protocol != new.protocol):  # which decides that
            continue
        if name == "version":
            said.append(f"task {new.task['name']} is version {now}, it was {was}")
        elif name == "source":
            said.append(f"the code of task {new.task.get('class', new.task['name'])} changed")
        else:
            said.append(f"{name} is {now}, it was {was}")
    for name in BUDGET:
        if (was := getattr(old, name)) != (now := getattr(new, name)):
            said.append(f"{name} is {now:,}, it was {was:,}")
    if old.protocol != new.protocol:
        names = [f"{protocol.name}@{protocol.version}" for protocol in (new.protocol, old.protocol)]
        fields = [name for name, value in new.protocol if getattr(old.protocol, name) != value]
        same = f"{' and '.join(fields)} of protocol {names[0]} changed"
        said.append(same if names[0] == names[1] else f"the protocol is {names[0]}, it was {names[1]}")
    return said


def _of_others(groups: Sequence[Group], others: Sequence[Outline]) -> dict[str, str]:
    """The reason of all groups, where in their setting another architecture had the spec or the label."""
    run, label = groups[0].runs[0], groups[0].cell.architecture.label
    spec = run.architecture.spec
    setting = run.setting_key
    found: list[list[str]] = []
    named: list[list[str]] = []
    for held in others:
        if held.config.setting_key != setting:
            continue
        if held.config.architecture.spec == spec:
            found.append(_differs(held, run))
        elif label and label in {label_of(text) for _, text in held.typed}:
            named.append([f"the label stood for {held.config.architecture.spec}"])
    best = min(found, key=len, default=None) or next(iter(named), None)
    return {group.id: ", ".join(best) for group in groups} if best else {}


def _differs(old: Outline, new: RunConfig) -> list[str]:
    """What differs in who answers, under the same spec."""
    was, now = old.config.architecture, new.architecture
    said = [
        f"the code of {name} changed ({was.sources[name][:4]}, now {source[:4]})"
        for name, source in now.sources.items()
        if was.sources.get(name, source) != source
    ]
    said += _changes("{} is version {}, it was {}", was.versions, now.versions)
    said += _changes("{} is {}, it was {}", was.options, now.options)
    pairs: list[tuple[str, Callable[[Any], Any]]] = [
        ("width", lambda config: config.architecture.dim),
        ("precision", lambda config: config.precision),
        ("backend", lambda config: config.backend),
        ("compile", lambda config: config.compile),
    ]
    for name, of in pairs:
        if of(old.config) != of(new):
            said.append(f"{name} is {of(new)}, it was {of(old.config)}")
    return said


def _changes(words: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    names = sorted({*old, *new})
    return [
        words.format(name, new.get(name, "the default"), old.get(name, "the default"))
        for name in names
        if old.get(name) != new.get(name)
    ]
