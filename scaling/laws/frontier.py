"""The least perplexity that an architecture reaches with so much compute, parameters or state."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Literal

import numpy as np
import pandas as pd

from scaling.laws.powerlaw import power, power_laws
from scaling.laws.runs import cleaning as runs
from scaling.laws.runs.cleaning import NotIdentified

BY = ("flops", "params", "state")


def frontier(
    frame: pd.DataFrame, *, by: Literal["flops", "params", "state"] = "flops", shared: bool | None = None
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
    table = runs.clean(frame, need=need)
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
