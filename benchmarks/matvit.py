"""MatViT: one vision transformer trained once, its accuracy on real images at every size.

    pip install 'mad-suite[vision]'
    python benchmarks/matvit.py                     # two minutes on a CPU core
    python benchmarks/matvit.py --write             # into benchmarks/results and docs/figures

The images are the 1,797 handwritten digits (8 x 8) that ship with scikit-learn; every fourth is held out. The
nested encoder sees as many batches as the plain ones, one per size, see together.
"""

from __future__ import annotations

from typing import Any

import harness
import torch
import torch.nn.functional as F
from torch import Tensor

from architectures.elastic import (
    Sampling,
    common_count,
    consistency,
    count_params,
    extract,
    mix_and_match,
    nested_layers,
)
from architectures.primitive import Context
from architectures.vision import ImageModel

SPEC = "3*(matformer-encoder-attention[rope=false] matformer-mlp)"


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images (B, 1, 8, 8) in [-1, 1] and their classes, and the held-out ones."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    images = torch.from_numpy(found.images).float()[:, None] / 8 - 1
    classes = torch.from_numpy(found.target).long()
    held_out = torch.arange(len(images)) % 4 == 3
    return images[~held_out], classes[~held_out], images[held_out], classes[held_out]


def make(spec: Any, dim: int, seed: int) -> ImageModel:
    return ImageModel(spec, classes=10, size=8, patch=2, dim=dim, seed=seed)


def fit(model: ImageModel, images: Tensor, classes: Tensor, *, steps: int, batch: int, seed: int) -> None:
    """AdamW, cosine from 2e-3; one size a step, drawn as the layers' option `draw` says."""
    sampling = Sampling.of(model)
    decayed = [p for n, p in model.named_parameters() if p.dim() > 1 and n != "positions"]
    plain = [p for n, p in model.named_parameters() if p.dim() == 1 or n == "positions"]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=2e-3, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        chosen = torch.randint(len(images), (batch,), generator=generator)
        size = sampling.draw(seed, step)
        loss = torch.zeros(())
        for g in sampling.all or (size,):
            loss = loss + F.cross_entropy(model(images[chosen], Context(granularity=g)), classes[chosen])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        schedule.step()


@torch.no_grad()
def judge(model: ImageModel, whole: ImageModel, images: Tensor, classes: Tensor) -> dict[str, float]:
    logits = model(images)
    beside = consistency(logits, whole(images))
    return {
        "params": sum(p.numel() for p in model.parameters()),
        "accuracy": float((logits.argmax(-1) == classes).double().mean()),
        "loss": float(F.cross_entropy(logits, classes)),
        "agreement": beside.agreement,
        "kl": beside.kl,
    }


def experiment(*, spec: str, dim: int, steps: int, seeds: int, batch: int = 64) -> list[dict[str, Any]]:
    """Rows of kind nested, mixed, alone or cut, one per seed and size."""
    images, classes, held_images, held_classes = digits()
    rows: list[dict[str, Any]] = []
    for seed in range(seeds):
        whole = make(spec, dim, seed)
        count, layers = common_count(whole), len(nested_layers(whole))
        fit(whole, images, classes, steps=count * steps, batch=batch, seed=seed)
        alone = [make(extract(whole, g).spec, dim, seed) for g in range(count)]
        for model in alone:
            fit(model, images, classes, steps=steps, batch=batch, seed=seed)
        vanilla = make(spec, dim, seed)
        vanilla.load_state_dict(alone[-1].state_dict())
        sizes = [count_params(whole, g) for g in range(count)]
        mixes = [mix_and_match(whole, (a + b) / 2) for a, b in zip(sizes, sizes[1:], strict=False)]
        plans = [("nested", (g,) * layers, extract(whole, g), whole) for g in range(count)]
        plans += [("mixed", mix, extract(whole, mix), whole) for mix in mixes]
        plans += [("alone", (g,) * layers, alone[g], alone[-1]) for g in range(count)]
        plans += [("cut", (g,) * layers, extract(vanilla, g), alone[-1]) for g in range(count - 1)]
        for kind, mix, model, reference in plans:
            found = judge(model, reference, held_images, held_classes)
            rows.append({"seed": seed, "kind": kind, "sizes": mix, **found})
            print(f"seed {seed} {kind:7s} {mix} {found['params']:9,} {found['accuracy']:.3f}", flush=True)
    return rows


def averages(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The mean over the seeds, with the smallest and the largest accuracy."""
    groups: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["kind"], tuple(row["sizes"])), []).append(row)
    return [
        {"kind": kind, "sizes": sizes}
        | {n: sum(r[n] for r in found) / len(found) for n in ("params", "accuracy", "agreement", "kl")}
        | {"lowest": min(r["accuracy"] for r in found), "highest": max(r["accuracy"] for r in found)}
        for (kind, sizes), found in groups.items()
    ]


def plot(rows: list[dict[str, Any]]) -> None:
    figure, axes = harness.pyplot("mad").subplots(figsize=(5.2, 3.4))
    for kind, style in {"nested": "o-", "mixed": "D", "alone": "s--", "cut": "x:"}.items():
        found = sorted((r for r in averages(rows) if r["kind"] == kind), key=lambda r: r["params"])
        axes.plot([r["params"] for r in found], [r["accuracy"] for r in found], style, label=kind)
    axes.set(xlabel="parameters", ylabel="accuracy on held-out digits", xscale="log")
    axes.legend(frameon=False)
    figure.tight_layout()
    harness.save(figure, harness.FIGURES / "matvit.svg")


def main() -> None:
    parser = harness.options(__doc__)
    parser.add_argument("--spec", default=SPEC)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--steps", type=int, default=200, help="of one plain model")
    parser.add_argument("--seeds", type=int, default=2)
    args = parser.parse_args()
    rows = experiment(spec=args.spec, dim=args.dim, steps=args.steps, seeds=args.seeds)
    print(
        f"{'kind':8s}{'sizes':26s}{'parameters':>12s}{'accuracy':>10s}{'range':>16s}{'agrees':>8s}{'KL':>8s}"
    )
    for row in averages(rows):
        sizes = "-".join(map(str, row["sizes"]))
        span = f"{row['lowest']:.3f} to {row['highest']:.3f}"
        print(
            f"{row['kind']:8s}{sizes:26s}{row['params']:12,.0f}{row['accuracy']:10.3f}{span:>16s}"
            f"{row['agreement']:8.3f}{row['kl']:8.3f}"
        )
    if args.write:
        content = {"spec": args.spec, "dim": args.dim, "steps": args.steps, "rows": rows}
        harness.write(harness.RESULTS / "matvit.json", content)
        plot(rows)


if __name__ == "__main__":
    main()
