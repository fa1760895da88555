"""An isoFLOP study planned: which sizes are trained on how many tokens, and whether that can be fitted.

The grid is the same for every architecture and budget C: sizes geometric in N, from N_c / span to N_c span,
around N_c = sqrt(C / (6 m)) with m tokens per parameter; a grid that drifts or is off its centre would bias
the optima (arXiv:2603.22339). Tokens are C / (FLOPs per token), exact and not 6 N. The batch is constant in a
budget and grows as C^(1/3), between 200 and 20,000 steps per run.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import torch

import architectures
from architectures.contract import causality
from architectures.model import resolve_options
from architectures.sizes.bounds import shown
from mad.data import labels
from mad.messages import Failed
from mad.run.driver import one_driver
from mad.run.runner import PROBE_ROWS
from scaling.laws.diagnose import check_design
from scaling.laws.runs.cleaning import NotIdentified
from scaling.lm.config import CorpusConfig
from scaling.study import LRS
from scaling.study.plan import Plan, PlannedRun
from scaling.study.sizes import Size, ladder
from scaling.study.timing import Measure, timed

# Tokens per step are `batch_tokens` at this budget.
REFERENCE = 1e12
STEPS = (200, 20_000)
# Text that is read more often than this is worth visibly less than new text (arXiv:2305.16264).
MOST_EPOCHS = 4.0
FEWEST_SIZES = 5
MOST_SIZES, MOST_BUDGET = 100, 1e36
# A mean deviation from the grid's centre, as a factor, beyond which it is said.
OFF_CENTRE = 1.25


def plan(
    archs: Sequence[str],
    *,
    budgets: Sequence[float],
    corpus: CorpusConfig,
    sizes: int = 5,
    seq_len: int = 128,
    span: float = 4.0,
    tokens_per_param: float = 20.0,
    batch_tokens: float = 2048.0,
    lrs: Sequence[float] = LRS,
    lr: float | None = None,
    evaluations: int = 4,
    evaluation_tokens: int = 2**17,
    seed: int = 0,
    workers: int = 1,
    measure: Measure | None = None,
    max_hours: float | None = None,
    allow_repeats: bool = False,
) -> Plan:
    """An isoFLOP study of architectures at training budgets in FLOPs; nothing is trained.

    archs          specs or preset names, each alone or as label=spec
    sizes, span    of a budget: so many, the outer ones a factor `span` from the centre
    tokens_per_param  at the centre of each grid
    batch_tokens   tokens per step at 1e12 FLOPs
    lrs            tuned at the smallest budget at two sizes per architecture; `lr` sets all rates instead
    measure        (size, sequences per step) -> seconds per step, as `timing.seconds_per_step` measures them

    Refuses, with the remedy: a design that cannot identify the law (NotIdentified), one that is predicted to
    take longer than `max_hours`, and one that reads its text more than four times, unless `allow_repeats`.
    """
    given = _labelled(archs)
    grid = _budgets(budgets)
    _positive(seq_len=seq_len, tokens_per_param=tokens_per_param, batch_tokens=batch_tokens, workers=workers)
    if not span > 1:
        raise ValueError(f"span={span:g} must be above 1: a factor from the centre to the outer sizes")
    if sizes < 3:
        raise NotIdentified(
            f"sizes={sizes}: a parabola needs three sizes at each budget, its error four; give {FEWEST_SIZES}"
        )
    if sizes > MOST_SIZES:
        raise ValueError(
            f"sizes={shown(sizes)} at each budget must be at most {MOST_SIZES}; give {FEWEST_SIZES}"
        )
    rates = tuple(sorted({float(x) for x in lrs}))
    if lr is None and (len(rates) < 3 or rates[0] <= 0):
        raise ValueError(f"lrs={list(lrs)}: tuning needs three or more positive rates; or give lr to skip it")
    common: dict[str, Any] = {"vocab_size": corpus.vocab_size, "seq_len": seq_len}
    runs: list[PlannedRun] = []
    tuning: list[PlannedRun] = []
    notes: list[str] = []
    offsets = [span ** (2 * i / (sizes - 1) - 1) for i in range(sizes)]
    for budget in grid:
        centre = math.sqrt(budget / (6 * tokens_per_param))
        targets = [centre * offset for offset in offsets]
        found = {label: ladder(spec, targets, **common) for label, spec in given.items()}
        rows = _rows(budget, [size for own in found.values() for size in own], seq_len, batch_tokens)
        for label, own in found.items():
            runs += [_run(label, size, budget, seq_len, rows, lr) for size in own]
            notes += _off_centre(label, budget, centre, own)
    if lr is None:
        inner = sizes // 4
        for label in given:
            small = [run for run in runs if run.arch == label and run.budget == grid[0]]
            tuning += [
                small[i].model_copy(update={"role": "tuning", "lr": rate})
                for i in (inner, sizes - 1 - inner)
                for rate in rates
            ]
    for label, spec in given.items():
        smallest = min((r.size for r in runs if r.arch == label), key=lambda s: s.params)
        _try_out(label, spec, smallest, seq_len, corpus)
    made = Plan(
        archs=given,
        budgets=grid,
        corpus=corpus,
        seq_len=seq_len,
        span=span,
        tokens_per_param=tokens_per_param,
        lrs=rates if lr is None else None,
        evaluations=evaluations,
        evaluation_tokens=evaluation_tokens,
        seed=seed,
        workers=workers,
        repeats_allowed=allow_repeats,
        runs=tuple(runs),
        tuning=tuple(tuning),
    )
    notes += _design(made)
    if sizes < FEWEST_SIZES:
        notes.append(
            f"{sizes} sizes at each budget leave little to tell noise from curvature; 5 or more are usual"
        )
    notes += _repeats(made, allow_repeats)
    made = made.model_copy(update={"notes": tuple(notes)})
    if measure is None:
        if max_hours is not None:
            raise ValueError(f"max_hours={max_hours:g} needs a measured step; give measure, or leave it out")
        return made
    return timed(made, measure, max_hours)


@one_driver()
def _try_out(label: str, spec: str, size: Size, seq_len: int, corpus: CorpusConfig) -> None:
    """Refuse an architecture that sees later tokens; it is built at its smallest size."""
    try:
        model = architectures.build(
            size.spec,
            vocab_size=corpus.vocab_size,
            dim=size.dim,
            max_len=seq_len,
            seed=0,
            options=resolve_options(spec),
        )
        tokens = torch.randint(
            corpus.vocab_size, (PROBE_ROWS, seq_len), generator=torch.Generator().manual_seed(0)
        )
        task = f"next-token prediction of {corpus.name}"
        causality.require(model, tokens, corpus.vocab_size, who=spec, task=task)
    except (ValueError, KeyboardInterrupt):
        raise
    except BaseException as error:  # A user's layer may raise anything.
        words = "".join(traceback.format_exception_only(error))
        raise Failed(f"{label} failed when it was tried at {size.params:,} parameters: {words}") from error


def _labelled(archs: Sequence[str]) -> dict[str, str]:
    """{label: spec} of "label=spec" or "spec", which then is its own label."""
    found: dict[str, str] = {}
    for text in archs:
        label, spec = labels.read(text)
        label = label or spec
        if label in found:
            raise ValueError(
                f"architecture {label!r} is there twice; give each a label of its own: label=spec"
            )
        parsed = architectures.parse(spec)
        twin = next((other for other, known in found.items() if architectures.parse(known) == parsed), None)
        if twin is not None:
            raise ValueError(f"{label!r} and {twin!r} are one architecture; leave one out")
        found[label] = spec
    if not found:
        raise ValueError("there is no architecture to plan for; give a spec or a preset's name")
    return found


def _budgets(budgets: Sequence[float]) -> tuple[float, ...]:
    grid = tuple(sorted(float(c) for c in budgets))
    wrong = [c for c in grid if not 0 < c <= MOST_BUDGET]
    if wrong or not grid:
        rule = f"above 0 and at most {MOST_BUDGET:g}"
        raise ValueError(f"budgets={list(budgets)}: give training FLOPs {rule}, such as 1e12 3e12 1e13")
    if len(set(grid)) < len(grid):
        raise ValueError(f"budgets={list(budgets)}: one is there twice; leave it out")
    return grid


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value:g} must be above 0")


def _rows(budget: float, sizes: Sequence[Size], seq_len: int, batch_tokens: float) -> int:
    """Sequences per step, for all runs of a budget."""
    tokens = [budget / size.flops for size in sizes]
    wanted = batch_tokens * (budget / REFERENCE) ** (1 / 3)
    # Few steps are worse than many: the lower limit on steps has the last word.
    wanted = min(max(wanted, max(tokens) / STEPS[1]), min(tokens) / STEPS[0])
    return max(1, round(wanted / seq_len))


def _run(arch: str, size: Size, budget: float, seq_len: int, rows: int, lr: float | None) -> PlannedRun:
    """Tokens = C / (FLOPs per token), in whole steps."""
    tokens = budget / size.flops
    run = PlannedRun(
        arch=arch,
        role="grid",
        size=size,
        budget=budget,
        seq_len=seq_len,
        batch_size=rows,
        steps=max(1, round(tokens / (rows * seq_len))),
        lr=lr,
    )
    if abs(run.flops / budget - 1) > 0.01:
        raise ValueError(
            f"a budget of {budget:g} FLOPs is {tokens:,.0f} tokens of {arch} at {size.params:,} parameters: "
            f"too few for whole steps of {rows * seq_len:,} tokens within 1 %; give larger budgets, a "
            "smaller span or a shorter seq_len"
        )
    return run


def _off_centre(arch: str, budget: float, centre: float, sizes: Sequence[Size]) -> Iterator[str]:
    mean = math.exp(sum(math.log(size.params / centre) for size in sizes) / len(sizes))
    if abs(math.log(mean)) > math.log(OFF_CENTRE):
        yield (
            f"{arch} at {budget:.3g}: its sizes are {mean:.2f} times the grid's on average, for its pattern "
            "of layers is coarse; its optimum is biased a little"
        )


def _design(made: Plan) -> Iterator[str]:
    """Warnings of the fitter about where the runs would lie; NotIdentified where it could not fit them."""
    for arch, mine in made.frame().groupby("arch", sort=False):
        try:
            yield from (f"{arch}: {warning}" for warning in check_design(mine.reset_index(drop=True)))
        except NotIdentified as error:
            raise NotIdentified(f"the plan for {arch} cannot be fitted: {error}") from None


def _repeats(made: Plan, allowed: bool) -> list[str]:
    """Notes on runs that read their text more than once; beyond four times a refusal unless allowed."""
    most = max(made.runs, key=made.epochs)
    epochs, text = made.epochs(most), made.corpus.train_tokens
    if epochs <= 1:
        return []
    where = f"{most.arch} with {most.size.params:,} parameters at {most.budget:.3g} FLOPs"
    if epochs > MOST_EPOCHS and not allowed:
        raise ValueError(
            f"{where} would read the {text:,} tokens of {made.corpus.name} {epochs:.3g} times, and more than "
            f"{MOST_EPOCHS:g} times is worth visibly less than new text; give a longer or a generated text, "
            "smaller budgets, a smaller span, or allow repeats (fitted then with the effective-data law)"
        )
    count = sum(made.epochs(run) > 1 for run in made.runs)
    marked = "; fit with the effective-data law" if epochs > MOST_EPOCHS else ""
    return [f"{count} of {len(made.runs)} runs repeat the text, {where} {epochs:.3g} times{marked}"]
