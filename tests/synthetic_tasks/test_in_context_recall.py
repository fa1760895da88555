import itertools

import numpy as np
import pytest

from synthetic_tasks import IGNORE, get
from synthetic_tasks._recall import draw_motifs, first_occurrence


@pytest.mark.parametrize(("vocab_size", "published"), [(16, 56.0), (128, 23.5)])
def test_scored_targets_a_row_are_as_published(vocab_size: int, published: float) -> None:
    keys, pairs = vocab_size // 2, 63
    expected = (
        pairs - keys * (1 - (1 - 1 / keys) ** pairs) + 1
    )  # every pair but the first of each key, and the probe
    found = (
        (get("in-context-recall", vocab_size=vocab_size).draw(0, "test", 20_000).targets != IGNORE)
        .sum(1)
        .mean()
    )
    assert found == pytest.approx(expected, abs=0.1)
    assert found == pytest.approx(published, abs=0.3)


def test_a_row_is_a_plain_dictionary_read_aloud() -> None:
    batch = get("in-context-recall", seq_len=40).draw(0, "test", 300)
    for inputs, targets in zip(*batch, strict=True):
        known: dict[int, int] = {}
        for position in range(0, 40, 2):
            key, value = inputs[position], inputs[position + 1]
            assert key < 8 <= value < 16
            assert targets[position] == known.get(key, IGNORE)
            assert targets[position + 1] == IGNORE
            assert known.setdefault(key, value) == value
        assert targets[38] == inputs[39]


def test_single_query_asks_once_after_the_prefix() -> None:
    batch = get("in-context-recall", seq_len=40, multi_query=False).draw(0, "train", 300)
    assert (batch.inputs[:, -2] == 15).all() and (batch.inputs[:, :-2] < 15).all()
    assert (batch.targets[:, :-1] == IGNORE).all()
    for inputs, targets in zip(*batch, strict=True):
        table = dict(inputs[:38].reshape(19, 2).tolist())
        assert all(key < 7 <= value < 14 for key, value in table.items())
        assert targets[-1] == table[inputs[-1]]


def test_the_probe_is_uniform_among_the_distinct_keys_shown() -> None:
    batch = get("in-context-recall", vocab_size=4, seq_len=8).draw(0, "test", 200_000)
    keys = batch.inputs[:, ::2]
    mixed = (
        keys[:, :3].sum(axis=1) == 1
    )  # key 1 once, key 0 twice: a probe uniform over pairs would take it 1 in 3
    assert keys[mixed, 3].mean() == pytest.approx(0.5, abs=0.01)


def test_values_are_drawn_independently_of_keys() -> None:
    batch = get("in-context-recall", vocab_size=4, seq_len=4).draw(0, "test", 100_000)
    counts = np.bincount(batch.inputs[:, 0] * 2 + batch.inputs[:, 1] - 2, minlength=4)
    np.testing.assert_allclose(counts / 100_000, 0.25, atol=0.01)


def test_first_occurrence_equals_a_loop() -> None:
    rng = np.random.default_rng(0)
    codes, preferred = rng.integers(-1, 5, size=(200, 17)), rng.random((200, 17)) < 0.3
    plain, chosen = first_occurrence(codes), first_occurrence(codes, preferred)
    for row in range(200):
        for slot in range(17):
            same = [other for other in range(17) if codes[row, other] == codes[row, slot]]
            assert plain[row, slot] == same[0]
            assert chosen[row, slot] == ([other for other in same if preferred[row, other]] or same)[0]


def test_motifs_are_uniform_among_all_permutations() -> None:
    motifs = draw_motifs(np.random.default_rng(0), (120_000,), 5, 3)
    found, counts = np.unique(motifs, axis=1, return_counts=True)
    assert [tuple(motif) for motif in found.T.tolist()] == list(itertools.permutations(range(5), 3))
    assert counts.min() > 1800 and counts.max() < 2200  # 2000 each, standard deviation 44
