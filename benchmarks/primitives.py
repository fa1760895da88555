"""Speed and memory of every layer, each against a named peer in the same process.

    python benchmarks/primitives.py                                  # every table, half an hour on two cores
    python benchmarks/primitives.py --tables steps --names kda,mamba # some layers
    python benchmarks/primitives.py --device cuda --compile --json gpu.json
    python benchmarks/primitives.py --write                          # into benchmarks/results, for the docs

steps    forward + backward at (B 16, T 512, D 128), over `mh-attention[heads=16]` (16 heads of 8)
kernel   the chunked delta recurrence over the loop that defines it, T 1024, by size of the chunk
memory   peak bytes per token of forward + backward at T 1024 to 8192, from the tensors alive at once
decode   prefill seconds, tokens per second and state bytes at T 128, 1024, 8192, one row, D 128

Machines are noisy: contenders take turns with the peer, and a ratio is the median of the ratios within a
round.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import harness
import torch
from peak_memory import PeakMemory
from torch import Tensor

import architectures
from architectures.contract.subject import VOCABULARY, told
from architectures.functional.delta import delta_rule, delta_step, unit
from architectures.primitive import Primitive

PEER = "mh-attention[heads=16]"
SHAPE = (16, 512, 128)
LENGTHS = (128, 1024, 8192)


def make(spec: str, *, max_len: int, device: str, dim: int = SHAPE[2]) -> Primitive:
    with torch.device(device):
        model = architectures.build(f"1*{spec}", vocab_size=VOCABULARY, dim=dim, max_len=max_len, seed=0)
    return model.layers()[0][1]


def example(name: str) -> str:
    return architectures.get(name).example


def clock_of(device: str) -> harness.Clock:
    """Process time on a CPU, which other processes do not touch; on a GPU the time when its work is done."""
    if not device.startswith("cuda"):
        return time.process_time

    def clock() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return clock


def training_step(spec: str, x: Tensor, compiled: bool) -> Callable[[], None]:
    layer = make(spec, max_len=SHAPE[1], device=str(x.device))
    call: Callable[..., Tensor] = torch.compile(layer) if compiled else layer

    ctx = told(x)

    def step() -> None:
        call(x, ctx).square().sum().backward()
        layer.zero_grad(set_to_none=True)

    return step


def steps(names: list[str], device: str, rounds: int, compiled: bool) -> list[dict[str, Any]]:
    rows = []
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)).to(device)
    peer = training_step(PEER, x, compiled)
    for name in names:
        pair = {"peer": peer, "own": training_step(example(name), x, compiled)}
        times = harness.turns(pair, rounds, clock_of(device))
        rows.append(
            {
                "name": name,
                "ms": 1000 * median(t["own"] for t in times),
                "peer_ms": 1000 * median(t["peer"] for t in times),
                "ratio": median(t["own"] / t["peer"] for t in times),
            }
        )
        print(f"{name:28s} {rows[-1]['ms']:9.1f} ms  {rows[-1]['ratio']:6.2f} x {PEER}", flush=True)
    return rows


def kernel(device: str, rounds: int) -> list[dict[str, Any]]:
    """The recurrence by chunk size, forward + backward, over a loop of `delta_step`."""
    rows = []
    for decay, form in (("vector", "plain"), ("vector", "tied"), ("scalar", "plain"), ("scalar", "tied")):
        sizes = (8, 16) if decay == "vector" else (16, 32, 64, 128)
        runs = {size: recurrence(decay, form, size, device) for size in (0, *sizes)}
        times = harness.turns(runs, rounds, clock_of(device))
        for size in sizes:
            gain = median(t[0] / t[size] for t in times)
            row = {"decay": decay, "form": form, "chunk": size, "speedup": gain}
            rows.append(row | {"ms": 1000 * median(t[size] for t in times)})
            print(f"{decay} decay, {form}, chunk {size}: {gain:.1f} x as fast as the loop", flush=True)
    return rows


def recurrence(decay: str, form: str, chunk: int, device: str) -> Callable[[], None]:
    """Forward + backward in chunks; chunk 0: token by token."""
    generator = torch.Generator().manual_seed(0)
    batch, length, heads, width = 4, 1024, 8, 16

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device)

    q, v = draw(batch, length, heads, width), draw(batch, length, heads, width)
    k = unit(draw(batch, length, heads, width))
    gate = draw(batch, length, heads, width) if decay == "vector" else draw(batch, length, heads)
    log_a = -0.1 * gate.square().clamp(max=10)
    leaves = [z.requires_grad_() for z in (q, k, v, log_a)]
    y = k if form == "tied" else None

    def loop() -> Tensor:
        state, outputs = q.new_zeros(batch, heads, width, width), []
        for t in range(length):
            asked = None if y is None else y[:, t]
            o, state = delta_step(q[:, t], k[:, t], v[:, t], log_a[:, t], state, y=asked)
            outputs.append(o)
        return torch.stack(outputs, dim=1)

    def run() -> None:
        o = delta_rule(q, k, v, log_a, y=y, chunk=chunk)[0] if chunk else loop()
        torch.autograd.grad(o.square().sum(), leaves)

    return run


def memory(names: list[str]) -> list[dict[str, Any]]:
    """Peak bytes per token; counted on the meta device, where every operator allocates and none computes."""
    rows = []
    for name in names:
        row: dict[str, Any] = {"name": name, "bytes": {}}
        for length in (1024, 2048, 4096, 8192):
            layer = make(example(name), max_len=length, device="meta")
            x = torch.empty(1, length, SHAPE[2], device="meta", requires_grad=True)
            with PeakMemory() as peak:
                layer(x, told(x)).square().sum().backward()
            row["bytes"][length] = peak.peak / length
        row["growth"] = row["bytes"][8192] / row["bytes"][1024]
        rows.append(row)
        print(
            f"{name:28s} {row['bytes'][8192]:12,.0f} bytes per token, x {row['growth']:.2f} from 1024 to 8192"
        )
    return rows


def decode(names: list[str], device: str, tokens: int) -> list[dict[str, Any]]:
    rows = []
    for name in names:
        found = {n: decode_one(name, n, device, tokens) for n in LENGTHS}
        rows.append({"name": name, "lengths": found})
        cells = (
            f"{n}: {c['prefill_ms']:.1f} ms, {c['tokens_per_second']:,.0f}/s, {c['state_bytes']:,} B"
            for n, c in found.items()
        )
        print(f"{name:28s} " + " | ".join(cells), flush=True)
    return rows


@torch.no_grad()
def decode_one(name: str, length: int, device: str, tokens: int) -> dict[str, float]:
    layer = make(example(name), max_len=length + 1, device=device)
    x, token = torch.randn(1, length, SHAPE[2], device=device), torch.randn(1, SHAPE[2], device=device)
    all_of_it, one = told(x), told(token[:, None])
    _, state = layer.prefill(x, layer.init_state(1), all_of_it)
    size = sum(t.numel() * t.element_size() for t in state if t.is_floating_point())

    def median_of(call: Callable[[], object], rounds: int) -> float:
        return median(harness.seconds(call, clock_of(device)) for _ in range(rounds))

    prefill = median_of(lambda: layer.prefill(x, layer.init_state(1), all_of_it), 3)
    for _ in range(3):
        layer.step(token, state, one)
    step = median_of(lambda: layer.step(token, state, one), tokens)
    return {"prefill_ms": 1000 * prefill, "tokens_per_second": 1 / max(step, 1e-9), "state_bytes": size}


def main() -> None:
    parser = harness.options(__doc__, write="into benchmarks/results/primitives-DEVICE.json")
    parser.add_argument("--tables", default="steps,kernel,memory,decode")
    parser.add_argument("--names", help="layers, comma-separated; default all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=20, help="decoded tokens that are timed")
    parser.add_argument("--compile", action="store_true", help="torch.compile the training steps")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    names = args.names.split(",") if args.names else architectures.names()
    timed = [n for n in names if architectures.get(n).mixes == "time"]
    mixers = [n for n in timed if make(n, dim=16, max_len=8, device="meta").causal]
    tables = {
        "steps": lambda: steps(names, args.device, args.rounds, args.compile),
        "kernel": lambda: kernel(args.device, args.rounds),
        "memory": lambda: memory(names),
        "decode": lambda: decode(mixers, args.device, args.tokens),
    }
    target = args.json
    if args.write:
        kind = args.device.partition(":")[0] + ("-compile" if args.compile else "")
        target = harness.RESULTS / f"primitives-{kind}.json"
    # A table that is measured again replaces its rows, and leaves those of the other tables.
    results = harness.read(target)
    for table in args.tables.split(","):
        if table not in tables:
            raise SystemExit(f"table {table!r} is not one of {', '.join(tables)}")
        print(f"\n{table}")
        fresh = tables[table]()
        old = [] if table == "kernel" else [r for r in results.get(table, []) if r["name"] not in names]
        results[table] = sorted(old + fresh, key=lambda r: r.get("name", ""))
        results["machine"] = harness.machine(args.device)
        harness.write(target, results)


if __name__ == "__main__":
    main()
