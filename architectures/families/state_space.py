"""The base of the state-space layers with a matrix a head: sizes, step sizes and the skip."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from architectures.families.matrix_memory import MatrixMemory
from architectures.functional.steps import draw_step_bias
from architectures.primitive import Hint, Primitive, at_least, divisors, option


class StateSpace(MatrixMemory):
    """H = expand * D / V matrices N x V; a subclass adds its projections after these parameters."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        d_state: int = option(64, "N, state elements a channel", scales="head", sets="state")
        head_dim: int | None = option(
            None,
            "V, channels a head; none: the greatest common divisor of 64 and the inner width",
            scales="head",
        )
        expand: int = option(2, "inner width over the model's width")
        conv: int = option(4, "taps of a short convolution and silu on x, B and C; 0: none", most=256)

        def __post_init__(self) -> None:
            at_least(self, d_state=1, head_dim=1, expand=1, conv=0)

    def __init__(self, config: Any, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        # Not MatrixMemory's: the heads divide the inner width, not the model's.
        Primitive.__init__(self, config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.inner, self.key_dim = config.expand * dim, config.d_state
        self.value_dim = config.head_dim or math.gcd(64, self.inner)
        if self.inner % self.value_dim:
            raise ValueError(
                f"the inner width {self.inner} is not divisible by head_dim {self.value_dim}; "
                f"choose head_dim from {', '.join(map(str, divisors(self.inner)))}"
            )
        self.heads = self.inner // self.value_dim
        self.dt_bias = nn.Parameter(draw_step_bias(self.heads))
        self.skip = nn.Parameter(torch.ones(self.heads))

    def hints(self) -> dict[str, Hint]:
        return super().hints() | {name: Hint(decay=False) for name in ("dt_bias", "skip")}
