"""How far runs move when their rounding differs, and what `mad verify` makes of honest and of raised ones.

    python benchmarks/verification.py            # some minutes of one core

Twenty small cells are trained with weights that are shaken in their last digits, as another machine would
round. Such a run plays a record that was made elsewhere: as it is, an honest one, and with .02 on its
accuracy, hits and curve, a fake. Both are verified here.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections import Counter
from pathlib import Path

import torch

from mad.api import verify
from mad.data.protocol import Setting, get_protocol
from mad.data.records import Record
from mad.run.place import find_place
from mad.run.runner import run_group
from mad.run.sweep import Cell, Group, resolve
from mad.store.exchange import lines_of
from mad.trust.rerun import shaken
from mad.trust.verdicts import accuracy

sys.path.append(str(Path(__file__).resolve().parents[1]))
from tests.mad.trust.fakes import moved, raised  # noqa: E402

SPECS = ("mh-attention swiglu", "hyena swiglu", "gated-delta-net swiglu", "rg-lru swiglu")
TASKS = (
    "in-context-recall[vocab_size=8, seq_len=16, train_targets=answers]",
    "noisy-in-context-recall[vocab_size=12, seq_len=16, noise_vocab_size=4, train_targets=answers]",
    "fuzzy-in-context-recall[vocab_size=12, seq_len=24, key_motif_max=2, value_motif_max=2]",
    "selective-copying[vocab_size=8, seq_len=16, num_tokens_to_copy=4]",
    "compression[vocab_size=8, seq_len=8]",
)
# The number of the shaken run that plays another machine: none that `mad verify` makes.
ELSEWHERE = 99
RAISE = 0.02


def cells(steps: int) -> list[Cell]:
    sound = get_protocol("sound")
    budget = {"train_examples": 32 * steps, "epochs": 1, "batch_size": 32, "evaluations": 4}
    return [
        Cell(
            architecture=resolve(spec, dim=32, protocol=sound),
            setting=Setting(task=task, lrs=(1e-2,), weight_decays=(0.0,), **budget),
            protocol=sound,
            seeds=(0,),
        )
        for spec, task in itertools.product(SPECS, TASKS)
    ]


def asked(records: list[Record]) -> Counter[str]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "runs.jsonl"
        path.write_text(lines_of(records))
        verdicts = verify(path, progress=False)
    for verdict in verdicts:
        record, near = (
            verdict.record,
            "" if verdict.low is None else f"{verdict.low:.4f} to {verdict.high:.4f}",
        )
        found = " ".join(f"{value:.4f}" for value in verdict.found)
        print(
            f"{record.given:24} {record.subject:24} {verdict.claimed:.4f}  {found}  {near}  {verdict.outcome}"
        )
    return Counter(verdict.outcome for verdict in verdicts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=100, help="training steps of each cell")
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    place, elsewhere = find_place("cpu"), []
    for cell in cells(steps):
        (record,) = run_group(shaken(Group(cell, 0), ELSEWHERE), place=place)
        elsewhere.append(moved(record, simd="of another machine"))
    fakes = [raised(run, RAISE) for run in elsewhere if (accuracy(run) or 1) < 1 - RAISE]
    print("\nhonest, made elsewhere:")
    honest = asked(elsewhere)
    print(f"\nraised by {RAISE}:")
    caught = asked(fakes)
    print(f"\nhonest: {dict(honest)}\nraised: {dict(caught)} of {len(fakes)}")


if __name__ == "__main__":
    main()
