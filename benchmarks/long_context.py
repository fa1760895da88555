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

from pathlib import Path
from statistics import median
from typing import Any

import harness
import torch
from peak_memory import PeakMemory

import architectures

RESULT, FIGURE = harness.RESULTS / "long-context.json", harness.FIGURES / "long-context.svg"
WIDTH = 64
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

    def __call__(self) -> None:
        self.model.zero_grad()
        self.model(self.tokens).square().mean().backward()

    def measured(self) -> tuple[float, int]:
        """Seconds and peak bytes of one and the same run."""
        with PeakMemory() as memory:
            seconds = harness.seconds(self)
        return seconds, memory.peak - sum(p.numel() * p.element_size() for p in self.model.parameters())


def in_turns(steps: dict[str, Step]) -> list[dict[str, float]]:
    """Seconds in three rounds of steps that have run before."""
    return [{name: harness.seconds(step) for name, step in steps.items()} for _ in range(3)]


def by_length(lengths: list[int]) -> list[dict[str, Any]]:
    rows = []
    for length in lengths:
        steps = {name: Step(spec, length) for name, spec in CONTENDERS.items()}
        once = {name: step.measured() for name, step in steps.items()}
        rounds = in_turns(steps) if length <= 4096 else [{name: s for name, (s, _) in once.items()}]
        for name, (_, size) in once.items():
            seconds = median(r[name] for r in rounds)
            rows.append({"name": name, "length": length, "seconds": seconds, "bytes": size})
            print(f"{length:6d} {name:10s} {size / 1e6:9.1f} MB {seconds:8.2f} s", flush=True)
    return rows


def by_depth(depths: list[int]) -> list[dict[str, Any]]:
    rows = []
    for depth in depths:
        body = f"{depth // 2}*(mh-attention swiglu)"
        steps = {"plain": Step(body, 1024), "reversible": Step(f"reversible{{{body}}}", 1024)}
        found = {name: step.measured()[1] for name, step in steps.items()}
        rounds = in_turns(steps)
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


def draw(results: dict[str, Any]) -> None:
    plt = harness.pyplot("long-context")
    figure, (memory, seconds, depth) = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
    for axes, key, scale, title in (
        (memory, "bytes", 1e-6, "peak memory, MB"),
        (seconds, "seconds", 1.0, "seconds per step"),
    ):
        for name in CONTENDERS:
            curve(axes, results["length"], name, "length", key, scale)
        axes.set(title=title, xlabel="length")
    for name in ("plain", "reversible"):
        curve(depth, results["depth"], name, "layers", "bytes", 1e-6)
    depth.set(title="peak memory, MB, length 1024", xlabel="layers", ylim=(1, None))
    depths = sorted({r["layers"] for r in results["depth"]})
    depth.set_xticks(depths, [str(n) for n in depths])
    depth.set_xticks([], minor=True)
    memory.legend()
    depth.legend()
    harness.save(figure, FIGURE)


def curve(axes: Any, rows: list[dict[str, Any]], name: str, x: str, y: str, scale: float) -> None:
    mine = [r for r in rows if r["name"] == name]
    axes.loglog([r[x] for r in mine], [scale * r[y] for r in mine], marker="o", label=name)


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
    lines += ["", "| layers | plain, MB | reversible, MB | reversible over plain, time |", "|---" * 4 + "|"]
    pairs = {(r["layers"], r["name"]): r for r in results["depth"]}
    for layers in sorted({layers for layers, _ in pairs}):
        plain, ours = pairs[layers, "plain"], pairs[layers, "reversible"]
        megabytes = f"{plain['bytes'] / 1e6:.1f} | {ours['bytes'] / 1e6:.1f}"
        lines.append(f"| {layers} | {megabytes} | {ours['ratio']:.2f} |")
    return "\n".join(lines)


def main() -> None:
    parser = harness.options(__doc__)
    parser.add_argument("--tables", default="depth,length")
    parser.add_argument("--lengths", default="1024,2048,4096,8192,16384,32768")
    parser.add_argument("--depths", default="2,4,8,16,32")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--show", action="store_true", help="print recorded results and draw their figure")
    args = parser.parse_args()
    if args.show:
        recorded = harness.read(RESULT)
        print(tables(recorded))
        return draw(recorded)
    target = RESULT if args.write else args.json
    results = harness.read(target)
    for table in args.tables.split(","):
        if table == "length":
            results[table] = by_length(harness.numbers(args.lengths))
        elif table == "depth":
            results[table] = by_depth(harness.numbers(args.depths))
        else:
            raise SystemExit(f"table {table!r} is not one of depth, length")
        results |= {"machine": harness.machine(), "specs": {"width": WIDTH, **CONTENDERS}}
        harness.write(target, results)
    if args.write and {"length", "depth"} <= set(results):
        draw(results)


if __name__ == "__main__":
    main()
