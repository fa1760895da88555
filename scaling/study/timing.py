"""How long runs take: a few training steps measured, the others by their FLOPs and their layers.

    seconds per step = a layers + b FLOPs, with a and b >= 0 from the measured steps of one architecture

The first term is what each layer's operators cost however small they are, the second the arithmetic.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import cross_entropy

import architectures
from architectures.outside.surroundings import kept
from mad.messages import counted
from mad.progress import clock
from mad.run.place import find_place
from scaling.study.plan import Plan, PlannedRun
from scaling.study.sizes import Size

# (size, sequences per step) -> seconds per step
Measure = Callable[[Size, int], float]

# Timed after one step that is not: at least this many, and for this long.
STEPS, SECONDS = 3, 0.5


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds per step of an architecture: `per_layer` x layers + `per_flop` x training FLOPs of the step."""

    per_layer: float
    per_flop: float

    def seconds(self, size: Size, tokens: float) -> float:
        return self.per_layer * size.layers + self.per_flop * size.flops * tokens


def pace(measured: Sequence[tuple[Size, float, float]]) -> Pace:
    """From measured (size, tokens per step, seconds per step); least squares of the relative error."""
    from scipy.optimize import nnls

    rows = np.array([[size.layers, size.flops * tokens] for size, tokens, _ in measured], float)
    seconds = np.array([value for _, _, value in measured])
    unit = rows.max(0)
    found, _ = nnls(rows / unit / seconds[:, None], np.ones(len(seconds)))
    return Pace(per_layer=float(found[0] / unit[0]), per_flop=float(found[1] / unit[1]))


def seconds_per_step(
    size: Size,
    *,
    vocab_size: int,
    seq_len: int,
    batch_size: int,
    device: str = "cpu",
    threads: int | None = None,
) -> float:
    """Train a few steps on random tokens and say what one takes; `threads` of a CPU, None as they are set.

    Steps of the whole model are timed; those of a nested one under its draw take time in proportion.
    """
    found = architectures.account(size.spec, vocab_size=vocab_size, dim=size.dim, seq_len=seq_len)
    drawn = found.require_training_flops() / (3 * found.flops)
    where = find_place(device).device
    with kept():
        torch.set_num_threads(threads or torch.get_num_threads())
        model = architectures.build(size.spec, vocab_size=vocab_size, dim=size.dim, max_len=seq_len, seed=0)
        model.to(where)
        adamw = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
        draw = torch.Generator().manual_seed(0)
        tokens = torch.randint(vocab_size, (batch_size, seq_len + 1), generator=draw).to(where)

        def step() -> None:
            adamw.zero_grad()
            loss = cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
            loss.backward()
            adamw.step()
            if where.type == "cuda":
                torch.cuda.synchronize()

        step()
        start, steps = time.perf_counter(), 0
        while steps < STEPS or time.perf_counter() - start < SECONDS:
            step()
            steps += 1
        return drawn * (time.perf_counter() - start) / steps


def timed(made: Plan, measure: Measure, max_hours: float | None) -> Plan:
    """The plan with predicted seconds, from the smallest and the largest step of each architecture.

    Refuses one that would take longer than `max_hours`.
    """
    found: list[PlannedRun] = []
    for arch in made.archs:
        runs = [run for run in (*made.tuning, *made.runs) if run.arch == arch]
        ends = [end(runs, key=lambda run: run.flops / run.steps) for end in (min, max)]
        steps = pace([(run.size, run.step_tokens, measure(run.size, run.batch_size)) for run in ends])
        for run in runs:
            seconds = run.steps * steps.seconds(run.size, run.step_tokens)
            # An evaluation is a third of the arithmetic of as many training tokens.
            read = made.evaluations * min(made.evaluation_tokens, made.corpus.validation_tokens)
            seconds += steps.per_flop * run.size.flops * read / 3
            found.append(run.model_copy(update={"seconds": float(f"{seconds:.3g}")}))
    each = [run.work for run in found]
    hours = max(sum(each) / made.workers, max(each)) / 3600
    if max_hours is not None and hours > max_hours:
        top = made.budgets[-1]
        share = sum(run.work for run in found if run.budget == top) / sum(each)
        raise ValueError(
            f"the plan would take about {clock(3600 * hours)} on {counted(made.workers, 'worker')}, more "
            f"than max_hours={max_hours:g}; {share:.0%} of that is the budget {top:.3g}: lower it, use fewer "
            "sizes or architectures, more workers, or allow more hours"
        )
    grid, tuning = (tuple(run for run in found if run.role == role) for role in ("grid", "tuning"))
    return made.model_copy(update={"runs": grid, "tuning": tuning, "hours": round(hours, 3)})
