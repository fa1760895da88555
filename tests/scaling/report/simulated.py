"""Runs of known laws and scores of their architectures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from scaling.laws.law import Law


def simulated(names: Sequence[str]) -> pd.DataFrame:
    """IsoFLOP runs with a little noise: each architecture somewhat worse than the one before."""
    rng, rows = np.random.default_rng(0), []
    for k, name in enumerate(names):
        law = Law(E=1.8, A=400 * (1 + 0.1 * k), B=1200 * (1 + 0.15 * k), alpha=0.34, beta=0.33)
        for c in (1e18, 3e18, 1e19):
            for factor in np.geomspace(0.25, 4, 5):
                n = float(law.n_opt(c)) * factor
                loss = float(law.loss(n, c / (6 * n))) * np.exp(0.001 * rng.normal())
                rows.append((name, n, c / (6 * n), loss, (1 + k) * np.sqrt(n)))
    return pd.DataFrame(rows, columns=["arch", "params", "tokens", "loss", "state"])


def scores(names: Sequence[str]) -> pd.DataFrame:
    """A leaderboard of three."""
    return pd.DataFrame({"arch": names, "mad": [0.8, 0.7, 0.6], "compression": [0.5, 0.6, 0.4]})
