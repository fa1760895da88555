"""Tables of the pages on scaling laws: what fitters give and cost, and the two-core study."""

from typing import Any

from tables import measured, shown, table

import synthetic_tasks


def published() -> str:
    """What the fitters give on published runs, beside what is expected."""
    form = {"runs": "{case}", "quantity": "{quantity}", "expected": "{expected:.6g}", "found": "{found:.6g}"}
    return shown(form, measured("scaling-published")["rows"])


def fitting() -> str:
    """Times of fits and bootstraps, and how many starts reach the optimum."""
    results = measured("scaling-fit")
    times = [
        [name, f"{value:.3g} s" if value > 0.1 else f"{1e3 * value:.1f} ms"]
        for name, value in results["seconds"].items()
    ]
    reached = {name: found["share_that_reach_it"] for name, found in results["optimum"].items()}
    about = ", ".join(f"{100 * share:.3g} % of the starts ({name})" for name, share in reached.items())
    commands = [
        [f"{row['runs']:,} runs", f"{row['seconds']:.1f} s", f"{row['bytes'] / 1e6:.0f} MB"]
        for row in results["command"]
    ]
    return (
        f"{table(['what', 'time'], times)}\n\n"
        f"The optimum, on {results['runs']} runs, is reached by {about}.\n\n"
        f"{table(['`mad scaling fit`, all of it', 'time', 'peak memory'], commands)}"
    )


def coverage() -> str:
    """How often intervals hold the truth, and how often a ratio is said to differ that is the same."""
    results = measured("scaling-coverage")
    designs = {
        "law": "five budgets of seven sizes, noise .3 %",
        "runs": "four rows of each of 35 runs that share most of their error",
    }
    intervals = [
        [
            f"{', '.join(held)}; {design}",
            row["resample"],
            str(results[part]["tables"]),
            ", ".join(held.values()),
        ]
        for part, design in designs.items()
        for row in results[part]["rows"]
        for held in [{name: str(count) for name, count in row["held"].items()}]
    ]
    levels: dict[tuple[Any, ...], list[str]] = {}
    for row in results["penalty"]["rows"]:
        share = 100 * sum(row["held"].values()) / len(row["held"]) / results["penalty"]["tables"]
        key = tuple(row[name] for name in ("alpha", "beta", "budgets", "sizes"))
        levels.setdefault(key, []).append(f"{share:.1f} %")
    said: dict[tuple[Any, ...], list[str]] = {}
    for row in sorted(results["change"]["rows"], key=lambda row: row["sizes"]):
        first, last = (f"{100 * noise:.2g} %" for noise in row["noise"])
        key = row["sizes"], first if first == last else f"falls from {first} to {last}"
        said.setdefault(key, []).append(f"{100 * row['said'] / results['change']['tables']:.1f} %")
    tables = {part: f"{results[part]['tables']:,} tables each" for part in ("penalty", "change")}
    noises = ("noise .2 %", "noise .5 %", "noise 1 %")
    return "\n\n".join(
        [
            table(["95 % intervals of", "drawn", "tables", "that hold it"], intervals),
            f"95 % intervals of the penalty that hold it, the mean over D/D* of .25, .5, 2, 4 and 16; "
            f"{tables['penalty']}:",
            table(["alpha", "beta", "budgets", "sizes", *noises], _keyed(levels)),
            f'"The ratio differs between budgets", at 5 %, said where it does not; {tables["change"]}:',
            table(["sizes", "noise", *(f"{count} budgets" for count in (2, 3, 4, 6))], _keyed(said)),
        ]
    )


def _keyed(rows: dict[tuple[Any, ...], list[str]]) -> list[list[str]]:
    return [[*map(str, key), *cells] for key, cells in rows.items()]


def study() -> dict[str, Any]:
    return measured("scaling-study")


def answered(approach: str) -> list[dict[str, Any]]:
    """The answers of an approach for which the runs were enough."""
    answers = [answer for answer in study()["fit"] if answer["approach"] == approach]
    return [answer for answer in answers if answer["status"] != "not identified"]


def coefficient(answer: dict[str, Any], name: str) -> str:
    low, high = answer["intervals"][name]
    return f"{answer[name]:.3g} [{low:.3g}, {high:.3g}]"


def optima() -> str:
    """The vertices of the parabolas."""
    rows = [
        [
            answer["arch"],
            f"{row['budget']:.0e}".replace("e+", "e"),
            f"{row['params']:,.0f}",
            f"{row['params_low']:,.0f} to {row['params_high']:,.0f}",
            f"{row['tokens'] / row['params']:.0f}",
            f"{row['loss']:.4f}",
            f"{row['loss_low']:.4f} to {row['loss_high']:.4f}",
            row["flag"] or "",
        ]
        for answer in answered("isoflop")
        for row in answer["optima"]
    ]
    head = ["architecture", "C", "N*", "95 %", "D*/N*", "loss at N*, nats per byte", "95 %", ""]
    return table(head, rows)


def exponents() -> str:
    """Exponents of N* by approach, or why there is none."""
    rows = []
    for answer in study()["fit"]:
        if answer["approach"] == "shared":
            continue
        intervals = answer.get("intervals", {})
        ends = intervals.get("exponent", intervals.get("n_exponent"))
        said = f"{answer['n_exponent']:.2f}" if "n_exponent" in answer else answer["status"]
        interval = f"{ends[0]:.2f} to {ends[1]:.2f}" if ends else ""
        rows.append([answer["arch"], answer["approach"], said, interval])
    return table(["architecture", "approach", "exponent of N*", "95 %"], rows)


def laws() -> str:
    """The coefficients of each architecture's law."""
    names = ("E", "A", "B", "alpha", "beta")
    rows = [
        [answer["arch"], answer["status"], *(coefficient(answer, name) for name in names)]
        for answer in answered("law")
    ]
    return table(["architecture", "status", *names], rows)


def ratios() -> str:
    """Perplexity over that of the transformer at equal compute."""
    compared = study()["compare"]
    form = {"architecture": "{arch}", "C": "{at}", "perplexity over the transformer's": "{ratio:.3f}"}
    form |= {"95 %": "{low:.3f} to {high:.3f}", "verdict": "{verdict}"}
    rows = [row | {"at": f"{row['flops']:.2g}"} for row in compared["table"]]
    return shown(form, rows + [row | {"at": f"all {row['budgets']}"} for row in compared["overall"]])


def verdicts() -> str:
    """What speaks against each law, the gravest first."""
    said = [f"{answer['arch']}: {text}" for answer in answered("law") for text in answer["findings"]]
    return "\n".join(f"- {text}" for text in said if ": ok: " not in text)


def scores() -> str:
    """Scores of the three patterns beside their perplexity."""
    pairs = study()["relate"]["pairs"]
    tasks = [name for name in pairs[0] if name in ("mean", *synthetic_tasks.names())]
    form = {"architecture": "{run_arch}", **{name: f"{{{name}:.1f}}" for name in tasks}}
    return shown(form | {"perplexity": "{ppl:.3f}"}, sorted(pairs, key=lambda row: row["ppl"]))


def related() -> str:
    return "\n".join(f"- {text}" for text in study()["relate"]["verdict"])


def entropy() -> str:
    """E of a law of generated text beside the entropy of that text."""
    found = study()["grammar"]
    law = found["law"]
    row = [str(law["runs"]), coefficient(law, "E"), f"{found['entropy']:.4g}", law["status"]]
    return table(["runs", "E [95 %]", "entropy, nats per token", "the fit"], [row])


TABLES = (
    *(published, fitting, coverage),
    *(optima, exponents, laws, ratios, verdicts, scores, related, entropy),
)
