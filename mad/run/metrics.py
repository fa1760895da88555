"""Accuracy from sums and counts: tallied on the device, divided once at the end."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mad.data.hits import pack
from mad.data.records import Measure
from synthetic_tasks import IGNORE

# The public code's batch; its accuracy is an average over these, so the size is part of the metric.
EVALUATION_BATCH = 128


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean loss in nats over the scored targets: logits (B, T, V), targets (B, T)."""
    return F.cross_entropy(_high(logits.flatten(0, 1)), targets.flatten(), ignore_index=IGNORE)


def _high(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


@torch.no_grad()
def measure(
    predict: Callable[[Tensor], Tensor],
    inputs: Tensor,
    targets: Tensor,
    vocab_size: int,
    *,
    by_row: bool = False,
) -> list[Measure]:
    """Measure R replicas on a split: `predict` maps tokens (B, T) to logits (R, B, T, V).

    Nothing leaves the device before the end. The last batch may be smaller; nothing is dropped or repeated.
    `by_row` keeps the hits of each row as well.
    """
    tallies = [
        _tally(predict(x), y, vocab_size)
        for x, y in zip(inputs.split(EVALUATION_BATCH), targets.split(EVALUATION_BATCH), strict=True)
    ]
    counts = torch.stack([t[0] for t in tallies], dim=1).cpu().double()  # (R, batches, 3, V)
    losses = torch.stack([t[1] for t in tallies], dim=1).cpu().double()  # (R, batches)
    found = [_measure(c, loss, len(inputs)) for c, loss in zip(counts, losses, strict=True)]
    if not by_row:
        return found
    rows = torch.cat([t[2] for t in tallies], dim=1).cpu().numpy()  # (R, rows)
    return [one.model_copy(update={"hits": pack(hits)}) for one, hits in zip(found, rows, strict=True)]


def measure_one(
    model: nn.Module, inputs: Tensor, targets: Tensor, vocab_size: int, *, by_row: bool = False
) -> Measure:
    """Measure one model, as it is."""
    return measure(lambda tokens: model(tokens)[None], inputs, targets, vocab_size, by_row=by_row)[0]


def _tally(logits: Tensor, targets: Tensor, vocab_size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Integer counts (R, 3, V) of scored targets, hits and predictions by class, the summed loss (R,), and
    the hits of each row (R, B).
    """
    replicas = logits.shape[0]
    truth = targets.clamp(min=0)
    guess = logits.argmax(-1)  # (R, B, T)
    weight = (targets != IGNORE).long().expand_as(guess)
    hit = weight * (guess == truth)
    zeros = torch.zeros(replicas, vocab_size, dtype=torch.long, device=logits.device)

    def count(classes: Tensor, weights: Tensor) -> Tensor:
        return zeros.scatter_add(1, classes.expand_as(guess).flatten(1), weights.flatten(1))

    counts = torch.stack([count(truth, weight), count(truth, hit), count(guess, weight)], dim=1)
    flat = targets.expand_as(guess).flatten()
    nats = F.cross_entropy(_high(logits.flatten(0, 2)), flat, ignore_index=IGNORE, reduction="none")
    return counts, nats.view(replicas, -1).sum(1), hit.sum(-1)


def _measure(counts: Tensor, losses: Tensor, rows: int) -> Measure:
    targets, hits, _ = counts.sum(0)
    total = float(targets.sum())
    present = targets > 0
    loss = float(losses.sum()) / total
    return Measure(
        rows=rows,
        targets=round(total),
        micro=float(hits.sum()) / total,
        macro=float((hits[present] / targets[present]).mean()),
        macro_batches=float(torch.stack([_public_macro(*batch) for batch in counts]).mean()),
        loss=loss if math.isfinite(loss) else None,
    )


def _public_macro(targets: Tensor, hits: Tensor, guesses: Tensor) -> Tensor:
    """Macro accuracy as the public code has it: a class that was only ever predicted counts as 0."""
    counted = (targets > 0) | (guesses > 0)
    return (hits[counted] / targets[counted].clamp(min=1)).mean()
