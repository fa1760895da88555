"""Rows per second of the synthetic tasks, beside plain per-example loops. One thread, numpy only.

    python benchmarks/data.py                  # prints a table, ten seconds
    python benchmarks/data.py --json data.json # writes the same numbers to a file as well

The peers are the naive definitions, written below: one example at a time, and for fuzzy recall by listing and
shuffling all permutations of the keys and values, which is how such tasks are commonly generated. They draw a
few rows only.
"""

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import itertools
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import harness
import numpy as np

import synthetic_tasks

ROWS = {128: 2560, 1024: 256}  # rows per draw, by seq_len
REPETITIONS = 7

Motif = tuple[int, ...]
Row = tuple[list[int], list[int]]  # inputs, targets


def naive_in_context_recall(rng: np.random.Generator, vocab_size: int, seq_len: int) -> Row:
    """In-context recall, token by token."""
    table: dict[int, int] = {}
    inputs, targets = [], []
    for _ in range(seq_len // 2 - 1):
        key = int(rng.integers(vocab_size // 2))
        targets.append(table.get(key, synthetic_tasks.IGNORE))
        table.setdefault(key, int(rng.integers(vocab_size // 2, vocab_size)))
        targets.append(synthetic_tasks.IGNORE)
        inputs += [key, table[key]]
    probe = int(rng.choice(list(table)))
    return inputs + [probe, table[probe]], targets + [table[probe], synthetic_tasks.IGNORE]


def naive_fuzzy_recall(rng: np.random.Generator, vocab_size: int, seq_len: int) -> Row:
    """Fuzzy recall for testing with motifs of up to 3 tokens, from shuffled lists of all motifs."""
    half, ignore = (vocab_size - 1) // 2, synthetic_tasks.IGNORE
    keys: list[Motif] = list(itertools.permutations(range(half), 3))
    values: list[list[Motif]] = [
        list(itertools.permutations(range(half, vocab_size - 1), size)) for size in (1, 2, 3)
    ]
    for motifs in (keys, *values):
        rng.shuffle(motifs)
    table: dict[Motif, Motif] = {}
    context: list[Motif] = []
    length, room = 0, seq_len - 6
    while length < room:
        key = keys[rng.integers(len(keys))]
        if key not in table:
            of_size = values[rng.integers(3)]
            table[key] = of_size[rng.integers(len(of_size))]
        context.append(key)
        length += 3 + len(table[key])
        if len(context) == 1:
            room -= length  # the first pair is the probe and comes again at the end
    probe, slot = context[0], rng.integers(len(context))
    context[0], context[slot] = context[slot], context[0]
    inputs: list[int] = []
    targets: list[int] = []
    seen: set[Motif] = set()
    for key in [*context, probe]:
        inputs += [*key, *table[key]]
        targets += [ignore] * 3 + [token if key in seen else ignore for token in table[key]]
        seen.add(key)
    pads = seq_len + 1 - len(inputs)
    return ([vocab_size - 1] * pads + inputs)[:-1], ([ignore] * pads + targets)[1:]


def many(
    row: Callable[..., Row], vocab_size: int, seq_len: int, rows: int, rng: np.random.Generator
) -> list[Row]:
    return [row(rng, vocab_size, seq_len) for _ in range(rows)]


def rate(draw: Callable[[], object], rows: int, repetitions: int = REPETITIONS) -> float:
    """The median rows per second over the repetitions, after one call to warm up."""
    return rows / median(times[0] for times in harness.turns({0: draw}, repetitions, time.perf_counter))


def measure() -> list[dict[str, str | float]]:
    """One record per task, setting and split; the peers last."""
    records: list[dict[str, str | float]] = []
    for seq_len, rows in ROWS.items():
        for options in (f"seq_len={seq_len}", f"vocab_size=128,seq_len={seq_len}"):
            for name in synthetic_tasks.names():
                task = synthetic_tasks.parse(f"{name}[{options}]")
                for split in ("train", "test"):
                    speed = rate(partial(task.draw, 0, split, rows), rows)
                    records.append(_record(f"{name}[{options}]", split, speed, "this package"))
    for name, row, vocab_size, seq_len, rows, repetitions in PEERS:
        speed = rate(
            partial(many, row, vocab_size, seq_len, rows, np.random.default_rng(0)), rows, repetitions
        )
        setting = f"{name}[vocab_size={vocab_size},seq_len={seq_len}]"
        records.append(_record(setting, "test", speed, row.__name__))
    return records


def _record(setting: str, split: str, speed: float, generator: str) -> dict[str, str | float]:
    return {"setting": setting, "split": split, "rows_per_s": round(speed, 1), "generator": generator}


# Task, peer, vocab_size, seq_len, rows, repetitions.
PEERS = (
    ("in-context-recall", naive_in_context_recall, 16, 128, 100, 5),
    ("in-context-recall", naive_in_context_recall, 16, 1024, 20, 5),
    ("fuzzy-in-context-recall", naive_fuzzy_recall, 16, 128, 20, 5),
    ("fuzzy-in-context-recall", naive_fuzzy_recall, 128, 128, 1, 2),
)


def main() -> None:
    parser = harness.options(__doc__, write=None)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the records to this file")
    arguments = parser.parse_args()
    records = measure()
    print(f"{'setting':<52} {'split':<6} {'rows/s':>10}  generator")
    for record in records:
        setting, split, speed, generator = record.values()
        print(f"{setting:<52} {split:<6} {speed:>10,.0f}  {generator}")
    if arguments.json:
        about = {"python": platform.python_version(), "numpy": np.__version__, "machine": platform.machine()}
        harness.write(arguments.json, {"environment": about, "records": records})


if __name__ == "__main__":
    main()
