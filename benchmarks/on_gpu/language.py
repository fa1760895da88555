"""Part 5: a step of a language model, in bfloat16, compiled block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch

import architectures
from mad.run.metrics import cross_entropy
from mad.run.place import Place
from on_gpu.at import At, Row, ceiling_at

Measured = Iterator[tuple[str, Callable[[], Row]]]


class Size(NamedTuple):
    layers: int
    dim: int
    vocab_size: int
    length: int
    batch: int


SIZES = {"10M": Size(8, 256, 8192, 512, 64), "100M": Size(18, 640, 8192, 1024, 16)}
TINY = {"tiny": Size(1, 16, 16, 8, 2)}


def steps(at: At) -> Measured:
    for name, size in (TINY if at.dry else SIZES).items():
        yield name, partial(_step, at, size)


def _step(at: At, size: Size) -> Row:
    spec = f"{size.layers}*(mh-attention[heads={max(1, size.dim // 64)}] swiglu)"
    model = architectures.build(
        spec, vocab_size=size.vocab_size, dim=size.dim, max_len=size.length, seed=0
    ).to(at.device)
    tokens = torch.randint(size.vocab_size, (size.batch, size.length + 1), device=at.device)
    found = architectures.account(spec, vocab_size=size.vocab_size, dim=size.dim, seq_len=size.length)
    adamw, place = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True), Place(at.device, "bf16-mixed")

    def run(steps: int) -> None:
        for _ in range(steps):
            with place.autocast():
                loss = cross_entropy(model(tokens[:, :-1]), tokens[:, 1:])
            loss.backward()
            adamw.step()
            adamw.zero_grad()

    per_step = size.batch * size.length
    row: Row = {"parameters": found.params, "eager tokens/s": per_step / at.per_step(run)}
    # Blocks of one kind share what is compiled.
    for block in model.blocks:
        block.compile(backend="eager" if at.dry else "inductor")
    start = at.now()
    run(2)
    row["warm-up s"] = at.now() - start
    row["compiled tokens/s"] = per_step / at.per_step(run)
    reached = row["compiled tokens/s"] * (found.training_flops or 0.0)
    return row | {"of ceiling": reached / ceiling_at(at, "bf16-mixed")}
