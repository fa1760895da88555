"""The state-optimal law: how the compute-optimal perplexity falls with the size of the recurrent state.

    P* = k_class M^c,   that is   L* = ln k_class + c ln M

P* is the perplexity of compute-optimal models, M their total state in elements over all layers, at one stated
context for attention. arXiv:2403.17844 (section 5) finds one c, about -0.28, for all classes of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from scaling.laws.optima import by_architecture, grouped
from scaling.laws.powerlaw import PowerLaws, power_laws
from scaling.laws.runs.cleaning import NotIdentified, Runs, Status, Table, clean, tidy
from scaling.laws.runs.cleaning import budgets as budgets_of
from scaling.laws.runs.columns import refuse
from scaling.laws.runs.rows import labels

COLUMNS = ["class", "arch", "state", "loss"]
# A state of zero is not a misprint: say what such a model is.
NO_STATE = "0, a model that carries nothing from token to token; the law is in ln M, so leave these rows out"
# A law that explains less of the variance than this is called into doubt.
POOR = 0.5


@dataclass(frozen=True, kw_only=True)
class StateLaw(PowerLaws):
    """P* = coefficient M^exponent, by class of models.

    points    the compute-optimal points that were fitted: class, arch, state, loss, ppl, residual (of ln P*)
    """

    points: pd.DataFrame = field(repr=False)
    warnings: tuple[str, ...]
    status: Status

    def ppl(self, state: npt.ArrayLike, *, group: str | None = None) -> npt.ArrayLike:
        """P* at a state of so many elements, of the class `group` where there are several."""
        return self.at(state, group=group)


def state_law(
    frame: Table,
    *,
    shared: bool = True,
    optimal: bool | None = None,
    budgets: Sequence[float] | None = None,
    within: float = 0.1,
    window: float | None = None,
    confidence: float = 0.95,
) -> StateLaw:
    """The law from compute-optimal points, or from isoFLOP runs, of which the optima are first found.

    optimal  True: each row is a compute-optimal model, with state and loss or ppl. False: rows are isoFLOP
             runs, their optima are found as by `isoflop` (`budgets`, `within`, `window`), and the state at N*
             is interpolated in logs between the sizes of its budget. None: runs, where an architecture has
             several at one budget.

    Classes come from a column `class`, else `arch`.

    Intervals are Student's, exact where the scatter of ln P* is normal. Raises NotIdentified where no class
    (with shared=False: where any) has two different states.
    """
    table = tidy(frame)
    if "state" in table.frame:
        none = pd.to_numeric(table.frame["state"], errors="coerce") == 0
        refuse(table.frame, none, "state", NO_STATE)
    points, notes = _points(table, optimal, budgets, within, window)
    states = points.groupby("class")["state"].nunique()
    flat = list(states.index[states < 2])
    if flat and (len(flat) == len(states) or not shared):
        raise NotIdentified(
            f"the exponent of the state needs two different states in a class, and {', '.join(flat)} has "
            "one; add optima at further budgets, where the state is larger"
        )
    ppl = np.exp(points["loss"])
    fit = power_laws(points["state"], ppl, list(points["class"]), shared=shared, confidence=confidence)
    notes += [f"{name} has one state: it says nothing of the exponent, only its own k" for name in flat]
    if not fit.intervals:
        notes.append(f"{fit.n} points leave no residual, so there is no interval; add optima")
    if fit.sharing is not None and fit.sharing.allowed is None:
        notes.append("too few points to test whether the classes share an exponent; give three a class")
    if shared and fit.sharing is not None and fit.sharing.allowed is False:
        notes.append(
            f"the classes do not share an exponent (F = {fit.sharing.f:.3g}, p = {fit.sharing.p:.2g}); fit "
            "each its own with shared=False"
        )
    if fit.r2 < POOR:
        notes.append(f"the law explains {100 * fit.r2:.0f}% of the variance of ln P* within classes")
    rising = [name for name, value in fit.exponents.items() if value >= 0]
    if rising:
        notes.append(f"perplexity does not fall with the state ({', '.join(rising)}): no state-optimal law")
    return StateLaw(
        **vars(fit),
        points=points.assign(ppl=ppl, residual=fit.residuals),
        warnings=tuple(notes),
        status=Status.CONVERGED,
    )


def _points(
    table: Runs,
    optimal: bool | None,
    budgets: Sequence[float] | None,
    within: float,
    window: float | None,
) -> tuple[pd.DataFrame, list[str]]:
    """One row per optimum: class, arch, state, loss; and which budgets have none."""
    cleaned = clean(table, need=("state", "loss"))
    runs = cleaned.frame
    if optimal is None:
        optimal = not _several(runs, budgets, within)
    if optimal:
        points = runs.assign(**{"class": _classes(runs)})[COLUMNS].reset_index(drop=True)
        return points, list(cleaned.notes)
    groups = grouped(table, budgets=budgets, within=within)
    groups, notes = groups.only(groups.frame.assign(**{"class": _classes})), list(groups.notes)
    for arch, count in groups.frame.groupby("arch")["class"].nunique().items():
        if count > 1:
            raise ValueError(f"{arch} is in {count} classes; give it one")
    rows = []
    for arch, found in by_architecture(groups, window=window).items():
        notes += [f"{arch}: {text}" for text in found.lost]
        for row in found.used.itertuples():
            group = found.runs[found.runs["budget"] == row.budget]
            sizes = np.log(group["state"]).groupby(np.log(group["params"])).mean()
            state = float(np.exp(np.interp(np.log(row.params), sizes.index, sizes)))
            rows.append((group["class"].iloc[0], arch, state, row.loss))
    if not rows:
        raise NotIdentified(f"no budget has an optimum ({'; '.join(notes)}); see isoflop")
    return pd.DataFrame(rows, columns=COLUMNS), notes


def _classes(table: pd.DataFrame) -> pd.Series:
    return labels(table, "class") if "class" in table else table["arch"]


def _several(table: pd.DataFrame, budgets: Sequence[float] | None, within: float) -> bool:
    """Whether several runs of an architecture have one budget, so that they are isoFLOP runs."""
    if not {"params", "tokens"} <= set(table):
        return False
    if "flops" not in table:
        table = table.assign(flops=6.0 * table["params"] * table["tokens"])
    group = budgets_of(table, given=budgets, within=within)
    return bool(table.groupby(["arch", group]).size().max() > 1)
