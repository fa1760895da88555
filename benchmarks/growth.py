"""Grown against trained from scratch: loss against training FLOPs, on bytes of Python's standard library.

    python benchmarks/growth.py --write

A small transformer is trained, grown once or twice to the final size with its optimiser's state, and trained
on; another one has the final size from the start. Both read the same stream of batches. FLOPs are three times
the forward FLOPs of `account`. Results go to benchmarks/results/growth.json, the plot to
docs/figures/growth.svg.
"""

from __future__ import annotations

import math
import time
from typing import Any

import harness
import torch
from small_models import adamw, byte_tokens, nats, rows, update
from torch import Tensor

import architectures
from architectures.growth import grow

LENGTH, BATCH, LR, WARMUP = 96, 16, 2e-3, 30
# Sizes on the way; the last one is what is compared.
SIZES = (("2*(mh-attention swiglu)", 32), ("3*(mh-attention swiglu)", 64), ("4*(mh-attention swiglu)", 96))


def keyed(data: Tensor, step: int, count: int) -> Tensor:
    """Rows that the step decides."""
    return rows(data, count, LENGTH, torch.Generator().manual_seed(step))


def make(spec: str, dim: int, seed: int) -> Any:
    return architectures.build(spec, vocab_size=256, dim=dim, max_len=LENGTH, seed=seed)


def flops_of(model: Any) -> float:
    """Training FLOPs of one step."""
    found = architectures.account(model.spec, vocab_size=256, dim=model.dim, seq_len=LENGTH)
    return 3 * found.flops * LENGTH * BATCH


def train(stages: list[tuple[str, int, int]], budget: float, seed: int, every: int) -> dict[str, Any]:
    """Stages (spec, dim, steps); the last one runs until the budget of FLOPs is spent."""
    data, held_out = byte_tokens()
    check = keyed(held_out, 10**6, 128)
    spec, dim, _ = stages[0]
    model = make(spec, dim, seed)
    optimizer: Any = adamw(model, LR, fused=True)
    curve, jumps, spent, step = [], [], 0.0, 0
    start = time.process_time()

    @torch.no_grad()
    def measure() -> float:
        return float(torch.stack([nats(model, part) for part in check.split(32)]).mean())

    for stage, (spec, dim, steps) in enumerate(stages):
        if stage:
            before = measure()
            generator = torch.Generator().manual_seed(seed + stage)
            model, optimizer = grow(model, spec, optimizer, dim=dim, generator=generator)
            jumps.append({"step": step, "flops": spent, "before": before, "after": measure()})
        cost, first, last = flops_of(model), step, stage == len(stages) - 1
        while spent < budget if last else step < first + steps:
            # One cosine over the whole budget, the same for all; a short warm-up at the start of each stage.
            rate = LR * 0.5 * (1 + math.cos(math.pi * min(spent / budget, 1)))
            rate *= min(1, (step - first + 1) / WARMUP)
            update(model, optimizer, nats(model, keyed(data, step, BATCH)), rate)
            step, spent = step + 1, spent + cost
            if step % every == 0:
                curve.append({"step": step, "flops": spent, "loss": measure()})
                print(f"{spec} {dim} step {step} {spent:.3e} FLOPs {curve[-1]['loss']:.4f}", flush=True)
    curve.append({"step": step, "flops": spent, "loss": measure()})
    return {
        "stages": [list(stage) for stage in stages],
        "params": sum(p.numel() for p in model.parameters()),
        "tokens": step * BATCH * LENGTH,
        "flops": spent,
        "loss": curve[-1]["loss"],
        "seconds": round(time.process_time() - start, 1),
        "curve": curve,
        "jumps": jumps,
    }


def reached(run: dict[str, Any], loss: float) -> float | None:
    """FLOPs at which a run first had this loss."""
    return next((p["flops"] for p in run["curve"] if p["loss"] <= loss), None)


def plot(results: dict[str, Any]) -> None:
    figure, axes = harness.pyplot("growth").subplots(figsize=(6, 3.6))
    for i, (name, runs) in enumerate(results["runs"].items()):
        for j, run in enumerate(runs):
            xs, ys = [p["flops"] for p in run["curve"]], [p["loss"] for p in run["curve"]]
            axes.plot(xs, ys, color=f"C{i}", alpha=0.9 if j == 0 else 0.45, label=name if j == 0 else None)
            for jump in run["jumps"]:
                axes.plot(jump["flops"], jump["after"], "o", color=f"C{i}", markersize=4)
    axes.set(xlabel="training FLOPs", ylabel="validation loss, nats per byte", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    figure.tight_layout()
    harness.save(figure, harness.FIGURES / "growth.svg")


def main() -> None:
    parser = harness.options(__doc__, write="write the results and the plot")
    parser.add_argument("--steps", type=int, default=250, help="steps of the model trained from scratch")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--every", type=int, default=25, help="steps between measurements")
    args = parser.parse_args()
    (small, s), (middle, m), (large, d) = SIZES
    n = args.steps
    budget = n * flops_of(make(large, d, 0))
    plans = {
        "from scratch": [(large, d, 0)],
        "grown once": [(small, s, 2 * n), (large, d, 0)],
        "grown twice": [(small, s, 2 * n), (middle, m, n // 2), (large, d, 0)],
    }
    runs: dict[str, list[dict[str, Any]]] = {
        name: [train(stages, budget, seed, args.every) for seed in range(args.seeds)]
        for name, stages in plans.items()
    }
    for name, found in runs.items():
        for seed, run in enumerate(found):
            scratch = runs["from scratch"][seed]
            at = reached(run, scratch["loss"])
            share = f"{at / scratch['flops']:.2f}" if at else "not reached"
            jumps = ", ".join(f"{j['after'] - j['before']:+.1e}" for j in run["jumps"]) or "-"
            print(
                f"{name}, seed {seed}: loss {run['loss']:.4f}, {run['tokens']:,} tokens, {run['seconds']} s; "
                f"FLOPs to the loss of scratch {share}; jumps {jumps}"
            )
    if args.write:
        results = {"torch": torch.__version__, "threads": torch.get_num_threads(), "runs": runs}
        harness.write(harness.RESULTS / "growth.json", results)
        plot(results)


if __name__ == "__main__":
    main()
