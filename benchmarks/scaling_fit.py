"""Fitting the law of loss against size and data: time, memory, and whether the optimum is the global one.

    python benchmarks/scaling_fit.py --write          # about a minute on one core

point      scaling.fit without a bootstrap, for each objective, and for each form of the law
bootstrap  scaling.fit with 4,000 resamples of pairs, with 4,000 of budgets, and for each form
grid       the published procedure (arXiv 2203.15556): L-BFGS from 4,500 starts, on the same objective, with
           scipy; with finite differences as published, and with the gradient. Every k-th start is run, and
           the time for all 4,500 is that of these times k.
global     the lowest of `--dense` random starts of this solver, and of the grid's, against the fit's
command    all of `mad scaling fit` (start, law, intervals, audit, parabolas) on tables of `--tables`
           simulated runs: processor time and peak memory of its process

Runs are the Chinchilla points of the folder MAD_SCALING_DATA where it is set, else 240 simulated ones with
their spread. Processor time of one thread. Results go to benchmarks/results/scaling-fit.json.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import itertools
import platform
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import harness
import numpy as np
import pandas as pd
import scipy
from scipy.optimize import minimize

import scaling
from scaling.laws.forms import FORMS
from scaling.laws.law import Array, Law
from scaling.laws.objective import Points, Problem, huber
from scaling.laws.solver import descend

DELTA = 1e-3
STARTS = list(
    itertools.product(
        np.arange(0, 30, 5.0), np.arange(0, 30, 5.0), np.arange(-1, 1.5, 0.5), *[np.arange(0, 2.5, 0.5)] * 2
    )
)
SIMULATED = Law(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)


def runs() -> tuple[str, pd.DataFrame]:
    folder = os.environ.get("MAD_SCALING_DATA")
    if folder:
        return "Chinchilla points", pd.read_csv(Path(folder) / "chinchilla_kyotakano.csv")
    return "simulated", simulated(20, 12)


def simulated(budgets: int, sizes: int) -> pd.DataFrame:
    c = np.repeat(np.geomspace(2e18, 1e22, budgets), sizes)
    n = np.asarray(SIMULATED.n_opt(c)) * np.tile(np.geomspace(1 / 5, 5, sizes), budgets)
    noise = 0.003 * np.random.default_rng(0).standard_t(3, len(n))
    loss = SIMULATED.loss(n, c / 6 / n) * np.exp(noise)
    return pd.DataFrame({"params": n, "tokens": c / 6 / n, "loss": loss})


def command(count: int) -> dict[str, Any]:
    """Processor time and peak memory of `mad scaling fit` on a table of so many runs at 20 budgets."""
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "runs.csv"
        simulated(20, count // 20).to_csv(table, index=False)
        words = [sys.executable, "-m", "mad.cli", "scaling", "fit", str(table)]
        quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
        environment = os.environ | {"PYTHONPATH": str(harness.ROOT)}
        started = os.posix_spawn(sys.executable, words, environment, file_actions=quiet)
        _, status, used = os.wait4(started, 0)
    if status:
        raise SystemExit(
            f"`mad scaling fit` on {count:,} runs ended with status {os.waitstatus_to_exitcode(status)}"
        )
    return {"runs": count, "seconds": used.ru_utime + used.ru_stime, "bytes": 1024 * used.ru_maxrss}


def seconds(call: Callable[[], Any], rounds: int) -> float:
    """The median time of a call, after one that does not count."""
    return median(times[0] for times in harness.turns({0: call}, rounds))


class Grid:
    """The published procedure: unknowns a, b, e, alpha, beta on raw logs, L-BFGS, Huber loss, summed."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.log_n, self.log_d, self.log_loss = (
            np.log(frame[name].to_numpy(float)) for name in ("params", "tokens", "loss")
        )

    def objective(self, t: Array) -> float:
        return float(huber(self._residual(t)[0], DELTA).sum())

    def gradient(self, t: Array) -> Array:
        r, parts = self._residual(t)
        pull = np.clip(r, -DELTA, DELTA) * parts
        in_n, in_d, floor = pull
        return np.array(
            [in_n.sum(), in_d.sum(), floor.sum(), -(in_n * self.log_n).sum(), -(in_d * self.log_d).sum()]
        )

    def _residual(self, t: Array) -> tuple[Array, Array]:
        logs = np.stack([t[0] - t[3] * self.log_n, t[1] - t[4] * self.log_d, np.full_like(self.log_n, t[2])])
        top = logs.max(0)
        parts = np.exp(logs - top)
        total = parts.sum(0)
        return top + np.log(total) - self.log_loss, parts / total

    def run(self, every: int, exact: bool) -> tuple[float, Array]:
        """Seconds for all starts, from every k-th; and the objectives where those ended."""
        chosen, ends = STARTS[::every], list[float]()
        jac = self.gradient if exact else None

        def descents() -> None:
            ends.extend(minimize(self.objective, x, jac=jac, method="L-BFGS-B").fun for x in chosen)

        return harness.seconds(descents) * len(STARTS) / len(chosen), np.array(ends)


def dense(frame: pd.DataFrame, count: int) -> Array:
    """Where random starts of the solver end."""
    problem = Problem.of([Points.of(frame)])
    low, high = [0.1, -4, -4, 0.03, 0.03], [float(frame["loss"].min()), 1, 1, 1.9, 1.9]
    starts = np.random.default_rng(0).uniform(low, high, (count, 5))
    return descend(starts, problem, np.ones(len(frame)), DELTA)[1]


def machine() -> dict[str, Any]:
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "clock": "process time",
        "threads": int(os.environ["OMP_NUM_THREADS"]),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "pandas": pd.__version__,
    }


def main() -> None:
    parser = harness.options(__doc__, write="write the results")
    parser.add_argument("--rounds", type=int, default=30, help="timed point fits; the median is given")
    parser.add_argument("--resamples", type=int, default=4000)
    parser.add_argument("--every", type=int, default=45, help="of the published grid's starts, each such one")
    parser.add_argument("--dense", type=int, default=200, help="random starts of this solver")
    parser.add_argument("--tables", default="240,2400,24000", help="runs of the tables of the whole command")
    args = parser.parse_args()
    name, frame = runs()
    print(f"{len(frame)} runs ({name}); Huber with delta {DELTA} unless said; processor time of one thread")
    found: dict[str, Any] = {"machine": machine(), "data": name, "runs": len(frame), "delta": DELTA}
    rows: list[tuple[str, float]] = []

    def point(label: str, **options: Any) -> None:
        fit = partial(scaling.fit, frame, bootstrap=0, **options)
        rows.append((f"point fit, {label}", seconds(fit, args.rounds)))

    def drawn(label: str, **options: Any) -> None:
        fit = partial(scaling.fit, frame, bootstrap=args.resamples, **options)
        rows.append((f"{args.resamples:,} resamples, {label}", seconds(fit, 1)))

    for objective in ("huber", "lad", "log-mse"):
        point(objective, objective=objective)
    for resample in ("pairs", "budget"):
        drawn(resample, resample=resample)
    for form in list(FORMS)[1:]:
        point(form, form=form)
        drawn(form, form=form)
    law, grid = scaling.fit(frame, bootstrap=0), Grid(frame)
    ends: dict[str, Array] = {}
    for kind, exact in (("finite differences", False), ("its gradient", True)):
        taken, ends[kind] = grid.run(args.every, exact)
        rows.append((f"published grid, {len(STARTS):,} starts, {kind}", taken))
    ends[f"{args.dense} random starts, this solver"] = dense(frame, args.dense)
    for label, taken in rows:
        print(f"{label:48s} {taken * 1000:12.2f} ms")
    found |= {"seconds": dict(rows), "objective": law.value, "optimum": {}}
    for kind, values in ends.items():
        share = float((values <= law.value * (1 + 1e-6)).mean())
        lower = float(values.min() / law.value - 1)
        found["optimum"][kind] = {"starts": len(values), "share_that_reach_it": share, "lowest": lower}
        print(
            f"{kind:48s} {share:6.1%} of {len(values)} reach the fit's objective; lowest {lower:+.1e} of it"
        )
    found["command"] = [command(count) for count in harness.numbers(args.tables)]
    for row in found["command"]:
        print(f"mad scaling fit, {row['runs']:6,} runs {row['seconds']:8.2f} s {row['bytes'] / 1e6:8.0f} MB")
    if args.write:
        harness.write(harness.RESULTS / "scaling-fit.json", found)


if __name__ == "__main__":
    main()
