"""Grown against trained from scratch: loss against training FLOPs, on bytes of Python's standard library.

    python benchmarks/growth.py --write

A small transformer is trained, grown once or twice to the final size with its optimiser's state, and trained
on; another one has the final size from the start. Both read the same stream of batches. FLOPs are three times
the forward FLOPs of `account`. Results go to benchmarks/results/growth.json, the plot to
docs/figures/growth.svg.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import architectures  # noqa: E402
from architectures.growth import grow  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "growth.json"
FIGURE = ROOT / "docs" / "figures" / "growth.svg"
LENGTH, BATCH, LR, WARMUP = 96, 16, 2e-3, 30
# Sizes on the way; the last one is what is compared.
SIZES = (("2*(mh-attention swiglu)", 32), ("3*(mh-attention swiglu)", 64), ("4*(mh-attention swiglu)", 96))


def corpus() -> tuple[Tensor, Tensor]:
    """Bytes of the standard library's modules for training, and of every tenth one for validation."""
    files = sorted(Path(os.__file__).parent.glob("*.py"))
    train = b"".join(f.read_bytes() for i, f in enumerate(files) if i % 10)
    held_out = b"".join(f.read_bytes() for i, f in enumerate(files) if i % 10 == 0)
    return tuple(torch.frombuffer(bytearray(t), dtype=torch.uint8).long() for t in (train, held_out))  # type: ignore[return-value]


def rows(data: Tensor, step: int, count: int) -> Tensor:
    """Rows of LENGTH + 1 bytes, keyed by the step."""
    generator = torch.Generator().manual_seed(step)
    start = torch.randint(len(data) - LENGTH - 1, (count,), generator=generator)
    return data[start[:, None] + torch.arange(LENGTH + 1)]


def loss_of(model: Any, batch: Tensor) -> Tensor:
    return F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())


def make(spec: str, dim: int, seed: int) -> Any:
    return architectures.build(spec, vocab_size=256, dim=dim, max_len=LENGTH, seed=seed)


def optimizer_of(model: Any) -> torch.optim.AdamW:
    hints = model.hints()
    groups = [
        {"params": [p for n, p in model.named_parameters() if hints[n].decay == decay], "weight_decay": wd}
        for decay, wd in ((True, 0.1), (False, 0.0))
    ]
    return torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.98), fused=True)


def flops_of(model: Any) -> float:
    """Training FLOPs of one step."""
    found = architectures.account(model.spec, vocab_size=256, dim=model.dim, seq_len=LENGTH)
    return 3 * found.flops * LENGTH * BATCH


def train(stages: list[tuple[str, int, int]], budget: float, seed: int, every: int) -> dict[str, Any]:
    """Stages (spec, dim, steps); the last one runs until the budget of FLOPs is spent."""
    data, held_out = corpus()
    check = rows(held_out, 10**6, 128)
    spec, dim, _ = stages[0]
    model = make(spec, dim, seed)
    optimizer: Any = optimizer_of(model)
    curve, jumps, spent, step = [], [], 0.0, 0
    start = time.process_time()

    @torch.no_grad()
    def measure() -> float:
        return float(torch.stack([loss_of(model, part) for part in check.split(32)]).mean())

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
            for group in optimizer.param_groups:
                group["lr"] = rate * min(1, (step - first + 1) / WARMUP)
            loss_of(model, rows(data, step, BATCH)).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step, spent = step + 1, spent + cost
            if step % every == 0:
                curve.append({"step": step, "flops": spent, "loss": measure()})
                print(f"{spec} {dim} step {step} {spent:.3e} FLOPs {curve[-1]['loss']:.4f}", flush=True)
    curve.append({"step": step, "flops": spent, "loss": measure()})
    seconds = time.process_time() - start
    return {
        "stages": [[s, d, n] for s, d, n in stages],
        "params": sum(p.numel() for p in model.parameters()),
        "tokens": step * BATCH * LENGTH,
        "flops": spent,
        "loss": curve[-1]["loss"],
        "seconds": round(seconds, 1),
        "curve": curve,
        "jumps": jumps,
    }


def reached(run: dict[str, Any], loss: float) -> float | None:
    """FLOPs at which a run first had this loss."""
    return next((p["flops"] for p in run["curve"] if p["loss"] <= loss), None)


def plot(results: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "growth"
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6))
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
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURE, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--steps", type=int, default=250, help="steps of the model trained from scratch")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--every", type=int, default=25, help="steps between measurements")
    parser.add_argument("--write", action="store_true", help="write the results and the plot")
    args = parser.parse_args()
    (small, s), (middle, m), (large, d) = SIZES
    budget = args.steps * flops_of(make(large, d, 0))
    n = args.steps
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
        RESULT.parent.mkdir(parents=True, exist_ok=True)
        RESULT.write_text(json.dumps(results, indent=1) + "\n")
        plot(results)


if __name__ == "__main__":
    main()
