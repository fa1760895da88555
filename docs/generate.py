"""Writes the generated parts of the documentation; a test keeps them true.

    python docs/generate.py

docs/primitives.md comes from the registry's index and from the measured step times. In the other pages,
what stands between `<!-- generated: NAME -->` and `<!-- end -->` is replaced by the table of that name.
"""

import ast
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import synthetic_tasks  # noqa: E402
from architectures.files import whole_file  # noqa: E402
from architectures.grammar import index  # noqa: E402
from mad.board.columns import columns  # noqa: E402
from mad.data.protocol import SUITES  # noqa: E402

# Pages with marked tables in them.
MARKED = ("architecture", "performance", "protocol", "scaling", "scaling-study", "tour")
TITLES = {"time": "Time mixers", "channel": "Channel mixers", "stream": "Around layers"}
INTRODUCTION = """# Layers

Every layer that a spec can name. Written by `python docs/generate.py` from the registry and from
measurements, and kept true by a test; options and their defaults are listed by `mad primitives`.

- **state**: elements that a row carries from token to token, as measured on the live state, D the model's
  width and T the tokens so far; "conv" are the tails of short convolutions and token shifts.
- **parameters** at width 128, with the layer's defaults.
- **step**: forward + backward at (B 16, T 512, D 128) over `mh-attention[heads=16]`, its 16 heads 8 wide, in
  the same process ({machine}).
"""


def measured(name: str) -> dict[str, Any]:
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [[*header], ["---" for _ in header], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def shown(columns: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> str:
    """The table that has under each heading its format, filled from the rows."""
    return table(columns, [[form.format_map(row) for form in columns.values()] for row in rows])


def primitives_page() -> str:
    results = measured("primitives-cpu")
    ratios = {row["name"]: f"{row['ratio']:.2f}" for row in results["steps"]}
    machine = results["machine"]
    about = f"torch {machine['torch']}, CPU, {machine['threads']} threads, {machine['clock']}"
    form = {"layer": "`{name}`", "equation": "`{equation}`", "paper": "{source}"}
    form |= {"also known as, used by": "{known_as}", "state": "{held}"}
    form |= {"parameters": "{params:,}", "step": "{step}"}
    rows: dict[str, list[dict[str, Any]]] = {mixes: [] for mixes in TITLES}
    for row in index.read():
        # The first line of the docstring up to the shapes, which are the same for all.
        equation = re.split(r"[:,;] *\(B, T, D\)", row["summary"])[0].rstrip(" .:,;")
        extra = {"equation": equation, "source": paper(row["paper"]), "held": state(row)}
        rows[row["mixes"]].append(row | extra | {"step": ratios.get(row["name"], "-")})
    parts = [f"## {title}\n\n{shown(form, rows[mixes])}\n" for mixes, title in TITLES.items()]
    return "\n".join([INTRODUCTION.format(machine=about), *parts, agreement()])


def agreement() -> str:
    found = measured("agreement")
    text = (
        f"Compared once by hand with {found['peer']}: {found['note']}. The library is no\n"
        "dependency; every change is tested against each layer's plain definition in float64."
    )
    cells = shown({"layer": "`{name}`", "operator": "`{operator}`", "error": "{error:.1e}"}, found["rows"])
    models = found["models"]
    text_of_models = (
        f"What a public model is as a spec and `ModelOptions`, by the logits of {models['peer']}: "
        f"{models['note']}."
    )
    form = {"model": "{name}", "layers": "`{spec}`", "options": "{options}", "error": "{error:.1e}"}
    return (
        f"## Agreement with a public library\n\n{text}\n\n{cells}\n\n"
        f"## Public models as specs\n\n{text_of_models}\n\n{shown(form, models['rows'])}\n"
    )


def paper(reference: str) -> str:
    number = reference.removeprefix("arXiv:")
    return f"[{number}](https://arxiv.org/abs/{number})" if number != reference else reference


def state(row: dict[str, Any]) -> str:
    if row["state"] is None:
        return "unknown"
    texts = {k: formula or f"{row['state'][k]:,} at D = T = 128" for k, formula in row["formula"].items()}
    return " + ".join(f"{text} (conv)" if kind == "conv" else text for kind, text in texts.items()) or "none"


def steps() -> str:
    form = {"layer": "`{name}`", "ms": "{ms:.0f}", "over mh-attention[heads=16]": "{ratio:.2f}"}
    return shown(form, sorted(measured("primitives-cpu")["steps"], key=lambda row: row["ratio"]))


def kernel() -> str:
    form = {"decay": "{decay}", "form": "{form}", "chunk": "{chunk}", "ms": "{ms:.0f}"}
    return shown(form | {"times the loop's speed": "{speedup:.1f}"}, measured("primitives-cpu")["kernel"])


def memory() -> str:
    lengths = ("1024", "2048", "4096", "8192")
    rows = [
        [f"`{row['name']}`", *(f"{row['bytes'][n] / 1024:,.1f}" for n in lengths), f"{row['growth']:.2f}"]
        for row in sorted(measured("primitives-cpu")["memory"], key=lambda row: row["bytes"]["8192"])
    ]
    return table(["layer", *(f"KiB per token at {n}" for n in lengths), "8192 over 1024"], rows)


def decode() -> str:
    rows = []
    for row in measured("primitives-cpu")["decode"]:
        cells = [row["lengths"][n] for n in ("128", "1024", "8192")]
        prefills = " / ".join(f"{cell['prefill_ms']:,.1f}" for cell in cells)
        speeds = " / ".join(f"{cell['tokens_per_second']:,.0f}" for cell in cells)
        states = " / ".join(f"{cell['state_bytes'] / 1024:,.1f}" for cell in cells)
        rows.append([f"`{row['name']}`", prefills, speeds, states])
    return table(["layer", "prefill, ms", "tokens per second", "state, KiB"], rows)


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


def rooms() -> str:
    """Every package and folder of the product, with the first sentence of its docstring."""
    rows = []
    for package in ("synthetic_tasks", "architectures", "mad", "scaling"):
        for path in sorted((ROOT / package).rglob("__init__.py")):
            about = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            sentence = " ".join(about.split("\n\n")[0].split())
            rows.append([f"`{path.parent.relative_to(ROOT)}/`", sentence])
    return table(["room", "what is in it"], rows)


def board() -> str:
    """Every column of the leaderboard, its heading in a terminal and what it says."""
    rows = [[f"`{column.name}`", column.heading.strip(), column.about] for column in columns(("TASK",))]
    return table(["column", "heading", "what it says"], rows)


def suites() -> str:
    """Every suite, what it runs and how often it trains an architecture."""
    rows = []
    for suite in SUITES.values():
        runs = suite.seeds * sum(len(setting.grid) for setting in suite.settings)
        rows.append([f"`{suite.name}`", suite.about, str(runs)])
    return table(["suite", "what it runs", "runs per architecture"], rows)


# What follows is of the two-core study.


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


TABLES = {
    **{f.__name__: f for f in (rooms, suites, steps, kernel, memory, decode, published, fitting, coverage)},
    **{f.__name__: f for f in (optima, exponents, laws, ratios, verdicts, scores, related, entropy)},
    "columns": board,
}


def filled(text: str) -> str:
    """A page with its marked tables written anew."""

    def fill(match: re.Match[str]) -> str:
        return f"<!-- generated: {match[1]} -->\n\n{TABLES[match[1]]()}\n\n<!-- end -->"

    return re.sub(r"<!-- generated: (\w+) -->.*?<!-- end -->", fill, text, flags=re.DOTALL)


def pages() -> dict[Path, str]:
    """Every page with generated parts, as it should be."""
    marked = [ROOT / "docs" / f"{name}.md" for name in MARKED]
    filled_pages = {page: filled(page.read_text(encoding="utf-8")) for page in marked}
    return {ROOT / "docs" / "primitives.md": primitives_page(), **filled_pages}


if __name__ == "__main__":
    for path, text in pages().items():
        with whole_file(path, force=True) as part:
            part.write_text(text, encoding="utf-8")
