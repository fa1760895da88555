"""Two architectures of a board, setting by setting and over the tasks: who is better, and how sure that is.

`mad.score.pairing` has the statistic. A setting's p is corrected for the number of settings (Holm).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

from mad.data.protocol import Protocol, Suite
from mad.score import pairing
from mad.score.interval import average
from mad.score.pairing import LEVEL, Basis, Pool, Side
from mad.score.rows import ArchitectureScore, Scores, SettingScore
from mad.score.selection import Point
from mad.score.sides import Fetch, HitReader, by_setting, pool

if TYPE_CHECKING:
    import pandas

# What would settle a setting that is not separated. "seed": a second one, since nothing is known of their
# luck; "rows": more test rows; "more": more than a thousand seeds; "equal": there is no difference.
Needs = Literal["", "seeds", "seed", "rows", "more", "equal"]


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """One of the two: what it is called, and what it costs.

    seconds  of training, of the chosen run of the first seed, over the settings that are compared
    devices  that made the chosen runs
    """

    label: str
    given: str
    spec: str
    architecture_key: str
    rank: int | None
    params: int | None
    core_params: int | None
    flops_per_token: float | None
    state: int | None
    nominal_state: int | None
    seconds: float | None
    devices: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SettingComparison:
    """One setting: the scores from 0 to 1, a - b with its 95 % interval, and how sure it is.

    p             of "they are equal", two-sided; `adjusted` by Holm over the settings, `separated` where that
                  is below 0.05
    a_points      (learning rate, weight decay) that was chosen, for each of `a_seeds`; likewise b
    rows, luck    what the interval is made of: see `mad.score.pairing.Difference`
    seeds_needed  how many seeds of each would separate them with a power of 80 %, if the observed difference
                  is the true one; None where they are separated, or seeds do not help: `needs` says what does
    """

    setting: str
    task: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    error: float
    df: float
    p: float
    adjusted: float
    separated: bool
    a_seeds: tuple[int, ...]
    b_seeds: tuple[int, ...]
    a_points: tuple[Point, ...]
    b_points: tuple[Point, ...]
    rows: Basis
    luck: bool
    needs: Needs
    seeds_needed: int | None


@dataclass(frozen=True, kw_only=True)
class MeanComparison:
    """The mean over the tasks that both have, each the mean of its settings that both have."""

    tasks: int
    a: float
    b: float
    difference: float
    low: float
    high: float
    error: float
    df: float
    p: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two architectures on a suite under a protocol. `lacking`: settings that one of them has not run."""

    suite: str
    protocol: str
    metric: str
    a: Contestant
    b: Contestant
    settings: tuple[SettingComparison, ...]
    mean: MeanComparison
    lacking: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """The conclusion as one sentence."""
        from mad.score.verdict import verdict

        return verdict(self)

    def frame(self) -> pandas.DataFrame:
        """One row per setting; the columns are the fields of `SettingComparison`."""
        import pandas

        names = [field.name for field in fields(SettingComparison)]
        rows = [[getattr(setting, name) for name in names] for setting in self.settings]
        return pandas.DataFrame(rows, columns=names).astype({"seeds_needed": "Int64"})


def compare_rows(
    scores: Scores,
    a: ArchitectureScore,
    b: ArchitectureScore,
    suite: Suite,
    protocol: Protocol,
    fetch: Fetch,
) -> Comparison:
    """Compare two rows of a board. `fetch` gives the record of an id, for its hits by row; None where it has
    gone, and then rows are not paired.
    """
    if a.architecture_key == b.architecture_key:
        raise ValueError(f"{a.label!r} is compared with itself; name another architecture")
    ours, theirs = by_setting(a), by_setting(b)
    common = [
        label for labels in scores.settings.values() for label in labels if label in ours and label in theirs
    ]
    if not common:
        raise ValueError(
            f"{a.label!r} and {b.label!r} have no setting of {scores.suite} in common; "
            f'run one on the tasks of the other: mad bench "{b.given}" --suite {scores.suite}'
        )
    reader = HitReader(suite, protocol, fetch)
    pairs = []
    for label in common:
        one, other = reader.side(ours[label]), reader.side(theirs[label])
        pairs.append((one, other, pool(scores, label, a, b)))
    found = [pairing.difference(*pair) for pair in pairs]
    adjusted = pairing.holm([one.p for one in found])
    level = LEVEL / len(found)
    settings = []
    for label, pair, result, p in zip(common, pairs, found, adjusted, strict=True):
        left, right = ours[label], theirs[label]
        needs, seeds = ("", None) if p < LEVEL else _needs(pair, result, level)
        settings.append(
            SettingComparison(
                setting=label,
                task=left.task,
                a=left.value,
                b=right.value,
                difference=result.value,
                low=result.low,
                high=result.high,
                error=result.error,
                df=result.df,
                p=result.p,
                adjusted=p,
                separated=p < LEVEL,
                a_seeds=left.seeds,
                b_seeds=right.seeds,
                a_points=left.chosen,
                b_points=right.chosen,
                rows=result.rows,
                luck=result.luck,
                needs=needs,
                seeds_needed=seeds,
            )
        )
    every = [label for labels in scores.settings.values() for label in labels]
    lacking = [
        f"{label} ({' and '.join(row.label for row, has in ((a, ours), (b, theirs)) if label not in has)})"
        for label in every
        if label not in common
    ]
    return Comparison(
        suite=scores.suite,
        protocol=scores.protocol,
        metric=scores.metric,
        a=_contestant(a, [ours[label] for label in common], reader),
        b=_contestant(b, [theirs[label] for label in common], reader),
        settings=tuple(settings),
        mean=_mean(settings, pairs),
        lacking=tuple(lacking),
        notes=tuple(_notes(settings, pairs, protocol, reader)),
    )


def _needs(
    pair: tuple[Side, Side, Pool], found: pairing.Difference, level: float
) -> tuple[Needs, int | None]:
    a, b, _ = pair
    if found.value == 0:
        return "equal", None
    if not found.luck:
        return "seed", None
    seeds = pairing.seeds_to_separate(*pair, level)
    if seeds is not None:
        return "seeds", seeds
    # With one seed the rows' part has some of the luck of the seed in it.
    single = min(a.seeds, b.seeds) == 1
    return ("rows" if pairing.rows_limit(a, b, level) and not single else "more"), None


def _mean(settings: Sequence[SettingComparison], pairs: Sequence[tuple[Side, Side, Pool]]) -> MeanComparison:
    tasks: dict[str, int] = {}
    for setting in settings:
        tasks[setting.task] = tasks.get(setting.task, 0) + 1
    weights = [1 / len(tasks) / tasks[setting.task] for setting in settings]
    whole = pairing.weighted([(*pair, weight) for pair, weight in zip(pairs, weights, strict=True)])
    return MeanComparison(
        tasks=len(tasks),
        a=average([average([s.a for s in settings if s.task == task]) for task in tasks]),
        b=average([average([s.b for s in settings if s.task == task]) for task in tasks]),
        difference=whole.value,
        low=whole.low,
        high=whole.high,
        error=whole.error,
        df=whole.df,
        p=whole.p,
    )


def _contestant(row: ArchitectureScore, settings: Sequence[SettingScore], reader: HitReader) -> Contestant:
    seconds = [setting.cost.seconds for setting in settings if setting.cost is not None]
    ids = [id for setting in settings for id in setting.ids]
    return Contestant(
        **{name: getattr(row, name) for name in COPIED},
        seconds=sum(seconds) if len(seconds) == len(settings) else None,
        devices=tuple(dict.fromkeys(reader.devices[id] for id in ids if id in reader.devices)),
        notes=row.notes,
    )


COPIED = (
    *("label", "given", "spec", "architecture_key", "rank", "params", "core_params", "flops_per_token"),
    *("state", "nominal_state"),
)


def _notes(
    settings: Sequence[SettingComparison],
    pairs: Sequence[tuple[Side, Side, Pool]],
    protocol: Protocol,
    reader: HitReader,
) -> Iterator[str]:
    """What the intervals are made of, where it is not rows and seeds."""
    single = [min(len(s.a_seeds), len(s.b_seeds)) == 1 for s in settings]
    if not all(setting.luck for setting in settings):
        yield (
            "With one seed, and no other row that has two, the intervals are of test rows alone: the luck of "
            "a seed, which is often larger, is not in them; add --seeds 3 to `mad bench`"
        )
    elif any(single):
        yield (
            "Where there is one seed, its luck is taken from the other rows of the board that have two or "
            "more: right in the mean over architectures, not for each"
        )
    if any(setting.a_seeds != setting.b_seeds for setting in settings):
        yield "The two have different seeds: all of each are used, since seeds are not paired"
    if protocol.metric != "micro":
        yield f"{protocol.metric} accuracy is no share of hits, so that test rows are not paired"
    elif reader.unknown:
        yield (
            "Some runs were made before hits by row were kept, or do not fit the test rows: there the "
            "interval is of seeds alone, or with one seed as of independent test rows"
        )
