"""The parts of the report that come from the runs alone; NotIdentified where these do not show one."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from scaling.laws.approaches import approaches
from scaling.laws.comparison import compare
from scaling.laws.isoflops import IsoFlop
from scaling.laws.law import Interval
from scaling.laws.penalty import RATIOS, overtraining
from scaling.laws.runs.cleaning import NotIdentified
from scaling.laws.runs.doubts import SERIOUS
from scaling.laws.state import state_law
from scaling.report.analysis import Analysis
from scaling.report.comparisons import figure_frontiers, figure_overtraining
from scaling.report.page import Drawn, Part, span
from scaling.report.plots import figure_allocation, figure_isoflop, figure_residuals, figure_surface
from scaling.report.style import number

# How far beyond the largest run the report looks, to show how little is known there.
BEYOND = 100.0


def runs_part(about: Analysis) -> Part:
    """What was trained."""
    rows = []
    for arch, mine in about.ends.groupby("arch"):
        ratio = mine["tokens"] / mine["params"]
        columns = {
            "N": mine["params"],
            "D": mine["tokens"],
            "D/N": ratio,
            "C": mine["flops"],
            "loss": mine["loss"],
        }
        row = {"architecture": str(arch), "runs": len(mine)}
        rows.append(row | {name: _range(values) for name, values in columns.items()})
    said = _sentences([note for note in about.notes if not note.startswith(SERIOUS)])
    return Part(
        name="runs",
        title="Runs",
        verdicts=_sentences([note for note in about.notes if note.startswith(SERIOUS)]),
        said=said,
        tables=(("What was trained", pd.DataFrame(rows)),),
    )


def isoflop_part(about: Analysis) -> Part:
    """Optima and exponents of approach 2."""
    found = _needed(about.iso, about, "isoflop")
    rows = []
    for arch, own in found.by_arch.items():
        rows.append(
            {
                "architecture": arch,
                "exponent of N*": _with(own.exponent, own.intervals.get("exponent")),
                "exponent of D*": _with(own.tokens_exponent, own.intervals.get("tokens_exponent")),
                "budgets used": f"{int(own.optima['used'].sum())} of {len(own.optima)}",
            }
        )
    ends = [f"{name}_{end}" for name in ("params", "tokens", "loss") for end in ("low", "high")]
    optima = found.optima.drop(columns=[*ends, "budget"])
    for name in ("params", "tokens", "loss"):
        optima[name] = [
            span(*values)
            for values in found.optima[[name, f"{name}_low", f"{name}_high"]].itertuples(index=False)
        ]
    shared = found.intervals.get("exponent")
    verdicts = [
        "{architecture}: N* grows as C to the {exponent of N*}, D* as C to the {exponent of D*}.".format_map(
            row
        )
        for row in rows
    ]
    if len(rows) > 1 and found.sharing is not None:
        allowed = {True: "may share", False: "do not share", None: "cannot be told to share"}
        verdicts.append(
            f"The architectures {allowed[found.sharing.allowed]} the exponent of N* "
            f"({_with(found.exponent, shared)}; F test p = {number(found.sharing.p)})."
        )
    figure = figure_isoflop(about.groups, found)
    caption = (
        "Runs of equal compute, the parabola through them in ln N, and its vertex (star; hollow: not used)."
    )
    return Part(
        name="isoflop",
        title="IsoFLOP optima",
        verdicts=tuple(verdicts),
        said=_sentences(found.warnings),
        tables=(("Exponents", pd.DataFrame(rows)), ("Optima", optima)),
        figures=(("isoflop", caption, figure),),
    )


def law_part(about: Analysis) -> Part:
    """The law of each architecture with its audit."""
    if not about.audits:
        raise NotIdentified(" ".join(_reasons(about, "law")))
    rows, findings, verdicts = [], [], []
    for arch, found in about.audits.items():
        law = found.law
        row: dict[str, object] = {"architecture": arch, "runs": law.n}
        for name in ("E", "A", "B", "alpha", "beta", "n_exponent"):
            row[name] = _with(getattr(law, name), law.intervals.get(name))
        row |= {"condition": law.condition, "status": str(law.status), "objective": law.objective}
        rows.append(row)
        graves = [finding for finding in found.findings if finding.severity == "serious"]
        for finding in found.findings:
            cells = (arch, finding.severity, finding.what, finding.remedy)
            findings.append(dict(zip(("architecture", "severity", "finding", "remedy"), cells, strict=True)))
        state = f"{len(graves)} serious findings; " + graves[0].what if graves else "no serious finding"
        verdicts.append(f"{arch}: E = {row['E']}, N* as C to the {row['n_exponent']}; {state}.")
    delta = next(iter(about.laws.values())).delta
    head = f"L = E + A N^-alpha + B D^-beta; Huber threshold {number(delta)} on log loss" if delta else "Laws"
    surface = "Contours of the fitted loss, the runs, and the optimum of each C (dashed)."
    residual = "Loss over the law's prediction, in percent, against size, data and compute."
    return Part(
        name="laws",
        title="Laws of loss",
        verdicts=tuple(verdicts),
        said=tuple(_reasons(about, "law")),
        tables=((head, pd.DataFrame(rows)), ("Audit", pd.DataFrame(findings))),
        figures=(
            ("surface", surface, figure_surface(about.ends, about.laws)),
            ("residuals", residual, figure_residuals(about.ends, about.laws)),
        ),
    )


def allocation_part(about: Analysis) -> Part:
    """N* and D* by the approaches side by side."""
    tables = []
    for arch in about.archs:
        mine = about.runs[about.runs["arch"] == arch].drop(columns="flops" if _derived(about) else [])
        try:
            table = approaches(
                mine,
                at=about.target,
                law=about.laws.get(arch),
                budgets=about.budgets,
                bootstrap=about.bootstrap,
                confidence=about.confidence,
                seed=about.seed,
            )
        except NotIdentified:
            continue
        tables.append(table.drop(columns="flops").assign(architecture=arch))
    if about.iso is None and not about.laws and not about.envelopes:
        raise NotIdentified("Neither an isoFLOP power law nor a law of loss is identified; see above.")
    figure = figure_allocation(isoflop=about.iso, laws=about.laws, envelope=about.envelopes)
    caption = (
        "Lines beyond the largest run are extrapolations: their bands hold only if the law does. An approach "
        "that is absent could not be used."
    )
    verdicts, said = [], []
    for arch, found in about.audits.items():
        here, far = found.allocation, found.law.at(BEYOND * about.target)
        verdicts.append(f"{arch} at {here}.")
        ends = far.intervals.get("params")
        if ends:
            between = f"{number(ends.low)} and {number(ends.high)}"
            said.append(
                f"{arch} at {number(BEYOND)} times that compute: N* between {between}, if the law holds."
            )
    both = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    front = ["architecture", *(column for column in both if column != "architecture")] if tables else []
    return Part(
        name="allocation",
        title="Compute-optimal allocation",
        verdicts=tuple(verdicts),
        said=tuple(said),
        tables=((f"Three approaches, at {number(about.target)} FLOPs", both[front]),) if tables else (),
        figures=(("allocation", caption, figure),),
    )


def comparison_part(about: Analysis) -> Part:
    """Perplexity ratios at equal compute."""
    if len(about.archs) < 2:
        raise NotIdentified("There is one architecture; train another at the same budgets to compare them.")
    leader = best(about)
    found = compare(
        about.groups,
        baseline=leader,
        bootstrap=about.bootstrap,
        confidence=about.confidence,
        seed=about.seed,
    )
    overall = found.overall if found.overall is not None else found.table
    words = {"not resolved": "not told apart"}
    verdicts = [
        f"{row.arch}: {span(row.ratio, row.low, row.high)} times the perplexity of {leader} at equal compute "
        f"({words.get(row.verdict, row.verdict)})."
        for row in overall.itertuples()
    ]
    caption = "Perplexity at the vertex of each isoFLOP parabola, against compute."
    figures: tuple[Drawn, ...] = ()
    if about.iso is not None:
        figures = (("frontiers", caption, figure_frontiers(about.iso)),)
    return Part(
        name="compare",
        title="Architectures at equal compute",
        verdicts=tuple(verdicts),
        said=_sentences(found.warnings),
        tables=(
            ("Perplexity ratio, mean of the common budgets", overall),
            ("Perplexity ratio by budget", found.table),
        ),
        figures=figures,
    )


def state_part(about: Analysis) -> Part:
    """P* = k M^c, with one c and each architecture's own."""
    if "state" not in about.ends:
        raise NotIdentified("The runs have no column state (elements of recurrent state); add it.")
    try:
        law = state_law(about.groups, confidence=about.confidence)
    except ValueError as error:
        # The runs were read before: what is left is that not all have a state, a fact that the page states.
        raise NotIdentified(str(error)) from None
    rows = [
        {"class": name, "exponent c": _with(value, law.intervals.get(name)), "k": law.coefficients[name]}
        for name, value in law.exponents.items()
    ]
    figures: tuple[Drawn, ...] = ()
    if about.iso is not None:
        caption = (
            "The same optima against compute and against their total state; lines at the right: P* = k M^c."
        )
        figures = (("states", caption, figure_frontiers(about.iso, law)),)
    return Part(
        name="state",
        title="Architectures at equal state",
        verdicts=(
            f"Compute-optimal perplexity goes as the state to the {_with(law.exponent, law.interval)} "
            f"(one exponent for all, {law.n} optima; arXiv:2403.17844 has about -0.28).",
        ),
        said=_sentences(law.warnings),
        tables=(("State-optimal law", pd.DataFrame(rows)),),
        figures=figures,
    )


def overtraining_part(about: Analysis) -> Part:
    """What it costs to train off the optimum."""
    found = overtraining(
        about.groups, bootstrap=about.bootstrap, confidence=about.confidence, seed=about.seed
    )
    rows, verdicts = [], []
    for arch in found.basins:
        costs = {ratio: found.penalty(arch, ratio) for ratio in RATIOS}
        cells = {
            f"D/D* = {ratio:g}": _with(cost.loss, cost.interval) + " (beyond the runs)" * cost.beyond
            for ratio, cost in costs.items()
        }
        rows.append({"architecture": arch, **cells})
        verdicts.append(
            f"{arch}: four times the optimal tokens cost {_with(costs[4.0].loss, costs[4.0].interval)} nats "
            f"a token at equal compute{' (beyond the runs)' * costs[4.0].beyond}."
        )
    caption = "Loss above the optimum of the same compute, against tokens over the optimal tokens."
    return Part(
        name="overtraining",
        title="Training off the optimum",
        verdicts=tuple(verdicts),
        said=_sentences(found.warnings),
        tables=((f"Penalty in nats per token, at {number(found.at)} FLOPs", pd.DataFrame(rows)),),
        figures=(("overtraining", caption, figure_overtraining(found)),),
    )


def limits_part(about: Analysis) -> Part:
    """What these runs can and cannot show."""
    low, high = number(float(about.ends["flops"].min())), number(float(about.ends["flops"].max()))
    between = f"between {low} and {high} FLOPs" if low != high else f"at {low} FLOPs"
    budgets = 0
    if about.iso is not None:
        budgets = int(about.iso.optima.loc[about.iso.optima["used"], "budget"].nunique())
    several = len(about.archs) > 1
    said = [
        f"They can show which of {len(about.archs)} architectures has the lower loss at equal compute "
        f"{between}, as far as the intervals part them."
        if several
        else f"They can show how loss goes with size and data {between}.",
        f"Usable budgets: {budgets}. A difference of .05 in an exponent of N* is a factor "
        f"{number(BEYOND**0.05)} in size at {number(BEYOND)} times the compute; narrower intervals than that "
        "are needed to tell exponents apart.",
        "They cannot show what happens at larger compute: intervals there assume that the fitted form holds.",
        "They cannot tell the architecture from the recipe: the text, the tokenizer, the context length, the "
        "rule for learning rate and batch. Another recipe can reorder architectures.",
        f"Parameters and FLOPs are as the table's maker counted them ({about.runs.attrs['convention']}); "
        "exponents depend on whether embeddings and the output head count.",
    ]
    if "seed" not in about.ends or about.ends["seed"].nunique() < 2:
        said.append(
            "No run was repeated with another seed: their noise is judged by the scatter around the fits."
        )
    if several and len(about.archs) < 10:
        said.append(
            f"{len(about.archs)} architectures cannot settle whether synthetic scores predict perplexity; "
            "agreement in rank over so few is a hint."
        )
    if about.reasons:
        said.append(f"Not identified, for the reasons above: {', '.join(about.reasons)}.")
    return Part(name="limits", title="What these runs can and cannot show", said=tuple(said))


def best(about: Analysis) -> str:
    """The architecture with the lowest loss at the largest budget of all: the others are compared with it."""
    if about.iso is None:
        return str(about.ends.loc[about.ends["loss"].idxmin(), "arch"])
    used = about.iso.optima[about.iso.optima["used"]]
    shared = used.groupby("budget")["arch"].transform("nunique")
    last = used[shared == shared.max()]
    last = last[last["budget"] == last["budget"].max()]
    return str(last.loc[last["loss"].idxmin(), "arch"])


def _needed(found: IsoFlop | None, about: Analysis, name: str) -> IsoFlop:
    if found is None:
        raise NotIdentified(about.reasons[name])
    return found


def _reasons(about: Analysis, start: str) -> list[str]:
    return [f"{name}: {reason}." for name, reason in about.reasons.items() if name.startswith(start)]


def _sentences(warnings: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{text}." for text in warnings)


def _with(value: float, interval: Interval | None) -> str:
    return span(value, interval.low if interval else None, interval.high if interval else None)


def _range(values: pd.Series) -> str:
    low, high = number(float(values.min())), number(float(values.max()))
    return low if low == high else f"{low} to {high}"


def _derived(about: Analysis) -> bool:
    """Whether FLOPs were not given: then they are left to be derived again."""
    return about.runs.attrs["convention"] != "C as given"
