"""What trackers cost the loop: one run with and without them, alternately, in this process.

    python benchmarks/tracking.py [repeats]

Prints the processor time of the process that trains, the wall time, and what the trackers' own processes
took beside it, which stand back behind those that train.
"""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import mad

TRACKERS = ("wandb", "csv", "tensorboard")
RUN: dict[str, Any] = {"train_examples": 12_800, "batch_size": 32, "epochs": 1, "lr": 3e-3, "evaluations": 10}


def measure(track: tuple[str, ...], folder: Path) -> tuple[float, float, float]:
    """Seconds of one run: of this process, of the clock, of the processes that it started."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu, clock = time.process_time(), time.perf_counter()
    record = mad.train(
        "mh-attention swiglu",
        "in-context-recall[vocab_size=16,seq_len=64]",
        device="cpu",
        store=folder / "store.sqlite",
        track=track,
        progress=False,
        **RUN,
    )
    assert record.cost is not None
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    children = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.process_time() - cpu, time.perf_counter() - clock, children


def main(repeats: int) -> None:
    mad.train("mlp", "compression[seq_len=8]", train_examples=64, epochs=1, device="cpu", track=None)
    found: dict[tuple[str, ...], list[tuple[float, float, float]]] = {(): [], TRACKERS: []}
    for _ in range(repeats):
        for track, rows in found.items():
            with tempfile.TemporaryDirectory() as folder:
                rows.append(measure(track, Path(folder)))
    print(f"{'':24}{'processor':>12}{'clock':>12}{'trackers':>12}   seconds, median of {repeats}")
    for track, rows in found.items():
        medians = [statistics.median(column) for column in zip(*rows, strict=True)]
        print(f"{', '.join(track) or 'nothing':24}" + "".join(f"{value:12.2f}" for value in medians))
    ratios = [told[0] / alone[0] for told, alone in zip(found[TRACKERS], found[()], strict=True)]
    print(f"processor time of the loop with trackers over without: {statistics.median(ratios):.4f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
