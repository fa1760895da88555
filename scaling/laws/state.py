"""The state-optimal law: how the compute-optimal perplexity falls with the size of the recurrent state.

    P* = k_class M^c,   that is   L* = ln k_class + c ln M

P* is the perplexity of compute-optimal models, M their total state in elements over all layers, at one stated
context for attention. arXiv:2403.17844 (section 5) finds one c, about -0.28, for all classes of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

import numpy as np
import numpy.typing as npt
import pandas as pd

from scaling.laws.law import Interval
from scaling.laws.optima import by_architecture, grouped
from scaling.laws.powerlaw import PowerLaws, power, power_laws
from scaling.laws.runs import cleaning as runs
from scaling.laws.runs.cleaning import NotIdentified, Status, rows_text

COLUMNS = ["class", "arch", "state", "loss"]
# A law that explains less of the variance than this is called into doubt.
POOR = 0.5


@dataclass(frozen=True, kw_only=True)
class StateLaw(PowerLaws):
    """P* = coefficient M^exponent, by class of models.

    exponents, coefficients, intervals, coefficient_intervals   by class; equal exponents where `shared`
    sharing   F test of one exponent for all classes against one for each; None of a single class
    points    the compute-optimal points that were fitted: class, arch, state, loss, ppl, residual (of ln P*)
    r2        share of the variance of ln P* within classes
    """

    shared: bool
    points: pd.DataFrame = field(repr=False)
    warnings: tuple[str, ...]
    status: Status

    @property
    def exponent(self) -> float:
        """c: of all classes where it is shared, or of the only class."""
        if not self.shared and len(self.exponents) > 1:
            raise ValueError(f"each class has its own exponent ({', '.join(self.exponents)}); use exponents")
        return next(iter(self.exponents.values()))

    @property
    def interval(self) -> Interval | None:
        """Of the exponent; None where the points leave no residual."""
        _ = self.exponent
        return next(iter(self.intervals.values()), None)

    @property
    def coefficient(self) -> float:
        """k of the only class."""
        if len(self.coefficients) > 1:
            raise ValueError(f"there are {len(self.coefficients)} classes; use coefficients, a k for each")
        return next(iter(self.coefficients.values()))

    def ppl(self, state: npt.ArrayLike, *, group: str | None = None) -> npt.ArrayLike:
        """P* at a state of so many elements, of the class `group` where there are several."""
        if group is None:
            return power(self.coefficient, self.exponent, state)
        if group not in self.coefficients:
            close = get_close_matches(group, self.coefficients, n=1) or list(self.coefficients)
            raise ValueError(f"group = {group!r} is not a class of this law; did you mean {close[0]!r}?")
        return power(self.coefficients[group], self.exponents[group], state)


def state_law(
    frame: runs.Table,
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
    frame = runs.tidy(frame)
    _states(frame.frame)
    points, notes = _points(frame, optimal, budgets, within, window)
    groups, state = points["class"].tolist(), points["state"].to_numpy()
    names = sorted(set(groups))
    flat = [name for name in names if points.loc[points["class"] == name, "state"].nunique() < 2]
    if flat and (len(flat) == len(names) or not shared):
        raise NotIdentified(
            f"the exponent of the state needs two different states in a class, and {', '.join(flat)} has "
            "one; add optima at further budgets, where the state is larger"
        )
    fit = power_laws(state, np.exp(points["loss"]), groups, shared=shared, confidence=confidence)
    notes += [f"{name} has one state: it says nothing of the exponent, only its own k" for name in flat]
    if not fit.intervals:
        notes.append(f"{fit.n} points leave no residual, so there is no interval; add optima")
    if fit.sharing is not None and fit.sharing.allowed is None and len(names) > 1:
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
        shared=shared,
        points=points.assign(ppl=np.exp(points["loss"]), residual=fit.residuals),
        warnings=tuple(notes),
        status=Status.CONVERGED,
    )


def _states(frame: pd.DataFrame) -> None:
    """A state of zero is no misprint: say what such a model is."""
    if "state" not in frame:
        return  # `clean` says what is missing
    none = list(frame.index[pd.to_numeric(frame["state"], errors="coerce") == 0])
    if none:
        raise ValueError(
            f"{rows_text(none)}, column 'state': 0, a model that carries nothing from token to token; the "
            "law is in ln M, so leave these rows out"
        )


def _points(
    frame: runs.Runs,
    optimal: bool | None,
    budgets: Sequence[float] | None,
    within: float,
    window: float | None,
) -> tuple[pd.DataFrame, list[str]]:
    """One row an optimum: class, arch, state, loss; and which budgets have none."""
    table = runs.clean(frame, need=("state", "loss"))
    if optimal is None:
        optimal = not _several(table.frame, budgets, within)
    if optimal:
        points = table.frame.assign(**{"class": _classes(table.frame)})[COLUMNS].reset_index(drop=True)
        return points, list(table.notes)
    groups = grouped(frame, budgets=budgets, within=within)
    groups, notes = groups.only(groups.frame.assign(**{"class": _classes})), list(groups.notes)
    rows = []
    classes = groups.frame.groupby("arch")["class"].nunique()
    for arch, count in classes[classes > 1].items():
        raise ValueError(f"{arch} is in {count} classes; give it one")
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
    return runs.labels(table, "class") if "class" in table else table["arch"]


def _several(table: pd.DataFrame, budgets: Sequence[float] | None, within: float) -> bool:
    """Whether several runs of an architecture have one budget, so that they are isoFLOP runs."""
    if not {"params", "tokens"} <= set(table):
        return False
    flops = table["flops"] if "flops" in table else 6.0 * table["params"] * table["tokens"]
    group = runs.budgets(table.assign(flops=flops), given=budgets, within=within)
    return bool(table.groupby(["arch", group]).size().max() > 1)
