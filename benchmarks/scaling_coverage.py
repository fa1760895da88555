"""How often the intervals and verdicts of `mad scaling` hold, on simulated tables of known laws.

    python benchmarks/scaling_coverage.py --write                          # half an hour on one core
    python benchmarks/scaling_coverage.py --only law,runs,penalty --write  # about a minute on one core

law      95 % intervals of scaling.fit, rows or whole budgets drawn: five budgets of seven sizes, noise .3 %
runs     the same of four rows of each of 35 runs that share most of their error, drawn by run or by row
penalty  95 % intervals of scaling.overtraining at D/D* of .25, .5, 2, 4 and 16: two laws, two designs and
         three levels of noise
change   how often scaling.compare says that a ratio differs between budgets where it is the same at all:
         perplexities exp(.16) apart, noise of .2 or .5 %, or falling from the first budget to the last

A part has the tables of TABLES unless `--tables` says otherwise, of seeds that follow from `--seed`. Results
go, part by part, to benchmarks/results/scaling-coverage.json, of which `make docs` writes the tables.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import harness
import numpy as np
import pandas as pd

import scaling
from scaling.laws.runs.cleaning import NotIdentified
from tests.scaling.laws.designs import SYMMETRIC, TRUTH, curves, grid, of_exponents, simulate, true_penalty

RESULT = harness.RESULTS / "scaling-coverage.json"
TABLES = {"law": 120, "runs": 120, "penalty": 100, "change": 1000}
RATIOS = (0.25, 0.5, 2.0, 4.0, 16.0)
BETTER = replace(SYMMETRIC, E=SYMMETRIC.E - 0.16)
# Relative noise at the first and at the last budget; geometric between them.
NOISES = ((0.002, 0.002), (0.005, 0.005), (0.008, 0.002), (0.01, 0.001))

Row = dict[str, Any]


def law(seeds: Sequence[int]) -> Iterator[Row]:
    """Of `seeds`, how many intervals hold each coefficient."""
    names = ("alpha", "beta", "E", "n_exponent")
    for resample in ("pairs", "budget"):
        yield {"resample": resample} | covered([simulate(0.003, seed) for seed in seeds], names, resample)


def runs(seeds: Sequence[int]) -> Iterator[Row]:
    for resample in (None, "pairs"):
        found = covered([curves(seed) for seed in seeds], ("alpha", "beta", "E"), resample)
        yield {"resample": resample or "run, by default"} | found


def covered(frames: Sequence[pd.DataFrame], names: Sequence[str], resample: Any) -> Row:
    found = [scaling.fit(frame, bootstrap=300, resample=resample).intervals for frame in frames]
    return {"held": {name: sum(holds(each[name], getattr(TRUTH, name)) for each in found) for name in names}}


def holds(interval: Any, value: float) -> bool:
    return bool(interval.low <= value <= interval.high)


def penalty(seeds: Sequence[int]) -> Iterator[Row]:
    """Noise is of a loss of 2.5 nats."""
    for budgets, sizes in ((5, 7), (3, 5)):
        for alpha, beta in ((0.35, 0.35), (0.52, 0.255)):
            true, at = of_exponents(alpha, beta), np.geomspace(1e18, 1e20, budgets).tolist()
            for noise in (0.002, 0.005, 0.01):
                held = dict.fromkeys(map(str, RATIOS), 0)
                for seed in seeds:
                    frame = grid(true, at, sizes=sizes, width=8, noise=2.5 * noise, seed=seed)
                    found = scaling.overtraining(frame, bootstrap=300)
                    for ratio in RATIOS:
                        value = true_penalty(true, ratio, found.at)
                        held[str(ratio)] += holds(found.penalty("a", ratio).interval, value)
                design = {"budgets": budgets, "sizes": sizes, "alpha": alpha, "beta": beta, "noise": noise}
                yield design | {"held": held}


def change(seeds: Sequence[int]) -> Iterator[Row]:
    """One stream of noise, from the first seed, for all designs."""
    rng = np.random.default_rng(seeds[0])
    for sizes in (4, 5, 7):
        for budgets in (2, 3, 4, 6):
            at = np.geomspace(1e18, 1e21, budgets).tolist()
            exact = [grid(SYMMETRIC, at, sizes=sizes), grid(BETTER, at, sizes=sizes, arch="b")]
            table = pd.concat(exact, ignore_index=True)
            for first, last in NOISES:
                noise = np.tile(np.repeat(np.geomspace(first, last, budgets), sizes), 2)
                said = sum(
                    differs(table.assign(loss=table["loss"] * (1 + noise * rng.standard_normal(len(table)))))
                    for _ in seeds
                )
                yield {"sizes": sizes, "budgets": budgets, "noise": [first, last], "said": said}


def differs(table: pd.DataFrame) -> bool:
    """Whether a comparison says so; one without a usable budget in common says nothing."""
    try:
        warnings = scaling.compare(table, bootstrap=0).warnings
    except NotIdentified:
        return False
    return any("the ratio differs between budgets" in text for text in warnings)


PARTS = {"law": law, "runs": runs, "penalty": penalty, "change": change}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = harness.options(__doc__, write="write the results")
    parser.add_argument("--tables", type=int, help="simulated tables of each design")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, comma-separated")
    parser.add_argument("--seed", type=int, default=0, help="another one simulates other tables")
    args = parser.parse_args(arguments)
    chosen = args.only.split(",")
    if unknown := [name for name in chosen if name not in PARTS]:
        parser.error(f"--only {','.join(unknown)}: the parts are {', '.join(PARTS)}")
    if args.tables is not None and args.tables < 1:
        parser.error(f"--tables {args.tables}: at least one table is simulated")
    for name in chosen:
        tables = args.tables or TABLES[name]
        rows = []
        for row in PARTS[name](range(args.seed * tables, (args.seed + 1) * tables)):
            rows.append(row)
            print(f"{name}, {tables} tables:", json.dumps(row), flush=True)
        if args.write:
            known = harness.read(RESULT) | {name: {"tables": tables, "seed": args.seed, "rows": rows}}
            harness.write(RESULT, {part: known[part] for part in PARTS if part in known})


if __name__ == "__main__":
    main()
