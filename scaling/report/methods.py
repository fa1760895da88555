"""The approaches of `mad scaling fit`: each makes an `Answer` of the runs of one architecture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from mad.messages import counted
from scaling.laws.audit import audit
from scaling.laws.envelope import envelope
from scaling.laws.fitting import FittedLaw, fit
from scaling.laws.forms import STANDARD, form_of
from scaling.laws.gadre import fit_overtraining_law
from scaling.laws.isoflops import isoflop
from scaling.laws.law import Interval
from scaling.laws.powerlaw import power_law
from scaling.laws.runs.cleaning import NotIdentified, Status, clean
from scaling.report import show


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked of `mad scaling fit`; `at`: training FLOPs, `train`: a condition over the columns."""

    approach: str = "all"
    train: str | None = None
    form: str = STANDARD
    objective: Literal["huber", "lad", "log-mse"] = "huber"
    delta: float = 1e-3
    resample: Literal["pairs", "budget", "run"] | None = None
    repeats: Literal["refuse", "effective"] = "refuse"
    shared: tuple[str, ...] = ()
    at: tuple[float, ...] = ()
    budgets: tuple[float, ...] | None = None
    window: float | None = None
    bootstrap: int = 1000
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        form_of(self.form)


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Of one architecture: those to fit, their training curves, and those that are predicted instead.

    rows  what the law is fitted to: the runs, or all rows of their curves where whole runs are drawn
    """

    fitted: pd.DataFrame
    rows: pd.DataFrame
    curves: pd.DataFrame | None = None
    held_out: pd.DataFrame | None = None


@dataclass(frozen=True)
class Answer:
    """What one approach said of one architecture: text for people, `content` for JSON."""

    arch: str
    approach: str
    text: str
    content: dict[str, Any]
    identified: bool = True


def _law(arch: str, runs: Runs, asked: Request) -> Answer:
    target = asked.at[-1] if asked.at else float(clean(runs.fitted)["flops"].max())
    law = fit(
        runs.rows,
        form=asked.form,
        objective=asked.objective,
        delta=asked.delta,
        bootstrap=asked.bootstrap,
        resample=asked.resample,
        confidence=asked.confidence,
        seed=asked.seed,
        repeats=asked.repeats,
    )
    checked, targets = audit(runs.rows, at=target, law=law, repeats=asked.repeats), asked.at or (target,)
    findings = [str(finding) for finding in checked.findings]
    content: dict[str, Any] = {
        "status": str(law.status),
        "runs": law.n,
        "convention": law.convention,
        **({"form": law.form} if law.form != STANDARD else {}),
        "objective": law.objective,
        "delta": law.delta,
        "sum": law.value,
        "condition": law.condition,
        **law.values,
        "resample": law.resample,
        "intervals": show.intervals(law.intervals),
        "at": [_allocation(law, target) for target in targets],
        "findings": findings,
    }
    parts = [show.law_text(arch, law, targets), show.notes("verdicts:", findings)]
    if runs.held_out is not None:
        content["held_out"] = _errors(clean(runs.held_out), law.loss)
        parts.append(_errors_text(content["held_out"]))
    return Answer(arch, "law", "\n\n".join(part for part in parts if part), content)


def _isoflop(arch: str, runs: Runs, asked: Request) -> Answer:
    found = isoflop(
        runs.fitted,
        budgets=asked.budgets,
        window=asked.window,
        bootstrap=asked.bootstrap,
        confidence=asked.confidence,
        seed=asked.seed,
    )
    targets = asked.at or (float(found.optima["flops"].max()),)
    content: dict[str, Any] = {
        "status": str(found.status),
        "runs": found.n,
        "convention": found.convention,
        "n_exponent": found.exponent,
        "d_exponent": found.tokens_exponent,
        "coefficient": found.coefficient,
        "tokens_coefficient": found.tokens_coefficient,
        "intervals": show.intervals(found.intervals),
        "optima": show.records(found.optima),
        "at": [
            {
                "flops": c,
                "params": float(found.n_opt(c)),  # type: ignore[arg-type]
                "tokens": float(found.d_opt(c)),  # type: ignore[arg-type]
                "intervals": show.intervals({"params": found.n_interval(c), "tokens": found.d_interval(c)}),
            }
            for c in targets
        ],
        "warnings": list(found.warnings),
    }
    lines = [
        f"{arch}: parabolas of loss in ln N and ln D at each budget, {found.n} runs; {found.convention}",
        _exponents(content),
        *(_line(point) for point in content["at"]),
        "",
        show.table(_shown(found.optima)),
    ]
    warned = show.notes("warnings:", found.warnings)
    return Answer(arch, "isoflop", "\n".join(lines) + (f"\n\n{warned}" if warned else ""), content)


def _envelope(arch: str, runs: Runs, asked: Request) -> Answer:
    if runs.curves is None or runs.curves.empty:
        raise NotIdentified("the envelope needs training curves: several rows per run, with a column run")
    found = envelope(runs.curves, bootstrap=asked.bootstrap, confidence=asked.confidence, seed=asked.seed)
    content: dict[str, Any] = {
        "status": str(Status.CONVERGED),
        "runs": found.n,
        "n_exponent": found.exponent,
        "d_exponent": found.tokens_exponent,
        "intervals": show.intervals(found.intervals),
        "at": [
            {
                "flops": c,
                "params": float(found.n_opt(c)),  # type: ignore[arg-type]
                "tokens": float(found.d_opt(c)),  # type: ignore[arg-type]
            }
            for c in asked.at
        ],
        "warnings": list(found.warnings),
    }
    lines = [
        f"{arch}: lower envelope of the training curves, {found.n} runs",
        _exponents(content),
        *(_line(point) for point in content["at"]),
    ]
    warned = show.notes("warnings:", found.warnings)
    return Answer(arch, "envelope", "\n".join(lines) + (f"\n\n{warned}" if warned else ""), content)


def _optima(arch: str, runs: Runs, asked: Request) -> Answer:
    """The rows are compute-optimal models already; those without one are said to be left out."""
    there = runs.fitted[runs.fitted["params"].notna()]
    lacking = len(runs.fitted) - len(there)
    points = clean(there, need=("params", "flops"))
    sizes = power_law(points["flops"], points["params"], confidence=asked.confidence)
    content: dict[str, Any] = {
        "status": str(Status.CONVERGED),
        "runs": sizes.n,
        "n_exponent": sizes.exponent,
        "coefficient": sizes.coefficient,
        "r2": sizes.r2,
        "intervals": show.intervals({"n_exponent": sizes.interval}) if sizes.interval else {},
        "at": [{"flops": c, "params": float(sizes.at(c))} for c in asked.at],  # type: ignore[arg-type]
        "warnings": [f"{counted(lacking, 'row')} without an optimum"] if lacking else [],
    }
    text = f"{arch}: a power law through {sizes.n} optima, r2 {sizes.r2:.5f}\n" + _exponents(content)
    text += "".join(f"\n{_line(point)}" for point in content["at"])
    warned = show.notes("warnings:", content["warnings"])
    return Answer(arch, "optima", text + (f"\n\n{warned}" if warned else ""), content)


def _overtraining(arch: str, runs: Runs, asked: Request) -> Answer:
    law = fit_overtraining_law(runs.fitted)
    content: dict[str, Any] = {
        "status": str(law.status),
        "runs": law.n,
        **{name: getattr(law, name) for name in ("E", "a", "b", "c", "eta")},
        "sum": law.value,
    }
    lines = [
        f"{arch}: L = E + a N^b + c 6^(b/2) (M N)^b, M = D/N; least squares over {law.n} runs; {law.status}",
        f"E {law.E:.5g}, a {law.a:.5g}, b {law.b:.4f}, c {law.c:.5g}, eta {law.eta:.4f}",
    ]
    if runs.held_out is not None:
        content["held_out"] = _errors(
            clean(runs.held_out), lambda n, d: law.loss(n, np.asarray(d) / np.asarray(n))
        )
        lines += ["", _errors_text(content["held_out"])]
    return Answer(arch, "over-training", "\n".join(lines), content)


METHODS: dict[str, Callable[[str, Runs, Request], Answer]] = {
    "law": _law,
    "isoflop": _isoflop,
    "envelope": _envelope,
    "optima": _optima,
    "over-training": _overtraining,
}


def _allocation(law: FittedLaw, c: float) -> dict[str, Any]:
    found = law.at(c)
    names = ("flops", "params", "tokens", "tokens_per_param", "loss", "beyond")
    return {name: getattr(found, name) for name in names} | {"intervals": show.intervals(found.intervals)}


def _errors(rest: pd.DataFrame, predict: Callable[[Any, Any], Any]) -> dict[str, Any]:
    """Errors of predicted losses in percent; a positive bias predicts too high."""
    n, d, loss = (rest[name].to_numpy(float) for name in ("params", "tokens", "loss"))
    errors = 100 * (np.asarray(predict(n, d)) / loss - 1)
    worst = int(np.abs(errors).argmax())
    return {
        "runs": len(rest),
        "mape": float(np.abs(errors).mean()),
        "bias": float(errors.mean()),
        "worst": float(errors[worst]),
        "worst_params": float(n[worst]),
        "worst_tokens": float(d[worst]),
        "errors": dict(zip(map(str, rest.index), map(float, errors), strict=True)),
    }


def _errors_text(found: dict[str, Any]) -> str:
    return (
        f"{found['runs']} runs that were not fitted: mean absolute error of the loss {found['mape']:.3f} %, "
        f"bias {found['bias']:+.3f} %, largest {found['worst']:+.3f} % (N = {found['worst_params']:.3g}, D = "
        f"{found['worst_tokens']:.3g})"
    )


def _exponents(content: dict[str, Any]) -> str:
    ends = content["intervals"]

    def part(symbol: str, key: str, interval: str) -> str:
        if key not in content:
            return ""
        low_high = ends.get(interval)
        return f"{symbol} ~ C^{content[key]:.4f}" + (show.span(Interval(*low_high)) if low_high else "")

    parts = [part("N*", "n_exponent", "exponent" if "exponent" in ends else "n_exponent")]
    parts.append(part("D*", "d_exponent", "tokens_exponent"))
    return ", ".join(text for text in parts if text)


def _line(point: dict[str, Any]) -> str:
    ends = point.get("intervals", {})

    def part(symbol: str, key: str) -> str:
        if key not in point:
            return ""
        return f"{symbol} = {point[key]:.4g}" + (f" {show.span(Interval(*ends[key]))}" if key in ends else "")

    parts = [part("N*", "params"), part("D*", "tokens")]
    return f"C = {point['flops']:.3g}: " + ", ".join(text for text in parts if text)


def _shown(optima: pd.DataFrame) -> pd.DataFrame:
    """The columns of the optima that a reader looks for."""
    kept = [name for name in optima if name not in ("arch", "curvature", "compute")]
    return optima[kept]
