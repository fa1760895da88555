"""What sparse layers cost in quality: language models of bytes, sparse against as large dense ones.

    python benchmarks/sparse_quality.py --seeds 0,1,2 --write   # minutes a model

The text is the source code of the Python standard library that runs this script; every tenth file is
held out. Sparse layers are judged as they are used: argmax masks, no noise; beside it is the same loss
under the masks of training, the softmax in seven steps of ten.
"""

from __future__ import annotations

import math
import time

import harness
import torch
import torch.nn.functional as F
from small_models import adamw, byte_tokens, rows, update
from torch import Tensor

import architectures
from architectures.primitive import Context

RESULTS = harness.RESULTS / "sparse-quality.json"
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


def nats(model: architectures.SequenceModel, batch: Tensor, seed: int | None, step: int) -> Tensor:
    """Mean loss per byte; with a seed, under the masks of training."""
    logits, _, _ = model.call(batch[:, :-1], Context(seed=seed, step=step))
    return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


def train(spec: str, seed: int, steps: int, data: tuple[Tensor, Tensor], lr: float) -> dict[str, float]:
    model = architectures.build(spec, vocab_size=256, dim=DIM, max_len=LENGTH, seed=seed)
    optimizer = adamw(model, lr)
    generator = torch.Generator().manual_seed(seed)
    start = time.process_time()
    for step in range(steps):
        rate = lr * min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
        update(model, optimizer, nats(model, rows(data[0], BATCH, LENGTH, generator), seed, step), rate)
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
    """Of the same held-out rows."""
    generator = torch.Generator().manual_seed(123)
    losses = [nats(model, rows(data, 32, LENGTH, generator), seed, step) for step in range(batches)]
    return sum(map(float, losses)) / batches


def main() -> None:
    parser = harness.options(__doc__, write=f"add to {RESULTS.name}, replacing equal rows")
    parser.add_argument("--models", default=";".join(MODELS), help="separated by semicolons")
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data = byte_tokens(between=b"\n")
    results = harness.read(RESULTS) or {"rows": []}
    for seed in harness.numbers(args.seeds):
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
                kept = [r for r in results["rows"] if any(r[k] != v for k, v in key.items())]
                results = {"torch": torch.__version__, "bytes": [len(d) for d in data], "rows": [*kept, row]}
                harness.write(RESULTS, results)


if __name__ == "__main__":
    main()
