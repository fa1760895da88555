"""Runs simulated from a known law: the designs that the tests and benchmarks/scaling_coverage.py share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from scaling.laws.forms import FORMS
from scaling.laws.law import Array, Law
from scaling.laws.objective import Points, Problem

CHINCHILLA = Law(E=1.82, A=482.0, B=2085.0, alpha=0.348, beta=0.366)
SYMMETRIC = Law(E=1.8, A=500.0, B=1500.0, alpha=0.35, beta=0.35)
FALLS_FAST = Law(E=1.8, A=500.0, B=1500.0, alpha=0.40, beta=0.30)
FALLS_SLOWLY = Law(E=1.8, A=500.0, B=1500.0, alpha=0.30, beta=0.40)
TRUTH = Law(E=1.8, A=480.0, B=2000.0, alpha=0.35, beta=0.36)
LAW = Law(E=1.8, A=480.0, B=2100.0, alpha=0.35, beta=0.37)
# Epoch's corrected fit to the Chinchilla runs (arXiv 2404.10102).
CORRECTED = Law(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)
BUDGETS = (1e18, 1e19, 1e20, 1e21)


def problem_of(frame: pd.DataFrame, form: str = "standard") -> Problem:
    """What a fit of one law minimises."""
    return Problem.of([Points.of(frame)], FORMS[form])


def differences(
    problem: Problem, theta: Array, weights: Array, delta: float, step: float = 1e-6
) -> tuple[Array, Array]:
    """The gradient (p,) and the Hessian (p, p) of an objective at theta (p,), by central differences."""
    up, down = (
        [problem.system((theta + sign * one)[None], weights, delta) for one in step * np.eye(len(theta))]
        for sign in (1, -1)
    )
    slope = [(a.value[0] - b.value[0]) / (2 * step) for a, b in zip(up, down, strict=True)]
    bend = [(a.gradient[0] - b.gradient[0]) / (2 * step) for a, b in zip(up, down, strict=True)]
    return np.array(slope), np.array(bend)


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
    """`sizes` runs per budget, geometric from N* shift / width to N* shift width; shift grows as C^drift."""
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


def isoflops(
    law: Law,
    *,
    low: float = 1e18,
    span: float = 300.0,
    budgets: int = 5,
    sizes: int = 7,
    width: float = 4.0,
    noise: float = 0.0,
    seed: int | np.random.Generator = 0,
) -> pd.DataFrame:
    """Groups of equal compute around the optimum; the noise is that of the log loss."""
    c = np.repeat(np.geomspace(low, low * span, budgets), sizes)
    n = np.asarray(law.n_opt(c)) * np.tile(np.geomspace(1 / width, width, sizes), budgets)
    loss = law.loss(n, c / 6 / n) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(n)))
    return pd.DataFrame({"params": n, "tokens": c / 6 / n, "loss": loss})


def like_chinchilla(seed: int = 0) -> pd.DataFrame:
    """240 runs with the spread of the Chinchilla points: few are far off, most by a third of a percent."""
    frame = isoflops(CORRECTED, budgets=20, sizes=12, low=2e18, span=5e3, width=5.0)
    frame["loss"] *= np.exp(0.003 * np.random.default_rng(seed).standard_t(3, len(frame)))
    return frame


def simulate(noise: float, seed: int, budgets: int = 5, sizes: int = 7) -> pd.DataFrame:
    """Runs of `TRUTH`: `sizes` at each of `budgets`."""
    frame = isoflops(TRUTH, noise=noise, seed=seed, budgets=budgets, sizes=sizes)
    return frame.assign(budget=np.repeat(np.geomspace(1e18, 3e20, budgets), sizes))


def curves(seed: int, noise: float = 0.004, within: float = 0.0005) -> pd.DataFrame:
    """Four rows of each of 35 runs, at rising tokens, that share most of their error."""
    rng = np.random.default_rng(seed)
    whole, own = isoflops(TRUTH), noise * rng.standard_normal(35)
    n, parts = whole["params"].to_numpy(), []
    for share in (0.25, 0.5, 0.75, 1.0):
        d = share * whole["tokens"].to_numpy()
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
