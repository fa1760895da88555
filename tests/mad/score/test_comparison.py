"""Two rows of a board compared: what is said of each setting, of the mean, and in one sentence."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mad
from mad.api import scores_of
from mad.board.versus import render
from mad.data.protocol import SUITES
from mad.data.records import Record
from mad.score import score
from mad.score.comparison import Comparison, MeanComparison, SettingComparison, compare_rows
from mad.score.finding import neighbour, row_of
from mad.score.pairs import pairs_of
from mad.store import Store
from tests.mad.records import PUBLIC, SOUND, architecture, record, setting, suite
from tests.mad.score.answers import answered, hits_at, targets_of

RATE = {"lrs": (1e-3,)}
RECALL = setting("in-context-recall[vocab_size=8, seq_len=16]", **RATE)
COMPRESSION = setting("compression[vocab_size=8, seq_len=8]", **RATE)
EXAM = suite(RECALL, COMPRESSION)
Levels = dict[str, tuple[list[float], list[float]]]

# Far apart on recall, close on compression; three seeds each, and others that say how seeds move.
APART: Levels = {
    "mamba": ([0.80, 0.81, 0.79], [0.400, 0.402, 0.398]),
    "hyena": ([0.60, 0.61, 0.59], [0.401, 0.403, 0.399]),
    "mlp": ([0.30, 0.31, 0.29], [0.20, 0.21, 0.19]),
}


def runs(levels: Levels, *, keep: bool = True, seed: int = 0) -> list[Record]:
    """A run for each architecture, setting and seed, of answers with about these accuracies."""
    rng = np.random.default_rng(seed)
    return [
        answered(at, hits, spec=spec, seed=s, keep=keep)
        for spec, parts in levels.items()
        for at, values in zip((RECALL, COMPRESSION), parts, strict=True)
        for s, hits in enumerate(hits_at(at, values, rng))
    ]


def compared(
    records: list[Record], a: str = "mamba", b: str = "hyena", exam: Any = EXAM, protocol: Any = SOUND
) -> Comparison:
    scores = score(records, exam, protocol)
    by_id = {run.id: run for run in records}
    return compare_rows(scores, row_of(scores, a), row_of(scores, b), exam, protocol, by_id.get)


def test_what_differs_is_separated_and_what_does_not_is_not() -> None:
    found = compared(runs(APART))
    recall, compression = found.settings
    assert recall.separated and recall.difference == pytest.approx(0.2, abs=0.02)
    assert recall.low > 0.1 and recall.adjusted < 0.01 and recall.needs == ""
    assert not compression.separated and compression.low < 0 < compression.high
    assert (recall.rows, recall.luck, recall.a_seeds) == ("paired", True, (0, 1, 2))
    assert recall.a_points == ((1e-3, 0.0),) * 3
    assert found.mean.tasks == 2 and found.mean.difference == pytest.approx(
        (recall.difference + compression.difference) / 2
    )
    assert found.notes == () and found.lacking == ()


def parts(found: Comparison) -> list[SettingComparison | MeanComparison]:
    return [*found.settings, found.mean]


def test_turning_the_two_turns_the_signs() -> None:
    there, back = compared(runs(APART)), compared(runs(APART), "hyena", "mamba")
    for one, other in zip(parts(there), parts(back), strict=True):
        assert (one.p, one.difference, one.low) == pytest.approx((other.p, -other.difference, -other.high))
    assert there.verdict == back.verdict, "who is named first makes no difference"


def test_the_sentence_says_who_is_better_where_and_what_would_settle_the_rest() -> None:
    said = compared(runs(APART)).verdict
    assert re.match(
        r"mamba is better in the mean of 2 tasks by \d+\.\d \+- \d\.\d points \(p [=<] [\d.]+\), "
        r"and on in-context-recall \(by 2\d\.\d \+- \d\.\d points, p [=<] [\d.]+\); "
        r"on compression they are not separated.*\.$",
        said,
    ), said
    close: Levels = {
        "mamba": ([0.61, 0.63], [0.5, 0.5]),
        "hyena": ([0.55, 0.57], [0.5, 0.5]),
        "mlp": ([0.55, 0.6, 0.5], [0.5, 0.5, 0.51]),
    }
    said = compared(runs(close)).verdict
    assert said.startswith("In the mean of 2 tasks they are not separated (mamba is ahead by")
    assert re.search(
        r"no task by itself separates them, and \d+ more seeds? of each would settle in-cont", said
    )


def test_more_settings_ask_for_more_seeds() -> None:
    """Seeds are foretold at the level that the correction for the settings leaves."""
    made = runs({"mamba": ([0.57, 0.66], [0.5, 0.5]), "hyena": ([0.52, 0.6], [0.5, 0.5])})
    alone, among = (compared(made, exam=exam).settings[0] for exam in (suite(RECALL), EXAM))
    assert alone.p == among.p and not alone.separated
    assert alone.seeds_needed is not None and among.seeds_needed is not None
    assert alone.seeds_needed < among.seeds_needed


def test_names_that_are_too_long_for_a_sentence_are_a_and_b() -> None:
    long = {("mamba " * 9).strip(): APART["mamba"], ("hyena " * 9).strip(): APART["hyena"]}
    assert compared(runs(long), *long).verdict.startswith("A is better in the mean")


def test_with_one_seed_the_luck_of_others_is_in_the_interval_or_the_reader_is_told() -> None:
    one = {spec: ([a[0]], [b[0]]) for spec, (a, b) in APART.items() if spec != "mlp"}
    alone, beside = compared(runs(one)), compared(runs(one | {"mlp": ([0.3, 0.4, 0.2], [0.2, 0.3, 0.1])}))
    assert not alone.settings[0].luck and "add --seeds 3" in " ".join(alone.notes)
    assert {setting.needs for setting in alone.settings} <= {"", "seed", "equal"}
    assert beside.settings[0].luck and "taken from the other rows" in " ".join(beside.notes)
    assert beside.settings[0].error > 2 * alone.settings[0].error
    assert alone.verdict.startswith("As trained with one seed, mamba is better in the mean")
    assert "a second seed would tell" in alone.verdict and "As trained" not in beside.verdict


def test_different_seeds_all_count_and_that_is_said() -> None:
    more = APART | {"hyena": ([0.60], [0.401])}
    found = compared(runs(more))
    assert found.settings[0].b_seeds == (0,) and "different seeds" in " ".join(found.notes)
    assert found.settings[0].a == pytest.approx(0.8, abs=0.02)


def test_runs_without_hits_are_compared_by_seeds_or_as_independent_rows() -> None:
    old = compared(runs(APART, keep=False))
    assert {s.rows for s in old.settings} == {"none"} and "before hits by row" in " ".join(old.notes)
    assert old.settings[0].separated
    one = {spec: ([a[0]], [b[0]]) for spec, (a, b) in APART.items()}
    assert {s.rows for s in compared(runs(one, keep=False)).settings} == {"unpaired"}
    mixed = runs({"mamba": one["mamba"]}) + runs({"hyena": one["hyena"]}, keep=False)
    assert {s.rows for s in compared(mixed).settings} == {"unpaired"}


def test_hits_that_no_row_can_have_are_not_believed() -> None:
    few = targets_of(RECALL).copy()
    few[:2] = 0, few[:2].sum()  # As many in all, but more than there are targets in a row.
    made = runs({"mamba": ([0.5], [0.5]), "hyena": ([0.6], [0.5])})
    bad = [run for run in made if run.config.architecture.spec != "mamba" or run.subject == "compression"]
    found = compared([*bad, answered(RECALL, few, spec="mamba")])
    assert found.settings[0].rows == "unpaired" and found.settings[1].rows == "paired"


def test_a_diverged_seed_counts_at_chance_in_every_row() -> None:
    made = [run for run in runs(APART) if (run.subject, run.config.seed) != ("in-context-recall", 2)]
    lost = [answered(RECALL, None, spec=spec, seed=2) for spec in APART]
    found = compared(made + lost)
    recall = found.settings[0]
    assert recall.rows == "paired" and recall.a_seeds == (0, 1, 2)
    assert recall.a == pytest.approx((0.80 + 0.81 + 0.125) / 3, abs=0.02)
    assert not recall.separated, "a seed of three diverged: who knows"


@pytest.mark.parametrize("level", [0.0, 1.0])
@pytest.mark.parametrize("seeds", [1, 2])
def test_equal_at_an_end_is_equal(level: float, seeds: int) -> None:
    made = [
        answered(at, (targets_of(at) * level).astype(int), spec=spec, seed=s)
        for spec in ("mamba", "hyena")
        for at in EXAM.settings
        for s in range(seeds)
    ]
    found = compared(made)
    assert [s.p for s in found.settings] == [1, 1] == [s.adjusted for s in found.settings]
    assert {s.needs for s in found.settings} == {"equal"} and found.mean.p == 1
    assert "in the mean of 2 tasks mamba and hyena are equal; no task by itself" in found.verdict.lower()
    for format in ("table", "md", "csv", "json"):
        assert "nan" not in render(found, format).lower()


def test_macro_accuracy_is_compared_by_seeds() -> None:
    public = [
        answered(at, targets_of(at, PUBLIC) // part, spec=spec, seed=seed, protocol=PUBLIC)
        for at in EXAM.settings
        for spec, part in (("mamba", 2), ("hyena", 3))
        for seed in range(3)
    ]
    found = compared(public, protocol=PUBLIC)
    assert {s.rows for s in found.settings} == {"none"} and "macro-batches" in found.notes[0]


def test_what_one_of_them_has_not_run_is_left_out_and_said() -> None:
    made = [run for run in runs(APART) if (run.subject, run.given) != ("compression", "hyena")]
    found = compared(made)
    assert [s.task for s in found.settings] == ["in-context-recall"] and found.mean.tasks == 1
    assert found.lacking == ("compression[vocab_size=8,seq_len=8] (hyena)",)
    assert "Not run, and so not compared: compression" in " ".join(render(found).split())


def test_settings_of_a_task_have_their_own_lines_and_a_task_one_weight() -> None:
    harder = setting("in-context-recall[vocab_size=8, seq_len=32]", **RATE)
    exam = suite(RECALL, harder, COMPRESSION)
    rng = np.random.default_rng(0)
    made = runs(APART) + [
        answered(harder, hits, spec=spec, seed=s)
        for spec in APART
        for s, hits in enumerate(hits_at(harder, [0.5, 0.51, 0.52], rng))
    ]
    found = compared(made, exam=exam)
    first, second, third = (s.difference for s in found.settings)
    assert found.mean.difference == pytest.approx(((first + second) / 2 + third) / 2)
    assert "in-context-recall[vocab_size=8,seq_len=32]" in "".join(render(found, "md"))


def test_the_frame_and_json_have_every_number() -> None:
    found = compared(runs(APART))
    table = found.frame()
    assert list(table["task"]) == ["in-context-recall", "compression"]
    assert table["separated"].tolist() == [True, False] and table["difference"].dtype == float
    content = json.loads(render(found, "json"))
    assert content["settings"][0]["difference"] == found.settings[0].difference
    assert content["verdict"] == found.verdict and content["a"]["params"] == 412_345


def test_the_table_fits_a_hundred_columns_and_says_its_rule() -> None:
    long = {("mamba swiglu " * 20).strip(): APART["mamba"], "hyena": APART["hyena"], "mlp": APART["mlp"]}
    text = render(compared(runs(long), next(iter(long))))
    assert max(map(len, text.splitlines())) <= 100
    plain = " ".join(text.split())
    assert "p is corrected for the 2 settings (Holm)" in plain and "412k parameters, state 4.1k" in plain
    with pytest.raises(ValueError, match="did you mean 'table'"):
        render(compared(runs(APART)), "tabel")


HOSTILE = ["<img src=x onerror=alert(1)>", "[bold red]x[/]", "a|b", "=1+1", "\x1b[31mred", "\u202eright"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_stay_text(name: str) -> None:
    made = [
        run.model_copy(update={"environment": {"device_name": name}})
        for spec in (name, "hyena")
        for run in runs({spec: ([0.5, 0.5], [0.5, 0.5])})
    ]
    found = compared(made, name)
    for format in ("table", "md", "csv"):
        text = render(found, format)
        assert "\x1b" not in text and "\u202e" not in text
        assert format != "md" or "<img" not in text
    assert json.loads(render(found, "json"))["a"]["label"] == name


def test_a_page_can_compare_any_two_rows_from_what_it_is_given() -> None:
    made = runs(APART | {"swiglu": ([0.5], [0.4])})
    scores = score(made, EXAM, SOUND)
    by_id = {run.id: run for run in made}
    given = json.loads(json.dumps(pairs_of(scores, EXAM, SOUND, by_id.get), allow_nan=False))
    names = {row.architecture_key: row.label for row in scores.architectures}
    for label, found in given.items():
        at = {names[key]: i for i, key in enumerate(found["keys"])}
        for a, b in (("mamba", "hyena"), ("swiglu", "mlp"), ("swiglu", "mamba")):
            (wanted,) = [s for s in compared(made, a, b).settings if s.setting == label]
            assert (page_p(found, at[a], at[b])) == pytest.approx(wanted.p, rel=0.02, abs=1e-12)


def page_p(of: dict[str, Any], a: int, b: int) -> float:
    """The formula in the docstring of `pairs_of`, word by word."""
    from scipy.special import stdtr

    value, seeds, spread, within, rows, size = (
        of[name] for name in ("values", "seeds", "spread", "within", "rows", "size")
    )
    w = [(v * (1 - v)) ** 2 for v in value]
    others = [i for i in range(len(value)) if i not in (a, b) and w[i] and seeds[i] > 1]
    f = sum(seeds[i] - 1 for i in others)
    pool = (
        sum(spread[i] * (seeds[i] - 1) for i in others) / sum(w[i] * (seeds[i] - 1) for i in others)
        if f
        else 0
    )
    g = min(2, f)
    terms, shared = [], 0.0
    for x in (a, b):
        own, d = spread[x] * (seeds[x] - 1), seeds[x] - 1 + g
        both = own + pool * w[x] * g
        s = max(within[x], both / d) if d else 0
        h = own / both if both else (seeds[x] - 1) / d if d else 0
        terms.append((s * h / seeds[x], seeds[x] - 1))
        shared += s * (1 - h) / seeds[x]
    row = rows[a][a] + rows[b][b] - 2 * rows[a][b] - within[a] / seeds[a] - within[b] / seeds[b]
    terms += [(shared, g), (max(1 / size**2, row), size - 1)]
    terms = [(variance, df) for variance, df in terms if variance]
    error = sum(variance for variance, _ in terms) ** 0.5
    df = error**4 / sum(variance**2 / df for variance, df in terms)
    return float(2 * stdtr(df, -abs(value[a] - value[b]) / error))


def test_the_neighbour_is_the_row_above_and_of_the_first_the_one_below() -> None:
    scores = score(runs(APART), EXAM, SOUND)
    assert [row.label for row in scores.architectures] == ["mamba", "hyena", "mlp"]
    assert neighbour(scores, row_of(scores, "mlp")).label == "hyena"
    assert neighbour(scores, row_of(scores, "mamba")).label == "hyena"


def test_a_row_is_found_by_any_of_its_names() -> None:
    made = runs({"2*(mamba swiglu)": APART["mamba"], "hyena": APART["hyena"]})
    scores = score(made, EXAM, SOUND)
    row = row_of(scores, "2*(mamba swiglu)")
    for name in (
        "mine=2*(mamba swiglu)",
        "mamba swiglu mamba swiglu",
        " 2*( mamba swiglu )",
        row.architecture_key[:8],
    ):
        assert row_of(scores, name) is row


def both(records: list[Record], a: str, b: str) -> Callable[[], object]:
    scores = score(records, EXAM, SOUND)
    return lambda: compare_rows(scores, row_of(scores, a), row_of(scores, b), EXAM, SOUND, lambda id: None)


REFUSED = [
    (
        both(runs(APART), "mamba", "hyna"),
        "'hyna' has no runs of test@1.*did you mean 'hyena'.*mad bench \"hyna\"",
    ),
    (both(runs(APART), "mamba", "no_such:Layer"), "'no_such:Layer' has no runs"),
    (both(runs(APART), "mamba", "mamba"), "compared with itself"),
    (
        both(
            [run for run in runs(APART) if (run.given == "mamba") == (run.subject == "compression")],
            "mamba",
            "hyena",
        ),
        "no setting of test@1.* in common.*mad bench",
    ),
    (both(runs(APART), "mamba", "hyena"), "have gone from the store meanwhile"),
]


@pytest.mark.parametrize(("call", "said"), REFUSED, ids=[said[:25] for _, said in REFUSED])
def test_what_cannot_be_compared_is_refused_with_a_remedy(call: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        call()


def test_a_name_of_two_rows_is_told_apart_by_their_keys() -> None:
    made = runs({"hyena": APART["hyena"]}) + [
        record(at, spec="hyena", precision="bf16-mixed") for at in EXAM.settings
    ]
    scores = score(made, EXAM, SOUND)
    with pytest.raises(ValueError, match="is 2 rows of test@1.*bf16-mixed") as refused:
        row_of(scores, "hyena")
    key = re.findall(r"\b([0-9a-f]{8}) \(bf16-mixed", str(refused.value))[0]
    assert row_of(scores, key).precision == "bf16-mixed"


def test_one_architecture_alone_has_nobody_to_be_compared_with() -> None:
    scores = score(runs({"mamba": APART["mamba"]}), EXAM, SOUND)
    with pytest.raises(ValueError, match="only architecture with runs of test@1.*mad bench"):
        neighbour(scores, row_of(scores, "mamba"))
    partial = [run for run in runs(APART) if run.subject == "compression"]
    with pytest.raises(ValueError, match="has no rank in test@1.*results are missing"):
        scores = score(partial, EXAM, SOUND)
        neighbour(scores, row_of(scores, "mamba"))


def test_reference_rows_and_own_rows_are_compared_alike(tmp_path: Path) -> None:
    """In Python, from the package and a store."""
    nothing = tmp_path / "empty.sqlite"
    Store(nothing).close()
    first, second, *_ = scores_of(store=nothing).architectures
    found = mad.compare(second.label, store=nothing)
    assert (found.a.label, found.b.label) == (second.label, first.label)
    assert len(found.settings) == len(SUITES["quick"].settings) == len(found.frame())
    with pytest.raises(ValueError, match="no runs of"):
        mad.compare(first.label, second.label, store=nothing, reference=False)
    who = architecture("mlp", dim=64)
    quick = SUITES["quick"].settings
    own = [answered(at, targets_of(at) // 2, lr=at.lrs[0], spec="mlp", who=who) for at in quick]
    with Store(nothing) as opened:
        opened.commit(own)
    mixed = mad.compare("mlp", first.label, store=nothing, tasks=["compression", "memorization"])
    assert {s.task for s in mixed.settings} == {"compression", "memorization"}
    assert mixed.mean.difference < 0
