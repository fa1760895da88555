"""Part 4: plain PyTorch against kernels. The chunked recurrence against the Triton kernels of `fla-core`,
where they load; softmax attention against that of torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from architectures.functional.attention import attend
from architectures.functional.delta import delta_rule
from on_gpu.at import At, Row, gap, judged

Measured = Iterator[tuple[str, Callable[[], Row]]]
Inputs = dict[str, Tensor]
# (B, T, H, K): of the study, and longer.
SHAPES = ((128, 128, 8, 16), (16, 1024, 8, 16))


def _delta(z: Inputs) -> Tensor:
    b = z["beta"][..., None]
    return delta_rule(z["q"], b * z["k"], z["v"], y=z["k"])[0]


def _gated_delta(z: Inputs) -> Tensor:
    b, y = z["beta"][..., None], z["g"].exp()[..., None] * z["k"]
    return delta_rule(z["q"], b * z["k"], z["v"], z["g"], y=y)[0]


def _kda(z: Inputs) -> Tensor:
    b, y = z["beta"][..., None], z["gk"].exp() * z["k"]
    return delta_rule(z["q"], b * z["k"], z["v"], z["gk"], y=y)[0]


def _gla(z: Inputs) -> Tensor:
    return delta_rule(z["q"], z["k"], z["v"], z["gk"])[0]


def _simple_gla(z: Inputs) -> Tensor:
    return delta_rule(z["q"], z["k"], z["v"], z["g"])[0]


def _attention(z: Inputs) -> Tensor:
    return attend(z["q"], z["k"], z["v"], scale=1.0)


def _fla(path: str, **arguments: str) -> Callable[[Inputs], Tensor]:
    """A kernel of theirs, and its arguments by the names of our inputs."""
    module, _, name = path.rpartition(".")
    kernel = getattr(importlib.import_module(f"fla.ops.{module}"), name)

    def call(z: Inputs) -> Tensor:
        given: dict[str, Any] = {theirs: z[ours] for theirs, ours in arguments.items()}
        return kernel(z["q"], z["k"], z["v"], scale=1.0, **given)[0]

    return call


def _torch() -> Callable[[Inputs], Tensor]:
    def call(z: Inputs) -> Tensor:
        q, k, v = (z[name].transpose(1, 2) for name in ("q", "k", "v"))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0).transpose(1, 2)

    return call


# What is ours, and what finds its peer.
KERNELS: dict[str, tuple[Callable[[Inputs], Tensor], Callable[[], Callable[[Inputs], Tensor]]]] = {
    "softmax attention, torch": (_attention, _torch),
    "delta rule": (_delta, partial(_fla, "delta_rule.chunk_delta_rule", beta="beta")),
    "gated delta rule": (
        _gated_delta,
        partial(_fla, "gated_delta_rule.chunk_gated_delta_rule", g="g", beta="beta"),
    ),
    "kda": (_kda, partial(_fla, "kda.chunk_kda", g="gk", beta="beta")),
    "gated linear attention": (_gla, partial(_fla, "gla.chunk_gla", g="gk")),
    "scalar decay": (_simple_gla, partial(_fla, "simple_gla.chunk_simple_gla", g="g")),
}


def kernels(at: At) -> Measured:
    """Forward and backward, of the same bfloat16 inputs; the recurrence is computed in float32."""
    for shape in ((2, 32, 2, 16),) if at.dry else SHAPES:
        for name in KERNELS:
            yield f"{name}, {'x'.join(map(str, shape))}", partial(_compare, at, name, shape)


def _compare(at: At, name: str, shape: tuple[int, ...]) -> Row:
    ours, find = KERNELS[name]
    mine = inputs(shape, at.device)
    row: Row = {"ms": 1e3 * at.per_step(lambda n: [_gradients(ours, mine) for _ in range(n)])}
    if at.device.type != "cuda" and find is not _torch:
        return row | {"note": "Triton needs CUDA"}
    try:
        peer = find()
    except ImportError as error:
        return row | {"note": f"not loaded: {error}"}
    row["peer ms"] = 1e3 * at.per_step(lambda n: [_gradients(peer, mine) for _ in range(n)])
    row["over peer"] = row["ms"] / row["peer ms"]
    differences = map(gap, _gradients(ours, mine), _gradients(peer, mine))
    return judged(row | {"difference": max(differences)}, difference=0.1)


def inputs(shape: tuple[int, ...], device: torch.device) -> Inputs:
    """q, k, v (B, T, H, K), log decays g (B, T, H) and gk (B, T, H, K), strengths beta (B, T, H)."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    found = {
        "q": draw(*shape) * shape[-1] ** -0.5,
        "k": F.normalize(draw(*shape), dim=-1),
        "v": draw(*shape),
        "g": -0.1 * draw(*shape[:3]).square(),
        "gk": -0.1 * draw(*shape).square().clamp(max=10),
        "beta": draw(*shape[:3]).sigmoid(),
    }
    low = {n: z.to(device, torch.float32 if n in ("g", "gk") else torch.bfloat16) for n, z in found.items()}
    return {n: z.requires_grad_() for n, z in low.items()}


def _gradients(call: Callable[[Inputs], Tensor], z: Inputs) -> list[Tensor]:
    """The output, and the gradient of its sum of squares for each input that it used."""
    o = call(z)
    found = torch.autograd.grad(o.float().square().sum(), list(z.values()), allow_unused=True)
    return [o, *(gradient for gradient in found if gradient is not None)]
