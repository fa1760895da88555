"""The random numbers of a task: what a draw depends on, and what it must not."""

import dataclasses
import random

import numpy as np

from synthetic_tasks.contract.subject import SURE, Subject, Violation, rows_of, scored
from synthetic_tasks.task import SPLITS, Batch

ROWS = 500
# Of the draws whose rows are compared with each other: how many, and rows in each.
DRAWS, SIZE = 48, 16
# Numbers that sum up a row, and the places of the table that they are read from.
FEATURES, PLACES = 16, 4093
# Ratios of variances that chance does not reach (p < 1e-6 each).
MOST_BETWEEN, MOST_BY_INDEX = 2.5, 4.0


def repeatable(subject: Subject) -> str:
    """The same arguments give the same rows, and no other random numbers are drawn or left changed."""
    task = subject.task
    once = task.draw(3, "train", 33)
    np.random.seed(1)
    random.seed(1)
    states = str(np.random.get_state()), random.getstate()
    again = dataclasses.replace(task).draw(3, "train", 33)
    if (str(np.random.get_state()), random.getstate()) != states:
        raise Violation("sample draws from numpy's or Python's global generator; draw from rng alone")
    if not _equal(once, again):
        raise Violation("two draws with the same arguments differ; draw from rng alone, and keep nothing")
    return "the same arguments give the same rows"


def streams(subject: Subject) -> str:
    """Splits and seeds have rows of their own."""
    draws = {(seed, split): subject.draw(seed, split, ROWS) for seed in range(2) for split in SPLITS}
    names = {key: f"{key[1]} of seed {key[0]}" for key in draws}
    for one in draws:
        rows = rows_of(draws[one].inputs)
        # Two rows of one draw, which are equal by chance alone.
        by_chance = float(np.mean([a == b for a, b in zip(rows, rows[1:] + rows[:1], strict=True)]))
        for other in [key for key in draws if key > one]:
            pairs = zip(rows, rows_of(draws[other].inputs), strict=True)
            equal = float(np.mean([a == b for a, b in pairs]))
            if equal > by_chance + SURE * np.sqrt(max(by_chance, 1 / ROWS) / ROWS):
                raise Violation(
                    f"{equal:.0%} of the rows are the same in {names[one]} and {names[other]}; draw from rng "
                    "alone"
                )
    return f"{len(SPLITS)} splits, 2 seeds: each has its own rows"


def rows(subject: Subject) -> str:
    """What a row is depends neither on the rows drawn with it, nor on its place among them, nor on their
    number.
    """
    task = subject.task
    found = np.stack([_features(task.draw(seed, "train", SIZE)) for seed in range(DRAWS)])
    within = found.var(axis=1, ddof=1).mean(axis=0)
    ratios = {
        "the rows of one draw have something in common": (found.mean(axis=1), SIZE, MOST_BETWEEN),
        "a row depends on its place in the draw": (found.mean(axis=0), DRAWS, MOST_BY_INDEX),
    }
    for what, (means, count, most) in ratios.items():
        between = count * means.var(axis=0, ddof=1)
        if (between > most * within + 1e-9).any():
            raise Violation(
                f"{what}; draw what a row needs for each row by itself: rng.integers(..., size=(n, ...))"
            )
    pool = found.reshape(-1, FEATURES)
    single = np.concatenate([_features(task.draw(seed, "train", 1)) for seed in range(1000, 1128)])
    for name, others in (
        ("one row", single),
        (f"{len(pool)} rows", _features(task.draw(999, "train", len(pool)))),
    ):
        spread = np.sqrt(pool.var(axis=0) / len(pool) + others.var(axis=0) / len(others)) + 1e-9
        if (np.abs(pool.mean(axis=0) - others.mean(axis=0)) > (SURE + 1) * spread).any():
            raise Violation(
                f"rows in draws of {name} are of another kind than in draws of {SIZE}; leave n out of it"
            )
    return f"independent, in {DRAWS} draws of {SIZE} rows, in single ones and in {len(pool)} at once"


def _features(batch: Batch) -> np.ndarray:
    """(n, FEATURES): random weights of each (position, token) and (position, target), summed over the row."""
    table = np.random.default_rng(0).normal(size=PLACES)
    places = np.arange(batch.inputs.shape[1]) * 40_503
    found = []
    for feature in range(FEATURES):
        tokens = table[(batch.inputs * 7919 + places + feature * 97) % PLACES].sum(axis=1)
        targets = table[(batch.targets * 104_729 + places + feature * 61) % PLACES]
        found.append(tokens + np.where(scored(batch), targets, 0).sum(axis=1))
    return np.stack(found, axis=1)


def overlap(subject: Subject) -> str:
    """No more validation and test rows are training rows than two draws of one split share by chance."""
    halves = {}
    for split in SPLITS:
        found = rows_of(subject.many(0, split).inputs)
        halves[split] = found[: len(found) // 2], found[len(found) // 2 :]

    def share(rows: list[bytes], known: list[bytes]) -> float:
        return float(np.isin(rows, known).mean()) if not set(rows).isdisjoint(known) else 0.0

    told = []
    for split in SPLITS[1:]:
        by_chance = max(share(second, head) for head, second in (halves["train"], halves[split]))
        found_share, count = share(halves[split][0], halves["train"][0]), len(halves["train"][0])
        error = np.sqrt((by_chance + found_share + 2 / count) / count)
        if found_share > by_chance + SURE * error:
            told_share = f"{found_share:.1%} of the {split} rows are training rows"
            raise Violation(f"{told_share}, {by_chance:.1%} would be by chance; draw them from rng alone")
        told.append(f"{found_share:.1%} of {split}")
    return f"{' and '.join(told)} rows are among {len(halves['train'][0]):,} training rows"


def _equal(one: Batch, other: Batch) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(one, other, strict=True))
