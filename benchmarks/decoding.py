"""Decoding one token with sparse layers, against dense ones of as many parameters.

    python benchmarks/decoding.py --shapes 256,512,800M          # some minutes on two cores, 4 GB
    python benchmarks/decoding.py --shapes 17B                   # one block, 10 GB of memory
    python benchmarks/decoding.py --shapes 800M --layers 4 --batches 1,2,4,8,16,32,64
    python benchmarks/decoding.py --clock process --threads 1 --write

dense    mh-attention, mlp (d_ff of the published dense model)
ff       mh-attention, sparse-mlp of the same d_ff
qkv      sparse-attention, mlp with the d_ff that gives the parameters of `dense` again
ff+qkv   sparse-attention, sparse-mlp with that d_ff
+loss    ff+qkv and a multiplicative readout; only where the whole model is timed

Every layer of a stack has its own weights and every call gets a new token: weights come from memory
and the controllers choose other rows each time. Caches of keys and values hold 16 tokens. Contenders take
turns with `dense`, and a gain is the median of the ratios within a round.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import harness
import torch
from torch import Tensor

import architectures
from architectures.primitives.sparse_mlp import SparseMLP

RESULTS = harness.RESULTS / "decoding-cpu.json"
PROMPT = 16
VOCABULARY = 32_000
CLOCKS = {"wall": time.perf_counter, "process": time.process_time}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """d_model, the two d_ff, heads, modules S, block N, rank of the controller, layers in the stack."""

    dim: int
    dense: int
    wide: int
    heads: int
    modules: int
    block: int
    rank: int | None = None
    layers: int = 24
    readout: int = 4
    whole: bool = False

    def spec(self, kind: str) -> str:
        attention, inner = f"sparse-attention[modules={self.modules}, heads={self.heads}]", self.wide
        if kind in ("dense", "ff"):
            attention, inner = f"mh-attention[heads={self.heads}]", self.dense
        rank = "" if self.rank is None else f", rank={self.rank}"
        mlp = (
            f"sparse-mlp[inner={inner}, block={self.block}{rank}]" if "ff" in kind else f"mlp[inner={inner}]"
        )
        return f"{self.layers}*({attention} {mlp})"


SHAPES = {
    "256": Shape(dim=256, dense=1024, wide=1536, heads=16, modules=16, block=64),
    "512": Shape(dim=512, dense=2048, wide=3072, heads=16, modules=16, block=64),
    "800M": Shape(dim=1024, dense=4096, wide=6144, heads=16, modules=16, block=64, whole=True),
    "17B": Shape(dim=9216, dense=40960, wide=65536, heads=96, modules=64, block=256, rank=32, layers=1),
}


class Decoder:
    """A model and the state after a prompt; one call decodes one new token per row."""

    def __init__(self, shape: Shape, kind: str, batch: int) -> None:
        options = architectures.ModelOptions(readout_sparsity=shape.readout if kind == "ff+qkv+loss" else 0)
        vocabulary = VOCABULARY if shape.whole else 16
        self.model = architectures.build(
            shape.spec(kind), vocab_size=vocabulary, dim=shape.dim, max_len=64, seed=0, options=options
        )
        self.generator = torch.Generator().manual_seed(1)
        self.shape, self.batch, self.vocabulary = shape, batch, vocabulary
        _, self.state = self.model.prefill(self.tokens(PROMPT), self.model.init_state(batch))

    def tokens(self, length: int) -> Tensor:
        return torch.randint(self.vocabulary, (self.batch, length), generator=self.generator)

    def blocks(self) -> None:
        """The stack of blocks alone, from a new vector of the stream."""
        x = torch.randn(self.batch, self.shape.dim, generator=self.generator)
        for block, state in zip(self.model.blocks, self.state, strict=True):
            x = x + block.step(x, state)[0]  # type: ignore[operator]

    def whole(self) -> None:
        self.model.step(self.tokens(1)[:, 0], self.state)

    def params(self) -> int:
        """Of one block, without its norms' scales."""
        return (
            sum(p.numel() for _, layer in self.model.layers() for p in layer.parameters())
            // self.shape.layers
        )

    def touched(self) -> float:
        """Weights that one block reads for a batch: all, but of a sparse FF the union of the chosen rows."""
        total, x = 0.0, torch.randn(self.batch, 1, self.shape.dim, generator=self.generator)
        for _, layer in self.model.layers():
            total += sum(p.numel() for p in layer.parameters())
            if isinstance(layer, SparseMLP):
                rows = int((layer.mask(x) > 0).flatten(0, 1).any(0).sum())
                total -= 2 * (layer.inner - rows) * layer.dim
        return total / self.shape.layers


def compare(shape: Shape, kind: str, dense: Decoder, rounds: int, clock: str) -> dict[str, Any]:
    other = Decoder(shape, kind, dense.batch)
    row: dict[str, Any] = {
        "kind": kind,
        "batch": dense.batch,
        "params": other.params(),
        "dense_params": dense.params(),
        "touched": other.touched(),
    }
    for part in ("blocks", "whole") if shape.whole else ("blocks",):
        times = harness.turns({d: getattr(d, part) for d in (dense, other)}, rounds, CLOCKS[clock])
        layers = shape.layers if part == "blocks" else 1
        a, b = ([1000 * t[d] / layers for t in times] for d in (dense, other))
        gains = sorted(t[dense] / t[other] for t in times)
        row[part] = {
            "dense_ms": median(a),
            "ms": median(b),
            "dense_best_ms": min(a),
            "best_ms": min(b),
            "gain": median(gains),
            "quartiles": [gains[len(gains) // 4], gains[3 * len(gains) // 4]],
        }
    return row


def run(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for name in args.shapes.split(","):
        shape = SHAPES[name]
        if args.layers:
            shape = replace(shape, layers=args.layers, whole=False)
        for batch in harness.numbers(args.batches):
            dense = Decoder(shape, "dense", batch)
            for kind in args.kinds.split(","):
                if kind.endswith("loss") and not shape.whole:
                    continue
                found = compare(shape, kind, dense, args.rounds, args.clock)
                gc.collect()
                yield {
                    "shape": name,
                    "stack": str(args.layers or "full"),
                    "clock": args.clock,
                    "threads": args.threads,
                    **found,
                }
            del dense
            gc.collect()


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Gain a block against the shape at batch 1, and against the batch at the 800M shape."""
    plt = harness.pyplot("mad")
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    names = [n for n in SHAPES if any(r["shape"] == n for r in rows)]
    for kind in ("ff", "qkv", "ff+qkv"):
        one = {r["shape"]: r for r in rows if r["kind"] == kind and r["batch"] == 1 and r["stack"] == "full"}
        found = [n for n in names if n in one]
        left.plot(
            [names.index(n) for n in found], [one[n]["blocks"]["gain"] for n in found], "o-", label=kind
        )
        many = [r for r in rows if r["kind"] == kind and r["shape"] == "800M" and r["stack"] != "full"]
        many.sort(key=lambda r: r["batch"])
        right.plot([r["batch"] for r in many], [r["blocks"]["gain"] for r in many], "o-", label=kind)
    left.set_xticks(range(len(names)), [f"d {SHAPES[n].dim}" for n in names])
    left.set_yscale("log")
    right.set_xscale("log", base=2)
    for axes, title in ((left, "a block, batch 1"), (right, "a block, d 1024, by batch")):
        axes.axhline(1, color="grey", linewidth=0.8)
        axes.set_title(title)
        axes.set_ylabel("times as fast as dense")
        axes.legend()
    harness.save(figure, path)


def main() -> None:
    parser = harness.options(__doc__, write=f"add to {RESULTS.name}, replacing equal rows")
    parser.add_argument("--shapes", default="256,512,800M", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--kinds", default="ff,qkv,ff+qkv,ff+qkv+loss")
    parser.add_argument("--batches", default="1")
    parser.add_argument(
        "--layers", type=int, help="blocks in the stack, without the whole model; default all"
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    parser.add_argument("--plot", type=Path, help="draw what was measured so far there, and measure nothing")
    args = parser.parse_args()
    if args.plot:
        plot(json.loads(RESULTS.read_text())["rows"], args.plot)
        return
    torch.set_num_threads(args.threads)
    results = harness.read(RESULTS) or {"rows": []}
    key = ("shape", "stack", "kind", "batch", "clock", "threads")
    with torch.inference_mode():
        for row in run(args):
            cells = " | ".join(
                f"{p}: {c['dense_ms']:.3f} -> {c['ms']:.3f} ms, {c['gain']:.2f} x "
                f"({c['quartiles'][0]:.2f} to {c['quartiles'][1]:.2f})"
                for p in ("blocks", "whole")
                if (c := row.get(p))
            )
            share = row["touched"] / row["dense_params"]
            print(
                f"{row['shape']:>5} {row['kind']:11} batch {row['batch']:2}  reads {share:6.1%}  {cells}",
                flush=True,
            )
            if args.write:
                kept = [r for r in results["rows"] if any(r[k] != row[k] for k in key)]
                machine = {"torch": torch.__version__, "processor": platform.processor() or "CPU"}
                results = {"machine": machine, "rows": [*kept, row]}
                harness.write(RESULTS, results)


if __name__ == "__main__":
    main()
