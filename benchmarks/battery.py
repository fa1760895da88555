"""Whole runs of the battery as processes of their own, and what a step of its cells costs, on a CPU.

    python benchmarks/battery.py start          # seconds from the command to the first step
    python benchmarks/battery.py suite          # the quick suite: engines, and beside a busy process
    python benchmarks/battery.py suite --rounds 3 --specs transformer++,striped-hyena,mamba --against ../older
    python benchmarks/battery.py steps          # memory as workers hold it, compiled, products in bf16

Variants take turns; a ratio is the median over rounds of the ratios to the first variant of the same round.
`start` and `suite` are wall time, `steps` processor time of one thread. --against times `mad bench` of
another checkout of this project beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pty
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import harness

SPECS = "transformer++,striped-hyena,mamba"
MAD = [sys.executable, "-c", "from mad.cli import main; main()"]
BURN = "while True: pass"


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Beside so many processes that never wait."""
    others = [subprocess.Popen([sys.executable, "-c", BURN]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def command(specs: str, suite: str, *extra: str) -> list[str]:
    return [*MAD, "bench", *specs.split(","), "--suite", suite, *extra]


def environment(root: Path, folder: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(root), "MAD_STORE": f"{folder}/store.sqlite"}


def whole(arguments: list[str], changes: dict[str, str], root: Path = harness.ROOT) -> float:
    """Seconds of a command with an empty store, in this environment with changes."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run(
            arguments, env=environment(root, folder) | changes, check=True, capture_output=True, cwd=folder
        )
        return time.perf_counter() - start


def first_step(arguments: list[str]) -> float:
    """Seconds until a terminal shows that a step is done."""
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = pty.openpty()
        start = time.perf_counter()
        process = subprocess.Popen(
            arguments,
            env=environment(harness.ROOT, folder) | {"COLUMNS": "200"},
            stdout=theirs,
            stderr=theirs,
            cwd=folder,
        )
        os.close(theirs)
        shown = b""
        try:
            while b": step " not in shown:
                shown += os.read(ours, 4096)
            return time.perf_counter() - start
        finally:
            process.terminate()
            with contextlib.suppress(OSError):
                while os.read(ours, 4096):
                    pass
            process.wait()
            os.close(ours)


def compare(variants: Mapping[str, Callable[[], float]], rounds: int, unit: str) -> None:
    """Time the variants in turns and print a row for each."""
    taken = [{name: call() for name, call in variants.items()} for _ in range(rounds)]
    first = next(iter(variants))
    print(f"| variant | {unit} | ratio | all |\n|---|---|---|---|")
    for name in variants:
        ratio = median(turn[name] / turn[first] for turn in taken)
        every = ", ".join(f"{turn[name]:.3g}" for turn in taken)
        print(f"| {name} | {median(turn[name] for turn in taken):.3g} | {ratio:.2f} | {every} |", flush=True)


def start(options: argparse.Namespace) -> None:
    first: str = options.specs.split(",")[0]
    variants = {
        name: partial(first_step, command(name, options.suite)) for name in [str(options.specs), first]
    }
    compare(variants, options.rounds, "s to the first step")


def suite(options: argparse.Namespace) -> None:
    def beside(others: int, *extra: str, **changes: str) -> Callable[[], float]:
        def call() -> float:
            with busy(others):
                return whole(command(options.specs, options.suite, *extra), changes)

        return call

    if options.against:
        older = Path(options.against).resolve()
        compare(
            {
                str(options.against): lambda: whole(command(options.specs, options.suite), {}, older),
                "here": beside(0),
            },
            options.rounds,
            "s",
        )
        return
    variants = {
        "process": beside(0),
        "process, beside a busy one": beside(1),
        "inline": beside(0, "--engine", "inline"),
        "inline, one thread": beside(0, "--engine", "inline", OMP_NUM_THREADS="1"),
        "inline, beside a busy one": beside(1, "--engine", "inline"),
    }
    wanted = options.variants.split(";") if options.variants else list(variants)
    compare({name: variants[name] for name in wanted}, options.rounds, "s")


def steps(options: argparse.Namespace) -> None:
    """In children: how memory is held is said when a process starts."""
    from mad.children import GLIBC

    here = [sys.executable, __file__, "one", "--suite", options.suite, "--task", options.task]
    variants: dict[str, tuple[list[str], dict[str, str]]] = {
        "memory as glibc holds it": ([], {"GLIBC_TUNABLES": ""}),
        "memory as workers hold it": ([], GLIBC),
        "and products in bf16": (["--bf16"], GLIBC),
        "and compiled": (["--compile"], GLIBC),
    }
    for spec in options.specs.split(","):
        rows: dict[str, list[list[float]]] = {name: [] for name in variants}
        for _ in range(options.rounds):
            for name, (extra, changes) in variants.items():
                found = subprocess.run(
                    [*here, "--specs", spec, *extra],
                    env=os.environ | {"OMP_NUM_THREADS": "1"} | changes,
                    check=True,
                    capture_output=True,
                    text=True,
                )
                rows[name].append([float(word) for word in found.stdout.split()[-3:]])
        base = next(iter(rows.values()))
        print(f"\n{spec} on {options.task}\n")
        print("| variant | ms per step | ratio | s per evaluation | ratio | s before the second step |")
        print("|---|---|---|---|---|---|")
        for name, taken in rows.items():
            cells = [name]
            for i in (0, 1):
                ratio = median(one[i] / other[i] for one, other in zip(taken, base, strict=True))
                cells += [f"{median(one[i] for one in taken):.3g}", f"{ratio:.2f}"]
            print(f"| {' | '.join(cells)} | {median(one[2] for one in taken):.1f} |", flush=True)


def one(options: argparse.Namespace) -> None:
    """Train a little and print: ms per step, seconds per evaluation, seconds of processors before the second
    step, those of the compiler's processes among them.
    """
    import torch

    from mad.api import prepare
    from mad.run.batches import order, split_of
    from mad.run.learners import Turns

    torch.set_num_threads(1)
    if options.bf16:
        round_products()
    prepared = prepare(
        options.specs, suite=options.suite, protocol="sound", tasks=[options.task], compile=options.compile
    )
    group = prepared.groups[0]
    run, task, device = group.runs[0], group.cell.task, prepared.place.device
    learner = Turns(group.cell.architecture.build(task, 0), [run], prepared.place)
    data, held = (split_of(run, task, split, device) for split in ("train", "validation"))
    rows = order(0, run.train_examples, run.batch_size, device)
    batches = [next(rows) for _ in range(options.block)]

    def train(count: int) -> None:
        learner.advance(data, batches[:count], 0, [True], lambda replica, done: None)

    before = sum(os.times()[:4])
    train(1)
    first = sum(os.times()[:4]) - before
    train(len(batches))
    taken = [harness.seconds(lambda: train(len(batches))) for _ in range(5)]
    asked = [harness.seconds(lambda: learner.measure(held, task.vocab_size)) for _ in range(3)]
    print(1e3 * min(taken) / len(batches), min(asked), first)


def round_products() -> None:
    """Let every linear layer multiply in bf16, forward and in both products of its gradient."""
    import torch

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            rows, weight = x.flatten(0, -2).bfloat16(), weight.bfloat16()
            ctx.save_for_backward(rows, weight)
            return (rows @ weight.mT).float().view(*x.shape[:-1], -1)

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            rows, weight = ctx.saved_tensors
            flat = grad.flatten(0, -2).bfloat16()
            return (flat @ weight).float().view(*grad.shape[:-1], -1), (flat.mT @ rows).float()

    def forward(layer: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
        y = Product.apply(x, layer.weight)
        return y if layer.bias is None else y + layer.bias

    torch.nn.Linear.forward = forward  # type: ignore[method-assign, assignment]


def main() -> None:
    parser = harness.options(__doc__, write=None)
    parser.add_argument("what", choices=("start", "suite", "steps", "one"))
    parser.add_argument("--specs", default=SPECS, help="comma-separated")
    parser.add_argument("--suite", default="quick")
    parser.add_argument("--task", default="in-context-recall")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--block", type=int, default=20, help="steps that are timed at once")
    parser.add_argument("--variants", help="of suite, semicolon-separated; all by default")
    parser.add_argument("--against", help="another checkout of this project")
    parser.add_argument("--compile", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--bf16", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    {"start": start, "suite": suite, "steps": steps, "one": one}[options.what](options)


if __name__ == "__main__":
    main()
