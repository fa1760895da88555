"""Peak memory and time of training against length and depth: dense attention, reversible, LSH, both.

    python benchmarks/long_context.py                     # every table, half an hour on one core
    python benchmarks/long_context.py --tables depth
    python benchmarks/long_context.py --lengths 1024,4096 --json small.json
    python benchmarks/long_context.py --write             # results and figure, for docs/terraformer.md
    python benchmarks/long_context.py --show              # tables and figure of that page, from results

length   forward + backward of one row, width 64, four blocks of attention and swiglu, by length
depth    the same at length 1024 by the number of layers, plain and reversible

Memory is the bytes of tensors alive at once beyond the weights and their gradients, counted while the step
really runs; scratch space inside one operator is not seen. Time is process time; up to length 4096 contenders
take turns and the median of three rounds counts, beyond it one run of each.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402

import architectures  # noqa: E402
from architectures.sizes.memory import PeakMemory  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "long-context.json"
FIGURE = ROOT / "docs" / "figures" / "long-context.svg"
WIDTH = 64
LENGTHS = "1024,2048,4096,8192,16384,32768"
DEPTHS = "2,4,8,16,32"
LSH = "lsh-attention[window=64]"
CONTENDERS = {
    "dense": "4*(mh-attention swiglu)",
    "reversible": "reversible{4*(mh-attention swiglu)}",
    "LSH": f"4*({LSH} swiglu)",
    "both": f"reversible{{4*({LSH} swiglu)}}",
}


class Step:
    """One training step of a model, forward and backward."""

    def __init__(self, spec: str, length: int) -> None:
        self.model = architectures.build(spec, vocab_size=16, dim=WIDTH, max_len=length, seed=0)
        generator = torch.Generator().manual_seed(0)
        self.tokens = torch.randint(16, (1, length), generator=generator)

    def seconds(self) -> float:
        self.model.zero_grad()
        start = time.process_time()
        self.model(self.tokens).square().mean().backward()
        return time.process_time() - start

    def measured(self) -> tuple[float, int]:
        """Seconds and peak bytes of one and the same run."""
        with PeakMemory() as memory:
            seconds = self.seconds()
        return seconds, memory.peak - sum(p.numel() * p.element_size() for p in self.model.parameters())


def by_length(lengths: list[int]) -> list[dict[str, Any]]:
    rows = []
    for length in lengths:
        steps = {name: Step(spec, length) for name, spec in CONTENDERS.items()}
        once = {name: step.measured() for name, step in steps.items()}
        seconds = {name: s for name, (s, _) in once.items()}
        if length <= 4096:
            rounds = [{name: step.seconds() for name, step in steps.items()} for _ in range(3)]
            seconds = {name: median(r[name] for r in rounds) for name in steps}
        for name in steps:
            row: dict[str, Any] = {
                "name": name,
                "length": length,
                "seconds": seconds[name],
                "bytes": once[name][1],
            }
            rows.append(row)
            print(f"{length:6d} {name:10s} {row['bytes'] / 1e6:9.1f} MB {row['seconds']:8.2f} s", flush=True)
    return rows


def by_depth(depths: list[int]) -> list[dict[str, Any]]:
    rows = []
    for depth in depths:
        body = f"{depth // 2}*(mh-attention swiglu)"
        steps = {"plain": Step(body, 1024), "reversible": Step(f"reversible{{{body}}}", 1024)}
        found = {name: step.measured()[1] for name, step in steps.items()}
        rounds = [{name: step.seconds() for name, step in steps.items()} for _ in range(3)]
        ratio = median(r["reversible"] / r["plain"] for r in rounds)
        for name in steps:
            rows.append(
                {
                    "name": name,
                    "layers": depth,
                    "bytes": found[name],
                    "seconds": median(r[name] for r in rounds),
                    "ratio": ratio if name == "reversible" else 1.0,
                }
            )
        print(
            f"{depth:3d} layers: plain {found['plain'] / 1e6:.1f} MB, "
            f"reversible {found['reversible'] / 1e6:.1f} MB, {ratio:.2f} x the time",
            flush=True,
        )
    return rows


def draw(results: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "long-context"
    import matplotlib.pyplot as plt

    figure, (memory, seconds, depth) = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    for axes, key, scale, title in (
        (memory, "bytes", 1e-6, "peak memory, MB"),
        (seconds, "seconds", 1.0, "seconds a step"),
    ):
        for name in CONTENDERS:
            rows = [r for r in results["length"] if r["name"] == name]
            axes.loglog([r["length"] for r in rows], [scale * r[key] for r in rows], marker="o", label=name)
        axes.set(title=title, xlabel="length")
    for name in ("plain", "reversible"):
        rows = [r for r in results["depth"] if r["name"] == name]
        depth.loglog([r["layers"] for r in rows], [1e-6 * r["bytes"] for r in rows], marker="o", label=name)
    depth.set(title="peak memory, MB, length 1024", xlabel="layers", ylim=(1, None))
    depths = sorted({r["layers"] for r in results["depth"]})
    depth.set_xticks(depths, [str(n) for n in depths])
    depth.set_xticks([], minor=True)
    memory.legend()
    depth.legend()
    figure.savefig(path, metadata={"Date": None})


def tables(results: dict[str, Any]) -> str:
    """The figures as Markdown."""
    found = {(r["length"], r["name"]): r for r in results["length"]}
    lines = [
        "| length | " + " | ".join([f"{n}, MB" for n in CONTENDERS] + [f"{n}, s" for n in CONTENDERS]) + " |",
        "|---" * (1 + 2 * len(CONTENDERS)) + "|",
    ]
    for length in sorted({length for length, _ in found}):
        cells = [f"{found[length, n]['bytes'] / 1e6:,.1f}" for n in CONTENDERS]
        cells += [f"{found[length, n]['seconds']:,.2f}" for n in CONTENDERS]
        lines.append(f"| {length:,} | {' | '.join(cells)} |")
    lines += [
        "",
        "| layers | plain, MB | reversible, MB | reversible over plain, time |",
        "|---|---|---|---|",
    ]
    pairs = {(r["layers"], r["name"]): r for r in results["depth"]}
    for layers in sorted({layers for layers, _ in pairs}):
        plain, ours = pairs[layers, "plain"], pairs[layers, "reversible"]
        megabytes = f"{plain['bytes'] / 1e6:.1f} | {ours['bytes'] / 1e6:.1f}"
        lines.append(f"| {layers} | {megabytes} | {ours['ratio']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tables", default="depth,length")
    parser.add_argument("--lengths", default=LENGTHS)
    parser.add_argument("--depths", default=DEPTHS)
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--write", action="store_true", help="into benchmarks/results and docs/figures")
    parser.add_argument("--show", action="store_true", help="print recorded results and draw their figure")
    args = parser.parse_args()
    if args.show:
        recorded = json.loads(RESULT.read_text())
        print(tables(recorded))
        return draw(recorded, FIGURE)
    target = RESULT if args.write else args.json
    results = json.loads(target.read_text()) if target and target.exists() else {}
    for table in args.tables.split(","):
        if table == "length":
            results[table] = by_length([int(n) for n in args.lengths.split(",")])
        elif table == "depth":
            results[table] = by_depth([int(n) for n in args.depths.split(",")])
        else:
            raise SystemExit(f"table {table!r} is not one of depth, length")
        results["machine"] = {
            "device": platform.processor() or "CPU",
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "clock": "process time",
        }
        results["specs"] = {"width": WIDTH, **CONTENDERS}
        if target:
            target.parent.mkdir(exist_ok=True)
            target.write_text(json.dumps(results, indent=1) + "\n")
    if args.write and {"length", "depth"} <= set(results):
        FIGURE.parent.mkdir(exist_ok=True)
        draw(results, FIGURE)


if __name__ == "__main__":
    main()
