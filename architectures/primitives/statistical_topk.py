"""Spark's statistical top-k: about the largest inner units alone, found from their mean and deviation."""

from __future__ import annotations

import math
from statistics import NormalDist

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.axes import Axes
from architectures.families.feed_forward import FeedForward, GatedConfig
from architectures.families.options import inner_width
from architectures.primitive import Context, Options, Primitive, option
from architectures.registry import primitive

SHARE = "part of the inner units that are kept, if their inputs are normal; 1: all"


def quantile(share: float) -> float:
    """What a share of normal numbers is above, in deviations from their mean; -inf for all of them."""
    return NormalDist().inv_cdf(1 - share) if share < 1 else -math.inf


def soft_topk(z: Tensor, above: float) -> Tensor:
    """relu(z - mean - above * std) over the last axis, std the biased one; z where `above` is -inf."""
    if above == -math.inf:
        return z
    high = z.to(torch.promote_types(z.dtype, torch.float32))
    mean = high.mean(-1, keepdim=True)
    # The square root has no slope at 0.
    deviation = (high - mean).square().mean(-1, keepdim=True).clamp(min=1e-30).sqrt()
    return F.relu(high - mean - above * deviation).to(z.dtype)


class ShareOptions(Options):
    """A share above 0."""

    share: float = option(0.08, SHARE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share:g} must be above 0 and at most 1; 1 keeps every unit")


@primitive(
    "statistical-topk-mlp", mixes="channel", paper="arXiv:2506.06644", known_as="Spark Transformer (FFN)"
)
class StatisticalTopKMLP(Primitive):
    """y = W_out (gelu(T(W_1 x_1)) * W_2 x_2), x_1 the first r channels, x_2 the rest: (B, T, D) -> (B, T, D).

    T(z) = relu(z - mean(z) - std(z) quantile(1 - share)) over the F inner units: about F * share of them are
    above 0, without a sort, and only their rows of W_2 (F, D - r) and W_out (F, D) are needed. W_1 (F, r),
    which predicts them, takes its parameters from those of the layer, which has as many as `mlp`. The
    threshold is part of what is learned. Without biases. Differs from the paper: every unit is computed; r is
    half of the width, which a summary of the paper gives; no smoothing of T.

    Hypothesis: with a twelfth of its units per token as good as `mlp` of the same parameters where little is
    to be stored, and worse at memorisation.
    """

    kind = "mlp"
    writers = ("down",)

    class Config(ShareOptions):
        inner: int | None = inner_width("4 times the width")
        rank: int | None = option(
            None, "r, channels that predict; none: half of the width", per="width", least=1
        )

    config: Config

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.inner, self.rank = config.inner or 4 * dim, config.rank or max(1, dim // 2)
        if self.rank >= dim:
            raise ValueError(
                f"rank={self.rank} leaves none of the {dim} channels; choose less, or a wider model"
            )
        self.chosen = max(1, round(config.share * self.inner))
        self.above = quantile(config.share)
        self.predict = nn.Linear(self.rank, self.inner, bias=False)
        self.up = nn.Linear(dim - self.rank, self.inner, bias=False)
        self.down = nn.Linear(self.inner, dim, bias=False)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        first, rest = x.split([self.rank, self.dim - self.rank], dim=-1)
        return self.down(F.gelu(self.active(first)) * self.up(rest))

    def active(self, first: Tensor) -> Tensor:
        """T(W_1 x_1), x_1 (..., r) -> (..., F): 0 where a unit is left out."""
        return soft_topk(self.predict(first), self.above)

    def flops(self, length: int) -> int:
        return self._flops(length, self.chosen)

    def executed_flops(self, length: int) -> int:
        return self._flops(length, self.inner)

    def uncounted_flops(self, length: int) -> int:
        return length * self.inner

    def active_params(self) -> int:
        return super().active_params() - (self.inner - self.chosen) * (2 * self.dim - self.rank)

    def _flops(self, length: int, units: int) -> int:
        return length * (2 * self.rank * self.inner + units * (2 * (2 * self.dim - self.rank) + 1))


@primitive("statistical-topk-glu", mixes="channel", paper="arXiv:2506.06644", known_as="Gemma 3n")
class StatisticalTopKGLU(FeedForward):
    """y = W_out (gelu(T(W_gate x)) * W_up x), T a statistical top-k over the units: (B, T, D) -> (B, T, D).

    T(z) = relu(z - mean(z) - std(z) quantile(1 - share)): about F * share of the F units are above 0, and
    only their rows of W_up and W_out are needed. The gate itself is dense; in `statistical-topk-mlp` a part
    of the channels makes it. Without biases. Differs from the paper: the form of Gemma 3n, there in the first
    ten layers only; every unit is computed.

    Hypothesis: as good as `swiglu` with a twentieth of its units per token, but for memorisation.
    """

    gated = True

    class Config(GatedConfig, ShareOptions):
        share: float = option(0.05, SHARE)

    config: Config

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.chosen = max(1, round(config.share * self.inner))
        self.above = quantile(config.share)

    def activate(self, h: Tensor) -> Tensor:
        return F.gelu(soft_topk(h, self.above), approximate="tanh")

    def flops(self, length: int) -> int:
        products = 2 * self.inner * self.dim + self.chosen * (4 * self.dim + 1)
        return length * products + self.canon_flops(length)

    def executed_flops(self, length: int) -> int:
        return super().flops(length)

    def active_params(self) -> int:
        return super().active_params() - 2 * (self.inner - self.chosen) * self.dim

    def axes(self) -> Axes:
        """More units would move the threshold of all."""
        return Axes(
            sizes={"P": self.inner},
            tensors={"up.weight": "P D", "gate.weight": "P D", "down.weight": "D P"}
            | {"up_canon.weight": "P .", "gate_canon.weight": "P ."},
            zero={"D": ("down.weight",)},
            options={"inner": "P"},
        )
