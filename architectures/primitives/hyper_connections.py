"""Hyper-connections: several residual streams, and learned maps between them around each block."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal, cast

import torch
from torch import Tensor, nn

from architectures.families.wrapper import Block, Run, Wrapper
from architectures.parts.norms import RMSNorm
from architectures.primitive import Context, Options, option
from architectures.registry import primitive

SINKHORN_STEPS = 20


@primitive(
    "hyper-connections",
    mixes="stream",
    paper="arXiv:2409.19606",
    example="hyper-connections{mh-attention mlp}",
    known_as="mHC (kind=manifold)",
)
class HyperConnections(Wrapper):
    """X = H_res X + h_post f(h_pre X) for each block f of the body, X (n, D) streams: (B, T, D) -> (B, T, D).

    The streams start as n copies of x and end as their mean. kind="static" learns the maps; "dynamic" adds
    0.01 tanh(norm(X) W), of the token; "manifold" (arXiv:2512.24880) makes h_pre a sigmoid, h_post twice a
    sigmoid and H_res doubly stochastic by Sinkhorn's iteration, so that depth neither blows up nor loses the
    stream. All start as the plain residual: whatever the streams hold is equal, h_post = 1, rows of H_res sum
    to 1. Differs from the paper: the streams end as their mean instead of their sum, which the final norm
    would undo.
    """

    undecayed = ("maps",)

    class Config(Options):
        streams: int = option(4, "n, residual streams", most=64, least=1)
        kind: Literal["static", "dynamic", "manifold"] = option("dynamic", "how the maps are made")

    config: Config

    def __init__(self, config: Config, *, body: list[Block], dim: int, **place: int) -> None:
        super().__init__(config, body=body, dim=dim, **place)
        n = config.streams
        self.maps = nn.ModuleList([Maps(dim, n, config.kind, i % n) for i in range(len(body))])

    def thread(self, x: Tensor, run: Run, ctx: Context) -> Tensor:
        # Contiguous: a batched product of strided views is computed row by row.
        streams = x[..., None, :].expand(*x.shape[:-1], self.config.streams, self.dim).contiguous()
        for block, maps in zip(self.order(), cast("Iterable[Maps]", self.maps), strict=True):
            pre, mixed, post = maps(streams)
            y = run(block, (pre[..., None, :] @ streams)[..., 0, :])
            streams = mixed @ streams + post[..., None] * y[..., None, :]
        return streams.mean(-2)

    def own_flops(self, length: int) -> int:
        n = self.config.streams
        # h_pre X, H_res X, and the maps of the token: n rows of D channels, or one of n D.
        dynamic = {"static": 0, "dynamic": n + 2, "manifold": n * n + 2 * n}[self.config.kind]
        a_block = 2 * n * self.dim * (1 + n + dynamic)
        return len(self.maps) * length * a_block + self.own_uncounted(length)

    def own_uncounted(self, length: int) -> int:
        return len(self.maps) * length * 2 * self.config.streams * self.dim  # h_post y and its sum


class Maps(nn.Module):
    """The streams (..., n, D) -> h_pre (..., n), H_res (..., n, n), h_post (..., n) of one block."""

    def __init__(self, dim: int, streams: int, kind: str, chosen: int) -> None:
        super().__init__()
        self.kind, self.streams = kind, streams
        n = streams
        if kind == "manifold":
            # sigmoid^-1(1/n): the mean of the streams; off the diagonal e^-8: nearly the identity.
            pre = torch.full((n,), -math.log(n - 1) if n > 1 else 8.0)
            mixed, post = 8 * torch.eye(n) - 8, torch.zeros(n)
        else:
            pre, mixed, post = torch.eye(n)[chosen], torch.eye(n), torch.ones(n)
        self.pre, self.mixed, self.post = nn.Parameter(pre), nn.Parameter(mixed), nn.Parameter(post)
        if kind != "static":
            rows, columns = (dim, n + 2) if kind == "dynamic" else (n * dim, n * n + 2 * n)
            self.norm = RMSNorm(rows)
            self.weight = nn.Parameter(torch.zeros(rows, columns))
            self.scale = nn.Parameter(torch.full((3,), 0.01))

    def forward(self, streams: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        high = torch.promote_types(streams.dtype, torch.float32)
        pre, mixed, post = self.pre.to(high), self.mixed.to(high), self.post.to(high)
        n = self.streams
        if self.kind == "dynamic":
            found = (self.norm(streams) @ self.weight).to(high).tanh()  # (..., n, n + 2)
            pre = pre + self.scale[0] * found[..., 0]
            mixed = mixed + self.scale[1] * found[..., 1:-1]
            post = post + self.scale[2] * found[..., -1]
        elif self.kind == "manifold":
            found = (self.norm(streams.flatten(-2)) @ self.weight).to(high)
            a, b, c = found.split([n, n * n, n], dim=-1)
            pre = torch.sigmoid(pre + self.scale[0] * a)
            mixed = doubly_stochastic(mixed + self.scale[1] * b.unflatten(-1, (n, n)))
            post = 2 * torch.sigmoid(post + self.scale[2] * c)
        dtype = streams.dtype
        return pre.to(dtype), mixed.to(dtype), post.to(dtype)


def doubly_stochastic(logits: Tensor) -> Tensor:
    """exp(logits) (..., n, n) with columns and then rows brought to sum 1, by turns, in log space."""
    for _ in range(SINKHORN_STEPS):
        logits = logits - logits.logsumexp(-2, keepdim=True)
        logits = logits - logits.logsumexp(-1, keepdim=True)
    return logits.exp()
