"""Windows of tokens: an epoch visits each token once, in an order that seed and step alone decide."""

from __future__ import annotations

import numpy as np
import pytest

from scaling.lm import windows


@pytest.mark.parametrize(("tokens", "seq_len"), [(11, 10), (100, 10), (101, 10), (109, 10), (37, 1), (64, 7)])
def test_each_token_is_a_target_at_most_once_per_epoch(tokens: int, seq_len: int) -> None:
    data = np.arange(tokens, dtype=np.uint16)
    n = tokens // seq_len
    for epoch in range(3):
        rows = windows.train_windows(data, step=epoch, batch_size=n, seq_len=seq_len, seed=5)
        targets = rows[:, 1:].ravel()
        assert len(set(targets.tolist())) == len(targets) == n * seq_len
        assert ((rows[:, 1:] - rows[:, :-1]) % tokens == 1).all()


def test_epochs_differ_in_offset_and_order() -> None:
    data = np.arange(1000, dtype=np.uint16)
    epochs = [windows.train_windows(data, step=e, batch_size=100, seq_len=10, seed=0)[:, 0] for e in range(8)]
    assert len({int(starts[0]) % 10 for starts in epochs}) > 3
    orders = [((starts - starts.min()) // 10).tolist() for starts in epochs]
    assert all(order != sorted(order) for order in orders)
    assert len({tuple(order) for order in orders}) == 8


def test_a_batch_is_a_function_of_seed_and_place_whatever_came_before() -> None:
    data = np.random.default_rng(0).integers(0, 255, 5003).astype(np.uint8)

    def draw(step: int, batch_size: int, seed: int = 3) -> np.ndarray:
        return windows.train_windows(data, step=step, batch_size=batch_size, seq_len=50, seed=seed)

    run = [draw(step, 12) for step in range(30)]
    windows._epoch.cache_clear()
    assert (draw(29, 12) == run[29]).all()
    assert (np.concatenate(run)[:300] == draw(0, 300)).all()
    assert (draw(0, 12, seed=4) != run[0]).any()


def test_a_batch_larger_than_the_corpus_goes_through_it_again() -> None:
    data = np.arange(31, dtype=np.uint8)
    rows = windows.train_windows(data, step=0, batch_size=7, seq_len=10, seed=0)
    assert len(set(rows[:3, 1:].ravel().tolist())) == 30
    assert len(set(rows[3:6, 1:].ravel().tolist())) == 30


def test_held_out_windows_are_fixed_and_evenly_spread() -> None:
    data = np.arange(1001, dtype=np.uint16)
    everything = windows.held_out_windows(data, 10, None)
    assert everything.shape == (100, 11) and (everything[:, 1:].ravel() == np.arange(1, 1001)).all()
    some = windows.held_out_windows(data, 10, 257)
    assert some.shape == (25, 11)
    assert set(np.diff(some[:, 0])) == {40} and some[-1, 0] >= 950
    assert windows.held_out_windows(data, 10, 5000).shape == (100, 11)
    assert windows.held_out_windows(data, 1000, 1).shape == (1, 1001)
