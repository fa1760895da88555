"""Seconds and memory of what reads a large store: the leaderboard, one run, the list of runs.

    python benchmarks/board.py                            # 100,000 runs of each kind of store, made in /tmp
    python benchmarks/board.py --against ../older         # beside another checkout, which makes the stores
    python benchmarks/board.py --stores many --runs 10000 --keep /tmp/stores

many  runs of four suites under two protocols by some hundred architectures
full  runs of mad-2024 alone, 396 an architecture
wide  runs of quick alone, 6 an architecture: a board of some ten thousand rows

Every call is a process of its own, reading what the system has in its cache, and checkouts take turns; a
number is the median over rounds, a ratio that of the rounds' ratios. `open` opens a copy for writing, which
brings a store of an older version to this one.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import harness

from architectures.grammar.index import read
from mad.data.protocol import PROTOCOLS, SUITES, Protocol, Setting
from mad.data.records import ArchitectureConfig, RunConfig, setting_fields

SUITE = {"many": "quick", "full": "mad-2024", "wide": "quick"}
# Through the public interface, so that every checkout makes a store of its own version.
FILL = """
import itertools, sys
from mad.data.records import Record
from mad.store import Store

lines = (Record.model_validate_json(line) for line in open(sys.argv[2]))
with Store(sys.argv[1]) as store:
    while batch := list(itertools.islice(lines, 1000)):
        store.commit(batch)
"""
LEADERBOARD = "import sys, mad; mad.leaderboard(suite=sys.argv[2], store=sys.argv[1])"
OPEN = "import sys; from mad.store import Store; Store(sys.argv[1]).close()"
MAD = "from mad.cli import main; main()"


def architectures(rng: random.Random) -> Iterator[str]:
    """Striped hybrids of registered layers, none twice."""
    layers = [entry["name"] for entry in read() if entry["mixes"] == "time"]
    seen = set()
    while True:
        first, second = rng.sample(layers, 2)
        channel = rng.choice(("swiglu", "mlp", "moe-mlp"))
        spec = f"{rng.randint(2, 4)}*({first} {channel}) {rng.randint(1, 3)}*({second} {channel})"
        if spec not in seen:
            seen.add(spec)
            yield spec


def lines(store: str, rng: random.Random) -> Iterator[str]:
    """The runs of architecture after architecture, as an export has them."""
    for spec in architectures(rng):
        suite = SUITES[rng.choice(sorted(SUITES)) if store == "many" else SUITE[store]]
        protocol = PROTOCOLS[rng.choice(sorted(PROTOCOLS)) if store == "many" else "sound"]
        words = {word.strip("()") for word in spec.replace("*", " ").split()}
        versions = {word: 1 for word in sorted(words) if not word.isdigit()}
        who = ArchitectureConfig(spec=spec, dim=suite.dim, versions=versions)
        for setting, seed in itertools.product(suite.settings, range(suite.seeds)):
            yield from group(who, setting, protocol, seed, suite.label, rng)


def group(
    who: ArchitectureConfig, setting: Setting, protocol: Protocol, seed: int, suite: str, rng: random.Random
) -> Iterator[str]:
    """One run of each point of the grid, one in a hundred diverged."""
    name = f"{rng.getrandbits(80):020x}"
    for lr, decay in setting.grid:
        config = RunConfig(
            architecture=who, lr=lr, weight_decay=decay, seed=seed, **setting_fields(setting, protocol)
        )
        rows, targets = config.test_examples, 8 * config.test_examples
        hits, diverged = rng.randint(targets // 8, targets - targets // 100), rng.random() < 0.01
        steps = [max(1, config.steps * (i + 1) // config.evaluations) for i in range(config.evaluations)]
        curve = [
            {
                "step": step,
                "accuracy": hits / targets * (i + 1) / len(steps),
                "loss": rng.random(),
                "train_loss": rng.random(),
                "lr": lr * rng.random(),
            }
            for i, step in enumerate(sorted(set(steps)))
        ]
        curve[-1]["accuracy"] = hits / targets
        split = {"rows": rows, "targets": targets, "micro": hits / targets}
        split |= {"macro": 0.9 * split["micro"], "macro_batches": hits / targets, "loss": rng.random()}
        measured = None if diverged else split
        metrics = {"validation": measured, "test": measured, "curve": curve, "chance": 0.0625}
        sizes = {"params": rng.randint(10**5, 10**6), "core_params": 10**5, "flops_per_token": 2e5}
        sizes |= {"training_flops_per_token": 6e5, "nominal_state": 4096, "seconds": 120 * rng.random()}
        state = {"recurrent": 4096, "conv": 256, "growing": 0, "total": 4352}
        yield json.dumps(
            {
                "id": config.id,
                "group": name,
                "status": "diverged" if diverged else "ok",
                "config": config.model_dump(mode="json"),
                "given": who.spec,
                "suite": suite,
                "metrics": metrics | {"ceiling": 1.0, "steps": config.steps, "solved": False},
                "cost": sizes | {"state": state, "peak_memory": rng.getrandbits(29)},
                "environment": {"mad_suite": "0.1.0", "torch": "2.13.0+cpu", "python": "3.11.7"}
                | {"system": "Linux-6.18.44-x86_64-with-glibc2.36", "device": "cpu"}
                | {"device_name": "AMD EPYC", "threads": 1},
                "error": None,
                "attempts": 1,
                "created": f"2026-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}T20:40:39+00:00",
                "schema_version": 1,
            }
        )


def made(root: Path, store: str, runs: int, folder: Path) -> Path:
    """A store of so many runs, by the code of this checkout; one that is there stays."""
    path = folder / f"{store}-{runs}.sqlite"
    if not path.exists():
        with tempfile.TemporaryDirectory() as scratch:
            file, part = Path(scratch) / "runs.jsonl", Path(scratch) / path.name
            with open(file, "w", encoding="utf-8") as out:
                for line in itertools.islice(lines(store, random.Random(0)), runs):
                    print(line, file=out)
            measured(root, FILL, part, file)
            shutil.move(part, path)
    return path


def measured(root: Path, code: str, *words: object) -> dict[str, float]:
    """Seconds and the most memory of a program in this checkout; standard output goes nowhere."""
    environment = os.environ | {"PYTHONPATH": str(root)}
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)], env=environment, cwd=root, stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{code!r} of {root} ended with status {process.returncode}")
    taken = {"clock": time.perf_counter() - start, "processor": used.ru_utime + used.ru_stime}
    return taken | {"gigabytes": memory(used)}


def memory(used: resource.struct_rusage) -> float:
    return used.ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def calls(path: Path, suite: str) -> dict[str, Callable[[Path], dict[str, float]]]:
    """What is timed, by name: a call of a checkout."""
    from mad.store import Store

    with Store(path, read_only=True) as store:
        id = store._db.execute("SELECT max(id) FROM runs").fetchone()[0].decode()
    where = ("--store", path)
    return {
        "mad.leaderboard()": lambda root: measured(root, LEADERBOARD, path, suite),
        "mad leaderboard": lambda root: measured(root, MAD, "leaderboard", "--suite", suite, *where),
        "mad show ID": lambda root: measured(root, MAD, "show", id, *where),
        "mad rm ID --dry-run": lambda root: measured(root, MAD, "rm", id, "--dry-run", *where),
        "mad runs": lambda root: measured(root, MAD, "runs", *where),
    }


def compare(roots: dict[str, Path], store: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Each call by each checkout, on its own version of the store."""
    first = made(list(roots.values())[-1], store, options.runs, folder)
    paths: dict[str, Path] = {}
    found: dict[str, dict[str, float]] = {}
    for name, root in roots.items():
        paths[name] = first.with_name(f"{name}-{first.name}")
        shutil.copyfile(first, paths[name])
        found[f"{name}: open"] = measured(root, OPEN, paths[name])
    for call in calls(first, SUITE[store]):
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in roots}
        for _ in range(options.rounds):
            for name, root in roots.items():
                if (root / "mad/commands/runs.py").exists() or call != "mad runs":
                    rounds[name].append(calls(paths[name], SUITE[store])[call](root))
        for name, taken in rounds.items():
            if taken:
                found[f"{name}: {call}"] = {key: median(each[key] for each in taken) for key in taken[0]}
    for name, one in found.items():
        told = "".join(f"{one[key]:12.2f}" for key in ("clock", "processor", "gigabytes"))
        print(f"{store:6}{name:32}{told}", flush=True)
    return found


if __name__ == "__main__":
    parser = harness.options(__doc__)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--stores", default=",".join(SUITE))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, help="another checkout of this project")
    parser.add_argument("--keep", type=Path, help="folder that keeps the stores for the next call")
    options = parser.parse_args()
    roots = {"ours": harness.ROOT} | ({"theirs": options.against.resolve()} if options.against else {})
    print(f"{'':38}{'clock':>12}{'processor':>12}{'memory':>12}   seconds, seconds, GB")
    with tempfile.TemporaryDirectory() as folder:
        kept = options.keep or Path(folder)
        kept.mkdir(parents=True, exist_ok=True)
        results = {store: compare(roots, store, options, kept) for store in options.stores.split(",")}
    if options.write:
        harness.write(
            harness.RESULTS / "board.json", {"runs": options.runs, "machine": harness.machine()} | results
        )
