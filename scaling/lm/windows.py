"""Windows of tokens: which are trained on at a step, and which are held out for evaluation."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Tokens = npt.NDArray[np.int64]

ORDER = 0x6F72646572  # Keeps the stream of the order apart from others with the same seed.


def train_windows(data: np.ndarray, *, step: int, batch_size: int, seq_len: int, seed: int) -> Tokens:
    """The windows (batch_size, seq_len + 1) of a training step: a pure function of its arguments.

    Each epoch cuts the tokens, taken as a ring, at a random offset into n // seq_len pieces and visits them
    in a random order. A window is a piece and the token before it, so that each token is a target at most
    once per epoch, and all but n % seq_len are.
    """
    check_draw(step, batch_size, seq_len, seed)
    _long_enough(len(data), seq_len, "training")
    windows = len(data) // seq_len
    place = step * batch_size + np.arange(batch_size)
    starts = np.empty(batch_size, np.int64)
    for epoch in range(int(place[0]) // windows, int(place[-1]) // windows + 1):
        offset, order = _epoch(seed, epoch, windows, len(data))
        mine = place // windows == epoch
        starts[mine] = offset + order[place[mine] % windows] * seq_len
    return data[(starts[:, None] + np.arange(seq_len + 1)) % len(data)].astype(np.int64)


def held_out_windows(data: np.ndarray, seq_len: int, tokens: int | None) -> Tokens:
    """Fixed windows (n, seq_len + 1), evenly spread, with at most max(tokens, seq_len) targets; None: all."""
    check_window(seq_len, tokens)
    _long_enough(len(data), seq_len, "validation")
    windows = (len(data) - 1) // seq_len
    n = windows if tokens is None else min(windows, max(1, tokens // seq_len))
    starts = np.arange(n) * windows // n * seq_len
    return data[starts[:, None] + np.arange(seq_len + 1)].astype(np.int64)


def check_window(seq_len: int, tokens: int | None) -> None:
    if seq_len < 1:
        raise ValueError(f"seq_len={seq_len} must be at least 1")
    if tokens is not None and tokens < 1:
        raise ValueError(f"tokens={tokens} must be at least 1; None reads all")


def check_draw(step: int, batch_size: int, seq_len: int, seed: int) -> None:
    check_window(seq_len, None)
    for name, value, least in (("step", step, 0), ("batch_size", batch_size, 1), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{name}={value} must be at least {least}")


def _long_enough(tokens: int, seq_len: int, split: str) -> None:
    if tokens < seq_len + 1:
        raise ValueError(
            f"seq_len={seq_len} needs {seq_len + 1} tokens in a row and the {split} split has {tokens}; "
            "shorten seq_len or give more text"
        )


@lru_cache(maxsize=2)
def _epoch(seed: int, epoch: int, windows: int, tokens: int) -> tuple[int, np.ndarray]:
    """Offset and order of an epoch, kept: one permutation per step would cost more than the step."""
    rng = np.random.default_rng([ORDER, seed, epoch])
    offset, order = int(rng.integers(tokens)), rng.permutation(windows)
    order.setflags(write=False)
    return offset, order
