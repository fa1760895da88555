import math
from collections import defaultdict
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy

from mad.data.hits import unpack
from mad.data.records import Measure
from mad.run.metrics import EVALUATION_BATCH, cross_entropy, measure
from synthetic_tasks import IGNORE

T, V = 5, 7


def questions(rows: int, *, scored: float, seed: int = 0, vocab_size: int = V) -> tuple[Tensor, Tensor]:
    """Logits (rows, T, V) that are right more often than not, and targets, of which few may be scored."""
    g = torch.Generator().manual_seed(seed)
    targets = torch.randint(vocab_size, (rows, T), generator=g)
    logits = torch.randn(rows, T, vocab_size, generator=g) + F.one_hot(targets, vocab_size)
    blank = torch.rand(rows, T, generator=g) >= scored
    blank[::EVALUATION_BATCH, 0] = False  # A batch scores something.
    return logits, targets.masked_fill(blank, IGNORE)


def score(*replicas: Tensor, targets: Tensor, by_row: bool = False) -> list[Measure]:
    """Measure given logits: the inputs are the numbers of the rows, with which they are looked up."""
    stacked = torch.stack(replicas)
    rows = torch.arange(len(targets))[:, None].expand(-1, targets.shape[1])
    return measure(lambda x: stacked[:, x[:, 0]], rows, targets, stacked.shape[-1], by_row=by_row)


def answers(predictions: list[int], targets: list[int], rows: int, vocab_size: int) -> Measure:
    """Measure certain predictions, `rows` rows of them."""
    logits = F.one_hot(torch.tensor(predictions), vocab_size).float().view(rows, -1, vocab_size)
    return score(logits, targets=torch.tensor(targets).view(rows, -1))[0]


def naive(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """Every number, one target at a time."""
    hits: dict[int, list[int]] = defaultdict(list)
    loss = 0.0
    batches = []
    for first in range(0, len(targets), EVALUATION_BATCH):
        seen: dict[int, list[int]] = defaultdict(list)
        guessed = set()
        for row in range(first, min(first + EVALUATION_BATCH, len(targets))):
            for t in range(targets.shape[1]):
                truth = int(targets[row, t])
                if truth == IGNORE:
                    continue
                values = logits[row, t].tolist()
                guess = values.index(max(values))
                guessed.add(guess)
                hits[truth].append(guess == truth)
                seen[truth].append(guess == truth)
                loss += math.log(sum(math.exp(v) for v in values)) - values[truth]
        per_class = [sum(seen[c]) / len(seen[c]) if seen[c] else 0.0 for c in guessed | set(seen)]
        batches.append(sum(per_class) / len(per_class))
    flat = [hit for of_class in hits.values() for hit in of_class]
    return {
        "targets": len(flat),
        "micro": sum(flat) / len(flat),
        "macro": sum(sum(h) / len(h) for h in hits.values()) / len(hits),
        "macro_batches": sum(batches) / len(batches),
        "loss": loss / len(flat),
    }


@pytest.mark.parametrize("rows", [1, 3, EVALUATION_BATCH, EVALUATION_BATCH + 1, 2 * EVALUATION_BATCH + 37])
@pytest.mark.parametrize("scored", [1.0, 0.5, 0.02], ids=["all", "half", "few"])
def test_it_is_a_naive_count(rows: int, scored: float) -> None:
    logits, targets = questions(rows, scored=scored, seed=rows)
    (found,) = score(logits, targets=targets)
    assert found.rows == rows
    assert found.model_dump(exclude={"rows", "hits"}) == pytest.approx(naive(logits, targets), rel=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 300), st.floats(0.01, 1), st.integers(0, 1000), st.sampled_from([2, 3, 50]))
def test_it_is_a_naive_count_of_anything(rows: int, scored: float, seed: int, vocab_size: int) -> None:
    logits, targets = questions(rows, scored=scored, seed=seed, vocab_size=vocab_size)
    (found,) = score(logits, targets=targets)
    assert found.model_dump(exclude={"rows", "hits"}) == pytest.approx(naive(logits, targets), rel=1e-5)


def test_replicas_at_once_are_replicas_one_by_one() -> None:
    _, targets = questions(EVALUATION_BATCH + 50, scored=0.4)
    replicas = [questions(EVALUATION_BATCH + 50, scored=1.0, seed=seed)[0] for seed in range(3)]
    together = score(*replicas, targets=targets)
    assert together == [score(logits, targets=targets)[0] for logits in replicas]
    assert len({found.micro for found in together}) == 3


@pytest.mark.parametrize("rows", [1, EVALUATION_BATCH, 2 * EVALUATION_BATCH + 37])
def test_hits_are_counted_by_row_and_by_replica(rows: int) -> None:
    _, targets = questions(rows, scored=0.4)
    replicas = [questions(rows, scored=1.0, seed=seed)[0] for seed in range(2)]
    for found, logits in zip(score(*replicas, targets=targets, by_row=True), replicas, strict=True):
        assert found.hits is not None
        naively = [
            sum(int(guess) == int(t) for guess, t in zip(row.argmax(-1), truth, strict=True))
            for row, truth in zip(logits, targets, strict=True)
        ]
        assert unpack(found.hits, rows).tolist() == naively
        assert found.model_copy(update={"hits": None}) == score(logits, targets=targets)[0]


def test_the_order_of_rows_matters_to_the_average_over_batches_only() -> None:
    logits, targets = questions(3 * EVALUATION_BATCH + 1, scored=0.3)
    (found,), (turned,) = score(logits, targets=targets), score(logits.flip(0), targets=targets.flip(0))
    assert (found.micro, found.macro, found.targets) == (turned.micro, turned.macro, turned.targets)
    assert found.loss == pytest.approx(turned.loss)
    assert found.macro_batches != turned.macro_batches


def test_macro_is_over_the_classes_that_have_targets() -> None:
    # Class 0: 1 of 2, class 1: 1 of 1. Class 2 is only ever guessed, class 3 never seen.
    found = answers([0, 2, 1], [0, 0, 1], rows=1, vocab_size=4)
    assert (found.micro, found.macro, found.macro_batches) == pytest.approx((2 / 3, 3 / 4, 1 / 2))


@pytest.mark.parametrize(("errors", "published"), [(0, 1.0), (1, 0.889), (4, 0.667)])
def test_the_public_macro_falls_for_a_class_that_was_only_guessed(errors: int, published: float) -> None:
    # 8,000 targets among 8 value classes; each error names another key, which is never a target.
    targets = [8 + i % 8 for i in range(8000)]
    predictions = [*range(errors), *targets[errors:]]
    found = answers(predictions, targets, rows=125, vocab_size=16)
    assert found.macro_batches == pytest.approx((8 - errors / 1000) / (8 + errors))
    assert found.macro_batches == pytest.approx(published, abs=1e-3)
    assert found.micro == 1 - errors / 8000
    assert found.macro == pytest.approx(1 - errors / 8000)


@pytest.mark.parametrize("rows", [64, EVALUATION_BATCH, 3 * EVALUATION_BATCH + 20])
@pytest.mark.parametrize("scored", [1.0, 0.05], ids=["all", "few"])
def test_the_public_macro_is_that_of_torchmetrics_averaged_over_batches(rows: int, scored: float) -> None:
    logits, targets = questions(rows, scored=scored)
    peer = [
        multiclass_accuracy(x.mT, y, num_classes=V, average="macro", ignore_index=IGNORE)
        for x, y in zip(logits.split(EVALUATION_BATCH), targets.split(EVALUATION_BATCH), strict=True)
    ]
    assert score(logits, targets=targets)[0].macro_batches == pytest.approx(float(torch.stack(peer).mean()))


def test_micro_is_that_of_torchmetrics_over_the_whole_set() -> None:
    logits, targets = questions(2 * EVALUATION_BATCH + 9, scored=0.3)
    peer = multiclass_accuracy(logits.mT, targets, num_classes=V, average="micro", ignore_index=IGNORE)
    assert score(logits, targets=targets)[0].micro == pytest.approx(float(peer))


def test_loss_is_weighted_by_token_not_by_row_or_batch() -> None:
    logits = torch.zeros(EVALUATION_BATCH + 1, T, 2)
    logits[-1, :, 0] = 3.0
    targets = torch.full((EVALUATION_BATCH + 1, T), IGNORE)
    targets[0, 0] = 0  # One target in the first batch at log 2, T in the last batch at log(1 + e^3).
    targets[-1] = 1
    (found,) = score(logits, targets=targets)
    assert found.targets == 1 + T
    assert found.loss == pytest.approx((math.log(2) + T * math.log(1 + math.exp(3))) / (1 + T))
    assert found.loss == pytest.approx(float(cross_entropy(logits, targets)))


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_logits_that_are_not_finite_leave_no_loss_and_no_trace_in_others(poison: float) -> None:
    sane, targets = questions(EVALUATION_BATCH + 3, scored=0.5)
    sick = sane.clone()
    sick[-1] = poison
    targets[-1] = 1
    found = score(sick, sane, targets=targets)
    assert found[0].loss is None
    assert found[1] == score(sane, targets=targets)[0]
    assert all(0 <= value <= 1 for value in (found[0].micro, found[0].macro, found[0].macro_batches))


def test_what_is_not_scored_does_not_count() -> None:
    logits, targets = questions(40, scored=0.3)
    noisy = torch.where(targets[..., None] == IGNORE, torch.randn(40, T, V), logits)
    assert score(noisy, targets=targets) == score(logits, targets=targets)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_loss_is_summed_in_at_least_float32(dtype: torch.dtype) -> None:
    logits, targets = questions(50, scored=1.0)
    (found,) = score(logits.to(dtype), targets=targets)
    assert found.loss == pytest.approx(naive(logits.to(dtype), targets)["loss"], rel=1e-5)
    assert cross_entropy(logits.to(dtype), targets).dtype == torch.promote_types(dtype, torch.float32)


def test_measuring_builds_no_graph_and_asks_for_each_row_once() -> None:
    asked: list[Tensor] = []
    weight = torch.ones(1, requires_grad=True)

    def predict(x: Tensor) -> Tensor:
        asked.append(x)
        logits = weight * F.one_hot(x % V, V)
        assert not logits.requires_grad
        return logits[None]

    rows = torch.arange(2 * EVALUATION_BATCH + 1)[:, None].expand(-1, T)
    (found,) = measure(predict, rows, rows % V, V)
    assert found.micro == found.macro == found.macro_batches == 1.0
    assert torch.cat(asked).equal(rows) and [len(x) for x in asked] == [EVALUATION_BATCH, EVALUATION_BATCH, 1]


def test_accuracy_is_found_by_the_name_that_a_protocol_uses() -> None:
    found = Measure(rows=1, targets=1, micro=0.1, macro=0.2, macro_batches=0.3, loss=None)
    read: Callable[[str], float] = found.accuracy
    assert [read(name) for name in ("micro", "macro", "macro-batches")] == [0.1, 0.2, 0.3]
