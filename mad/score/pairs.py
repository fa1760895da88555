"""What a page needs to compare any two rows of a board by itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mad.data.protocol import Protocol, Suite
from mad.score.pairing import Side
from mad.score.rows import Scores
from mad.score.sides import Fetch, HitReader, by_setting


def pairs_of(scores: Scores, suite: Suite, protocol: Protocol, fetch: Fetch) -> dict[str, dict[str, Any]]:
    """What `pairing.difference` needs to compare any two rows of a board, for a page without Python: by the
    label of a setting

        keys        architecture keys of the rows that have the setting (n)
        values      score, the mean over seeds (n)
        seeds       how many (n)
        spread      variance between the seeds (n); 0 where there is one
        within      the part of it that rows explain (n)
        rows        covariances of the row means over the number of rows (n, n), rounded to 4 digits; null in
                    the rows and columns of those without hits
        size        number of test rows

    With all numbers of a and b by these names, and S for seeds:

        w       = (value * (1 - value))^2
        others  = the rows that are neither a nor b and whose w is not 0;  f = sum over others of (S - 1)
        pool    = sum over others of spread * (S - 1) / sum over others of w * (S - 1);  0 where f = 0
        g       = min(2, f)
        own     = spread * (S - 1);  both = own + pool * w * g;  d = S - 1 + g
        s       = max(within, both / d), 0 where d = 0;  h = own / both, or (S - 1) / d where both = 0
        terms   = s(a) h(a) / S_a with S_a - 1 degrees of freedom, s(b) h(b) / S_b with S_b - 1,
                  s(a) (1 - h(a)) / S_a + s(b) (1 - h(b)) / S_b with g, and
                  max(1 / size^2, rows[a][a] + rows[b][b] - 2 rows[a][b] - within_a / S_a - within_b / S_b)
                  with size - 1 (where rows is null: 1 / size^2 if both have two seeds or more, else
                  value_a (1 - value_a) / size + value_b (1 - value_b) / size); terms of 0 are left out
        error   = sqrt(sum of terms);  df = error^4 / (sum of term^2 / its degrees of freedom)
        p       = 2 P(T_df > |value_a - value_b| / error);  1 where the values are equal

    and the interval is the difference +- t(0.975, df) error. Of a mean of settings with weights w, terms are
    multiplied by w^2 and gathered from all settings.
    """
    reader = HitReader(suite, protocol, fetch)
    answers = {row.architecture_key: by_setting(row) for row in scores.architectures}
    found = {}
    for label in (label for labels in scores.settings.values() for label in labels):
        sides = {key: reader.side(settings[label]) for key, settings in answers.items() if label in settings}
        if sides:
            found[label] = _pairs(sides)
    return found


def _pairs(sides: Mapping[str, Side]) -> dict[str, Any]:
    size = max(one.size for one in sides.values())
    known = [one.rows for one in sides.values() if one.rows is not None]
    matrix: list[list[float | None]] = [[None] * len(sides) for _ in sides]
    if known:
        stacked = np.stack(known)
        covariance = stacked @ stacked.T / max(size - 1, 1) / size
        at = [i for i, one in enumerate(sides.values()) if one.rows is not None]
        for i, row in zip(at, covariance, strict=True):
            for j, value in zip(at, row, strict=True):
                matrix[i][j] = float(f"{value:.3e}")
    return {
        "keys": list(sides),
        "values": [one.value for one in sides.values()],
        "seeds": [one.seeds for one in sides.values()],
        "spread": [one.spread or 0.0 for one in sides.values()],
        "within": [one.within for one in sides.values()],
        "rows": matrix,
        "size": size,
    }
