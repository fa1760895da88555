"""What each new layer should show in the battery, and what it showed.

    python benchmarks/hypotheses.py run STORE      trains what the store lacks, on suite quick
    python benchmarks/hypotheses.py write STORE    scores, into benchmarks/results/hypotheses.json

A layer that states a hypothesis is asked in a stripe of its own and in a hybrid, 3:1 with attention or with
gated delta nets. What was concluded is written into the rows by hand (`verdict`, `seen`) and stays there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import harness

from architectures.grammar import index
from architectures.grammar.stripe import parse

RESULT = harness.RESULTS / "hypotheses.json"
ATTENTION, RECURRENT = "2*(mh-attention swiglu)", "2*(gated-delta-net swiglu)"
HYBRID = "3*(gated-delta-net swiglu) mh-attention swiglu"
BASELINES = (ATTENTION, RECURRENT, HYBRID)


def stripes(entry: dict[str, Any]) -> dict[str, str]:
    """The layer's own stripe, its hybrid, and what the former is compared with."""
    name, grows = entry["name"], entry["state"] is not None and entry["state"]["growing"] > 0
    if entry["mixes"] == "channel":
        own, hybrid = f"2*(mh-attention {name})", f"3*(gated-delta-net {name}) mh-attention {name}"
    elif entry["mixes"] == "stream":
        own, hybrid = f"{name}{{{ATTENTION}}}", f"{name}{{{HYBRID}}}"
    elif grows:
        own, hybrid = f"2*({name} swiglu)", f"3*(gated-delta-net swiglu) {name} swiglu"
    else:
        own, hybrid = f"2*({name} swiglu)", f"3*({name} swiglu) mh-attention swiglu"
    alone = entry["mixes"] == "time" and not grows
    return {"own": own, "hybrid": hybrid, "against": RECURRENT if alone else ATTENTION}


def entries() -> list[dict[str, Any]]:
    return [entry for entry in index.read() if entry["hypothesis"]]


def run(store: Path, workers: int | None) -> None:
    import mad

    specs = [*BASELINES, *(stripes(entry)[kind] for entry in entries() for kind in ("own", "hybrid"))]
    mad.bench(specs, suite="quick", seeds=1, store=store, workers=workers)


def write(store: Path) -> None:
    from mad.api import scores_of

    found = scores_of(suite="quick", store=store, reference=False)
    table = {row.spec: row for row in found.architectures}

    def measured(spec: str) -> dict[str, float | None]:
        row = table.get(str(parse(spec)))
        tasks = {} if row is None else {name: task.value for name, task in row.tasks.items()}
        mean = None if row is None or row.mad is None else row.mad.value
        return {"mean": mean, **{name: tasks.get(name) for name in found.tasks}}

    said = {row["name"]: row for row in harness.read(RESULT).get("rows", [])}
    rows = []
    for entry in entries():
        asked, before = stripes(entry), said.get(entry["name"], {})
        numbers = {kind: measured(asked[kind]) for kind in ("own", "hybrid")}
        concluded = {key: before.get(key, "") for key in ("verdict", "seen")}
        rows.append({"name": entry["name"], **asked, "scores": numbers, **concluded})
    baselines = [{"spec": spec, "scores": measured(spec)} for spec in BASELINES]
    harness.write(RESULT, {"suite": "quick", "seeds": 1, "baselines": baselines, "rows": rows})


if __name__ == "__main__":
    parser = harness.options(__doc__, write=None)
    parser.add_argument("command", choices=("run", "write"))
    parser.add_argument("store", type=Path)
    parser.add_argument("--workers", type=int)
    given = parser.parse_args()
    if given.command == "run":
        run(given.store, given.workers)
    else:
        write(given.store)
