"""`mad sparsify`: one training, tested at several shares of what its maps leave out."""

import json
from pathlib import Path

import pytest

from mad.run.sparsify import compare, summarise
from tests.commands import Command

SMALL = ["--suite", "smoke", "--tasks", "compression"]


def test_one_training_is_tested_at_every_share() -> None:
    lines: list[str] = []
    points = compare(
        "mh-attention swiglu", suite="smoke", tasks=["compression"], shares=[0.0, 0.5], report=lines.append
    )
    assert lines == ["compression: 8 steps"]
    whole, *rest = points
    assert [p.kind for p in points] == ["whole", "even", "balanced", "even", "balanced"]
    assert (whole.agreement, whole.left_out) == (1, 0) and abs(whole.kl) < 1e-6
    for point in rest[:2]:  # a share of nothing
        assert (point.accuracy, point.loss, point.agreement) == (whole.accuracy, whole.loss, 1)
        assert point.left_out < 1e-3
    for point in rest[2:]:
        assert point.left_out == pytest.approx(0.5, abs=0.03) and point.kl > 0
        assert 0 <= point.accuracy <= 1 and point.loss != whole.loss
    # Where a layer's own output moves least, the answers move less.
    assert rest[3].kl < rest[2].kl
    again = compare("mh-attention swiglu", suite="smoke", tasks=["compression"], shares=[0.0, 0.5])
    assert again == points
    rows = summarise([*points, *again])
    assert [(row["kind"], row["share"]) for row in rows] == [(p.kind, p.share) for p in points]
    assert rows[3]["accuracy"] == rest[2].accuracy


def test_the_verb_prints_and_writes(tmp_path: Path, cli: Command) -> None:
    data = tmp_path / "shares.json"
    status, out, _ = cli("sparsify", "mlp", *SMALL, "--shares", "0.3", "--json", data)
    assert status == 0 and all(word in out for word in ("whole", "even", "balanced", "left out"))
    assert [p["share"] for p in json.loads(data.read_text())["points"]] == [0.0, 0.3, 0.3]


@pytest.mark.parametrize(
    "words, part",
    [
        (["moe-mlp", *SMALL], "moe-mlp has no nn.Linear inside of its layers"),
        (["mlp", *SMALL, "--shares", "1.5"], "a share of 1.5 is not between 0"),
        (["mlp", *SMALL, "--shares", "half"], "--shares half is not a list of numbers"),
        ([], "Missing argument 'SPEC'"),
    ],
)
def test_a_wrong_call_is_one_line(words: list[str], part: str, cli: Command) -> None:
    _, out, err = cli("sparsify", *words)
    assert part in out + err
