"""The basin of loss within a budget, and how far a parabola through runs in it lies from its optimum.

Within a budget a law L = E + A N^-alpha + B D^-beta is, in x = ln N,

    L(x) = E + p exp(-alpha x) + q exp(beta x).

Its optimum is where alpha p exp(-alpha x) = beta q exp(beta x). A parabola through runs on it has its vertex
elsewhere: on wide grids where alpha and beta differ, and on grids that lie beside the optimum. What all
budgets share shifts the coefficient of N*(C); what drifts with C shifts its exponent (arXiv:2603.22339).

The exponents are fitted to the very runs, as far as these resolve them: both where alpha and beta differ
beyond the noise; else one for both; else none, and the bias is within the noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from scaling.laws.law import Array
from scaling.laws.optima import basis, vertex

# Exponents tried before the polish; published ones lie between 0.15 and 0.7.
TRIED = np.geomspace(0.04, 1.6, 24)
# Runs times pairs of exponents that are held at a time.
CELLS = 2**20
# An asymmetry counts where chance would give it less often.
LEVEL = 0.01
# A bias of N* or of its growth over the budgets is warned of from here on (relative).
SMALL = 0.005
# Relative scatter below which losses are exact, and ratios of their residuals rounding.
EXACT = 1e-7


@dataclass(frozen=True, kw_only=True)
class Bias:
    """The design of the grids of one architecture, and what it does to N* (relative) and to its exponent.

    width     the grids reach this factor to either side of their centre
    offset    their centre lies at this multiple of the optimum
    drift     exponent of C with which centre over optimum changes
    by_width, by_offset    relative error of N* from the width, and from lying off the optimum
    exponent  error of the exponent of N*
    growth    what the last makes of N* from the smallest budget to the largest (relative)
    """

    alpha: float
    beta: float
    width: float
    offset: float
    drift: float
    by_width: float
    by_offset: float
    exponent: float
    growth: float

    def warnings(self) -> list[str]:
        """One sentence for each bias that is not small: the design, the effect, the remedy."""
        found = []
        exponents = f"(alpha {self.alpha:.2f}, beta {self.beta:.2f})"
        if abs(self.by_width) > SMALL:
            enough = max(2.0, self.width ** np.sqrt(SMALL / abs(self.by_width)))
            found.append(
                f"wide grids: sizes reach a factor {self.width:.3g} to either side and the loss is not "
                f"symmetric {exponents}, so the parabola puts N* {_percent(self.by_width)}; use sizes within "
                f"a factor {enough:.2g} (window={enough:.2g}), or fit a law (approach 3)"
            )
        if abs(self.by_offset) > SMALL:
            found.append(
                f"grids off the centre: their centre lies at {self.offset:.3g} times the optimal size, which "
                f"puts N* {_percent(self.by_offset)}; centre the sizes on N*, or fit a law (approach 3)"
            )
        if abs(self.growth) > SMALL:
            found.append(
                f"grids drift: their centre over the optimal size goes as C^{self.drift:+.2f}, which moves "
                f"the exponent of N* by {self.exponent:+.4f}; keep the centre at a constant multiple of N*, "
                "or fit a law (approach 3)"
            )
        return found


def bias(
    xs: Sequence[Array], ys: Sequence[Array], c: Array, exponents: tuple[float, float] | None
) -> Bias | None:
    """The bias of the vertices of these budgets (x = ln N, y = loss, c = FLOPs), None where none is resolved.

    exponents  (alpha, beta) of a law that is known otherwise; without it they are fitted
    """
    exponents = exponents or fit_exponents(xs, ys)
    if exponents is None:
        return None
    alpha, beta = exponents
    (optima,), *_ = Packed.of(xs, ys).optima(np.array([alpha]), np.array([beta]))
    if not np.isfinite(optima).all():
        return None

    def errors(grids: list[Array]) -> Array:
        return np.array([float(vertex(u, basin(alpha, beta, u))[0]) for u in grids])

    grids = [x - best for x, best in zip(xs, optima, strict=True)]
    middles, logs = np.array([float((u.min() + u.max()) / 2) for u in grids]), np.log(c)
    error, centred = errors(grids), errors([u - middle for u, middle in zip(grids, middles, strict=True)])
    if not np.isfinite([error, centred]).all():
        return None
    exponent = _slope(logs, error)
    return Bias(
        alpha=alpha,
        beta=beta,
        width=float(np.exp(np.mean([np.ptp(u) / 2 for u in grids]))),
        offset=float(np.exp(middles.mean())),
        drift=_slope(logs, middles),
        by_width=float(np.expm1(centred.mean())),
        by_offset=float(np.expm1((error - centred).mean())),
        exponent=exponent,
        growth=float(np.expm1(exponent * np.ptp(logs))),
    )


def fit_exponents(xs: Sequence[Array], ys: Sequence[Array]) -> tuple[float, float] | None:
    """Exponents of the two terms by least squares over all budgets, None where a parabola does as well."""
    runs = Packed.of(xs, ys)
    n, free = sum(map(len, ys)), sum(len(y) - 3 for y in ys)
    floor = n * (EXACT * float(np.mean(np.concatenate(ys)))) ** 2
    rest = [y - (q := basis(x)) @ (q.T @ y) for x, y in zip(xs, ys, strict=True)]
    flat = float((np.concatenate(rest) ** 2).sum())
    one = _search(runs, np.stack([TRIED, TRIED]))
    both = _search(runs, np.stack(np.meshgrid(TRIED, TRIED)).reshape(2, -1))
    if both is None:
        return None
    asymmetric = one is None or _better(one[1], both[1], 1, free - 2, floor)
    if asymmetric and _better(flat, both[1], 2, free - 2, floor):
        return both[0]
    return one[0] if one is not None and _better(flat, one[1], 1, free - 1, floor) else None


@dataclass(frozen=True, kw_only=True)
class Packed:
    """Runs of several budgets as arrays (budget, run); `there` is 0 where a budget has fewer runs."""

    u: Array
    y: Array
    there: Array
    centres: Array

    @classmethod
    def of(cls, xs: Sequence[Array], ys: Sequence[Array]) -> Packed:
        """Sizes as logs, centred budget by budget, and losses."""
        u, values, there = np.zeros((3, len(xs), max(map(len, xs))))
        for row, (x, y) in enumerate(zip(xs, ys, strict=True)):
            u[row, : len(x)], values[row, : len(x)], there[row, : len(x)] = x - x.mean(), y, 1.0
        return cls(u=u, y=values, there=there, centres=np.array([x.mean() for x in xs]))

    def optima(self, alpha: Array, beta: Array) -> tuple[Array, Array, Array]:
        """ln N*, height and L* by pair of exponents and budget; NaN where there is no optimum."""
        p, q, *_ = self._fit(alpha, beta)
        fall, rise = self._terms(alpha, beta)
        floor = self._mean(self.y) - p * self._mean(fall) - q * self._mean(rise)
        best, height = _summit(p, q, alpha, beta)
        return self.centres + best, height, floor + height * (alpha + beta)[:, None]

    def squares(self, alpha: Array, beta: Array) -> Array:
        """Residual sum of squares for each pair of exponents; infinite where a budget has no optimum."""
        found = np.empty(len(alpha))
        for part in self._parts(len(alpha)):
            p, q, rest, *_ = self._fit(alpha[part], beta[part])
            found[part] = np.where(((p > 0) & (q > 0)).all(-1), rest, np.inf)
        return found

    def heights(self, alpha: Array, beta: Array, rng: np.random.Generator) -> Array:
        """A draw of the height by budget for each pair of exponents, as normal errors of one size make it.

        NaN where the draw has no optimum.
        """
        p, q = np.empty((2, len(alpha), len(self.centres)))
        df = self.there.sum() - 3 * len(self.centres)
        for part in self._parts(len(alpha)):
            p[part], q[part], rest, size, apart, ratio = self._fit(alpha[part], beta[part])
            scale = np.sqrt(rest / rng.chisquare(df, len(rest)))[:, None]
            moved = scale * rng.standard_normal(apart.shape) / np.sqrt(apart)
            p[part] += scale * rng.standard_normal(apart.shape) / np.sqrt(size) - ratio * moved
            q[part] += moved
        return _summit(p, q, alpha, beta)[1]

    def _fit(self, alpha: Array, beta: Array) -> tuple[Array, ...]:
        """p, q and the sum of squares: least squares on the two terms and the losses, all less their means.

        And what their errors depend on: the squares of the first term and of the second apart from it, and
        the slope of the second on the first.
        """
        first, second, y = (
            (value - self._mean(value)[..., None]) * self.there
            for value in (*self._terms(alpha, beta), self.y)
        )
        size = _dot(first, first)
        ratio = _dot(first, second) / size
        apart = second - ratio[..., None] * first
        alone = _dot(apart, apart)
        q = _dot(apart, y) / alone
        p = _dot(first, y) / size - ratio * q
        rest = y - p[..., None] * first - q[..., None] * second
        return p, q, (rest**2).sum((-2, -1)), size, alone, ratio

    def _parts(self, count: int) -> Iterator[slice]:
        step = max(1, CELLS // self.u.size)
        return (slice(start, start + step) for start in range(0, count, step))

    def _terms(self, alpha: Array, beta: Array) -> tuple[Array, Array]:
        a, b = alpha[:, None, None], beta[:, None, None]
        return np.exp(-a * self.u), np.exp(b * self.u)

    def _mean(self, values: Array) -> Array:
        return (values * self.there).sum(-1) / self.there.sum(-1)


def basin(alpha: npt.ArrayLike, beta: npt.ArrayLike, u: npt.ArrayLike) -> Array:
    """beta exp(-alpha u) + alpha exp(beta u) - alpha - beta, without cancellation near 0."""
    a, b, u = (np.asarray(value, float) for value in (alpha, beta, u))
    return b * np.expm1(-a * u) + a * np.expm1(b * u)


def _summit(p: Array, q: Array, alpha: Array, beta: Array) -> tuple[Array, Array]:
    """x* less the centre of its budget, and the height there (pair, budget); NaN without an optimum."""
    a, b, there = alpha[:, None], beta[:, None], (p > 0) & (q > 0)
    best = np.log(a / b * np.divide(p, q, out=np.full_like(p, np.nan), where=there)) / (a + b)
    return best, p * np.exp(-a * best) / b


def _search(runs: Packed, cells: Array) -> tuple[tuple[float, float], float] | None:
    """The best exponents, tied where the cells tie them, and their squares; None at an end of TRIED."""
    total = runs.squares(*cells)
    if not np.isfinite(total).any():
        return None
    start = np.log(cells[:, int(np.argmin(total))])
    tied = bool((cells[0] == cells[1]).all())

    def exponents(logs: Array) -> Array:
        return np.exp(np.broadcast_to(logs, 2)).clip(TRIED[0], TRIED[-1])

    found = optimize.minimize(
        lambda logs: float(runs.squares(*exponents(logs)[:, None])[0]),
        start[:1] if tied else start,
        method="Nelder-Mead",
        options={"xatol": 1e-7, "fatol": np.inf, "maxiter": 300},
    )
    alpha, beta = exponents(found.x)
    if min(alpha, beta) <= TRIED[0] or max(alpha, beta) >= TRIED[-1]:
        return None
    return (float(alpha), float(beta)), float(found.fun)


def _better(simple: float, rich: float, terms_more: int, df: int, floor: float) -> bool:
    """F test: the richer model explains more than chance would."""
    if df < 1:
        return False
    f = (simple - rich) / terms_more / (max(rich, floor) / df)
    return float(stats.f.sf(f, terms_more, df)) < LEVEL


def _dot(a: Array, b: Array) -> Array:
    return (a * b).sum(-1)


def _slope(x: Array, y: Array) -> float:
    u = x - x.mean()
    return float(u @ y / (u @ u)) if np.ptp(x) > 0 else 0.0


def _percent(value: float) -> str:
    return f"{abs(100 * value):.2g}% too {'high' if value > 0 else 'low'}"
