"""What a board is made of: the scores of settings, tasks and architectures, and of all of them together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mad.data.records import Cost
from mad.score.interval import Estimate, average
from mad.score.selection import Point


@dataclass(frozen=True, kw_only=True)
class SettingScore(Estimate):
    """One architecture on one setting: the mean over its complete seeds.

    `chosen` is the grid point of each seed, `ids` the run there and `values` what it scores. `edges` names
    the axes on which one of them lies at an end of the grid. `diverged` counts runs of all seeds. `apart`:
    test lies above validation by more than chance. `cost` is that of the first seed's chosen run.
    """

    setting: str
    task: str
    micro: float
    macro: float
    chance: float
    ceiling: float
    seeds: tuple[int, ...]
    chosen: tuple[Point, ...]
    ids: tuple[str, ...]
    values: tuple[float, ...]
    edges: tuple[str, ...]
    diverged: int
    apart: bool
    cost: Cost | None


@dataclass(frozen=True, kw_only=True)
class TaskScore(Estimate):
    """The mean over the settings of a task that are there; `complete` where none is missing."""

    settings: tuple[SettingScore, ...]
    complete: bool

    @property
    def by_seed(self) -> dict[int, float]:
        """The score of each seed that answered every setting that is there."""
        found = [dict(zip(setting.seeds, setting.values, strict=True)) for setting in self.settings]
        return by_seed(found)


@dataclass(frozen=True, kw_only=True)
class ArchitectureScore:
    """A row of the leaderboard.

    rank    1 + the number of ranked rows whose interval lies wholly above; None where a task is missing or
            the row is stale
    family  what its layers mix time with: attention, recurrence, convolution, a hybrid of these, or none; own
            where a layer of the user's own does not say
    mad     the mean over the tasks, the MAD score where these are all of the suite; None where one is missing
    seeds   the smallest number of seeds of a setting
    runs    how many there are; of them `imported` came out of a file, and `reference` with the package

    Costs are those of the suite's first setting that was scored.
    """

    rank: int | None
    label: str
    given: str
    spec: str
    family: str
    architecture_key: str
    precision: str
    backend: str
    compile: bool
    params: int | None
    core_params: int | None
    flops_per_token: float | None
    state: int | None
    nominal_state: int | None
    mad: Estimate | None
    interval_kind: Literal["seeds", "rows"]
    tasks: dict[str, TaskScore]
    seeds: int
    runs: int
    imported: int
    reference: int
    missing: tuple[str, ...]
    notes: tuple[str, ...]
    stale: bool
    complete: bool

    @property
    def mixed(self) -> bool:
        """Whether some of its runs came with the package, and others did not."""
        return 0 < self.reference < self.runs

    @property
    def by_seed(self) -> dict[int, float]:
        """The mean over the tasks for each seed that answered all of them; none where a task is missing."""
        return by_seed([task.by_seed for task in self.tasks.values()]) if self.complete else {}


@dataclass(frozen=True, kw_only=True)
class Noise:
    """How far the mean score of a row moves with the luck of its seeds.

    sd     between seeds of one row, pooled over `rows` rows
    seeds  the smallest number of seeds of these rows
    apart  by how much two rows of so many seeds must differ to be told apart, 95 % surely
    """

    sd: float
    rows: int
    seeds: int
    apart: float


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The scores of a suite under a protocol, the ranked rows first and the best of them at the top.

    settings   those of each task that counts
    left_out   tasks of the suite that were not asked for: without them the mean is no MAD score
    chance, ceiling  of each task
    signal     of each task: the spread between architectures over the spread between seeds; None where fewer
               than two rows have two seeds
    noise      of the mean; None where no row has two seeds
    own        how many runs are the store's
    reference  versions and devices that made the runs that came with the package
    """

    suite: str
    protocol: str
    metric: str
    settings: dict[str, tuple[str, ...]]
    left_out: tuple[str, ...]
    chance: dict[str, float]
    ceiling: dict[str, float]
    signal: dict[str, float | None]
    noise: Noise | None
    architectures: tuple[ArchitectureScore, ...]
    own: int
    reference: tuple[str, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.settings)

    @property
    def mean(self) -> str:
        """What the mean over the tasks is called."""
        return f"mean of {len(self.settings)}" if self.left_out else "MAD"


def by_seed(parts: list[dict[int, float]]) -> dict[int, float]:
    """The mean over the parts for each seed that all of them have."""
    seeds = sorted(set.intersection(*map(set, parts))) if parts else []
    return {seed: average(part[seed] for part in parts) for seed in seeds}
