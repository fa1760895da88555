"""What of a board is shown, and in which order."""

import pytest

from mad.board import render
from mad.board.choice import filtered, sorted_by
from mad.score import Scores, score
from tests.mad.records import SOUND, TWO, architecture, group

RECALL, COMPRESSION = TWO.settings
SPECS = {"hyena swiglu": 0.9, "gated-delta-net swiglu": 0.6, "mamba[d_state=8, expand=1.0] swiglu": 0.3}


@pytest.fixture(scope="module")
def scores() -> Scores:
    records = []
    for spec, value in SPECS.items():
        layers = [word.partition("[")[0] for word in spec.replace(", ", ",").split()]
        who = architecture(spec, versions=dict.fromkeys(layers, 1))
        for at, found in ((RECALL, value), (COMPRESSION, 1 - value)):
            part = found if at is RECALL else found / 2
            records += [run for seed in range(2) for run in group(at, part, 0.0, who=who, seed=seed)]
    records += group(
        RECALL, 0.99, 0.0, who=architecture("my:Layer", versions={"my:Layer": 1}), given="my:Layer"
    )
    return score(records, TWO, SOUND, versions={"mamba": 2})


def labels(scores: Scores) -> list[str]:
    return [row.label for row in scores.architectures]


HYENA, DELTA, MAMBA, OWN = *SPECS, "my:Layer"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("in-context-recall", [OWN, HYENA, DELTA, MAMBA]),
        ("recall", [OWN, HYENA, DELTA, MAMBA]),
        ("-recall", [MAMBA, DELTA, HYENA, OWN]),
        ("compression", [MAMBA, DELTA, HYENA, OWN]),
        ("label", [DELTA, HYENA, MAMBA, OWN]),
        ("-label", [OWN, MAMBA, HYENA, DELTA]),
        ("mad", [HYENA, DELTA, MAMBA, OWN]),
        ("-mad", [MAMBA, DELTA, HYENA, OWN]),  # without a value: last in any order
        ("stale", [HYENA, DELTA, OWN, MAMBA]),
    ],
)
def test_rows_are_sorted_by_any_column(scores: Scores, name: str, expected: list[str]) -> None:
    found = sorted_by(scores, name)
    assert labels(found) == expected
    ranks = {row.label: row.rank for row in scores.architectures}
    assert {row.label: row.rank for row in found.architectures} == ranks, "the order is no rank"


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ("recall>50", [HYENA, DELTA, OWN]),
        ("recall>=90%", [HYENA, OWN]),
        ("in-context-recall<0.5%", None),
        ("family=recurrence", [DELTA, MAMBA]),
        ("family = Own", [OWN]),
        ("family!=recurrence , label ~ HYENA", [HYENA]),
        ("label!~swiglu", [OWN]),
        ("spec~[d_state=8, expand=1.0],recall<50", [MAMBA]),
        ("params<412k", None),
        ("params<=412345,params>=.4m,family!=own", [HYENA, DELTA, MAMBA]),
        ("state=4096", [HYENA, DELTA, OWN, MAMBA]),
        ("stale=no", [HYENA, DELTA, OWN]),
        ("stale!=false", [MAMBA]),
        ("rank=1", [HYENA]),
        ("mad<100", [HYENA, DELTA, MAMBA]),
        ("mad!=3", [HYENA, DELTA, OWN, MAMBA]),
        ("seeds=2", [HYENA, DELTA, MAMBA]),
    ],
)
def test_rows_are_filtered(scores: Scores, conditions: str, expected: list[str] | None) -> None:
    if expected is None:
        with pytest.raises(ValueError, match="no row meets"):
            filtered(scores, conditions)
    else:
        assert sorted(labels(filtered(scores, conditions))) == sorted(expected)


def test_what_is_left_is_ranked_and_measured_by_itself(scores: Scores) -> None:
    found = filtered(scores, "family=recurrence")
    assert [(row.label, row.rank) for row in found.architectures] == [(DELTA, 1), (MAMBA, None)]
    assert next(row.rank for row in scores.architectures if row.label == DELTA) == 2
    assert set(scores.signal.values()) != {None} and set(found.signal.values()) == {None}
    assert "1  gated-delta-net swiglu" in render(found)


@pytest.mark.parametrize(
    ("conditions", "value", "remedy"),
    [
        ("", "''", "params<1e6"),
        ("params", "'params'", "COLUMN"),
        ("params<", "'params<'", "COLUMN"),
        ("=3", "'=3'", "COLUMN"),
        ("mad>1,", "''", "joined by commas"),
        ("parms<1e6", "'parms'", "'params'"),
        ("copying>3", "'copying'", "compression"),
        ("__class__=x", "'__class__'", "rank"),
        ("mad>0.8", "0.8", "80"),
        ("params>many", "'many'", "1e6"),
        ("params>5%", "'5%'", "1e6"),
        ("params>inf", "'inf'", "1e6"),
        ("params~4", "params is a number", "<"),
        ("spec<x", "spec is a text", "~"),
        ("stale=maybe", "stale is true or false", "stale=true"),
        ("family=delta", "'family=delta'", "convolution or own or recurrence"),
        ("recall>99.9", "'recall>99.9'", "from 30 to 99"),
        ("family=own,stale=true", "no row meets", "leave one"),
        ("label~__import__('os').system('false')", "no row meets", "architecture is"),
    ],
)
def test_a_condition_that_cannot_be_is_answered(
    scores: Scores, conditions: str, value: str, remedy: str
) -> None:
    with pytest.raises(ValueError) as told:
        filtered(scores, conditions)
    assert value in str(told.value) and remedy in str(told.value)


def test_an_unknown_column_is_answered_with_the_nearest(scores: Scores) -> None:
    with pytest.raises(ValueError, match="unknown column 'parms'; did you mean 'params'"):
        sorted_by(scores, "parms")
    with pytest.raises(ValueError, match="unknown column ''"):
        sorted_by(scores, "-")


def test_an_empty_board_can_be_sorted_and_filtered() -> None:
    empty = score([], TWO, SOUND)
    assert not filtered(empty, "params<3").architectures and not sorted_by(empty, "mad").architectures
