"""What the page compares any two rows from, in few characters: `mad.score.pairs.pairs_of`, packed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

# Correlations are whole numbers of this part.
UNIT = 1e-5


def packed(pairs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """By the label of a setting; in place of the matrix of covariances

        rows          its diagonal, the variance of a row's mean (n); null without hits
        correlations  in hundred-thousandths, row by row left of the diagonal (n (n - 1) / 2)

    Numbers have six digits.
    """
    return {label: _packed(pair) for label, pair in pairs.items()}


def _packed(pair: Mapping[str, Any]) -> dict[str, Any]:
    matrix = np.array([[np.nan if value is None else value for value in row] for row in pair["rows"]])
    diagonal = np.diagonal(matrix)
    with np.errstate(invalid="ignore", divide="ignore"):
        related = matrix / np.sqrt(np.outer(diagonal, diagonal))
    # A row without hits, or without any spread, is related to none.
    whole = np.rint(np.nan_to_num(related, posinf=0.0, neginf=0.0) / UNIT).astype(int)
    return {
        "keys": pair["keys"],
        "seeds": pair["seeds"],
        "size": pair["size"],
        **{name: [_short(value) for value in pair[name]] for name in ("values", "spread", "within")},
        "rows": [None if np.isnan(value) else _short(value) for value in diagonal],
        "correlations": [int(value) for i, line in enumerate(whole) for value in line[:i]],
    }


def _short(value: float) -> float:
    return float(f"{value:.6g}")
