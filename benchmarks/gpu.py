"""All that a GPU is asked, in one command of at most nine minutes: tables on the screen, JSON in a file.

    python benchmarks/gpu.py                                # all parts, the most telling first
    python benchmarks/gpu.py --part recall,kernels          # some; --out FILE, --minutes N, --device cuda:1
    python benchmarks/gpu.py --dry-run                      # every part in tiny sizes on a CPU

What is in the file is not measured again, so that a second call goes on where the first ran out of time; a
row that failed is tried again. The exit status is 1 where a row failed.

A machine without a network needs Python 3.12, torch, lightning, numpy, pandas, scipy, typer and rich. What
else is needed `make gpu-wheels` collects in build/gpu-wheels, which travels with the checkout; then, there:

    python -m pip install --no-index --no-deps --target build/gpu-site build/gpu-wheels/*.whl
    PYTHONPATH=build/gpu-site python benchmarks/gpu.py
"""

from __future__ import annotations

import gc
import logging
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import harness
import torch
from on_gpu import correct, language, published, speed, triton
from on_gpu.at import At, Part, Row
from rich.console import Console
from rich.table import Table

from mad.messages import near
from mad.run import memory
from mad.run.place import find_place

# The order in which they are run.
PARTS: dict[str, Part] = {
    "primitives": correct.primitives,
    "replicas": correct.replicas,
    "products": speed.products,
    "recall": speed.recall,
    "kernels": speed.kernels,
    "graphs": speed.graphs,
    "fused": speed.fused,
    "projected": published.projected,
    "triton": triton.kernels,
    "waits": correct.waits,
    "real": published.real,
    "language": language.steps,
    "compiled": correct.compiled,
    "bf16": correct.bf16,
    "settings": speed.settings,
}
MOST = 60  # rows that a table shows whole


def machine(device: torch.device) -> dict[str, Any]:
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else platform.processor() or "CPU",
        "driver": said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def said(*command: str) -> str | None:
    """The first line that a program prints; None where there is no such program or it fails."""
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=harness.ROOT)
    except (OSError, subprocess.CalledProcessError):
        return None
    return next(iter(found.stdout.splitlines()), None)


def run(part: str, at: At, results: dict[str, Any], out: Path | None) -> None:
    """Measure the rows of a part that are not there yet, and write each; name those that time left out."""
    found = at.found.setdefault(part, {})
    left: list[str] = []
    for name, measure in PARTS[part](at):
        if name in found and "failed" not in found[name]:
            continue
        if time.monotonic() > at.deadline:
            left.append(name)
            continue
        start = time.monotonic()
        try:
            row = measure()
        except Exception as error:  # It may be the device's, a compiler's or a layer's; the row says what.
            reason = next(iter(str(error).splitlines()), "")
            row = {"failed": f"{type(error).__name__}: {reason}"[:200]}
        found[name] = row | {"took s": time.monotonic() - start}
        harness.write(out, results)
    gc.collect()
    memory.release(at.device)
    results["left"] = {**results["left"], part: left}
    harness.write(out, results)


def table(part: str, rows: dict[str, Row]) -> Table:
    """Of many rows those that failed or have a note, and those with the largest figure of a column."""
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    chosen = set(rows)
    if len(rows) > MOST:
        part = f"{part}: of {len(rows)} those with the largest figures"
        chosen = {name for name, row in rows.items() if {"failed", "note"} & row.keys()}
        for column in columns:
            figures = {name: row[column] for name, row in rows.items() if isinstance(row.get(column), float)}
            chosen |= {max(figures, key=figures.__getitem__)} if figures else set()
    made = Table("", *columns, title=part, title_justify="left")
    for name, row in rows.items():
        if name not in chosen:
            continue
        made.add_row(name, *(shown(row.get(column)) for column in columns))
    return made


def shown(value: Any) -> str:
    if not isinstance(value, float):
        return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def main() -> None:
    parser = harness.options(__doc__, write=None)
    option = parser.add_argument
    option("--part", default=",".join(PARTS), help="comma-separated; default all")
    option("--out", type=Path, help="default build/gpu.json; of a dry run none")
    option("--device", help="default cuda; of a dry run cpu")
    option("--minutes", type=float, default=8.0, help="no row is begun later; default 8, a row may take one")
    option("--dry-run", action="store_true", help="tiny sizes, each row once")
    given = parser.parse_args()
    parts = given.part.split(",")
    for part in parts:
        if part not in PARTS:
            parser.error(f"--part {part}{near(part, PARTS)}: choose from {', '.join(PARTS)}")
    dry = given.dry_run
    try:
        device = find_place(given.device or ("cpu" if dry else "cuda")).device
    except ValueError as error:
        parser.error(f"{error}, or --dry-run")
    out = given.out or (None if dry else harness.ROOT / "build" / "gpu.json")
    here, results = machine(device) | {"dry": dry}, harness.read(out)
    if results and results["machine"] != here:
        parser.error(f"{out} holds figures of {results['machine']}, this is {here}; choose another --out")
    commit = said("git", "describe", "--always", "--dirty", "--abbrev=40")
    results = {"machine": here, "parts": {}, "left": {}} | results
    results["commits"] = list(dict.fromkeys([*results.get("commits", []), commit]))
    deadline = time.monotonic() + 60 * given.minutes
    at = At(device=device, dry=dry, deadline=deadline, found=results["parts"])
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    console = Console()
    console.print(", ".join(f"{name} {value}" for name, value in here.items()), f"commit {commit}", sep="\n")
    for part in parts:
        run(part, at, results, out)
        console.print(table(part, at.found[part]))
    for part in parts:
        if results["left"][part]:
            console.print(
                f"{part}: out of time for {', '.join(results['left'][part])}; run the command again"
            )
    failed = [f"{part}: {name}" for part in parts for name, row in at.found[part].items() if "failed" in row]
    if failed:
        console.print(f"failed: {'; '.join(failed)}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
