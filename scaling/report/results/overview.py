"""What was trained, and what that can and cannot show."""

from __future__ import annotations

import pandas as pd

from scaling.laws.runs.doubts import SERIOUS
from scaling.report.evidence import Evidence
from scaling.report.numbers import number
from scaling.report.results.optima import BEYOND
from scaling.report.section import Section, Table


def runs_section(known: Evidence) -> Section:
    """What was trained, and the notes on the table."""
    rows = []
    for arch, mine in known.ends.frame.groupby("arch"):
        columns = {
            "N": mine["params"],
            "D": mine["tokens"],
            "D/N": mine["tokens"] / mine["params"],
            "C": mine["flops"],
            "loss": mine["loss"],
        }
        row = {"architecture": str(arch), "runs": len(mine)}
        rows.append(row | {name: _range(values) for name, values in columns.items()})
    return Section(
        verdicts=[f"{note}." for note in known.notes if note.startswith(SERIOUS)],
        notes=[f"{note}." for note in known.notes if not note.startswith(SERIOUS)],
        tables=(Table("What was trained", pd.DataFrame(rows)),),
    )


def limits_section(known: Evidence) -> Section:
    """What these runs can and cannot show."""
    flops = _range(known.ends.frame["flops"], " and ")
    between = f"between {flops} FLOPs" if " and " in flops else f"at {flops} FLOPs"
    budgets = 0
    if known.iso is not None:
        budgets = int(known.iso.optima.loc[known.iso.optima["used"], "budget"].nunique())
    several = len(known.archs) > 1
    said = [
        f"They can show which of {len(known.archs)} architectures has the lower loss at equal compute "
        f"{between}, as far as the intervals part them."
        if several
        else f"They can show how loss goes with size and data {between}.",
        f"Usable budgets: {budgets}. A difference of .05 in an exponent of N* is a factor "
        f"{number(BEYOND**0.05)} in size at {number(BEYOND)} times the compute; narrower intervals than that "
        "are needed to tell exponents apart.",
        "They cannot show what happens at larger compute: intervals there assume that the fitted form holds.",
        "They cannot tell the architecture from the recipe: the text, the tokenizer, the context length, the "
        "rule for learning rate and batch. Another recipe can reorder architectures.",
        f"Parameters and FLOPs are as the table's maker counted them ({known.convention}); "
        "exponents depend on whether embeddings and the output head count.",
    ]
    if "seed" not in known.ends.frame or known.ends.frame["seed"].nunique() < 2:
        said.append(
            "No run was repeated with another seed: their noise is judged by the scatter around the fits."
        )
    if several and len(known.archs) < 10:
        said.append(
            f"{len(known.archs)} architectures cannot settle whether synthetic scores predict perplexity; "
            "agreement in rank over so few is a hint."
        )
    if known.reasons:
        said.append(f"Not identified, for the reasons above: {', '.join(known.reasons)}.")
    return Section(notes=said)


def _range(values: pd.Series, to: str = " to ") -> str:
    low, high = number(float(values.min())), number(float(values.max()))
    return low if low == high else f"{low}{to}{high}"
