"""95 % intervals: bootstrap over seeds where there are some, else binomial over test rows."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

Z = 1.959964  # 95 % of a normal distribution lies within this many standard deviations.
RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A score from 0 to 1 and its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def half(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2

    @property
    def numbers(self) -> dict[str, float]:
        """What makes another estimate of the same value, without draws."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, kw_only=True)
class Drawn(Estimate):
    """An estimate with the bootstrap draws that made its interval, so that means of it can be drawn alike."""

    draws: Array


def over_seeds(value: float, draws: Array) -> Drawn:
    """The percentile interval. Of two or three seeds it is their range: rather too short than too long."""
    low, high = (float(x) for x in np.quantile(draws, [0.025, 0.975]))
    return Drawn(value=value, low=min(low, value), high=max(high, value), draws=draws)


def over_rows(value: float, rows: int) -> Estimate:
    """Wilson's binomial interval. Rows count, not targets: the targets of a row are not independent."""
    middle = (value + Z**2 / (2 * rows)) / (1 + Z**2 / rows)
    half = Z / (1 + Z**2 / rows) * math.sqrt(value * (1 - value) / rows + Z**2 / (4 * rows**2))
    return Estimate(
        value=value, low=max(0.0, min(middle - half, value)), high=min(1.0, max(middle + half, value))
    )


def mean(parts: Sequence[Estimate]) -> Estimate:
    """The mean: draw by draw where all parts have draws, else as of independent normal variables."""
    if len(parts) == 1:
        return parts[0]
    value = average(part.value for part in parts)
    draws = [part.draws for part in parts if isinstance(part, Drawn)]
    if len(draws) == len(parts):
        return over_seeds(value, np.mean(draws, axis=0))
    half = math.sqrt(math.fsum(part.half**2 for part in parts)) / len(parts)
    return Estimate(value=value, low=max(0.0, value - half), high=min(1.0, value + half))


def average(values: Iterable[float]) -> float:
    """The mean, exactly rounded, so that the order of the records cannot matter."""
    found = list(values)
    return math.fsum(found) / len(found)
