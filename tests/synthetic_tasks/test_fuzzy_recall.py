import numpy as np
import pytest

from synthetic_tasks import IGNORE, Batch, get

Motif = tuple[int, ...]


def pairs_of(row: list[int], vocab_size: int = 16) -> list[tuple[Motif, Motif]]:
    """The pairs of motifs of a whole row: the inputs and the last target."""
    half, pairs = (vocab_size - 1) // 2, []
    while row and row[0] == vocab_size - 1:
        row = row[1:]
    while row:
        key_end = next(i for i, token in enumerate(row) if token >= half)
        value_end = next((i for i, token in enumerate(row) if i > key_end and token < half), len(row))
        pairs.append((tuple(row[:key_end]), tuple(row[key_end:value_end])))
        row = row[value_end:]
    return pairs


def rows_of(batch: Batch) -> list[list[int]]:
    return np.concatenate([batch.inputs, batch.targets[:, -1:]], axis=1).tolist()


def unanswerable(task_options: dict, n: int) -> float:
    """The share of rows whose probe key is not shown before the end."""
    rows = rows_of(get("fuzzy-in-context-recall", **task_options).draw(0, "test", n))
    return float(
        np.mean([pairs[-1][0] not in {key for key, _ in pairs[:-1]} for pairs in map(pairs_of, rows)])
    )


@pytest.mark.parametrize("multi_query", [True, False])
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_row_is_motifs_with_one_value_a_key_and_repeated_keys_scored(split: str, multi_query: bool) -> None:
    batch = get("fuzzy-in-context-recall", multi_query=multi_query).draw(0, split, 500)
    sizes = set()
    for row, targets in zip(rows_of(batch), batch.targets.tolist(), strict=True):
        known: dict[Motif, Motif] = {}
        expected: list[int] = []
        pairs = pairs_of(row)
        for place, (key, value) in enumerate(pairs):
            assert len(set(key)) == len(key) <= 3 and len(set(value)) == len(value) <= 3
            asked = key in known and (multi_query or place == len(pairs) - 1)
            assert known.setdefault(key, value) == value
            expected += [IGNORE] * len(key) + [token if asked else IGNORE for token in value]
            sizes.add((len(key), len(value)))
        assert pairs[-1] in pairs[:-1]
        assert targets == ([IGNORE] * (129 - len(expected)) + expected)[1:]
    assert sizes == {(key, value) for key in ((1, 2, 3) if split == "train" else (3,)) for value in (1, 2, 3)}


def test_motif_sizes_are_uniform() -> None:
    rows = rows_of(get("fuzzy-in-context-recall").draw(0, "train", 3000))
    first = [pairs_of(row)[0] for row in rows]
    for sizes in zip(*[(len(key), len(value)) for key, value in first], strict=True):
        np.testing.assert_allclose(np.bincount(sizes)[1:] / len(sizes), 1 / 3, atol=0.04)


def test_scored_targets_a_row_are_as_published() -> None:
    for vocab_size, published in ((16, 4.4), (128, 2.0)):
        task = get("fuzzy-in-context-recall", vocab_size=vocab_size)
        assert (task.draw(0, "test", 10_000).targets != IGNORE).sum(1).mean() == pytest.approx(
            published, abs=0.1
        )


def test_the_probe_is_shown_in_any_slot() -> None:
    rows = rows_of(get("fuzzy-in-context-recall", vocab_size=128).draw(0, "test", 4000))
    places = []
    for pairs in map(pairs_of, rows, [128] * len(rows)):
        places.append([key for key, _ in pairs].index(pairs[-1][0]) / (len(pairs) - 1))
    shares, _ = np.histogram(places, bins=4, range=(0, 1))
    np.testing.assert_allclose(shares / 4000, 0.25, atol=0.04)


def test_every_probe_is_answerable_unless_the_public_code_is_emulated() -> None:
    assert unanswerable({}, 5000) == 0
    assert 0.012 < unanswerable({"variant": "public"}, 10_000) < 0.03  # 2.07 percent in the public code
    assert 0.004 < unanswerable({"variant": "public", "seq_len": 256}, 10_000) < 0.016  # 1.0 percent


def test_a_row_of_the_smallest_length_is_a_pair_and_its_probe() -> None:
    batch = get("fuzzy-in-context-recall", seq_len=13).draw(0, "test", 200)
    assert all(len(pairs_of(row)) >= 2 for row in rows_of(batch))
