"""Runs of known laws and scores of their architectures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from scaling.laws.law import Law


def isoflops(
    laws: Mapping[str, Law], budgets: Sequence[float], *, factor: float, sizes: int, noise: float = 0.0
) -> pd.DataFrame:
    """`sizes` runs per law and budget, from N* / factor to N* factor; the k-th state is k sqrt(N)."""
    rng, rows = np.random.default_rng(0), []
    for k, (arch, law) in enumerate(laws.items(), 1):
        for budget in budgets:
            for by in np.geomspace(1 / factor, factor, sizes):
                n = float(law.n_opt(budget)) * by
                d = budget / (6 * n)
                loss = float(law.loss(n, d)) * np.exp(noise * rng.standard_normal())
                rows.append((arch, n, d, budget, loss, k * np.sqrt(n)))
    return pd.DataFrame(rows, columns=["arch", "params", "tokens", "budget", "loss", "state"])


def simulated(names: Sequence[str]) -> pd.DataFrame:
    """IsoFLOP runs with a little noise: each architecture somewhat worse than the one before."""
    laws = {
        name: Law(E=1.8, A=400 * (1 + 0.1 * k), B=1200 * (1 + 0.15 * k), alpha=0.34, beta=0.33)
        for k, name in enumerate(names)
    }
    return isoflops(laws, (1e18, 3e18, 1e19), factor=4, sizes=5, noise=0.001).drop(columns="budget")


def scores(names: Sequence[str]) -> pd.DataFrame:
    """A leaderboard of three."""
    return pd.DataFrame({"arch": names, "mad": [0.8, 0.7, 0.6], "compression": [0.5, 0.6, 0.4]})
