"""What the fitters give on published runs, beside the values that are expected.

    MAD_SCALING_DATA=folder python benchmarks/scaling_published.py --write        # about a minute on one core

The folder holds the licensed tables and EXPECTED.json, which do not ship with this package. Every line runs
the same functions as `mad scaling fit`. Results go to benchmarks/results/scaling-published.json.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness
import numpy as np
import pandas as pd

import scaling
from scaling.laws.auditing import hold_out
from scaling.laws.penalty import fit_overtraining_law
from scaling.laws.powerlaw import power_law

RESULT = harness.RESULTS / "scaling-published.json"
BUDGETS = (6e18, 1e19, 3e19, 6e19, 1e20, 3e20, 6e20, 1e21, 3e21)
TARGET = 5.76e23
FEW = r"d=(?:96|512|576|1024)_"

Row = tuple[str, str, float, float]


def chinchilla(folder: Path, want: dict[str, Any]) -> Iterator[Row]:
    runs = pd.read_csv(folder / "chinchilla_kyotakano.csv")
    case = "Chinchilla, 234 runs"
    expected = want["P1_chinchilla_licensed"]
    for label, name, objective, delta in (
        (f"{case}, huber 1e-3", "huber_1e-3", "huber", 1e-3),
        (f"{case}, huber 1e-2", "huber_1e-2", "huber", 1e-2),
        (f"{case}, lad", "lad", "lad", 1e-3),
        (f"{case}, log-MSE", "log_mse", "log-mse", 1.0),
    ):
        law = scaling.fit(runs, objective=objective, delta=delta, bootstrap=0)  # type: ignore[arg-type]
        yield label, "sum", expected[name]["objective"], law.value
        for key in ("A", "B", "E", "alpha", "beta"):
            yield label, key, expected[name][key], getattr(law, key)
        yield label, "D/N at 5.76e23", expected[name]["DN_5.76e23"], float(law.tokens_per_param(TARGET))
    law = scaling.fit(runs, bootstrap=4000)
    drawn = expected["bootstrap_4000_pairs_huber_1e-3"]
    for key in ("A", "B", "E", "alpha", "beta"):
        yield f"{case}, bootstrap", f"SE {key}", drawn["SE"][key], float(law.draws[key].std())
        for end, value in zip(("low", "high"), drawn["CI95"][key], strict=True):
            yield f"{case}, bootstrap", f"95 % {end} {key}", value, getattr(law.intervals[key], end)
    yield case, "condition", expected["scaled_cond_J"], law.condition
    ahead = expected["forward_prediction_huber_1e-3"]
    found = hold_out(runs, below=ahead["train_C_below"], at=TARGET)
    for i, below in enumerate(ahead["train_C_below"]):
        label = f"{case}, fitted below {below:g} FLOPs"
        yield label, "error of the rest, %", ahead["test_MAPE_pct"][i], found["mape"][i]
        yield label, "D/N at 5.76e23", ahead["DN_5.76e23"][i], found["tokens_per_param"][i]
    iso = scaling.isoflop(runs, budgets=BUDGETS)
    second = want["P5_chinchilla_approach2"]
    yield f"{case}, parabolas", "exponent of N*", second["N_exponent"], iso.exponent
    yield f"{case}, parabolas", "exponent of D*", second["D_exponent"], iso.tokens_exponent
    yield f"{case}, parabolas", "N* at 5.76e23", second["N_opt_5.76e23"], float(iso.n_opt(TARGET))  # type: ignore[arg-type]


def porian(folder: Path, want: dict[str, Any]) -> Iterator[Row]:
    expected = want["P2_porian_refinedweb"]
    optima = pd.read_csv(folder / "porian_optimal_rw.csv").dropna(subset="params")
    raw = pd.read_csv(folder / "porian_isoflop_rw.csv")
    for name, value in expected["n_exponent"].items():
        mine = optima[optima["model"] == name]
        found = power_law(mine["flops"], mine["params"]).exponent
        yield f"Porian, {name}", "exponent, stored optima", value, found
    for name, value in expected["from_raw_isoflop_points_parabola_within_factor_8_of_best"].items():
        mine = raw[raw["model"] == name].drop(columns="model")
        yield f"Porian, {name}", "exponent, own parabolas", value, scaling.isoflop(mine, window=8.0).exponent


def gadre(folder: Path, want: dict[str, Any]) -> Iterator[Row]:
    expected = want["P3_gadre_overtraining"]
    runs = pd.read_csv(folder / "gadre_c4_rpj.csv")
    runs["tokens"] = 20 * runs["cc_mult"] * runs["params"]
    for name in ("rpj", "c4_original"):
        mine = runs[runs["train_set"] == name].drop(columns="flops")
        few = mine["model"].str.contains(FEW) & (mine["cc_mult"] == 1)
        few |= mine["model"].str.contains("d=96_") & (mine["cc_mult"] == 16)
        law = fit_overtraining_law(mine[few])
        for key in ("a", "b", "c", "E"):
            yield f"Gadre, {name}, five runs", key, expected[name][key], getattr(law, key)
        rest = mine[~few]
        predicted = law.loss(rest["params"].to_numpy(), 20 * rest["cc_mult"].to_numpy(float))
        error = float(np.abs(np.asarray(predicted) / rest["loss"].to_numpy() - 1).mean() * 100)
        yield f"Gadre, {name}, five runs", "error of the rest, %", expected[name]["test_MAPE_pct"], error


def measure(folder: Path) -> list[dict[str, Any]]:
    want = json.loads((folder / "EXPECTED.json").read_text(encoding="utf-8"))
    return [
        {"case": case, "quantity": quantity, "expected": float(value), "found": float(found)}
        for part in (chinchilla, porian, gadre)
        for case, quantity, value, found in part(folder, want)
    ]


def main() -> None:
    arguments = harness.options(__doc__, write=f"write {RESULT.name}").parse_args()
    folder = os.environ.get("MAD_SCALING_DATA")
    if not folder:
        raise SystemExit("MAD_SCALING_DATA names no folder with the licensed runs; set it")
    rows = measure(Path(folder))
    for row in rows:
        print(f"{row['case']:55} {row['quantity']:25} {row['expected']:12.6g} {row['found']:12.6g}")
    if arguments.write:
        about = {"python": platform.python_version(), "numpy": np.__version__, "pandas": pd.__version__}
        harness.write(RESULT, {"machine": about, "rows": rows})


if __name__ == "__main__":
    main()
