"""Hits by row: what is packed is unpacked, and what is no such text is refused before it costs anything."""

import base64
import tracemalloc
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mad.data.hits import MOST_CHARACTERS, MOST_ROWS, pack, unpack
from mad.data.records import Measure, Record
from mad.store.checking import check, understood
from tests.mad.records import TWO, record

AT = TWO.settings[1]  # Seven targets in each of 1,280 rows of length 8.
ROWS = AT.test_examples


def text(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 9)).decode()


def run(hits: str | None, *, split: str = "test", total: int = 640) -> Record:
    """A run of half the targets, 8 a row, with these hits."""
    made = record(AT, test=total / (8 * ROWS))
    assert made.metrics is not None and made.metrics.test is not None
    metrics = made.metrics.model_dump()
    metrics[split]["hits"] = hits
    return Record.model_validate(made.model_dump() | {"metrics": metrics})


@given(st.lists(st.one_of(st.integers(0, 9), st.integers(0, 2**32 - 1)), min_size=1, max_size=50))
def test_what_is_packed_is_unpacked(counts: list[int]) -> None:
    packed = pack(np.array(counts))
    assert packed is not None
    assert unpack(packed, len(counts)).tolist() == counts


def test_the_worst_text_is_within_the_bounds() -> None:
    noise = np.random.default_rng(0).integers(2**31, 2**32 - 1, MOST_ROWS)
    packed = pack(noise)
    assert packed is not None and len(packed) <= MOST_CHARACTERS
    assert (unpack(packed, MOST_ROWS) == noise).all()
    assert pack(np.zeros(MOST_ROWS + 1, int)) is None


@pytest.mark.parametrize(
    ("packed", "said"),
    [
        ("!!!", "cannot be unpacked"),
        ("AAAA", "cannot be unpacked"),
        (text(bytes(9)), "one count for each of 10"),
        (text(bytes(11)), "one count for each of 10"),
        (text(bytes(30)), "one count for each of 10"),
        (text(bytes(80)), "one count for each of 10"),
        (text(b""), "one count for each of 10"),
        (text(bytes(10))[:-8] + "AAA=", "."),
        (base64.b64encode(zlib.compress(bytes(10)) + b"more").decode(), "one count for each of 10"),
    ],
)
def test_other_texts_are_refused(packed: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        unpack(packed, 10)


def test_a_small_text_cannot_unpack_to_a_large_one() -> None:
    bomb = text(bytes(2**25))
    tracemalloc.start()
    for rows in (1, 1280, MOST_ROWS):
        with pytest.raises(ValueError, match="one count for each"):
            unpack(bomb, rows)
    with pytest.raises(ValueError, match="none are kept"):
        unpack(bomb, 2**53)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23


HALF = np.repeat([1, 0], ROWS // 2)


def test_a_run_with_hits_is_believed_and_read_back() -> None:
    for hits in (pack(HALF), pack(HALF[::-1]), None):
        made = run(hits)
        check(made)
        assert understood(Record, made.model_dump_json()) == made
        assert made.id == record(AT, test=640 / (8 * ROWS)).id


def test_a_run_that_knows_nothing_of_hits_is_read() -> None:
    line = run(None).model_dump_json().replace(',"hits":null', "")
    assert "hits" not in line
    assert understood(Record, line) == run(None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda: run(pack(HALF + 1)), "1,920 hits by row, and an accuracy of 0.0625"),
        (lambda: run(pack(HALF[:-1])), "not one count for each of 1,280 rows"),
        (lambda: run(pack(np.r_[9, HALF[9:], np.zeros(8, int)])), "a row of 9 hits, and rows of length 8"),
        (lambda: run(pack(HALF), split="validation"), "only those of test are kept"),
    ],
    ids=["sum", "rows", "length", "validation"],
)
def test_hits_that_contradict_the_run_are_refused(change: Callable[[], Record], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check(change())


@pytest.mark.parametrize("hits", ["", "a b", "<script>", "=1+1", "A" * (MOST_CHARACTERS + 4), 7, ["AAAA"]])
def test_what_is_no_such_text_is_no_measure(hits: object) -> None:
    content = {"rows": 1, "targets": 1, "micro": 0.0, "macro": 0.0, "macro_batches": 0.0, "loss": None}
    with pytest.raises(ValueError, match="hits"):
        Measure.model_validate(content | {"hits": hits})
