"""What the commands of `mad scaling` print: plain text, a number beside its interval, its unit and its n."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from mad.messages import printable
from scaling.laws.fitting import FittedLaw
from scaling.laws.law import Interval
from scaling.laws.runs.doubts import SERIOUS

WIDTH = 100
DRAWN = {"pairs": "rows drawn", "budget": "whole budgets drawn", "run": "whole runs drawn"}
UNITS = {
    "E": "irreducible loss, nats per token",
    "A": "",
    "B": "",
    "alpha": "exponent of N",
    "beta": "exponent of D",
    "gamma": "exponent of the sum",
    "n_exponent": "N* ~ C^a",
    "d_exponent": "D* ~ C^b",
}


def law_text(name: str, law: FittedLaw, targets: Sequence[float]) -> str:
    """A fitted law: what was minimised, its coefficients, and the optimum at each target."""
    threshold = f" (delta {law.delta:g})" if law.delta is not None else ""
    lines = [
        f"{name}: L(N, D) = {law.formula}",
        f"{law.n} runs; {law.convention}; {law.objective}{threshold} on log loss, sum {law.value:.7g}; "
        f"{law.status}; condition number {law.condition:.3g}",
        "",
    ]
    rows = [
        [key, f"{value:.6g}", span(law.intervals.get(key)), UNITS[key]] for key, value in law.values.items()
    ]
    level = f"{100 * law.confidence:g} % interval ({DRAWN.get(law.resample)})"
    lines += [columns(["", "value", level if law.intervals else "", ""], rows), ""]
    lines += [str(law.at(target)) for target in targets]
    return "\n".join(lines).rstrip()


def table(frame: pd.DataFrame) -> str:
    """A frame as aligned text; intervals from columns NAME_low and NAME_high stand behind NAME."""
    names = [str(name) for name in frame.columns]
    ends = {f"{name}_{end}" for name in names for end in ("low", "high")}
    shown = [name for name in names if not (name in ends and _base(name) in names)]
    rows = []
    for _, row in frame.iterrows():
        cells = []
        for name in shown:
            text = number(row[name])
            if {f"{name}_low", f"{name}_high"} <= set(names):
                low, high = row[f"{name}_low"], row[f"{name}_high"]
                text += f" [{number(low)}, {number(high)}]" if pd.notna(low) and pd.notna(high) else ""
            cells.append(text)
        rows.append(cells)
    return columns([name.replace("_", " ") for name in shown], rows)


def notes(heading: str, sentences: Iterable[str]) -> str:
    """Sentences as a list, wrapped; nothing for none."""
    wrapped = [
        textwrap.fill(str(sentence), WIDTH, initial_indent="- ", subsequent_indent="  ")
        for sentence in dict.fromkeys(sentences)
    ]
    return printable("\n".join([heading, *wrapped]), lines=True) if wrapped else ""


def about_table(sentences: Sequence[str]) -> list[str]:
    """Notes on the table of runs, the serious ones first; nothing for none."""
    ordered = sorted(sentences, key=lambda sentence: not sentence.startswith(SERIOUS))
    return [notes("about the table:", ordered)] if ordered else []


def columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells in aligned columns: numbers to the right, words to the left."""
    cells = [list(map(printable, row)) for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    right = [all(_is_number(row[i]) for row in rows) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in cells
    ]
    return "\n".join(lines)


def span(interval: Interval | None) -> str:
    return "" if interval is None else f"[{interval.low:.4g}, {interval.high:.4g}]"


def number(value: object) -> str:
    """Four digits of a float; a dash for what is missing."""
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.4g}"
    return "-" if value is None else str(value)


def intervals(found: Mapping[str, Interval]) -> dict[str, list[float]]:
    """As JSON holds them; what has no draws has none."""
    return {name: [end.low, end.high] for name, end in found.items() if not math.isnan(end.low)}


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON holds them: what is missing is null."""
    return list(json.loads(frame.to_json(orient="records", double_precision=15)))


def _base(name: str) -> str:
    return name.removesuffix("_low").removesuffix("_high")


def _is_number(text: str) -> bool:
    word = text.split(" ")[0]
    try:
        float(word)
    except ValueError:
        return word in ("", "-")
    return True
