"""Sections as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from scaling.laws.law import Interval
from scaling.report.section import Section


def as_json(section: Section) -> str:
    """What a command prints with --format json."""
    return json.dumps(section.data, indent=1, allow_nan=False)


def intervals(found: Mapping[str, Interval]) -> dict[str, list[float]]:
    """Intervals as JSON holds them; what has no draws has none."""
    return {name: [end.low, end.high] for name, end in found.items() if not math.isnan(end.low)}


def records(frame: pd.DataFrame | None) -> list[dict[str, Any]]:
    """Rows as JSON holds them: what is missing is null."""
    return [] if frame is None else list(json.loads(frame.to_json(orient="records", double_precision=15)))
