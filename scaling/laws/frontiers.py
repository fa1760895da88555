"""Frontiers of an architecture: the compute-optimal loss L*(C) at any compute, and the best measured runs."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from scaling.laws.optima import Optima
from scaling.laws.parabola import variances
from scaling.laws.powerlaw import power, power_laws
from scaling.laws.runs import cleaning as runs
from scaling.laws.runs.cleaning import NotIdentified

Array = npt.NDArray[np.float64]

# The slope that carries a frontier beyond its data is that of so many of its nearest budgets.
NEAREST = 3
BY = ("flops", "params", "state")


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """L*(C) of one architecture, for comparisons and relations alike, from its usable optima by rising C.

    optima         one row a budget, as in `isoflop`; there may be none
    draws          of L*, shape (draw, budget)
    variances, df  of L* by the scatter of the runs, and its degrees of freedom
    """

    arch: str
    optima: pd.DataFrame
    draws: Array
    variances: Array
    df: int

    @classmethod
    def of(cls, found: Optima) -> Frontier:
        scatter, df = variances(*found.used_points)
        used, draws = found.used.reset_index(drop=True), found.used_draws()[..., 2]
        return cls(arch=found.arch, optima=used, draws=draws, variances=scatter, df=df)

    @cached_property
    def flops(self) -> Array:
        return self.optima["flops"].to_numpy(float)

    @cached_property
    def logs(self) -> Array:
        return np.log(self.flops)

    @cached_property
    def losses(self) -> Array:
        return self.optima["loss"].to_numpy(float)

    @property
    def budgets(self) -> list[float]:
        return list(self.optima["budget"])

    def moved(self, i: int, c: float) -> tuple[float, Array]:
        """L* of the i-th budget and its draws, moved to C along the slope of the frontier."""
        if len(self.logs) < 2:
            return float(self.losses[i]), self.draws[:, i]
        slope = np.gradient(self.losses, self.logs, edge_order=2 if len(self.logs) > 2 else 1)[i]
        shift = float(slope * (np.log(c) - self.logs[i]))
        return float(self.losses[i] + shift), self.draws[:, i] + shift

    def at(self, c: float) -> tuple[float, Array]:
        """L*(C) and its draws."""
        if len(self.logs) < 2 and self.beyond(c) > 1.01:
            raise NotIdentified(
                f"{self.arch} has {len(self.logs)} usable budgets, so its loss at C = {c:.3g} is open; train "
                "it at budgets on both sides"
            )
        weights = self.weights(c)
        drawn = np.log(np.where(self.draws > 0, self.draws, np.nan)) @ weights
        return float(np.exp(weights @ np.log(self.losses))), np.exp(drawn)

    def params(self, c: float) -> float:
        """N*(C), as L*(C) is found."""
        return float(np.exp(self.weights(c) @ np.log(self.optima["params"].to_numpy(float))))

    def beyond(self, c: float) -> float:
        """How many times C lies outside the budgets; 1 within, or within rounding."""
        if not len(self.logs):
            return float("inf")
        out = max(np.log(c) - self.logs.max(), self.logs.min() - np.log(c), 0.0)
        return float(np.exp(out)) if out > 1e-9 else 1.0

    def nearest(self, c: float) -> int:
        """Which budget is the nearest."""
        return int(np.abs(np.log(self.flops / c)).argmin())

    def weights(self, c: float) -> Array:
        """What each budget counts in ln L*(C): interpolation within them, a line from the last beyond."""
        log_c, weights = np.log(c), np.zeros(len(self.logs))
        if len(weights) == 1:
            return np.ones(1)
        if self.logs.min() <= log_c <= self.logs.max():
            upper = min(max(int(np.searchsorted(self.logs, log_c)), 1), len(weights) - 1)
            share = (log_c - self.logs[upper - 1]) / (self.logs[upper] - self.logs[upper - 1])
            weights[upper - 1], weights[upper] = 1 - share, share
            return weights
        near = np.argsort(np.abs(self.logs - log_c))[:NEAREST]
        u = self.logs[near] - self.logs[near].mean()
        weights[near] = (log_c - self.logs[near[0]]) * u / (u @ u)
        weights[near[0]] += 1
        return weights


def frontier(
    frame: runs.Table, *, by: Literal["flops", "params", "state"] = "flops", shared: bool | None = None
) -> pd.DataFrame:
    """The runs that no cheaper run of their architecture beats: arch, `by`, loss, ppl and `row`, the run's.

    by      what a run costs: training FLOPs, parameters, or elements of state
    shared  fit P = k x^exponent to the frontiers, with one exponent for all architectures (True) or one for
            each (False): adds `fit` (a perplexity) and `exponent`. NaN where a frontier is a single point.

    These are measured runs, so the frontier ends where training ended; `isoflop` gives the compute-optimal
    points between the sizes that were trained.
    """
    if by not in BY:
        close = get_close_matches(str(by), BY, n=1) or BY
        raise ValueError(f"by = {by!r} is not a cost of a run; did you mean {close[0]!r}? ({', '.join(BY)})")
    need = ("params", "tokens", "loss") if by == "flops" else (by, "loss")
    table = runs.clean(frame, need=need).frame
    parts = []
    for _, mine in table.groupby("arch"):
        # FLOPs of one budget differ by rounding.
        ordered = mine.assign(cost=np.log(mine[by]).round(9)).sort_values(["cost", "loss"], kind="stable")
        before = ordered["loss"].cummin().shift(fill_value=np.inf)
        parts.append(ordered[ordered["loss"] < before])
    out = pd.concat(parts)[["arch", by, "loss"]]
    out = out.assign(ppl=np.exp(out["loss"])).reset_index(names="row")
    if shared is not None:
        out = _fitted(out, by, shared)
    return out[[name for name in ("arch", by, "loss", "ppl", "fit", "exponent", "row") if name in out]]


def _fitted(out: pd.DataFrame, by: str, shared: bool) -> pd.DataFrame:
    several = out.groupby("arch")[by].transform("nunique") > 1
    if not several.any():
        raise NotIdentified(
            f"every frontier over {by} is a single run, so no exponent can be fitted; add runs with more "
            f"{by} that reach a lower loss"
        )
    used = out[several]
    fit = power_laws(used[by], used["ppl"], used["arch"].tolist(), shared=shared)
    out["exponent"] = out["arch"].map(fit.exponents)
    out["fit"] = [
        power(fit.coefficients[arch], fit.exponents[arch], x) if arch in fit.exponents else np.nan
        for arch, x in zip(out["arch"], out[by], strict=True)
    ]
    return out
