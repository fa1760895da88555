"""Channel mixers that act on each position by itself: MLP, squared-ReLU MLP and SwiGLU."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from architectures.primitive import Context, Primitive, option, round_up
from architectures.registry import primitive


def check_inner(inner: int | None) -> None:
    if inner is not None and inner < 1:
        raise ValueError(f"inner={inner} must be at least 1")


@primitive("mlp", mixes="channel", version=1, paper="arXiv:1706.03762")
class MLP(Primitive):
    """y = W_out gelu(W_in x), position by position, without biases: (B, T, D) -> (B, T, D).

    Differs from the paper: GELU (arXiv:1606.08415) instead of ReLU, no biases.
    """

    writers = ("down",)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        inner: int | None = option(
            None, "inner width; none: 4 times the width", scales="width", sets="params"
        )

        def __post_init__(self) -> None:
            check_inner(self.inner)

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.inner = config.inner or 4 * dim
        self.up = nn.Linear(dim, self.inner, bias=False)
        self.down = nn.Linear(self.inner, dim, bias=False)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        return self.down(F.gelu(self.up(x)))

    def flops(self, length: int) -> int:
        return 4 * length * self.dim * self.inner


@primitive("relu2-mlp", mixes="channel", version=1, paper="arXiv:2109.08668")
class ReLU2MLP(Primitive):
    """y = W_out relu(W_in x)^2, position by position, without biases: (B, T, D) -> (B, T, D).

    Differs from the paper: no biases.
    """

    writers = ("down",)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        inner: int | None = option(
            None, "inner width; none: 4 times the width", scales="width", sets="params"
        )

        def __post_init__(self) -> None:
            check_inner(self.inner)

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.inner = config.inner or 4 * dim
        self.up = nn.Linear(dim, self.inner, bias=False)
        self.down = nn.Linear(self.inner, dim, bias=False)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        return self.down(F.relu(self.up(x)).square())

    def flops(self, length: int) -> int:
        return 4 * length * self.dim * self.inner


@primitive("swiglu", mixes="channel", version=1, paper="arXiv:2002.05202")
class SwiGLU(Primitive):
    """y = W_out (silu(W_gate x) * W_up x), position by position, without biases: (B, T, D) -> (B, T, D)."""

    writers = ("down",)

    @dataclass(frozen=True, kw_only=True)
    class Config:
        inner: int | None = option(
            None,
            "inner width; none: 8/3 of the width, rounded up to a multiple of 16",
            scales="width",
            sets="params",
        )

        def __post_init__(self) -> None:
            check_inner(self.inner)

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.inner = config.inner or round_up(8 * dim / 3, 16)
        self.gate = nn.Linear(dim, self.inner, bias=False)
        self.up = nn.Linear(dim, self.inner, bias=False)
        self.down = nn.Linear(self.inner, dim, bias=False)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))

    def flops(self, length: int) -> int:
        return 6 * length * self.dim * self.inner + self.unseen(length)

    def unseen(self, length: int) -> int:
        return length * self.inner
