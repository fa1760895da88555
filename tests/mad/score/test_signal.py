"""What of a board is the architectures, what the luck of the seeds, and who is ranked."""

import math

import numpy as np
import pytest

from mad.board.caption import caption
from mad.data.records import Record
from mad.score import Scores, score
from mad.score.families import FAMILIES, family
from mad.score.signal import signal
from tests.mad.records import SOUND, TWO, architecture, group, record

RECALL, COMPRESSION = TWO.settings


def board(**values: tuple[list[float], list[float]]) -> Scores:
    """Of each architecture the scores of its seeds on recall and compression."""
    runs = [
        run
        for name, parts in values.items()
        for at, part in zip(TWO.settings, parts, strict=True)
        for seed, value in enumerate(part)
        for run in group(at, value, 0.0, spec=name, seed=seed)
    ]
    return score(runs, TWO, SOUND)


def test_the_signal_is_that_of_a_simulation() -> None:
    """Between architectures a standard deviation of 0.2, between seeds 0.05: four times as much."""
    rng = np.random.default_rng(0)
    groups = [list(rng.normal(mean, 0.05, 3)) for mean in rng.normal(0.5, 0.2, 400)]
    assert signal(groups) == pytest.approx(4.0, rel=0.1)
    # Means of three seeds spread by themselves, by which no architecture is told from another.
    assert (signal([list(rng.normal(0.5, 0.05, 3)) for _ in range(400)]) or 0) < 0.35


def test_the_signal_by_hand() -> None:
    # Means 0.2 and 0.6, variances 0.02 each: between = 0.08 - 0.02 / 2 = 0.07.
    found = signal([[0.1, 0.3], [0.5, 0.7]])
    assert found == pytest.approx(math.sqrt(0.07 / 0.02))
    # Seeds that agree to the last digit shown have no smaller spread: two rows 0.05 points apart are none.
    assert signal([[1.0, 1.0], [0.9995, 0.9995]]) == pytest.approx(math.sqrt(0.0005**2 / 2) / 0.001)


def test_a_task_that_all_solve_has_no_signal_and_one_seed_none_at_all() -> None:
    found = board(a=([1.0, 1.0], [0.2, 0.21]), b=([1.0, 1.0], [0.8, 0.82]))
    assert found.signal["in-context-recall"] == 0 and (found.signal["compression"] or 0) > 20
    said = " ".join(caption(found))
    assert "below 2 a task separates little: in-context-recall." in said
    single = board(a=([1.0], [0.2]), b=([0.5], [0.8]))
    assert set(single.signal.values()) == {None} and single.noise is None
    assert "Signal" not in " ".join(caption(single)) and "--seeds 3 measures it" in " ".join(caption(single))
    assert set(board(a=([1.0, 0.9], [0.2, 0.1])).signal.values()) == {None}, "of one row nothing is known"


def test_the_noise_is_that_of_the_mean_and_says_from_where_on_rows_are_apart() -> None:
    # The mean of a row is 0.5 and 0.7 by seed, that of b 0.4 and 0.4: variances 0.02 and 0.
    found = board(a=([0.4, 0.6], [0.6, 0.8]), b=([0.3, 0.5], [0.5, 0.3])).noise
    assert found is not None and (found.rows, found.seeds) == (2, 2)
    assert found.sd == pytest.approx(0.1)
    assert found.apart == pytest.approx(4.3027 * 0.1, rel=1e-4), "t of two degrees of freedom, sqrt(2 / 2)"


def test_a_rank_is_what_its_sentence_says() -> None:
    rng = np.random.default_rng(1)
    names = [f"a{i}" for i in range(40)]
    values = {n: (list(rng.random(3).round(3)), list(rng.random(3).round(3))) for n in names}
    rows = board(**values).architectures
    for row in rows:
        assert row.mad is not None
        above = sum(other.mad.low > row.mad.high for other in rows if other.mad)
        assert row.rank == 1 + above
    assert len({row.rank for row in rows}) > 1


def test_rows_that_solve_everything_share_the_first_rank() -> None:
    perfect = [1.0, 1.0, 1.0]
    found = board(a=(perfect, perfect), b=(perfect, perfect), c=([0.5, 0.6, 0.7], perfect))
    assert [(row.label, row.rank) for row in found.architectures] == [("a", 1), ("b", 1), ("c", 3)]


def test_unranked_rows_push_nobody_down() -> None:
    def both(name: str, value: float) -> list[Record]:
        return [run for at in TWO.settings for run in group(at, value, 0, spec=name)]

    records = [*both("old", 0.9), *group(RECALL, 0.99, 0, spec="half"), *both("new", 0.5)]
    found = score(records, TWO, SOUND, versions={"old": 2})
    assert [(row.label, row.rank) for row in found.architectures] == [
        ("new", 1),
        ("half", None),
        ("old", None),
    ]
    assert "a row that lacks a task or is stale has none" in " ".join(caption(found))


def test_a_part_of_the_battery_is_called_by_its_tasks() -> None:
    runs = [*group(RECALL, 0.5, 0.6), *group(COMPRESSION, 0.8, 0.9)]
    found = score(runs, TWO, SOUND, tasks=["compression"])
    assert found.tasks == ("compression",) and found.left_out == ("in-context-recall",)
    (row,) = found.architectures
    assert row.mad is not None and row.mad.value == 0.9 and row.complete and row.rank == 1
    assert found.mean == "mean of 1" and "compression, 1 of the suite's 2 tasks: no MAD score" in " ".join(
        caption(found)
    )
    assert score(runs, TWO, SOUND).mean == "MAD" and not score(runs, TWO, SOUND).left_out
    alone = score([record(RECALL)], TWO, SOUND, tasks=["compression"])
    assert not alone.architectures, "a row without a run of these tasks is no row"
    with pytest.raises(ValueError, match="no task 'compresion'; did you mean 'compression'"):
        score(runs, TWO, SOUND, tasks=["compresion"])
    with pytest.raises(ValueError, match="no task is named; name some of in-context-recall, compression"):
        score(runs, TWO, SOUND, tasks=[])


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (["mh-attention", "swiglu"], "attention"),
        (["gated-delta-net", "swiglu"], "recurrence"),
        (["hyena", "swiglu", "altup"], "convolution"),
        (["mamba", "moe-mlp", "mh-attention"], "hybrid"),
        (["swiglu", "mlp"], "none"),
        (["ema:Ema", "mh-attention"], "own"),
        ([], "own"),
    ],
)
def test_the_family_is_what_mixes_time(layers: list[str], expected: str) -> None:
    assert family(layers) == expected and expected in FAMILIES
    who = architecture("x", versions=dict.fromkeys(layers, 1))
    (row,) = score(group(RECALL, 0.5, 0.6, who=who), TWO, SOUND).architectures
    assert row.family == expected
