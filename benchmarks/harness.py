"""What the benchmarks share: this checkout on the path, clocks, contenders in turns, results, figures."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RESULTS, FIGURES = ROOT / "benchmarks" / "results", ROOT / "docs" / "figures"

Name = TypeVar("Name")
Clock = Callable[[], float]


def options(
    doc: str | None, write: str | None = "into benchmarks/results and docs/figures"
) -> argparse.ArgumentParser:
    """A parser whose help is the docstring of the benchmark, with --write unless its help is None."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawTextHelpFormatter)
    if write is not None:
        parser.add_argument("--write", action="store_true", help=write)
    return parser


def seconds(call: Callable[[], object], clock: Clock = time.process_time) -> float:
    start = clock()
    call()
    return clock() - start


def turns(
    calls: Mapping[Name, Callable[[], object]], rounds: int, clock: Clock = time.process_time
) -> list[dict[Name, float]]:
    """Seconds of each call in each round, after one call of each that does not count."""
    for call in calls.values():
        call()
    return [{name: seconds(call, clock) for name, call in calls.items()} for _ in range(rounds)]


def numbers(text: str) -> list[int]:
    """Comma-separated whole numbers."""
    return [int(word) for word in text.split(",") if word]


def read(path: Path | None) -> dict[str, Any]:
    """Results that were written before, if any."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path and path.exists() else {}


def write(path: Path | None, results: Mapping[str, Any]) -> None:
    """Write results as JSON; None: nowhere."""
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def filled(folder: Path, records: Path) -> Path:
    """A new store with what an export holds."""
    from mad.store import Store
    from mad.store.exchange import read_records

    with Store(store := folder / f"{records.stem}.sqlite") as opened:
        opened.merge(read_records(records))
    return store


def machine(device: str = "cpu") -> dict[str, Any]:
    import torch

    cuda = device.startswith("cuda")
    return {
        "device": torch.cuda.get_device_name() if cuda else platform.processor() or "CPU",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "clock": "events" if cuda else "process time",
    }


def pyplot(salt: str) -> Any:
    """Matplotlib's pyplot; the salt makes equal figures equal files."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = salt
    from matplotlib import pyplot

    return pyplot


def save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
