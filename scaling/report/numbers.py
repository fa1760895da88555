"""Numbers and intervals as figures, pages, sentences and JSON write them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from mad.board.look.numbers import number as number
from scaling.laws.law import Interval


def shown(value: object) -> str:
    """A value as the tables of a page write it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value, 4) if not value.is_integer() or abs(value) >= 1e5 else str(int(value))
    return str(value)


def span(value: float, low: float | None, high: float | None) -> str:
    """'0.512 [0.48, 0.55]', without brackets where there is no interval."""
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return shown(float(value))
    return f"{number(value)} [{number(low)}, {number(high)}]"


def within(value: float, interval: Interval | None) -> str:
    """The same for an `Interval`."""
    return span(value, interval.low if interval else None, interval.high if interval else None)


def brackets(interval: Interval | None) -> str:
    """'[0.48, 0.55]', or nothing where there are no draws."""
    if interval is None or math.isnan(interval.low):
        return ""
    return f"[{interval.low:.4g}, {interval.high:.4g}]"


def intervals(found: Mapping[str, Interval]) -> dict[str, list[float]]:
    """Intervals as JSON holds them, without those that have no draws."""
    return {name: [end.low, end.high] for name, end in found.items() if not math.isnan(end.low)}


def records(frame: pd.DataFrame | None) -> list[dict[str, Any]]:
    """Rows as JSON holds them: what is missing is null."""
    return [] if frame is None else list(json.loads(frame.to_json(orient="records", double_precision=15)))
