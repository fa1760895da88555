import numpy as np
import pytest

from synthetic_tasks import IGNORE, get
from synthetic_tasks.memorization import Memorization


def test_rows_hold_keys_and_insert_tokens_and_never_the_answer() -> None:
    task = get("memorization")
    batch = task.draw(0, "train", 500)
    assert (batch.inputs[:, ::2] < 127).all() and (batch.inputs[:, 1::2] == 255).all()
    assert (batch.targets[:, ::2] == IGNORE).all()
    np.testing.assert_allclose(np.bincount(batch.inputs[:, ::2].ravel()) / 8000, 1 / 127, atol=0.006)


@pytest.mark.parametrize("vocab_size", [5, 11, 256])
def test_the_dictionary_is_one_to_one_and_the_same_in_all_splits(vocab_size: int) -> None:
    task = get("memorization", vocab_size=vocab_size)
    facts: dict[int, int] = {}
    for split in ("train", "validation", "test"):
        for seed in (0, 1):
            batch = task.draw(seed, split, 300)
            for key, value in zip(
                batch.inputs[:, ::2].ravel().tolist(), batch.targets[:, 1::2].ravel().tolist(), strict=True
            ):
                assert facts.setdefault(key, value) == value
    assert len(set(facts.values())) == len(facts) == (vocab_size - 1) // 2
    assert min(facts.values()) >= (vocab_size - 1) // 2 and max(facts.values()) <= vocab_size - 2
    assert task.shared == ("dictionary",)


def test_the_dictionary_belongs_to_the_setting() -> None:
    one, other = get("memorization"), get("memorization", seq_len=34)
    assert isinstance(one, Memorization) and isinstance(other, Memorization)
    assert not np.array_equal(one.dictionary, other.dictionary)


@pytest.mark.parametrize(("vocab_size", "seen"), [(256, 1.0), (2048, 0.987), (4096, 0.869), (8192, 0.631)])
def test_the_ceiling_counts_the_facts_that_training_holds(vocab_size: int, seen: float) -> None:
    task = get("memorization", vocab_size=vocab_size)
    train, test = task.draw(0, "train", 256), task.draw(0, "test", 1280)
    learned = {
        (row[place - 1], target)
        for row, targets in zip(train.inputs.tolist(), train.targets.tolist(), strict=True)
        for place, target in enumerate(targets)
        if target != IGNORE
    }
    asked = [
        (row[place - 1], target)
        for row, targets in zip(test.inputs.tolist(), test.targets.tolist(), strict=True)
        for place, target in enumerate(targets)
        if target != IGNORE
    ]
    assert task.ceiling_for(train, test) == sum(fact in learned for fact in asked) / len(asked)
    assert task.ceiling_for(train, test) == pytest.approx(seen, abs=0.02)
    assert task.ceiling_for(test, test) == 1.0


def test_wrong_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="seq_len=31 is refused: .* even number"):
        get("memorization", seq_len=31)
    with pytest.raises(ValueError, match="vocab_size=4 is refused"):
        get("memorization", vocab_size=4)
