"""Writes the generated parts of the documentation; a test keeps them true.

    python docs/generate.py          # all but the outputs of commands that train
    python docs/generate.py --all

docs/primitives.md comes from the registry's index and from the measured step times, with the pictures of
`pictures.py`. In the other pages, what stands between `<!-- generated: NAME -->` and `<!-- end -->` is
replaced by the table of that name, and blocks after `<!-- output of: COMMAND -->` by what the command prints
(`sessions.py`).
"""

import ast
import os
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

import scaling_tables  # noqa: E402
import sessions  # noqa: E402
from pictures import PICTURES  # noqa: E402
from tables import ROOT, measured, shown, table  # noqa: E402

from architectures.files import whole_file  # noqa: E402
from architectures.grammar import index  # noqa: E402
from mad.board.columns import columns  # noqa: E402
from mad.data.protocol import SUITES  # noqa: E402

TITLES = {"time": "Time mixers", "channel": "Channel mixers", "stream": "Around layers"}
INTRODUCTION = """# Layers

Every layer that a spec can name. Written by `python docs/generate.py` from the registry and from
measurements, and kept true by a test; options and their defaults are listed by `mad primitives`.

- **state**: elements that a row carries from token to token, as measured on the live state, D the model's
  width and T the tokens so far; "conv" are the tails of short convolutions and token shifts; where
  a step need not read all of it, how much at D = T = 128.
- **parameters** at width 128, with the layer's defaults.
- **step**: forward + backward at (B 16, T 512, D 128) over `mh-attention[heads=16]`, its 16 heads 8 wide, in
  the same process ({machine}).

Pictures: {pictures}. A box is blue where it is a layer, orange where the mechanism adds it, green where
something is kept, red where it is asked for.
"""


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
    parts = [
        f"## {title}\n\n{shown(form, rows[mixes])}\n{pictures(mixes)}" for mixes, title in TITLES.items()
    ]
    headings = [picture.heading for picture in PICTURES.values()]
    links = ", ".join(f"[{text[0].lower()}{text[1:]}](#{anchor(text)})" for text in headings)
    return "\n".join([INTRODUCTION.format(machine=about, pictures=links), *parts, agreement()])


def pictures(section: str) -> str:
    return "".join(
        f"\n### {picture.heading}\n\n{picture.words}\n\n![{picture.about}](figures/{name}.svg)\n"
        for name, picture in PICTURES.items()
        if picture.section == section
    )


def anchor(heading: str) -> str:
    """What a link to a heading is called on the site."""
    return re.sub(r"[^\w ]", "", heading).lower().replace(" ", "-")


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
    if number == reference:
        return f"[report]({reference})" if reference.startswith("https://") else reference
    return f"[{number}](https://arxiv.org/abs/{number})"


def state(row: dict[str, Any]) -> str:
    if row["state"] is None:
        return "unknown"
    texts = {k: formula or f"{row['state'][k]:,} at D = T = 128" for k, formula in row["formula"].items()}
    text = " + ".join(f"{text} (conv)" if kind == "conv" else text for kind, text in texts.items()) or "none"
    read, total = row["reads"], row["state"]["total"]
    return text if read == total else f"{text}; read: {read:,} of {total:,}"


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
        rows.append([f"`{suite.label}`", suite.about, str(suite.runs)])
    return table(["suite", "what it runs", "runs per architecture"], rows)


def hypotheses() -> str:
    """What each layer should show, and what was seen."""
    results = {row["name"]: row for row in measured("hypotheses")["rows"]}
    claims = {row["name"]: row["hypothesis"] for row in index.read() if row["hypothesis"]}
    rows = []
    for name, claim in claims.items():
        found = results.get(name, {"verdict": "not yet run", "seen": ""})
        rows.append([f"`{name}`", claim, found["verdict"], found["seen"]])
    return table(["layer", "hypothesis", "verdict", "seen"], rows)


def battery() -> str:
    """Accuracy of every layer on every task, in its own stripe and its hybrid, under three to compare."""
    results = measured("hypotheses")
    tasks = list(results["baselines"][0]["scores"])
    rows = [[f"`{row['spec']}`", *_percent(row["scores"], tasks)] for row in results["baselines"]]
    for row in results["rows"]:
        rows += [[f"`{row[kind]}`", *_percent(row["scores"][kind], tasks)] for kind in ("own", "hybrid")]
    heads = [name.removesuffix("-in-context-recall").replace("-", " ") for name in tasks]
    return table(["stripe", *heads], rows)


def _percent(scores: dict[str, float | None], tasks: list[str]) -> list[str]:
    return ["-" if scores[name] is None else f"{100 * scores[name]:.1f}" for name in tasks]


OWN = (rooms, suites, steps, kernel, memory, decode, hypotheses, battery)
TABLES = {f.__name__: f for f in (*OWN, *scaling_tables.TABLES)} | {"columns": board}


def filled(text: str) -> str:
    """A page with its marked tables written anew."""

    def fill(match: re.Match[str]) -> str:
        return f"<!-- generated: {match[1]} -->\n\n{TABLES[match[1]]()}\n\n<!-- end -->"

    return re.sub(r"<!-- generated: (\w+) -->.*?<!-- end -->", fill, text, flags=re.DOTALL)


def pages() -> dict[Path, str]:
    """Every page with generated parts, as it should be."""
    texts = {path: path.read_text(encoding="utf-8") for path in sessions.PAGES.values()}
    filled_pages = {path: filled(text) for path, text in texts.items() if "<!-- generated: " in text}
    figures = {ROOT / "docs" / "figures" / f"{name}.svg": picture.svg() for name, picture in PICTURES.items()}
    return {ROOT / "docs" / "primitives.md": primitives_page(), **filled_pages, **figures}


if __name__ == "__main__":
    for path, text in pages().items():
        with whole_file(path, force=True) as part:
            part.write_text(text, encoding="utf-8")
    os.environ["OMP_NUM_THREADS"] = "1"
    # After the tables, which stand on pages with outputs too.
    for path in sessions.PAGES.values():
        page = path.read_text(encoding="utf-8")
        text = sessions.played(page, everything="--all" in sys.argv)
        if text != page:
            with whole_file(path, force=True) as part:
                part.write_text(text, encoding="utf-8")
