"""Compute-optimal models: isoFLOP parabolas, the envelope of curves, given optima, and all side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from mad.messages import counted
from scaling.laws.envelopes import Envelope
from scaling.laws.isoflops import IsoFlop
from scaling.laws.law import Interval
from scaling.laws.powerlaw import PowerLaw
from scaling.laws.runs.cleaning import NotIdentified, Status
from scaling.report.allocations import allocation, exponents, side_by_side
from scaling.report.evidence import Evidence
from scaling.report.figures.allocation import figure_allocation
from scaling.report.figures.isoflops import figure_isoflop
from scaling.report.numbers import number, span, within
from scaling.report.printing import brackets, intervals, records
from scaling.report.section import Drawing, Listing, Section, Table, stacked

# How far beyond the largest run the page looks, to show how little is known there.
BEYOND = 100.0
SHARED = {True: "may share", False: "do not share", None: "cannot be told to share"}


def isoflop_section(arch: str, found: IsoFlop, targets: Sequence[float] = ()) -> Section:
    """Optima and exponents of approach 2, of one architecture."""
    ends = found.intervals
    row = {
        "architecture": arch,
        "exponent of N*": within(found.exponent, ends.get("exponent")),
        "exponent of D*": within(found.tokens_exponent, ends.get("tokens_exponent")),
        "budgets used": f"{int(found.optima['used'].sum())} of {len(found.optima)}",
    }
    verdict = "{architecture}: N* grows as C to the {exponent of N*}, D* as C to the {exponent of D*}."
    shown = [name for name in found.optima if name not in ("arch", "curvature", "compute")]
    data = {
        "status": str(found.status),
        "runs": found.n,
        "convention": found.convention,
        "n_exponent": found.exponent,
        "d_exponent": found.tokens_exponent,
        "coefficient": found.coefficient,
        "tokens_coefficient": found.tokens_coefficient,
        "intervals": intervals(ends),
        "optima": records(found.optima),
    }
    head = f"{arch}: parabolas of loss in ln N and ln D at each budget, {found.n} runs; {found.convention}"
    at = [allocation(found, c) for c in targets]
    return Section(
        verdicts=(verdict.format_map(row),),
        tables=(Table("Exponents", pd.DataFrame([row])),),
        **_printed(head, data, exponents(found), at, found.warnings, Table("", found.optima[shown])),
    )


def isoflops_section(known: Evidence) -> Section:
    """The same of all architectures, and whether they may share an exponent."""
    found = known.iso
    if found is None:
        raise NotIdentified(known.reasons["isoflop"])
    parts = [isoflop_section(arch, own) for arch, own in found.by_arch.items()]
    verdicts = [sentence for part in parts for sentence in part.verdicts]
    if len(parts) > 1 and found.sharing is not None:
        verdicts.append(
            f"The architectures {SHARED[found.sharing.allowed]} the exponent of N* "
            f"({within(found.exponent, found.intervals.get('exponent'))}; F test p = "
            f"{number(found.sharing.p)})."
        )
    names = ("params", "tokens", "loss")
    optima = found.optima.drop(
        columns=[*(f"{name}_{end}" for name in names for end in ("low", "high")), "budget"]
    )
    for name in names:
        values = found.optima[[name, f"{name}_low", f"{name}_high"]]
        optima[name] = [span(*row) for row in values.itertuples(index=False)]
    caption = (
        "Runs of equal compute, the parabola through them in ln N, and its vertex (star; hollow: not used)."
    )
    return Section(
        verdicts=verdicts,
        notes=[f"{text}." for text in found.warnings],
        tables=(*stacked(parts), Table("Optima", optima)),
        figures=(Drawing("isoflop", caption, lambda: figure_isoflop(known.groups, found)),),
    )


def envelope_section(arch: str, found: Envelope, targets: Sequence[float]) -> Section:
    """The exponents of approach 1."""
    data = {
        "status": str(Status.CONVERGED),
        "runs": found.n,
        "n_exponent": found.exponent,
        "d_exponent": found.tokens_exponent,
        "intervals": intervals(found.intervals),
    }
    head = f"{arch}: lower envelope of the training curves, {found.n} runs"
    at = [allocation(found, c) for c in targets]
    return Section(**_printed(head, data, exponents(found), at, found.warnings))


def optima_section(arch: str, found: PowerLaw, lacking: int, targets: Sequence[float]) -> Section:
    """The power law through models that are compute-optimal already; `lacking` rows named none."""
    data = {
        "status": str(Status.CONVERGED),
        "runs": found.n,
        "n_exponent": found.exponent,
        "coefficient": found.coefficient,
        "r2": found.r2,
        "intervals": intervals({"n_exponent": found.interval}) if found.interval else {},
    }
    head = f"{arch}: a power law through {found.n} optima, r2 {found.r2:.5f}"
    at = [{"flops": c, "params": float(found.at(c))} for c in targets]  # type: ignore[arg-type]
    warnings = [f"{counted(lacking, 'row')} without an optimum"] if lacking else []
    return Section(**_printed(head, data, {"N": (found.exponent, found.interval)}, at, warnings))


def allocations_section(known: Evidence) -> Section:
    """N* and D* by the approaches side by side."""
    tables = []
    for arch in known.archs:
        mine = known.runs.of(arch)
        if known.convention != "C as given":  # then FLOPs are derived again
            mine = mine.only(mine.frame.drop(columns="flops"))
        law = known.laws.get(arch)
        try:
            table = side_by_side(mine, at=known.target, law=law, budgets=known.budgets, **known.drawn)
        except NotIdentified:
            continue
        table.insert(0, "architecture", arch)
        tables.append(table.drop(columns="flops"))
    if known.iso is None and not known.laws and not known.envelopes:
        raise NotIdentified("Neither an isoFLOP power law nor a law of loss is identified; see above.")
    caption = (
        "Lines beyond the largest run are extrapolations: their bands hold only if the law does. An approach "
        "that is absent could not be used."
    )
    far = {arch: law.at(BEYOND * known.target).intervals.get("params") for arch, law in known.laws.items()}
    head = f"Three approaches, at {number(known.target)} FLOPs"
    return Section(
        verdicts=[f"{arch} at {found.allocation}." for arch, found in known.audits.items()],
        notes=[
            f"{arch} at {number(BEYOND)} times that compute: N* between {number(ends.low)} and "
            f"{number(ends.high)}, if the law holds."
            for arch, ends in far.items()
            if ends
        ],
        tables=(Table(head, pd.concat(tables, ignore_index=True)),) if tables else (),
        figures=(
            Drawing("allocation", caption, lambda: figure_allocation(known.iso, known.laws, known.envelopes)),
        ),
    )


def _printed(
    head: str,
    data: dict[str, Any],
    exponents: Mapping[str, tuple[float, Interval | None]],
    at: Sequence[dict[str, Any]],
    warnings: Sequence[str],
    *tables: Table,
) -> dict[str, Any]:
    """Text and data of power laws: exponents, what they give at the targets, and warnings."""
    lines = [
        head,
        ", ".join(f"{of}* ~ C^{value:.4f}{brackets(end)}" for of, (value, end) in exponents.items()),
    ]
    for point in at:
        ends = point.get("intervals", {})
        values = [
            f"{symbol} = {point[name]:.4g} {brackets(ends.get(name))}".rstrip()
            for symbol, name in (("N*", "params"), ("D*", "tokens"))
            if name in point
        ]
        lines.append(f"C = {point['flops']:.3g}: {', '.join(values)}")
    held = [p | ({"intervals": intervals(p["intervals"])} if "intervals" in p else {}) for p in at]
    return {
        "text": ("\n".join(lines), *tables, Listing("warnings:", warnings)),
        "data": data | {"at": held, "warnings": list(warnings)},
    }
