import numpy as np
import pytest

from synthetic_tasks import IGNORE, get


def test_scored_targets_a_row_are_as_published() -> None:
    scored = get("noisy-in-context-recall").draw(0, "test", 20_000).targets != IGNORE
    used = 63 - 0.2 * 62  # one slot is protected
    assert scored.sum(1).mean() == pytest.approx(used - 8 + 1, abs=0.1)
    assert scored.sum(1).mean() == pytest.approx(45, abs=2)


@pytest.mark.parametrize("frac_noise", [0.0, 0.2, 0.6])
def test_noise_replaces_whole_pairs_with_its_frequency(frac_noise: float) -> None:
    inputs = get("noisy-in-context-recall", frac_noise=frac_noise).draw(0, "train", 5000).inputs
    noise = (inputs >= 16).reshape(5000, 64, 2)
    assert (noise[:, :, 0] == noise[:, :, 1]).all()
    assert not noise[:, -1].any()
    assert noise[:, :-1].mean() == pytest.approx(frac_noise * 62 / 63, abs=0.005)
    assert not frac_noise or set(np.unique(inputs[inputs >= 16])) == set(range(16, 32))


def test_without_the_noise_a_row_is_in_context_recall() -> None:
    batch = get("noisy-in-context-recall", seq_len=40, frac_noise=0.5).draw(0, "test", 300)
    for inputs, targets in zip(*batch, strict=True):
        known: dict[int, int] = {}
        for position in range(0, 40, 2):
            key, value = inputs[position], inputs[position + 1]
            assert targets[position + 1] == IGNORE
            assert targets[position] == known.get(key, IGNORE)
            if key < 8:
                assert known.setdefault(key, value) == value and 8 <= value < 16
        assert targets[38] != IGNORE


def test_a_row_of_almost_nothing_but_noise_still_has_a_question() -> None:
    batch = get("noisy-in-context-recall", seq_len=8, frac_noise=0.99).draw(0, "test", 5000)
    pairs = (batch.inputs[:, :6:2] < 16).sum(axis=1)
    assert pairs.min() == 1
    protected = np.argmax(batch.inputs[:, :6:2] < 16, axis=1)[pairs == 1]
    np.testing.assert_allclose(np.bincount(protected) / len(protected), 1 / 3, atol=0.03)
    assert (batch.targets[:, -2] == batch.inputs[:, -1]).all()


def test_single_query_keeps_its_prefix_clear_of_the_noise() -> None:
    batch = get("noisy-in-context-recall", multi_query=False).draw(0, "test", 200)
    assert (batch.inputs[:, -2] == 15).all() and not (batch.inputs[:, :-2] == 15).any()
    assert (batch.inputs >= 16).any()


def test_no_noise_has_one_spelling() -> None:
    assert (
        get("noisy-in-context-recall", frac_noise=0).content_hash
        == get("noisy-in-context-recall", frac_noise=0.0).content_hash
    )
