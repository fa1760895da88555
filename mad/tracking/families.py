"""All runs of an architecture in a suite as one run of a tracker: thousands of tiny ones help nobody.

Its curves are those of the best run of each grid, its summary is a row of the leaderboard, and its table has
a line a cell.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import synthetic_tasks
from mad.data.protocol import Suite
from mad.data.records import DONE, Cost, Record
from mad.data.trails import Cell, Head, Row, Tail, Trail, axis_of
from mad.score import ArchitectureScore, score
from mad.score.interval import average
from mad.tracking import Roster, Tracker

# What says nothing of a run that is one of several.
OWN = ("objective", "lr")


@dataclass
class _Family:
    head: Head
    begun: bool = False
    heads: dict[str, Head] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    tails: dict[str, Tail] = field(default_factory=dict)


class Families:
    """Takes what is said of single runs, a group at a time, and tells a tracker of whole families.

    A run that has no family stays a run.
    """

    def __init__(self, tracker: Tracker, roster: Roster) -> None:
        self.tracker, self.roster = tracker, roster
        self.families: dict[str, _Family] = {}
        self.of: dict[str, _Family] = {}
        # By the label of a suite, the tasks that it has once.
        self.alone = {label: _alone(suite) for label, suite in roster.suites.items()}

    def begin(self, heads: Sequence[Head]) -> None:
        for head in heads:
            if (family := self._join(head)) is None:
                self.tracker.begin(head)
            elif not family.begun:
                family.begun = True
                self.tracker.begin(family.head)
                self._log(family, family.rows)

    def log(self, points: Mapping[str, Sequence[Row]]) -> None:
        """The points of the runs of a grid, of which the best at each step is shown."""
        found: dict[tuple[str, float], list[Row]] = defaultdict(list)
        families = {}
        for id, rows in points.items():
            if (family := self.of.get(id)) is None:
                self.tracker.log(id, rows)
                continue
            section = self._section(family.heads[id])
            families[section] = family
            for row in rows:
                found[section, row[axis_of(row)]].append(row)
        for (section, at), rows in found.items():
            best = max(rows, key=lambda row: row.get("objective", 0.0))
            shown = {name: value for name, value in best.items() if name != axis_of(best) and name not in OWN}
            named = {f"{section}/{name.replace('/', '_')}": value for name, value in shown.items()}
            self._log(families[section], [{f"{section}/step": at, **named}])

    def end(self, tails: Mapping[str, Tail]) -> None:
        touched: dict[str, _Family] = {}
        for id, tail in tails.items():
            if (family := self.of.pop(id, None)) is None:
                self.tracker.end(id, tail)
                continue
            touched[family.head.id] = family
            family.tails[id] = tail
        for id, family in touched.items():
            if len(family.tails) < self.roster.counts[id]:
                continue
            whole = self._tail(family, "complete")
            if family.begun:
                self.tracker.end(id, whole)
            else:
                self.tracker.show(Trail(head=family.head, rows=family.rows, tail=whole))
            del self.families[id]

    def show(self, trails: Sequence[Trail]) -> None:
        members = [trail for trail in trails if self._join(trail.head) is not None]
        for trail in trails:
            if trail.head.family is None:
                self.tracker.show(trail)
        self.log({trail.head.id: trail.rows for trail in members})
        self.end({trail.head.id: trail.tail for trail in members})

    def close(self) -> None:
        """Of what was broken off, tell what there is."""
        for id, family in self.families.items():
            if family.begun and family.tails:
                self.tracker.end(id, self._tail(family, "interrupted"))
        self.tracker.close()

    def _join(self, head: Head) -> _Family | None:
        if head.family is None:
            return None
        family = self.families.setdefault(head.family.id, _Family(self._described(head.family)))
        family.heads[head.id] = head
        self.of[head.id] = family
        return family

    def _described(self, head: Head) -> Head:
        suite = self.roster.suites.get(str(head.config.get("suite")))
        if suite is None:
            return head
        asked = [f"{setting.task}, {setting.train_examples} examples" for setting in suite.settings]
        return replace(head, config={**head.config, "settings": asked})

    def _section(self, head: Head) -> str:
        """The task, with its options where the suite has it more than once, and the seed after the first."""
        alone, seed = self.alone.get(str(head.config["suite"]), set()), head.config["seed"]
        return (head.job if head.job in alone else head.section) + (f" seed {seed}" if seed else "")

    def _log(self, family: _Family, rows: Sequence[Row]) -> None:
        if family.begun:
            self.tracker.log(family.head.id, rows)
        else:
            family.rows += rows

    def _tail(self, family: _Family, status: str) -> Tail:
        """The summary and the table of what has ended."""
        lines = [line for tail in family.tails.values() for line in tail.records]
        records = [Record.model_validate_json(line) for line in lines]
        seconds = sum(record.cost.seconds for record in records if record.cost)
        undone = sum(record.status not in DONE for record in records)
        if status == "complete" and undone:
            status = f"{undone} of {len(records)} runs failed"
        summary: dict[str, Cell] = {"status": status, "runs": len(records), "seconds": round(seconds, 3)}
        table: list[dict[str, Cell]] = []
        suite = self.roster.suites.get(str(family.head.config.get("suite")))
        if suite is not None and (scored := _scored(records, suite)) is not None:
            row, whole = scored
            summary |= _summary(row)
            if status == "complete" and not whole:
                summary["status"] = "incomplete"
            table = _cells(row)
        ok = "ok" if status == "complete" else "failed"
        return Tail(status=ok, summary=summary, records=lines, table=table)


def _alone(suite: Suite) -> set[str]:
    counts = Counter(synthetic_tasks.parse(setting.task).name for setting in suite.settings)
    return {name for name, count in counts.items() if count == 1}


def _scored(records: list[Record], suite: Suite) -> tuple[ArchitectureScore, bool] | None:
    """The row on a board of the tasks that were asked, and whether they and the row are whole; None where no
    run is of the suite as it is now.
    """
    known = {synthetic_tasks.parse(setting.task).name for setting in suite.settings}
    tasks = known & {record.subject for record in records}
    if not tasks:
        return None
    found = score(records, suite, records[0].config.protocol, tasks=tasks)
    rows = found.architectures
    return (rows[0], rows[0].complete and not found.left_out) if rows else None


def _summary(row: ArchitectureScore) -> dict[str, Cell]:
    found: dict[str, Cell] = {"missing": "; ".join(row.missing), "notes": "; ".join(row.notes)}
    found |= {name: getattr(row, name) for name in ("params", "core_params", "flops_per_token")}
    found |= {"state": row.state, "nominal_state": row.nominal_state, "seeds": row.seeds}
    settings = [setting for task in row.tasks.values() for setting in task.settings]
    if row.mad is not None:
        found |= {"score": row.mad.value, "score_low": row.mad.low, "score_high": row.mad.high}
        found |= {"chance": average(setting.chance for setting in settings)}
        found |= {"ceiling": average(setting.ceiling for setting in settings)}
    for name, task in row.tasks.items():
        found |= {f"{name}/score": task.value, f"{name}/low": task.low, f"{name}/high": task.high}
    return found


def _cells(row: ArchitectureScore) -> list[dict[str, Cell]]:
    """A line for each setting that was scored."""
    cells: list[dict[str, Cell]] = []
    for task in row.tasks.values():
        for setting in task.settings:
            lr, decay = setting.chosen[0]
            cost = setting.cost or Cost(params=0)
            cells.append(
                {
                    "task": setting.task,
                    "setting": setting.setting,
                    "score": setting.value,
                    "low": setting.low,
                    "high": setting.high,
                    "chance": setting.chance,
                    "ceiling": setting.ceiling,
                    "seeds": len(setting.seeds),
                    "lr": lr,
                    "weight_decay": decay,
                    "diverged": setting.diverged,
                    "params": cost.params or None,
                    "state": (cost.state or {}).get("total"),
                    "flops_per_token": cost.flops_per_token,
                }
            )
    return cells
