"""What an architecture did on a setting as comparisons see it: scores of its seeds, hits of its rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mad.data.hits import Counts, unpack
from mad.data.protocol import Protocol, Setting, Suite
from mad.data.records import Record, setting_key
from mad.score import pairing
from mad.score.interval import Array
from mad.score.pairing import Pool, Side
from mad.score.rows import ArchitectureScore, Scores, SettingScore
from synthetic_tasks import IGNORE

Fetch = Callable[[str], Record | None]


def by_setting(row: ArchitectureScore) -> dict[str, SettingScore]:
    """The scores of a row by the labels of the settings."""
    return {setting.setting: setting for task in row.tasks.values() for setting in task.settings}


def pool(scores: Scores, label: str, *but: ArchitectureScore) -> Pool:
    """What is known of the luck of seeds on a setting from the other rows of the board."""
    keys = {row.architecture_key for row in but}
    others = [by_setting(row).get(label) for row in scores.architectures if row.architecture_key not in keys]
    return pairing.pool_of(one.values for one in others if one is not None)


class HitReader:
    """Reads the hits of the test rows of runs, once each setting's targets are known."""

    def __init__(self, suite: Suite, protocol: Protocol, fetch: Fetch) -> None:
        self.settings = {setting_key(setting, protocol): setting for setting in suite.settings}
        self.protocol, self.fetch = protocol, fetch
        self.targets: dict[str, Counts] = {}
        self.devices: dict[str, str] = {}
        self.unknown = 0

    def side(self, found: SettingScore) -> Side:
        """One architecture on one setting."""
        runs = [run for run in map(self.fetch, found.ids) if run is not None]
        if not runs:
            raise ValueError(f"the runs on {found.setting} have gone from the store meanwhile; ask again")
        for run in runs:
            self.devices[run.id] = str(run.environment.get("device_name") or "unknown device")
        size = runs[0].config.test_examples
        if len(runs) < len(found.ids):
            return pairing.side(found.values, size)
        rows = [self._hits(run, value) for run, value in zip(runs, found.values, strict=True)]
        known = [row for row in rows if row is not None]
        if len(known) < len(rows):
            self.unknown += self.protocol.metric == "micro"
            return pairing.side(found.values, size)
        return pairing.side(found.values, size, np.stack(known), self._targets(runs[0]))

    def _hits(self, run: Record, value: float) -> Array | None:
        """Of each test row; of one that diverged as many as chance has. None where they are not known."""
        if run.metrics is None or self.protocol.metric != "micro":
            return None
        targets = self._targets(run)
        test = run.metrics.test
        if test is None:
            return np.asarray(value * targets, float)
        if test.hits is None:
            return None
        hits = unpack(test.hits, test.rows)
        # What no model can have: the record is not of these rows.
        if len(hits) != len(targets) or test.targets != targets.sum() or (hits > targets).any():
            return None
        return hits.astype(float)

    def _targets(self, run: Record) -> Counts:
        """How many targets each test row has; the rows are the same for every run of the setting."""
        key = run.config.setting_key
        if key not in self.targets:
            setting: Setting = self.settings[key]
            drawn = setting.resolve(self.protocol).draw(
                self.protocol.data_seed, "test", setting.test_examples
            )
            self.targets[key] = (drawn.targets != IGNORE).sum(1)
        return self.targets[key]
