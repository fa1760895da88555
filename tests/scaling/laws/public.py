"""Published runs, where their licensed files are at hand: MAD_SCALING_DATA names the folder."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest

DATA = Path(os.environ.get("MAD_SCALING_DATA", "nowhere"))
CHINCHILLA_RUNS = "chinchilla_kyotakano.csv"
needs_data = pytest.mark.skipif(
    "MAD_SCALING_DATA" not in os.environ, reason="MAD_SCALING_DATA does not name the folder of public tables"
)


def runs_of(name: str) -> pd.DataFrame:
    return pd.read_csv(DATA / name)
