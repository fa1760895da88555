"""What sparse layers cost in quality: language models of bytes, sparse against as large dense ones.

    python benchmarks/sparse_quality.py --seeds 0,1,2 --write   # minutes a model

The text is the source code of the Python standard library that runs this script; every tenth file is
held out. Sparse layers are judged as they are used: argmax masks, no noise; beside it is the same loss
under the masks of training, the softmax in seven steps of ten.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from torch import Tensor  # noqa: E402

import architectures  # noqa: E402
from architectures.primitive import Context  # noqa: E402

RESULTS = Path(__file__).with_name("results") / "sparse-quality.json"
DIM, LENGTH, BATCH = 128, 128, 16
ATTENTION = "mh-attention[heads=8]"
# The dense models have at least as many parameters as the sparse ones they stand against.
MODELS = {
    "dense": f"2*({ATTENTION} sparse-mlp[block=1, inner=608])",
    "N=16": f"2*({ATTENTION} sparse-mlp[block=16, inner=512])",
    "N=32": f"2*({ATTENTION} sparse-mlp[block=32, inner=512])",
    "N=64": f"2*({ATTENTION} sparse-mlp[block=64, inner=512])",
    "N=16, slope=chosen": f"2*({ATTENTION} sparse-mlp[block=16, inner=512, slope=chosen])",
    "N=16, rescale": f"2*({ATTENTION} sparse-mlp[block=16, inner=512, rescale=true])",
    "qkv": "2*(sparse-attention sparse-mlp[block=1, inner=816])",
    "qkv, N=16": "2*(sparse-attention sparse-mlp[block=16, inner=672])",
    "dense, as small as N=16 reads": f"2*({ATTENTION} sparse-mlp[block=1, inner=112])",
}


def text() -> tuple[Tensor, Tensor]:
    """Bytes for training and held-out bytes."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    for i, path in enumerate(files):
        parts[i % 10 == 0].append(path.read_bytes())
    train, held = (torch.frombuffer(bytearray(b"\n".join(p)), dtype=torch.uint8) for p in parts)
    return train, held


def batch(data: Tensor, generator: torch.Generator, size: int) -> tuple[Tensor, Tensor]:
    starts = torch.randint(len(data) - LENGTH - 1, (size,), generator=generator)
    rows = data[starts[:, None] + torch.arange(LENGTH + 1)].long()
    return rows[:, :-1], rows[:, 1:]


def train(spec: str, seed: int, steps: int, data: tuple[Tensor, Tensor], lr: float) -> dict[str, float]:
    model = architectures.build(spec, vocab_size=256, dim=DIM, max_len=LENGTH, seed=seed)
    hints, groups = model.hints(), {True: [], False: []}  # type: ignore[var-annotated]
    for name, p in model.named_parameters():
        groups[hints[name].decay].append(p)
    adamw = torch.optim.AdamW(
        [{"params": ps, "weight_decay": 0.1 if decay else 0.0} for decay, ps in groups.items()],
        lr=lr,
        betas=(0.9, 0.98),
    )
    generator = torch.Generator().manual_seed(seed)
    start = time.process_time()
    for step in range(steps):
        warm = min(1.0, (step + 1) / 50)
        for group in adamw.param_groups:
            group["lr"] = lr * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
        inputs, targets = batch(data[0], generator, BATCH)
        logits, _, _ = model.call(inputs, Context(seed=seed, step=step))
        F.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        adamw.zero_grad()
    seconds = time.process_time() - start
    account = architectures.account(spec, vocab_size=256, dim=DIM, seq_len=LENGTH)
    return {
        "loss": evaluate(model, data[1], None),
        "train_mode_loss": evaluate(model, data[1], seed),
        "params": account.core,
        "active": account.active,
        "seconds": seconds,
    }


@torch.no_grad()
def evaluate(model: architectures.SequenceModel, data: Tensor, seed: int | None, batches: int = 16) -> float:
    """Nats a byte of the same held-out rows; with a seed, under the masks of training."""
    generator, total = torch.Generator().manual_seed(123), 0.0
    for step in range(batches):
        inputs, targets = batch(data, generator, 32)
        logits, _, _ = model.call(inputs, Context(seed=seed, step=step))
        total += float(F.cross_entropy(logits.flatten(0, 1), targets.flatten()))
    return total / batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", default=";".join(MODELS), help="separated by semicolons")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data = text()
    results: dict[str, Any] = {"rows": []}
    if RESULTS.exists():
        results = json.loads(RESULTS.read_text())
    for seed in map(int, args.seeds.split(",")):
        for name in args.models.split(";"):
            key = {"name": name, "seed": seed, "steps": args.steps, "lr": args.lr}
            row = key | {"spec": MODELS[name]} | train(MODELS[name], seed, args.steps, data, args.lr)
            print(
                f"seed {seed}  {name:30} {row['loss']:.4f} nats per byte (as in training "
                f"{row['train_mode_loss']:.4f}), {row['params']:,} parameters, {row['active']:,} read, "
                f"{row['seconds']:.0f} s",
                flush=True,
            )
            if args.write:
                rows = [r for r in results["rows"] if any(r[k] != v for k, v in key.items())]
                results = {"torch": torch.__version__, "bytes": [len(d) for d in data], "rows": [*rows, row]}
                RESULTS.parent.mkdir(exist_ok=True)
                RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
