"""Writes the generated parts of the documentation; a test keeps them true.

    python docs/generate.py

docs/primitives.md comes from the registry's index and from the measured step times. In the other pages,
what stands between `<!-- generated: NAME -->` and `<!-- end -->` is replaced by the table of that name.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import synthetic_tasks  # noqa: E402
from architectures.files import whole_file  # noqa: E402
from architectures.grammar import index  # noqa: E402
from mad.board.columns import columns as board_columns  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
# Pages with marked tables in them.
MARKED = ("architecture", "performance", "protocol", "scaling", "scaling-study")
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
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def primitives_page() -> str:
    results = measured("primitives-cpu")
    ratios = {row["name"]: row["ratio"] for row in results["steps"]}
    machine = results["machine"]
    about = f"torch {machine['torch']}, CPU, {machine['threads']} threads, {machine['clock']}"
    parts = [INTRODUCTION.format(machine=about)]
    for mixes, title in TITLES.items():
        rows = [
            [
                f"`{row['name']}`",
                f"`{equation(row['summary'])}`",
                paper(row["paper"]),
                state(row),
                f"{row['params']:,}",
                f"{ratios[row['name']]:.2f}" if row["name"] in ratios else "-",
            ]
            for row in index.read()
            if row["mixes"] == mixes
        ]
        header = ["layer", "equation", "paper", "state", "parameters", "step"]
        parts.append(f"## {title}\n\n{table(header, rows)}\n")
    parts.append(agreement())
    return "\n".join(parts)


def agreement() -> str:
    found = measured("agreement")
    rows = [[f"`{r['name']}`", f"`{r['operator']}`", f"{r['error']:.1e}"] for r in found["rows"]]
    text = (
        f"Compared once by hand with {found['peer']}: {found['note']}. The library is no\n"
        "dependency; every change is tested against each layer's plain definition in float64."
    )
    return f"## Agreement with a public library\n\n{text}\n\n{table(['layer', 'operator', 'error'], rows)}\n"


def equation(summary: str) -> str:
    """The first line of a docstring up to the shapes, which are the same for all."""
    return re.split(r"[:,;] *\(B, T, D\)", summary)[0].rstrip(" .:,;")


def paper(reference: str) -> str:
    number = reference.removeprefix("arXiv:")
    return f"[{number}](https://arxiv.org/abs/{number})" if number != reference else reference


def state(row: dict[str, Any]) -> str:
    if row["state"] is None:
        return "unknown"
    parts = []
    for kind, formula in row["formula"].items():
        text = formula or f"{row['state'][kind]:,} at D = T = 128"
        parts.append(f"{text} (conv)" if kind == "conv" else text)
    return " + ".join(parts) or "none"


def steps_table() -> str:
    rows = [
        [f"`{r['name']}`", f"{r['ms']:.0f}", f"{r['ratio']:.2f}"]
        for r in sorted(measured("primitives-cpu")["steps"], key=lambda r: r["ratio"])
    ]
    return table(["layer", "ms", "over mh-attention[heads=16]"], rows)


def kernel_table() -> str:
    rows = [
        [r["decay"], r["form"], str(r["chunk"]), f"{r['ms']:.0f}", f"{r['speedup']:.1f}"]
        for r in measured("primitives-cpu")["kernel"]
    ]
    return table(["decay", "form", "chunk", "ms", "times the loop's speed"], rows)


def memory_table() -> str:
    lengths = ("1024", "2048", "4096", "8192")
    rows = [
        [f"`{r['name']}`", *(f"{r['bytes'][n] / 1024:,.1f}" for n in lengths), f"{r['growth']:.2f}"]
        for r in sorted(measured("primitives-cpu")["memory"], key=lambda r: r["bytes"]["8192"])
    ]
    return table(["layer", *(f"KiB per token at {n}" for n in lengths), "8192 over 1024"], rows)


def decode_table() -> str:
    rows = []
    for r in measured("primitives-cpu")["decode"]:
        cells = [r["lengths"][n] for n in ("128", "1024", "8192")]
        rows.append(
            [
                f"`{r['name']}`",
                " / ".join(f"{c['prefill_ms']:,.1f}" for c in cells),
                " / ".join(f"{c['tokens_per_second']:,.0f}" for c in cells),
                " / ".join(f"{c['state_bytes'] / 1024:,.1f}" for c in cells),
            ]
        )
    return table(["layer", "prefill, ms", "tokens per second", "state, KiB"], rows)


def published_table() -> str:
    """What the fitters give on published runs, beside what is expected."""
    rows = measured("scaling-published")["rows"]
    cells = [[row["case"], row["quantity"], f"{row['expected']:.6g}", f"{row['found']:.6g}"] for row in rows]
    return table(["runs", "quantity", "expected", "found"], cells)


def fitting_table() -> str:
    """Times of fits and bootstraps, and how many starts reach the optimum."""
    results = measured("scaling-fit")
    rows = [
        [name, f"{value:.3g} s" if value > 0.1 else f"{1e3 * value:.1f} ms"]
        for name, value in results["seconds"].items()
    ]
    reached = {name: found["share_that_reach_it"] for name, found in results["optimum"].items()}
    about = ", ".join(f"{100 * share:.3g} % of the starts ({name})" for name, share in reached.items())
    return (
        table(["what", "time"], rows)
        + f"\n\nThe optimum, on {results['runs']} runs, is reached by {about}.\n\n"
        + table(
            ["`mad scaling fit`, all of it", "time", "peak memory"],
            [
                [f"{row['runs']:,} runs", f"{row['seconds']:.1f} s", f"{row['bytes'] / 1e6:.0f} MB"]
                for row in results["command"]
            ],
        )
    )


def coverage_table() -> str:
    """How often intervals hold the truth, and how often a ratio is said to differ that is the same."""
    results = measured("scaling-coverage")
    designs = {
        "law": "five budgets of seven sizes, noise .3 %",
        "runs": "four rows of each of 35 runs that share most of their error",
    }
    intervals = [
        [
            f"{', '.join(row['held'])}; {design}",
            row["resample"],
            str(results[part]["tables"]),
            ", ".join(map(str, row["held"].values())),
        ]
        for part, design in designs.items()
        for row in results[part]["rows"]
    ]
    levels: dict[tuple[Any, ...], list[str]] = {}
    for row in results["penalty"]["rows"]:
        share = 100 * sum(row["held"].values()) / len(row["held"]) / results["penalty"]["tables"]
        key = tuple(row[name] for name in ("alpha", "beta", "budgets", "sizes"))
        levels.setdefault(key, []).append(f"{share:.1f} %")
    said: dict[tuple[Any, ...], list[str]] = {}
    for row in results["change"]["rows"]:
        first, last = (f"{100 * noise:.2g} %" for noise in row["noise"])
        key = row["sizes"], first if first == last else f"falls from {first} to {last}"
        said.setdefault(key, []).append(f"{100 * row['said'] / results['change']['tables']:.1f} %")
    counts = {part: f"{results[part]['tables']:,} tables each" for part in ("penalty", "change")}
    return "\n\n".join(
        [
            table(["95 % intervals of", "drawn", "tables", "that hold it"], intervals),
            f"95 % intervals of the penalty that hold it, the mean over D/D* of .25, .5, 2, 4 and 16; "
            f"{counts['penalty']}:",
            table(
                ["alpha", "beta", "budgets", "sizes", "noise .2 %", "noise .5 %", "noise 1 %"],
                [[*map(str, key), *shares] for key, shares in levels.items()],
            ),
            f'"The ratio differs between budgets", at 5 %, said where it does not; {counts["change"]}:',
            table(
                ["sizes", "noise", *(f"{count} budgets" for count in (2, 3, 4, 6))],
                [
                    [*map(str, key), *shares]
                    for key, shares in sorted(said.items(), key=lambda row: row[0][0])
                ],
            ),
        ]
    )


def rooms_table() -> str:
    """Every package and folder of the product, with the first sentence of its docstring."""
    rows = []
    for package in ("synthetic_tasks", "architectures", "mad", "scaling"):
        for path in sorted((ROOT / package).rglob("__init__.py")):
            about = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            sentence = " ".join(about.split("\n\n")[0].split())
            rows.append([f"`{path.parent.relative_to(ROOT)}/`", sentence])
    return table(["room", "what is in it"], rows)


def columns_table() -> str:
    """Every column of the leaderboard, its heading in a terminal and what it says."""
    rows = [[f"`{column.name}`", column.heading.strip(), column.about] for column in board_columns(("TASK",))]
    return table(["column", "heading", "what it says"], rows)


def study_optima() -> str:
    """The vertices of the parabolas of the two-core study."""
    rows = [
        [
            answer["arch"],
            f"{row['budget']:.0e}".replace("e+", "e"),
            f"{row['params']:,.0f}",
            between(row, "params", "{:,.0f}"),
            f"{row['tokens'] / row['params']:.0f}",
            f"{row['loss']:.4f}",
            between(row, "loss", "{:.4f}"),
            row["flag"] or "",
        ]
        for answer in answered("isoflop")
        for row in answer["optima"]
    ]
    head = ["architecture", "C", "N*", "95 %", "D*/N*", "loss at N*, nats per byte", "95 %", ""]
    return table(head, rows)


def study_exponents() -> str:
    """Exponents of N* by approach, or why there is none."""
    rows = []
    for answer in study()["fit"]:
        if answer["approach"] == "shared":
            continue
        name = "exponent" if "exponent" in answer.get("intervals", {}) else "n_exponent"
        ends = answer.get("intervals", {}).get(name)
        said = f"{answer['n_exponent']:.2f}" if "n_exponent" in answer else answer["status"]
        interval = f"{ends[0]:.2f} to {ends[1]:.2f}" if ends else ""
        rows.append([answer["arch"], answer["approach"], said, interval])
    return table(["architecture", "approach", "exponent of N*", "95 %"], rows)


def study_laws() -> str:
    """The coefficients of each architecture's law."""
    names = ("E", "A", "B", "alpha", "beta")
    rows = [
        [answer["arch"], answer["status"], *(coefficient(answer, name) for name in names)]
        for answer in answered("law")
    ]
    return table(["architecture", "status", *names], rows)


def study_ratios() -> str:
    """Perplexity over that of the transformer at equal compute."""
    compared = study()["compare"]
    rows = [
        [
            row["arch"],
            f"{row['flops']:.2g}" if "flops" in row else f"all {row['budgets']}",
            f"{row['ratio']:.3f}",
            f"{row['low']:.3f} to {row['high']:.3f}",
            row["verdict"],
        ]
        for row in (*compared["table"], *compared["overall"])
    ]
    return table(["architecture", "C", "perplexity over the transformer's", "95 %", "verdict"], rows)


def study_verdicts() -> str:
    """What speaks against each law, the gravest first."""
    said = [f"{answer['arch']}: {text}" for answer in answered("law") for text in answer["findings"]]
    return "\n".join(f"- {text}" for text in said if ": ok: " not in text)


def study_scores() -> str:
    """Scores of the three patterns beside their perplexity."""
    pairs = study()["relate"]["pairs"]
    tasks = [name for name in pairs[0] if name in ("mean", *synthetic_tasks.names())]
    rows = [
        [row["run_arch"], *(f"{row[name]:.1f}" for name in tasks), f"{row['ppl']:.3f}"]
        for row in sorted(pairs, key=lambda row: row["ppl"])
    ]
    return table(["architecture", *tasks, "perplexity"], rows)


def study_related() -> str:
    return "\n".join(f"- {text}" for text in study()["relate"]["verdict"])


def study_entropy() -> str:
    """E of a law of generated text beside the entropy of that text."""
    found = study()["grammar"]
    law = found["law"]
    row = [str(law["runs"]), coefficient(law, "E"), f"{found['entropy']:.4g}", law["status"]]
    return table(["runs", "E [95 %]", "entropy, nats per token", "the fit"], [row])


def study() -> dict[str, Any]:
    return measured("scaling-study")


def answered(approach: str) -> list[dict[str, Any]]:
    """The answers of an approach for which the runs were enough."""
    return [
        answer
        for answer in study()["fit"]
        if answer["approach"] == approach and answer["status"] != "not identified"
    ]


def between(row: dict[str, Any], name: str, form: str) -> str:
    return f"{form.format(row[f'{name}_low'])} to {form.format(row[f'{name}_high'])}"


def coefficient(answer: dict[str, Any], name: str) -> str:
    low, high = answer["intervals"][name]
    return f"{answer[name]:.3g} [{low:.3g}, {high:.3g}]"


TABLES = {
    "rooms": rooms_table,
    "columns": columns_table,
    "optima": study_optima,
    "exponents": study_exponents,
    "laws": study_laws,
    "ratios": study_ratios,
    "verdicts": study_verdicts,
    "scores": study_scores,
    "related": study_related,
    "entropy": study_entropy,
    "steps": steps_table,
    "kernel": kernel_table,
    "memory": memory_table,
    "decode": decode_table,
    "published": published_table,
    "fitting": fitting_table,
    "coverage": coverage_table,
}


def filled(text: str) -> str:
    """A page with its marked tables written anew."""

    def fill(match: re.Match[str]) -> str:
        return f"<!-- generated: {match[1]} -->\n\n{TABLES[match[1]]()}\n\n<!-- end -->"

    return re.sub(r"<!-- generated: (\w+) -->.*?<!-- end -->", fill, text, flags=re.DOTALL)


def pages() -> dict[Path, str]:
    """Every page with generated parts, as it should be."""
    marked = [ROOT / "docs" / f"{name}.md" for name in MARKED]
    return {
        ROOT / "docs" / "primitives.md": primitives_page(),
        **{page: filled(page.read_text(encoding="utf-8")) for page in marked},
    }


if __name__ == "__main__":
    for path, text in pages().items():
        with whole_file(path, force=True) as part:
            part.write_text(text, encoding="utf-8")
