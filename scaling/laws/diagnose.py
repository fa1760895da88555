"""Can these runs determine the law, and did they? Conditioning, degenerate designs, outliers, bounds.

What is looked at here costs microseconds; what needs further fits (influence, hold-out) is in `auditing`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from scaling.laws import forms
from scaling.laws.forms import FORMS, STANDARD, Form
from scaling.laws.law import Array, Law
from scaling.laws.runs.cleaning import NotIdentified, budgets

# Condition numbers of healthy public designs lie between 26 and 46, of a single budget above 1e4.
WARN = 300.0
REFUSE = 1e4
# Runs whose C (or D/N) spans less than this factor are one budget (or one ray) with rounding in it.
SAME = 1.25
FEWEST_LEVELS = 3
# Below these factors, largest over smallest, an exponent rests on little; a little less passes, for rounding.
NARROW = {"C": 10.0, "N": 4.0, "D/N": 4.0}
ROUNDING = 0.95
HIGH_CORRELATION = 0.9
# C / (6 N D) depends on what is counted; among runs counted alike it spans less than this factor.
MIXED = 2.0
# A robust z-score beyond this is not noise: of a normal distribution, 6 in ten million.
OUTLIER = 5.0
# Losses carry about six digits; scatter below that is not a scale.
FINEST = 1e-6
# E and terms below this share of the least loss are nothing; exponents above this share of a limit are at it.
AT_LIMIT, NEAR = 1e-3, 0.995
COUNTS = {3: "three", 4: "four", 5: "five", 6: "six", 7: "seven"}


def condition(law: Law, n: npt.ArrayLike, d: npt.ArrayLike, form: Form = FORMS[STANDARD]) -> float:
    """Condition number of the Jacobian of ln L(N, D) in E, ln A, ln B and the exponents that are free.

    ln N and ln D are centred and each column has unit length, so that units do not matter, and E may be 0.
    Infinite where the runs are fewer than the parameters. n, d: parameters and tokens, (n,). The scale of
    `WARN` and `REFUSE` was measured on public designs (arXiv 2203.15556, 2403.08540, 2407.21783).
    """
    log_n, log_d = np.log(np.atleast_1d(n)), np.log(np.atleast_1d(d))
    a, b = np.log(law.A) - law.alpha * log_n.mean(), np.log(law.B) - law.beta * log_d.mean()
    return _condition(form, [law.E, a, b, law.alpha, law.beta, law.gamma], log_n, log_d)


def check_design(frame: pd.DataFrame, form: Form = FORMS[STANDARD], name: str = "") -> tuple[str, ...]:
    """Warnings about where the runs lie; of a design that cannot identify the law, NotIdentified.

    Looks at N and D alone, before any fit. frame: as `runs.clean` returns it, one architecture. Refused are
    no more points than parameters, fewer than 3 levels of N or D, one budget (C constant), one ray (D/N
    constant), any other single line in (ln N, ln D), each also where it is nearly so, and what a typical law
    would find to have a condition number above `REFUSE`. The message says which runs would cure it, and all
    messages the name of the architecture, where it is given.
    """
    n, d = frame["params"].to_numpy(float), frame["tokens"].to_numpy(float)
    faults = [*_too_few(n, d, form), *_one_line(n, d)]
    if not faults and (value := _typical_condition(n, d, form)) > REFUSE:
        faults = [
            f"the {len(n)} runs have a condition number of {value:.2g} under a typical law, and {REFUSE:.0e} "
            f"is too much: {_cure(n, d)}"
        ]
    of = f"{name}: " if name else ""
    if faults:
        *first, last = form.free
        raise NotIdentified(
            f"{of}{', '.join(first)} and {last} are not identified: {'; also, '.join(faults)}"
        )
    return tuple(of + words for words in _weaknesses(frame, n, d, form))


def log_residuals(law: Law, frame: pd.DataFrame) -> Array:
    """ln of the predicted loss less ln of the observed: negative where a run is worse than the law, (n,)."""
    predicted = law.loss(frame["params"].to_numpy(float), frame["tokens"].to_numpy(float))
    return np.log(np.asarray(predicted, float)) - np.log(frame["loss"].to_numpy(float))


def screen(frame: pd.DataFrame, residuals: Array) -> pd.DataFrame:
    """Every run with its robust z-score and a flag "ok", "high" or "low"; furthest first, none dropped.

        z = (r - median r) / (1.4826 median |r - median r|)

    residuals: ln of the predicted over the observed loss, (n,), as `log_residuals` gives. A run whose loss is
    "high" diverged or was cut short; "low" saw its test text, or is logged in another unit. The index keeps
    the row numbers, so `frame.drop(index=...)` leaves runs out: by decision, not here.
    """
    from_centre = residuals - np.median(residuals)
    z = from_centre / max(1.4826 * float(np.median(np.abs(from_centre))), FINEST)
    table = frame[["arch", "params", "tokens", "loss"]].assign(
        residual=residuals, z=z, flag=np.select([z < -OUTLIER, z > OUTLIER], ["high", "low"], "ok")
    )
    return table.iloc[np.argsort(-np.abs(z), kind="stable")]


def at_bounds(law: Law, frame: pd.DataFrame, form: Form = FORMS[STANDARD]) -> tuple[str, ...]:
    """A sentence for each parameter that ended at its limit: an answer of the limit, not of the runs."""
    n, d = frame["params"].to_numpy(float), frame["tokens"].to_numpy(float)
    least = float(frame["loss"].min())
    found = []
    if law.E <= AT_LIMIT * least and "E" in form.free:
        found.append(f"E is {law.E:.3g}: the runs show no irreducible loss; add larger runs")
    if law.E >= (1 - AT_LIMIT) * least:
        found.append(f"E is {law.E:.4g}, the least loss of all runs: add larger runs")
    for name, exponent, factor, of, cure in (
        ("alpha", law.alpha, law.A * n**-law.alpha, "N", "sizes"),
        ("beta", law.beta, law.B * d**-law.beta, "D", "tokens"),
    ):
        if at_limit(name, exponent, form):
            found.append(
                f"{name} is {exponent:.3g}, at the limit: widen the range of {cure} at fixed compute"
            )
        most = float(factor.max()) ** law.gamma
        if most <= AT_LIMIT * least:
            found.append(
                f"the term in {of} is at most {most:.2g} nats: the loss shows no dependence on {cure}"
            )
    if at_limit("gamma", law.gamma, form):
        found.append(f"gamma is {law.gamma:.3g}, at the limit: fit the standard form, or add runs")
    return tuple(found)


def at_limit(name: str, value: float, form: Form) -> bool:
    """Whether a free parameter of the form ended at a limit of the search."""
    limit = form.limit(name)
    return name in form.free and not limit.low < value < NEAR * limit.high


def _condition(form: Form, theta: list[float], log_n: Array, log_d: Array) -> float:
    """At E, ln A', ln B', alpha, beta and gamma, as `forms.value` takes them."""
    if len(log_n) < len(form.free):
        return float("inf")
    unknowns = np.array([theta[: len(form.parameters)]])
    _, (rows,), _ = forms.value(unknowns, log_n - log_n.mean(), log_d - log_d.mean())
    columns = dict(zip(form.parameters, rows, strict=True))
    for tied, to in form.ties.items():
        columns[to] = columns[to] + columns[tied]
    jacobian = np.stack([columns[name] for name in form.free], axis=1)
    length = np.linalg.norm(jacobian, axis=0)
    if not (length > 0).all():
        return float("inf")
    singular = np.linalg.svd(jacobian / length, compute_uv=False)
    return float(singular[0] / singular[-1]) if singular[-1] > 0 else float("inf")


def _typical_condition(n: Array, d: Array, form: Form) -> float:
    """Of a law that owes, at the runs' centre, half of its loss to E and a quarter to each term."""
    quarter = float(np.log(0.25))
    return _condition(form, [0.5, quarter, quarter, 0.34, 0.36, 1.0], np.log(n), np.log(d))


def _levels(values: Array) -> Array:
    """Which level each value belongs to: values within 1 % of a level's least are one level."""
    level = np.empty(len(values))
    count, start = -1, -np.inf
    for i in np.argsort(values, kind="stable"):
        if values[i] > 1.01 * start:
            count, start = count + 1, values[i]
        level[i] = count
    return level


def _too_few(n: Array, d: Array, form: Form) -> list[str]:
    sizes, data = _levels(n), _levels(d)
    points = len(set(zip(sizes, data, strict=True)))
    faults = []
    needed = len(form.free)
    if points <= needed:
        faults.append(
            f"{len(n)} run{'s' if len(n) > 1 else ''} at {points} distinct (N, D) point"
            f"{'s' if points > 1 else ''} cannot fix {COUNTS.get(needed, needed)} parameters: add runs at "
            f"{needed + 1 - points} other points or more (15 or more are usual)"
        )
    for name, values, level in (("N", n, sizes), ("D", d, data)):
        count = int(level.max()) + 1
        if count < FEWEST_LEVELS:
            faults.append(
                f"{name} takes {count} value{'s' if count > 1 else ''} ({_range(values)}), too few for a "
                f"power law and a constant: {_wider(name, values)}"
            )
    return faults


def _one_line(n: Array, d: Array) -> list[str]:
    """One budget, one ray or another line D ~ N^k: alone, or with scatter below the factor SAME."""
    if len(n) < 2:
        return []
    runs, x, y = f"all {len(n)} runs", np.log(n), np.log(d)

    def lie(values: Array) -> str:
        return f"{runs} lie {'' if _span(values) < 1.01 else 'nearly '}"

    if _span(n * d) < SAME:
        flops = float(np.exp(np.mean(x + y))) * 6
        return [
            f"{lie(n * d)}at one budget, 6 N D = {flops:.2e}: one curve of loss against N "
            f"cannot separate N^-alpha from D^-beta; {_beside(flops)}, three sizes or more at each"
        ]
    if _span(d / n) < SAME:
        ratio = float(np.exp(np.mean(y - x)))
        return [
            f"{lie(d / n)}on D = {ratio:.3g} N: N and D grow as one, so A N^-alpha and "
            f"B D^-beta cannot be told apart; {_wider('D/N', np.array([ratio]))} at two or more budgets"
        ]
    for name, values in (("N", n), ("D", d)):
        if 1.01 <= _span(values) < SAME:
            return [
                f"{runs} have nearly one {name}, {_range(values)}, too few for a power law and a constant: "
                f"{_wider(name, values)}"
            ]
    # Scatter in N and scatter in D are found alike.
    for u, v in ((x, y), (y, x)):
        if np.ptp(u) > 0:
            slope = float(np.polyfit(u - u.mean(), v - v.mean(), 1)[0])
            rest = np.exp(v - slope * u)
            if _span(rest) < SAME and slope:
                power = slope if u is x else 1 / slope
                return [
                    f"{lie(rest)}on one line, D ~ N^{power:.2g}: the loss along a line does "
                    f"not tell N from D; {_cure(n, d)}"
                ]
    return []


def _weaknesses(frame: pd.DataFrame, n: Array, d: Array, form: Form) -> list[str]:
    found = []
    spans = {"C": _span(frame["flops"].to_numpy(float)), "N": _span(n), "D/N": _span(d / n)}
    for name, span in spans.items():
        if span < ROUNDING * NARROW[name]:
            found.append(
                f"{name} spans only a factor {span:.2g}; {NARROW[name]:g} or more make the exponents firm"
            )
    count = int(budgets(frame).nunique())
    if count < 3:
        found.append(f"the number of budgets is {count}; three or more show whether a power law holds")
    per_product = frame["flops"].to_numpy(float) / (6 * n * d)
    if _span(per_product) > MIXED:
        found.append(
            f"C / (6 N D) runs from {_round(per_product.min())} to {_round(per_product.max())}: count "
            "parameters and FLOPs by one convention in all rows"
        )
    correlation = float(np.corrcoef(np.log(n), np.log(d))[0, 1])
    if abs(correlation) > HIGH_CORRELATION:
        found.append(f"ln N and ln D have correlation {correlation:.2f}: {_cure(n, d)}")
    if (value := _typical_condition(n, d, form)) > WARN:
        found.append(
            f"the condition number under a typical law is {value:.0f}, above {WARN:.0f}: {_cure(n, d)}"
        )
    return found


def _wider(name: str, values: Array) -> str:
    return f"add runs at {name} below {_round(values.min() / 2)} and above {_round(values.max() * 2)}"


def _cure(n: Array, d: Array) -> str:
    around = _beside(float(np.exp(np.mean(np.log(6 * n * d)))))
    return f"{_wider('D/N', d / n)}, each {around.removeprefix('add runs ')}"


def _beside(flops: float) -> str:
    return f"add runs at 6 N D of {_round(flops / 3)} or below and {_round(flops * 3)} or above"


def _span(values: Array) -> float:
    return float(values.max() / values.min())


def _range(values: Array) -> str:
    low, high = _round(values.min()), _round(values.max())
    return low if low == high else f"{low} and {high}"


def _round(value: float) -> str:
    return f"{float(f'{value:.2g}'):g}"
