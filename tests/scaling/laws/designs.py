"""Runs simulated from a known law: the designs that the tests and benchmarks/scaling_coverage.py share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from scaling.laws.forms import FORMS
from scaling.laws.law import Law
from scaling.laws.objective import Points, Problem

CHINCHILLA = Law(E=1.82, A=482.0, B=2085.0, alpha=0.348, beta=0.366)
SYMMETRIC = Law(E=1.8, A=500.0, B=1500.0, alpha=0.35, beta=0.35)
FALLS_FAST = Law(E=1.8, A=500.0, B=1500.0, alpha=0.40, beta=0.30)
FALLS_SLOWLY = Law(E=1.8, A=500.0, B=1500.0, alpha=0.30, beta=0.40)
TRUTH = Law(E=1.8, A=480.0, B=2000.0, alpha=0.35, beta=0.36)
BUDGETS = (1e18, 1e19, 1e20, 1e21)


def problem_of(frame: pd.DataFrame, form: str = "standard") -> Problem:
    """What a fit of one law minimises."""
    return Problem.of([Points.of(frame)], FORMS[form])


def grid(
    law: Law = CHINCHILLA,
    budgets: Sequence[float] | npt.NDArray[np.float64] = BUDGETS,
    *,
    sizes: int = 7,
    width: float = 4.0,
    shift: float = 1.0,
    drift: float = 0.0,
    noise: float = 0.0,
    seed: int = 0,
    arch: str = "a",
) -> pd.DataFrame:
    """`sizes` runs a budget, geometric from N* shift / width to N* shift width; shift grows as C^drift."""
    rng = np.random.default_rng(seed)
    parts = []
    for c in budgets:
        centre = law.n_opt(c) * shift * (c / float(np.exp(np.mean(np.log(budgets))))) ** drift
        n = centre * np.geomspace(1 / width, width, sizes)
        loss = np.asarray(law.loss(n, c / (6 * n))) + noise * rng.standard_normal(sizes)
        parts.append(pd.DataFrame({"arch": arch, "params": n, "tokens": c / (6 * n), "loss": loss}))
    return pd.concat(parts, ignore_index=True)


def random_law(rng: np.random.Generator) -> Law:
    """A law whose compute-optimal ratio D/N at 1e20 lies between 5 and 100, so that sizes are plausible."""
    alpha, beta = rng.uniform(0.25, 0.5, 2)
    ratio, c, b = np.exp(rng.uniform(np.log(5), np.log(100))), 1e20, 1000.0
    n = np.sqrt(c / 6 / ratio)
    a = b * beta / alpha * (c / 6 / n) ** -beta * n**alpha
    return Law(E=float(rng.uniform(1.5, 2.2)), A=float(a), B=b, alpha=float(alpha), beta=float(beta))


def simulate(noise: float, seed: int, budgets: int = 5, sizes: int = 7) -> pd.DataFrame:
    """Runs of `TRUTH`: `sizes` at each of `budgets`."""
    c = np.repeat(np.geomspace(1e18, 3e20, budgets), sizes)
    n = np.asarray(TRUTH.n_opt(c)) * np.tile(np.geomspace(0.25, 4, sizes), budgets)
    loss = TRUTH.loss(n, c / 6 / n) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(n)))
    return pd.DataFrame({"params": n, "tokens": c / 6 / n, "loss": loss, "budget": c})


def curves(seed: int, noise: float = 0.004, within: float = 0.0005) -> pd.DataFrame:
    """Four rows of each of 35 runs, at rising tokens, that share most of their error."""
    rng = np.random.default_rng(seed)
    c = np.repeat(np.geomspace(1e18, 3e20, 5), 7)
    n = np.asarray(TRUTH.n_opt(c)) * np.tile(np.geomspace(0.25, 4, 7), 5)
    own = noise * rng.standard_normal(35)
    parts = []
    for share in (0.25, 0.5, 0.75, 1.0):
        d = share * c / 6 / n
        loss = TRUTH.loss(n, d) * np.exp(own + within * rng.standard_normal(35))
        parts.append(pd.DataFrame({"run": np.arange(35), "params": n, "tokens": d, "loss": loss}))
    return pd.concat(parts, ignore_index=True)


def of_exponents(alpha: float, beta: float) -> Law:
    """Twenty tokens per parameter are optimal at 1e19 FLOPs, and .9 nats of 2.7 are reducible there."""
    n = float(np.sqrt(1e19 / 120))
    a, b = 0.9 * beta / (alpha + beta) * n**alpha, 0.9 * alpha / (alpha + beta) * (20 * n) ** beta
    return Law(E=1.8, A=a, B=b, alpha=alpha, beta=beta)


def true_penalty(law: Law, ratio: float, c: float) -> float:
    """What D/D* = `ratio` costs at C, in nats."""
    n, d = float(law.n_opt(c)), float(law.d_opt(c))
    return float(law.loss(n / ratio, d * ratio)) - float(law.loss_opt(c))
