"""Laws of loss: of one architecture, of several with parameters in common, of training beyond the optimum."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from mad.board.look import figures
from mad.board.look.figures import FLOPS, FONT, PARAMS, TOKENS, plain
from scaling.laws.auditing import Audit
from scaling.laws.families import Families
from scaling.laws.fitting import FittedLaw
from scaling.laws.forms import FORMS, STANDARD
from scaling.laws.law import COEFFICIENTS
from scaling.laws.penalty import OverTrainingLaw
from scaling.laws.runs.cleaning import NotIdentified, Runs, clean
from scaling.laws.runs.cleaning import Table as RunTable
from scaling.report.evidence import Evidence
from scaling.report.numbers import brackets, intervals, number, records, span, within
from scaling.report.section import Drawing, Listing, Section, Table, stacked

DRAWN = {"pairs": "rows drawn", "budget": "whole budgets drawn", "run": "whole runs drawn"}
UNITS = {
    "E": "irreducible loss, nats per token",
    "alpha": "exponent of N",
    "beta": "exponent of D",
    "gamma": "exponent of the sum",
    "n_exponent": "N* ~ C^a",
    "d_exponent": "D* ~ C^b",
}


def law_section(
    arch: str, found: Audit, targets: Sequence[float] = (), held_out: Runs | None = None
) -> Section:
    """A fitted law with its audit, its optima at the targets, and its errors on runs that were not fitted."""
    law, ends, status = found.law, found.law.intervals, str(found.law.status)
    at = [law.at(target) for target in targets]
    findings = [str(finding) for finding in found.findings]
    errors, said = _errors(held_out, law.loss)
    data: dict[str, Any] = {
        "status": status,
        "runs": law.n,
        "convention": law.convention,
        **({"form": law.form} if law.form != STANDARD else {}),
        "objective": law.objective,
        "delta": law.delta,
        "sum": law.value,
        "condition": law.condition,
        **law.values,
        "resample": law.resample,
        "intervals": intervals(ends),
        "at": [vars(point) | {"intervals": intervals(point.intervals)} for point in at],
        "findings": findings,
    }
    threshold = f" (delta {law.delta:g})" if law.delta is not None else ""
    level = f"{100 * law.confidence:g} % interval ({DRAWN.get(law.resample)})" if ends else ""
    coefficients = [
        [name, f"{value:.6g}", brackets(ends.get(name)), UNITS.get(name, "")]
        for name, value in law.values.items()
    ]
    row: dict[str, object] = {"architecture": arch, "runs": law.n}
    row |= {name: within(getattr(law, name), ends.get(name)) for name in (*COEFFICIENTS, "n_exponent")}
    row |= {"condition": law.condition, "status": status, "objective": law.objective}
    audit = [(arch, finding.severity, finding.what, finding.remedy) for finding in found.findings]
    grave = [finding.what for finding in found.findings if finding.severity == "serious"]
    state = f"{len(grave)} serious findings; {grave[0]}" if grave else "no serious finding"
    caption = "Laws"
    if law.delta:
        caption = f"L = E + A N^-alpha + B D^-beta; Huber threshold {number(law.delta)} on log loss"
    return Section(
        verdicts=(f"{arch}: E = {row['E']}, N* as C to the {row['n_exponent']}; {state}.",),
        tables=(
            Table(caption, pd.DataFrame([row])),
            Table("Audit", pd.DataFrame(audit, columns=["architecture", "severity", "finding", "remedy"])),
        ),
        text=(
            f"{arch}: L(N, D) = {law.formula}\n{law.n} runs; {law.convention}; "
            f"{law.objective}{threshold} on log loss, sum {law.value:.7g}; {status}; condition number "
            f"{law.condition:.3g}",
            Table("", pd.DataFrame(coefficients, columns=["", "value", level, ""])),
            "\n".join(map(str, at)),
            Listing("verdicts:", findings),
            said,
        ),
        data=data | errors,
    )


def laws_section(known: Evidence) -> Section:
    """The laws of all architectures, each its own."""
    reasons = [f"{name}: {why}." for name, why in known.reasons.items() if name.startswith("law")]
    if not known.audits:
        raise NotIdentified(" ".join(reasons))
    parts = [law_section(arch, found) for arch, found in known.audits.items()]
    surface = "Contours of the fitted loss, the runs, and the optimum of each C (dashed)."
    residual = "Loss over the law's prediction, in percent, against size, data and compute."
    return Section(
        verdicts=[sentence for part in parts for sentence in part.verdicts],
        notes=reasons,
        tables=stacked(parts),
        figures=(
            Drawing("surface", surface, lambda: figure_surface(known.ends, known.laws)),
            Drawing("residuals", residual, lambda: figure_residuals(known.ends, known.laws)),
        ),
    )


def families_section(
    found: Families, targets: Sequence[float], *, reference: str, shared: Sequence[str]
) -> Section:
    """Laws with parameters in common, and the compute that each architecture needs for one loss."""
    rows = pd.DataFrame([_coefficients(arch, found) for arch in found.laws])
    table = found.multipliers(targets, reference=reference)
    table = table[table["arch"] != reference]
    sharing = None if found.sharing is None else str(found.sharing)
    return Section(
        verdicts=[
            f"{row.arch} needs {span(row.multiplier, row.low, row.high)} times the compute of {reference} "
            f"for its loss at {number(row.flops)} FLOPs."
            for row in table.itertuples()
        ],
        notes=(*([sharing] if sharing else []), *found.warnings),
        tables=(Table(f"Compute for the loss of {reference}; alpha and beta in common", table),),
        text=(
            Table(
                f"all architectures with {' and '.join(shared)} in common: {found.n} runs; "
                f"{found.convention}; {found.status}\n{sharing or ''}",
                rows[[name for name in rows if not name.startswith("d_exponent")]],
            ),
            Table("", found.frontier(targets)),
            Table(
                f"compute for the loss of {reference}, over its compute (multiplier); below 1 is cheaper",
                table.rename(columns={"low": "multiplier_low", "high": "multiplier_high"}),
            ),
            Listing("warnings:", found.warnings),
        ),
        data={
            "status": str(found.status),
            "runs": found.n,
            "shared": list(shared),
            "reference": reference,
            "multipliers": records(table),
            "laws": records(rows),
            "sharing": sharing,
            "warnings": list(found.warnings),
        },
    )


def _coefficients(arch: str, found: Families) -> dict[str, Any]:
    names = (*FORMS[found.form].parameters, "n_exponent")
    row = {"arch": arch} | {name: getattr(found.laws[arch], name) for name in names}
    for name, interval in found.intervals[arch].items():
        row |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
    return row


def overtraining_law_section(arch: str, law: OverTrainingLaw, held_out: Runs | None) -> Section:
    """The law of training beyond the optimum, and its errors on runs that were not fitted."""
    errors, said = _errors(held_out, lambda n, d: law.loss(n, d / n))
    values = {name: getattr(law, name) for name in ("E", "a", "b", "c", "eta")}
    return Section(
        text=(
            f"{arch}: L = E + a N^b + c 6^(b/2) (M N)^b, M = D/N; least squares over {law.n} runs; "
            f"{law.status}\nE {law.E:.5g}, a {law.a:.5g}, b {law.b:.4f}, c {law.c:.5g}, eta {law.eta:.4f}",
            said,
        ),
        data={"status": str(law.status), "runs": law.n, **values, "sum": law.value} | errors,
    )


def _errors(rest: Runs | None, predict: Callable[[Any, Any], Any]) -> tuple[dict[str, Any], str]:
    """Errors of predicted losses in percent; a positive bias predicts too high."""
    if not rest:
        return {}, ""
    table = clean(rest).frame
    n, d, loss = (table[name].to_numpy(float) for name in ("params", "tokens", "loss"))
    errors = 100 * (predict(n, d) / loss - 1)
    worst = int(np.abs(errors).argmax())
    found = {
        "runs": len(table),
        "mape": float(np.abs(errors).mean()),
        "bias": float(errors.mean()),
        "worst": float(errors[worst]),
        "worst_params": float(n[worst]),
        "worst_tokens": float(d[worst]),
        "errors": dict(zip(map(str, table.index), map(float, errors), strict=True)),
    }
    said = (
        f"{found['runs']} runs that were not fitted: mean absolute error of the loss {found['mape']:.3f} %, "
        f"bias {found['bias']:+.3f} %, largest {found['worst']:+.3f} % (N = {found['worst_params']:.3g}, D = "
        f"{found['worst_tokens']:.3g})"
    )
    return {"held_out": found}, said


def figure_surface(frame: RunTable, laws: Mapping[str, FittedLaw]) -> figures.Figure:
    """Contours of the fitted loss over N and D with the runs, isoFLOP lines and the efficient frontier."""
    runs = clean(frame).frame
    look = figures.looks(runs["arch"].unique())
    figure, axes = figures.panel_each(len(laws), PARAMS, TOKENS, log="xy")
    n, d = (np.geomspace(runs[name].min() / 1.6, runs[name].max() * 1.6, 80) for name in ("params", "tokens"))
    # Twelve contours, closer where the loss is low.
    floor = min(law.E for law in laws.values())
    low, high = runs["loss"].min() - floor, runs["loss"].max() - floor
    levels = floor + np.geomspace(max(low, 1e-3) * 0.97, high * 1.05, 12)
    for axis, (arch, law) in zip(axes, laws.items(), strict=True):
        mine = runs[runs["arch"] == arch]
        surface = np.asarray(law.loss(n[None, :], d[:, None]))
        lines = axis.contour(n, d, surface, levels=levels, colors=figures.GREY, linewidths=0.7)
        axis.clabel(lines, fmt="%.3g", fontsize=FONT - 2.5)
        axis.plot(mine["params"], mine["tokens"], look[arch].marker, color=look[arch].colour, markersize=3.5)
        compute = np.geomspace(6 * n[0] * d[0], 6 * n[-1] * d[-1], 100)
        best, data = np.asarray(law.n_opt(compute)), np.asarray(law.d_opt(compute))
        inside = (best >= n[0]) & (best <= n[-1]) & (data >= d[0]) & (data <= d[-1])
        axis.plot(best[inside], data[inside], color="black", linewidth=1.2, linestyle="--")
        error = 100 * float(np.sqrt(np.mean(law.residuals**2)))
        figures.caption(axis, f"{plain(arch)}\n{law.n} runs, rms error {error:.2g} %")
    said = "Fitted loss (contours, nats per token), runs, and the optimum N*(C), D*(C) (dashed)"
    return figures.finish(figure, said)


def figure_residuals(frame: RunTable, laws: Mapping[str, FittedLaw]) -> figures.Figure:
    """Residuals of the laws against N, D and C: what the form of the law does not hold."""
    runs = clean(frame).frame
    look = figures.looks(runs["arch"].unique())
    figure, axes = figures.panels(1, 3, width=3.0, share_x="none", log="x")
    names = {"params": PARAMS, "tokens": TOKENS, "flops": FLOPS}
    for axis, (column, label) in zip(axes, names.items(), strict=True):
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_xlabel(label)
        for arch, law in laws.items():
            rows = law.residuals.index if len(laws) == 1 else runs.index[runs["arch"] == arch]
            # A residual is ln of the prediction over the loss.
            y = 100 * np.expm1(-law.residuals.to_numpy(float))
            how: dict[str, Any] = {"color": look[arch].colour, "markersize": 3.5, "alpha": 0.75}
            axis.plot(runs.loc[rows, column], y, look[arch].marker, label=plain(arch), **how)
    bound = max(map(abs, axes[0].get_ylim()))
    axes[0].set(ylim=(-bound, bound), ylabel="loss above the law (%)")
    if len(laws) > 1:
        figures.legend(figure, axes[0])
    total = sum(law.n for law in laws.values())
    return figures.finish(
        figure, f"Residuals of the fitted law, {total} runs; a trend is what the law misses"
    )
