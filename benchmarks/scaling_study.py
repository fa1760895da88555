"""The study on two CPU cores: from its records in results/ to its page, its figures and its numbers.

    python benchmarks/scaling_study.py --write        # half a minute on one core

The records were made with the commands of docs/scaling-study.md and `mad export`. Writes
docs/scaling-study.html, figures in docs/figures/ and benchmarks/results/scaling-study.json, from which
docs/scaling-study.md is filled. A second study, of generated text, holds E against an entropy that is known.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import harness
import pandas as pd

from mad.store import Store
from scaling.commands.reading import read, read_scores
from scaling.lm.records import LanguageRecord
from scaling.report import study_page
from scaling.report.approaches import DRAWN, Request, fitted
from scaling.report.results.ratios import compared
from scaling.report.results.relation import relation_section
from scaling.scores.relation import relate

RECORDS = harness.ROOT / "results" / "scaling-two-cores.jsonl"
GRAMMAR = harness.ROOT / "results" / "scaling-grammar.jsonl"
RESULT = harness.RESULTS / "scaling-study.json"
PAGE = harness.ROOT / "docs" / "scaling-study.html"
# Of the figures of the page, those that the text shows.
SHOWN = ("isoflop", "allocation", "frontiers")
TITLE = "Three architectures on two CPU cores"


def study(store: Path, *, bootstrap: int = 1000) -> dict[str, Any]:
    """Everything that the text states, from a store that holds the records."""
    frame, curves = read(None, store)
    drawn = DRAWN | {"bootstrap": bootstrap}
    asked = Request(shared=("alpha", "beta"), drawn=drawn)
    found = {
        "fit": fitted(frame, asked, curves=curves).data,
        "compare": compared(frame, baseline="transformer", **drawn).data,
        "relate": relation_section(relate(battery(store), frame)).data,
    }
    with Store(store, read_only=True) as opened:
        records = opened.records(LanguageRecord)
    grid = [record for record in records if record.role == "grid"]
    seconds = [record.cost.seconds for record in records if record.cost is not None]
    found["runs"] = {
        "grid": len(grid),
        "tuning": len(records) - len(grid),
        "hours_of_a_core": sum(seconds) / 3600,
        "environment": records[0].environment,
    }
    return found


def known_entropy(store: Path, *, bootstrap: int = 1000) -> dict[str, Any]:
    """The law of runs on generated text, and the entropy that its E should be."""
    runs, _ = read(None, store)
    asked = Request(approach="law", drawn=DRAWN | {"bootstrap": bootstrap})
    [law] = fitted(runs, asked).data
    return {"entropy": float(runs.frame["floor"].iloc[0]), "law": law}


def battery(store: Path) -> pd.DataFrame:
    """Scores of the same three patterns, which `relate` knows by the layers that they repeat."""
    return read_scores(None, store, suite="quick", protocol="sound")


def main() -> None:
    write = f"write {RESULT.name}, the page and the figures"
    arguments = harness.options(__doc__, write).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = harness.filled(Path(folder), RECORDS)
        found = study(store) | {"grammar": known_entropy(harness.filled(Path(folder), GRAMMAR))}
        print(json.dumps(found, indent=1))
        if not arguments.write:
            return
        harness.write(RESULT, found)
        frame, curves = read(None, store)
        made = Path(folder) / "figures"
        study_page.write(frame, PAGE, curves=curves, scores=battery(store), title=TITLE, figures=made)
        for path in sorted(made.glob("*.svg")):
            if path.stem in SHOWN:
                (harness.FIGURES / f"scaling-{path.name}").write_bytes(path.read_bytes())


if __name__ == "__main__":
    main()
