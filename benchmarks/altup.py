"""AltUp: what a wider representation costs per step, and what it gives the loss.

    python benchmarks/altup.py                                # both tables, about an hour on a shared core
    python benchmarks/altup.py --tables steps --widths 256    # a minute
    python benchmarks/altup.py --tables loss --steps 50       # a minute
    python benchmarks/altup.py --write                        # into benchmarks/results and docs/figures

steps   forward + backward of a language model at widths 256, 512 and 1024, batch 4 x 128: AltUp over the
        base of the same width, beside a base that is truly K times as wide
loss    validation loss at equal steps on text that every Python brings along, the sources of its standard
        library: base, AltUp, its controls, and a base twice as wide

Contenders take turns in one process, one thread, process time; a ratio is the median of the ratios within a
round.
"""

from __future__ import annotations

import platform
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean, median
from typing import Any

import harness
import small_models
import torch
import torch.nn.functional as F
from torch import Tensor

import architectures
from mad.run.optim import learning_rate

RESULT = harness.RESULTS / "altup-cpu.json"
BODY = "2*(mh-attention swiglu)"
LAYERS = "2*repeat[times=1]{mh-attention swiglu}"
VOCABULARY = 1024
PIECE = re.compile(r" ?\w+|\s+|[^\w\s]")
WIDTH, BATCH, LENGTH, EVERY = 64, 16, 64, 100
LR, WARM = 3e-3, 50
VALIDATION_ROWS = 512
WIDEST = 2048  # beyond, a step takes half a minute
STEP_SHAPE = (4, 128)


def wrapped(*names: str, body: str = BODY) -> dict[str, tuple[str, int]]:
    return {name: (f"{name}{{{body}}}", 1) for name in names}


# Name -> (spec, times the width). A base K times as wide is what K slices stand for.
BASE = {"base": (BODY, 1)}
OTHERS = wrapped("gemma3n-altup[k=4]", "sequence-altup[stride=2]") | {"base, 2 D": (BODY, 2)}
RECYCLED, NARROW, WIDE = "altup[k=2, recycled=true]", "altup[k=2]", "altup[k=4, recycled=true]"
STEPPED = BASE | wrapped(RECYCLED, NARROW, WIDE, "altup[k=4]") | OTHERS | {"base, 4 D": (BODY, 4)}
TRAINED = {
    **BASE,
    **wrapped(NARROW),
    "altup[k=2], layers": wrapped(NARROW, body=LAYERS)[NARROW],
    **wrapped("altup[k=2, schedule=same]"),
    "altup[k=2], sum": wrapped(NARROW)[NARROW],  # P = I and g = 1 stay: a slice adds what a block adds
    **wrapped(RECYCLED, WIDE),
    **OTHERS,
}


def steps(widths: list[int], rounds: int) -> list[dict[str, Any]]:
    rows = []
    tokens = torch.randint(VOCABULARY, STEP_SHAPE, generator=torch.Generator().manual_seed(0))
    for width in widths:
        runs = {
            name: training_step(spec, factor * width, tokens)
            for name, (spec, factor) in STEPPED.items()
            if factor * width <= WIDEST
        }
        times = harness.turns(runs, rounds)
        for name in runs:
            row = {
                "width": width,
                "name": name,
                "ms": 1000 * median(t[name] for t in times),
                "ratio": median(t[name] / t["base"] for t in times),
            }
            rows.append(row | counted(STEPPED[name], width, STEP_SHAPE[1], "params", "flops"))
            print(f"{width:5d} {name:28s} {row['ms']:9.1f} ms  {row['ratio']:6.3f} x base", flush=True)
    return rows


def training_step(spec: str, width: int, tokens: Tensor) -> Callable[[], None]:
    """Forward + backward."""
    model = architectures.build(spec, vocab_size=VOCABULARY, dim=width, max_len=tokens.shape[1], seed=0)

    def run() -> None:
        F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
        model.zero_grad(set_to_none=True)

    return run


def counted(contender: tuple[str, int], width: int, length: int, *names: str) -> dict[str, Any]:
    spec, factor = contender
    count = architectures.account(spec, vocab_size=VOCABULARY, dim=factor * width, seq_len=length)
    return {name: getattr(count, name) for name in names}


def loss(seeds: list[int], total: int, names: list[str], keep: Callable[[dict[str, Any]], None]) -> None:
    train, validation, bytes_a_token = text()
    held_out = windows(validation, VALIDATION_ROWS, seed=-1)
    print(f"{len(train):,} training tokens, {bytes_a_token:.2f} bytes per token")
    for seed in seeds:
        for name in names:
            row = {"name": name, "seed": seed, "steps": total, "bytes_a_token": bytes_a_token}
            row |= trained(name, train, held_out, seed, total)
            keep(row)
            print(
                f"seed {seed} {name:28s} {row['loss']:.4f} nats per token, {row['seconds']:.0f} s", flush=True
            )


def trained(name: str, train: Tensor, validation: Tensor, seed: int, total: int) -> dict[str, Any]:
    spec, factor = TRAINED[name]
    model = architectures.build(spec, vocab_size=VOCABULARY, dim=factor * WIDTH, max_len=LENGTH, seed=seed)
    if name.endswith(", sum"):
        wrapper = model.layers()[0][1]
        wrapper.p.requires_grad_(False)
        wrapper.g.requires_grad_(False)
    optimizer = small_models.adamw(model, LR)
    curve, seconds = [], 0.0
    for step in range(total):
        batch = windows(train, BATCH, seed=seed * total + step)  # the same for every contender
        start = time.process_time()
        lr = LR * min(1, (step + 1) / WARM) * learning_rate("cosine", step, total)
        small_models.update(model, optimizer, small_models.nats(model, batch), lr)
        seconds += time.process_time() - start
        if (step + 1) % EVERY == 0 or step + 1 == total:
            with torch.no_grad():
                parts = [float(small_models.nats(model, part)) for part in validation.split(64)]
            curve.append((step + 1, mean(parts)))
    found = {"loss": curve[-1][1], "curve": curve, "seconds": seconds}
    return found | counted(TRAINED[name], WIDTH, LENGTH, "params", "core", "flops")


def windows(tokens: Tensor, count: int, seed: int) -> Tensor:
    return small_models.rows(tokens, count, LENGTH, torch.Generator().manual_seed(seed % 2**31))


def text() -> tuple[Tensor, Tensor, float]:
    """The standard library's sources as tokens: training, validation, bytes per token."""
    train, held_out = (
        [source.decode("utf-8", "ignore") for source in part] for part in small_models.standard_library()
    )
    counts = Counter(piece for source in train for piece in PIECE.findall(source))
    # A byte each, and the commonest pieces.
    known = {p: 256 + n for n, (p, _) in enumerate(counts.most_common(VOCABULARY - 256))}
    trained_on, validation = (
        [token for source in part for token in encoded(source, known)] for part in (train, held_out)
    )
    size = sum(len(source.encode()) for source in held_out)
    return torch.tensor(trained_on), torch.tensor(validation), size / len(validation)


def encoded(source: str, known: dict[str, int]) -> Iterator[int]:
    for piece in PIECE.findall(source):
        if piece in known:
            yield known[piece]
        else:
            yield from piece.encode()


def plot(results: dict[str, Any]) -> None:
    plt = harness.pyplot("altup")
    for table in ("steps", "loss"):
        if not results.get(table):
            continue
        figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
        draw = draw_steps if table == "steps" else draw_loss
        draw(axes, results[table])
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
        harness.save(figure, harness.FIGURES / f"altup-{table}.svg")


def draw_steps(axes: Any, rows: list[dict[str, Any]]) -> None:
    for name in STEPPED:
        found = [(r["width"], r["ratio"]) for r in rows if r["name"] == name]
        if found and name != "base":
            axes.plot(*zip(*found, strict=True), marker="o", label=name)
    axes.axhline(1.1, color="grey", linestyle=":", label="10 % more than the base")
    axes.set(xlabel="width D", ylabel="step time over the base", xscale="log", yscale="log")
    axes.set_xticks([256, 512, 1024], ["256", "512", "1024"], minor=False)
    axes.set_yticks([0.5, 1, 2, 4, 8, 16], ["0.5", "1", "2", "4", "8", "16"], minor=False)
    axes.minorticks_off()


def draw_loss(axes: Any, rows: list[dict[str, Any]]) -> None:
    for name in TRAINED:
        curves = [r["curve"] for r in rows if r["name"] == name]
        if curves:
            at = [step for step, _ in curves[0]]
            axes.plot(at, [mean(c[i][1] for c in curves) for i in range(len(at))], label=name)
    axes.set(xlabel="steps", ylabel="validation loss, nats per token")


def main() -> None:
    parser = harness.options(__doc__)
    parser.add_argument("--tables", default="steps,loss")
    parser.add_argument("--widths", default="256,512,1024")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--steps", type=int, default=600, help="training steps of a run of the table loss")
    parser.add_argument("--names", help="contenders of the table loss, separated by ';'; default all")
    parser.add_argument("--json", type=Path, help="write the figures there")
    args = parser.parse_args()
    torch.set_num_threads(1)
    target = RESULT if args.write else args.json
    results = harness.read(target)
    results["machine"] = harness.machine() | {"python": platform.python_version()}

    def keep(row: dict[str, Any]) -> None:
        key = row["name"], row["seed"]
        old = [r for r in results.get("loss", []) if (r["name"], r["seed"]) != key]
        results["loss"] = [*old, row]
        harness.write(target, results)

    for table in args.tables.split(","):
        if table not in ("steps", "loss", "plot"):
            raise SystemExit(f"table {table!r} is not one of steps, loss, plot")
        print(f"\n{table}")
        if table == "steps":
            widths = harness.numbers(args.widths)
            old = [r for r in results.get("steps", []) if r["width"] not in widths]
            results["steps"] = sorted(old + steps(widths, args.rounds), key=lambda r: r["width"])
        elif table == "loss":
            names = args.names.split(";") if args.names else list(TRAINED)
            loss(harness.numbers(args.seeds), args.steps, names, keep)
        harness.write(target, results)
    if args.write:
        plot(results)


if __name__ == "__main__":
    main()
