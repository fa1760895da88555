"""AltUp: what a wider representation costs a step, and what it gives the loss.

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

import argparse
import json
import platform
import re
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean, median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor  # noqa: E402

import architectures  # noqa: E402
from mad.run.optim import learning_rate  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
RESULT, FIGURES = ROOT / "benchmarks" / "results" / "altup-cpu.json", ROOT / "docs" / "figures"
BODY = "2*(mh-attention swiglu)"
LAYERS = "2*repeat[times=1]{mh-attention swiglu}"
VOCABULARY = 1024

# --- what a step costs ------------------------------------------------------------------------------------

# Name -> (spec, times the width). A base K times as wide is what K slices stand for.
STEPPED = {
    "base": (BODY, 1),
    "altup[k=2, recycled=true]": (f"altup[k=2, recycled=true]{{{BODY}}}", 1),
    "altup[k=2]": (f"altup[k=2]{{{BODY}}}", 1),
    "altup[k=4, recycled=true]": (f"altup[k=4, recycled=true]{{{BODY}}}", 1),
    "altup[k=4]": (f"altup[k=4]{{{BODY}}}", 1),
    "gemma3n-altup[k=4]": (f"gemma3n-altup{{{BODY}}}", 1),
    "sequence-altup[stride=2]": (f"sequence-altup{{{BODY}}}", 1),
    "base, 2 D": (BODY, 2),
    "base, 4 D": (BODY, 4),
}
WIDEST = 2048  # beyond, a step takes half a minute
STEP_SHAPE = (4, 128)


def steps(widths: list[int], rounds: int) -> list[dict[str, Any]]:
    rows = []
    tokens = torch.randint(VOCABULARY, STEP_SHAPE, generator=torch.Generator().manual_seed(0))
    for width in widths:
        runs = {
            name: training_step(spec, factor * width, tokens)
            for name, (spec, factor) in STEPPED.items()
            if factor * width <= WIDEST
        }
        for run in runs.values():
            run()
        times = [{name: run() for name, run in runs.items()} for _ in range(rounds)]
        for name in runs:
            spec, factor = STEPPED[name]
            count = architectures.account(
                spec, vocab_size=VOCABULARY, dim=factor * width, seq_len=STEP_SHAPE[1]
            )
            row = {
                "width": width,
                "name": name,
                "ms": 1000 * median(t[name] for t in times),
                "ratio": median(t[name] / t["base"] for t in times),
                "params": count.params,
                "flops": count.flops,
            }
            rows.append(row)
            print(f"{width:5d} {name:28s} {row['ms']:9.1f} ms  {row['ratio']:6.3f} x base", flush=True)
    return rows


def training_step(spec: str, width: int, tokens: Tensor) -> Callable[[], float]:
    """Seconds of one forward + backward."""
    model = architectures.build(spec, vocab_size=VOCABULARY, dim=width, max_len=tokens.shape[1], seed=0)

    def run() -> float:
        start = time.process_time()
        F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
        seconds = time.process_time() - start
        model.zero_grad(set_to_none=True)
        return seconds

    return run


# --- what it gives ----------------------------------------------------------------------------------------

TRAINED = {
    "base": (BODY, 64),
    "altup[k=2]": (f"altup[k=2]{{{BODY}}}", 64),
    "altup[k=2], layers": (f"altup[k=2]{{{LAYERS}}}", 64),
    "altup[k=2, schedule=same]": (f"altup[k=2, schedule=same]{{{BODY}}}", 64),
    "altup[k=2], sum": (
        f"altup[k=2]{{{BODY}}}",
        64,
    ),  # P = I and g = 1 stay: each slice adds what a block adds
    "altup[k=2, recycled=true]": (f"altup[k=2, recycled=true]{{{BODY}}}", 64),
    "altup[k=4, recycled=true]": (f"altup[k=4, recycled=true]{{{BODY}}}", 64),
    "gemma3n-altup[k=4]": (f"gemma3n-altup{{{BODY}}}", 64),
    "sequence-altup[stride=2]": (f"sequence-altup{{{BODY}}}", 64),
    "base, 2 D": (BODY, 128),
}
BATCH, LENGTH, EVERY = 16, 64, 100
LR, WEIGHT_DECAY, WARM = 3e-3, 0.1, 50
VALIDATION_ROWS = 512


def loss(seeds: list[int], total: int, names: list[str], keep: Callable[[dict[str, Any]], None]) -> None:
    train, validation, bytes_a_token = text()
    rows = windows(validation, VALIDATION_ROWS, seed=-1)
    print(f"{len(train):,} training tokens, {bytes_a_token:.2f} bytes a token")
    for seed in seeds:
        for name in names:
            row = {"name": name, "seed": seed, "steps": total, "bytes_a_token": bytes_a_token}
            row |= trained(name, train, rows, seed, total)
            keep(row)
            print(
                f"seed {seed} {name:28s} {row['loss']:.4f} nats per token, {row['seconds']:.0f} s", flush=True
            )


def trained(name: str, train: Tensor, validation: Tensor, seed: int, total: int) -> dict[str, Any]:
    spec, width = TRAINED[name]
    model = architectures.build(spec, vocab_size=VOCABULARY, dim=width, max_len=LENGTH, seed=seed)
    if name.endswith(", sum"):
        wrapper = model.layers()[0][1]
        wrapper.p.requires_grad_(False)
        wrapper.g.requires_grad_(False)
    hints = model.hints()
    groups = [
        {
            "params": [p for n, p in model.named_parameters() if hints[n].decay == decay and p.requires_grad],
            "weight_decay": WEIGHT_DECAY if decay else 0.0,
        }
        for decay in (True, False)
    ]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.98))
    curve, seconds = [], 0.0
    for step in range(total):
        rows = windows(train, BATCH, seed=seed * total + step)  # the same for every contender
        start = time.process_time()
        for group in optimizer.param_groups:
            group["lr"] = LR * min(1, (step + 1) / WARM) * learning_rate("cosine", step, total)
        nats(model, rows).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds += time.process_time() - start
        if (step + 1) % EVERY == 0 or step + 1 == total:
            with torch.no_grad():
                curve.append((step + 1, mean(float(nats(model, part)) for part in validation.split(64))))
    count = architectures.account(spec, vocab_size=VOCABULARY, dim=width, seq_len=LENGTH)
    return {
        "loss": curve[-1][1],
        "curve": curve,
        "seconds": seconds,
        "params": count.params,
        "core": count.core,
        "flops": count.flops,
    }


def nats(model: architectures.SequenceModel, rows: Tensor) -> Tensor:
    return F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())


def windows(tokens: Tensor, rows: int, seed: int) -> Tensor:
    """Rows of LENGTH + 1 tokens at random places."""
    generator = torch.Generator().manual_seed(seed % 2**31)
    first = torch.randint(len(tokens) - LENGTH - 1, (rows, 1), generator=generator)
    return tokens[first + torch.arange(LENGTH + 1)]


def text() -> tuple[Tensor, Tensor, float]:
    """The standard library's sources as tokens: training, validation (every tenth file), bytes a token."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    sources = [path.read_bytes().decode("utf-8", "ignore") for path in files]
    pieces = [re.findall(r" ?\w+|\s+|[^\w\s]", source) for source in sources]
    counts = Counter(p for i, found in enumerate(pieces) if i % 10 for p in found)
    # A byte each, and the commonest pieces.
    known = {p: 256 + n for n, (p, _) in enumerate(counts.most_common(VOCABULARY - 256))}
    train: list[int] = []
    validation: list[int] = []
    for i, found in enumerate(pieces):
        (train if i % 10 else validation).extend(encoded(found, known))
    size = sum(len(s.encode()) for s in sources[::10])
    return torch.tensor(train), torch.tensor(validation), size / len(validation)


def encoded(pieces: list[str], known: dict[str, int]) -> Iterator[int]:
    for piece in pieces:
        if piece in known:
            yield known[piece]
        else:
            yield from piece.encode()


# --- figures ----------------------------------------------------------------------------------------------


def plot(results: dict[str, Any]) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "altup"
    import matplotlib.pyplot as plt

    FIGURES.mkdir(parents=True, exist_ok=True)
    if results.get("steps"):
        figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
        for name in STEPPED:
            found = [(r["width"], r["ratio"]) for r in results["steps"] if r["name"] == name]
            if found and name != "base":
                axes.plot(*zip(*found, strict=True), marker="o", label=name)
        axes.axhline(1.1, color="grey", linestyle=":", label="10 % more than the base")
        axes.set(xlabel="width D", ylabel="step time over the base", xscale="log", yscale="log")
        axes.set_xticks([256, 512, 1024], ["256", "512", "1024"], minor=False)
        axes.set_yticks([0.5, 1, 2, 4, 8, 16], ["0.5", "1", "2", "4", "8", "16"], minor=False)
        axes.minorticks_off()
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
        figure.savefig(FIGURES / "altup-steps.svg", metadata={"Date": None})
    if results.get("loss"):
        figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
        for name in TRAINED:
            curves = [r["curve"] for r in results["loss"] if r["name"] == name]
            if curves:
                at = [step for step, _ in curves[0]]
                axes.plot(at, [mean(c[i][1] for c in curves) for i in range(len(at))], label=name)
        axes.set(xlabel="steps", ylabel="validation loss, nats per token")
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
        figure.savefig(FIGURES / "altup-loss.svg", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tables", default="steps,loss")
    parser.add_argument("--widths", default="256,512,1024")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seeds", default="0,1")
    parser.add_argument("--steps", type=int, default=600, help="training steps of a run of the table loss")
    parser.add_argument("--names", help="contenders of the table loss, separated by ';'; default all")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--write", action="store_true", help="into benchmarks/results and docs/figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    target: Path | None = RESULT if args.write else args.json
    results = json.loads(target.read_text()) if target and target.exists() else {}
    results["machine"] = {
        "device": platform.processor() or "CPU",
        "threads": 1,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "clock": "process time",
    }

    def save() -> None:
        if target:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(json.dumps(results, indent=1) + "\n")

    def keep(row: dict[str, Any]) -> None:
        key = row["name"], row["seed"]
        old = [r for r in results.get("loss", []) if (r["name"], r["seed"]) != key]
        results["loss"] = [*old, row]
        save()

    for table in args.tables.split(","):
        if table not in ("steps", "loss", "plot"):
            raise SystemExit(f"table {table!r} is not one of steps, loss, plot")
        print(f"\n{table}")
        if table == "steps":
            widths = [int(w) for w in args.widths.split(",")]
            old = [r for r in results.get("steps", []) if r["width"] not in widths]
            results["steps"] = sorted(old + steps(widths, args.rounds), key=lambda r: r["width"])
        elif table == "loss":
            names = args.names.split(";") if args.names else list(TRAINED)
            loss([int(s) for s in args.seeds.split(",")], args.steps, names, keep)
        save()
    if args.write:
        plot(results)


if __name__ == "__main__":
    main()
