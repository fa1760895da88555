"""How far a run may come out when its rounding differs, and what lies beyond.

Another processor, thread count or build of torch adds numbers up in another order. Training carries the last
digit on: in a cell that is solved nothing is seen of it, in one that is in the middle of learning a task the
accuracy moves. How much is a property of the cell, so it is measured there: the run is repeated with weights
that are shaken in their last digit. Few repetitions know a spread badly, so it is drawn towards what
calibrated cells showed (benchmarks/verification.py, docs/submitting.md).
"""

import math
from collections.abc import Sequence

# Of a cell that was not repeated: standard deviation of the accuracy, in binomial errors of the test rows,
# and how many repetitions this knowledge is worth.
PRIOR, WORTH = 0.1, 4
# Repetitions with shaken weights where one re-run alone does not decide.
REPEATS = 4
# Quantile of Student's t for the false alarms that are allowed, one in a hundred, with WORTH + REPEATS
# degrees of freedom, both sides.
T = 3.355


def floor(accuracy: float, rows: int) -> float:
    """The standard deviation that a cell is given beforehand."""
    middle = min(max(accuracy, 1 / rows), 1 - 1 / rows)
    return PRIOR * math.sqrt(middle * (1 - middle) / rows)


def allowed(found: Sequence[float], rows: int) -> tuple[float, float]:
    """The interval in which an honest accuracy lies, by re-runs that rounded each in its own way.

    99 honest runs in a hundred lie inside: a prediction by Student's t, of the spread of the re-runs and what
    is known beforehand.
    """
    count = len(found)
    mean = math.fsum(found) / count
    squares = math.fsum((value - mean) ** 2 for value in found)
    variance = (WORTH * floor(mean, rows) ** 2 + squares) / (WORTH + count - 1)
    half = T * math.sqrt(variance * (1 + 1 / count))
    return mean - half, mean + half
