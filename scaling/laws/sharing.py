"""May these architectures share parameters? An F test of shared against separate laws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from scipy.special import fdtrc

from scaling.laws.diagnose import check_design
from scaling.laws.forms import STANDARD, Form, form_of, known
from scaling.laws.objective import SQUARES, Points, Problem
from scaling.laws.runs.cleaning import NotIdentified, Table, clean
from scaling.laws.search import optimum

LEVEL = 0.05
# Residuals below this share of a log loss are rounding.
ROUNDING = 1e-10


@dataclass(frozen=True, kw_only=True)
class SharingTest:
    """An F test of shared against separate parameters, both fitted by least squares of log loss.

        F = ((S_shared - S_separate) / q) / (S_separate / (n - p))

    with S sums of squares, q parameters saved and p those of the separate laws; `degrees` are (q, n - p).
    It holds where residuals are independent, normal and of one size, and the laws nearly linear in their
    parameters within the error: of 400 simulated studies with shared laws it rejects 3 to 6 %.
    """

    shared: tuple[str, ...]
    statistic: float
    degrees: tuple[int, int]
    p: float

    @property
    def is_rejected(self) -> bool:
        """Whether separate laws fit better than chance would have it, at 5 %."""
        return self.p < LEVEL

    def __str__(self) -> str:
        verdict = "the runs speak against it" if self.is_rejected else "the runs do not speak against it"
        return (
            f"sharing {', '.join(self.shared)}: F({self.degrees[0]}, {self.degrees[1]}) = "
            f"{self.statistic:.3g}, p = {self.p:.2g}; {verdict}"
        )


def sharing_test(
    frame: Table, *, shared: str | Sequence[str] = ("alpha", "beta"), form: str = STANDARD
) -> SharingTest:
    """Test whether the architectures of a table (column arch) have E, alpha or beta in common.

    ValueError where the table is at fault; NotIdentified where the runs of one architecture cannot determine
    a law of their own, or leave nothing to judge the error by.
    """
    shape = form_of(form)
    names = shareable(shared, shape)
    if not names:
        raise ValueError(
            f"shared is empty, so there is nothing to test; name some of {', '.join(shape.shareable)}"
        )
    groups = by_architecture(clean(frame).frame)
    for name, group in groups.items():
        own_design(name, group, shape)
    points = [Points.of(group) for group in groups.values()]
    together, apart = Problem.of(points, shape, names), Problem.of(points, shape)
    saved, rest = len(apart.low) - len(together.low), apart.n - len(apart.low)
    if rest < 1:
        raise NotIdentified(
            f"{apart.n} runs leave no error to judge by, as separate laws have {len(apart.low)} parameters; "
            f"add {1 - rest} run{'s' * (1 - rest != 1)} or more"
        )
    with_shared, separate = (optimum(problem, (SQUARES,))[1] for problem in (together, apart))
    floor = apart.n * ROUNDING**2
    statistic = max(with_shared - separate, 0.0) / saved / (max(separate, floor) / rest)
    return SharingTest(
        shared=names, statistic=statistic, degrees=(saved, rest), p=float(fdtrc(saved, rest, statistic))
    )


def shareable(shared: str | Sequence[str], form: Form) -> tuple[str, ...]:
    """The free parameters that are shared, in the form's order: for one that is tied, what it is tied to."""
    asked = [
        known("shared", name, form.shareable, 0.4)
        for name in ([shared] if isinstance(shared, str) else shared)
    ]
    return tuple(name for name in form.free if name in {form.ties.get(own, own) for own in asked})


def by_architecture(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The runs of each architecture, in the order in which the table first names them."""
    groups = {str(name): group for name, group in runs.groupby("arch", sort=False)}
    if len(groups) < 2:
        raise ValueError(
            f"column 'arch' names one architecture, {next(iter(groups))!r}; families need two or more: add "
            "another's runs, or use scaling.fit"
        )
    return groups


def own_design(name: str, runs: pd.DataFrame, form: Form) -> list[str]:
    """`check_design` of one architecture, which the messages name."""
    try:
        return [f"{name}: {words}" for words in check_design(runs, form)]
    except NotIdentified as error:
        raise NotIdentified(f"{name}: {error}") from None
