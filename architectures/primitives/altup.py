"""AltUp: a token representation K times as wide as the layers that work on it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.families.wrapper import Block, Run, Wrapper
from architectures.functional.precision import full_precision
from architectures.parts.norms import RMSNorm
from architectures.primitive import Context, Options, option
from architectures.registry import primitive, variant

# Of the published model: the largest coefficient weight, and the least mean square that is divided by.
CLIP, FLOOR = 120.0, 1e-5


@primitive(
    "altup", mixes="stream", paper="arXiv:2301.13310", example="altup[recycled=true]{mh-attention mlp}"
)
class AltUp(Wrapper):
    """x_i = z_i + g_i (L(x_j) - z_j), z = P x, for each block of the body on slice j: (B, T, D) -> (B, T, D).

    The stream is K slices x_1 .. x_K, each D wide, and L(x_j) = x_j + f(norm(x_j)) runs on one of them:
    predict z, compute, correct, with P (K, K) and g (K) learned for each block of the body. Slice j is the
    next one at each block, or with schedule=same always the first. P = I and g = 1 at the start: every slice
    then adds what the block adds.

    recycled=false: the stream is (B, T, K D) outside too, so embedding, final norm and readout are K D wide,
    and the layer must be the only item of a spec. recycled=true: the slices start as copies of x and end as
    their mean, anywhere. form=gemma3n: P and g are functions of the token, L runs on z_j instead of x_j, and
    the slices start as projections of x and end as the mean of projections, see `Routed` and `Projected`.

    Differs from the paper: a block is one layer of the body, so that attention and its MLP count as two, and
    `repeat[times=1]{mh-attention mlp}` as one; recycled slices end as their mean, not their sum. gemma3n goes
    without the per-layer embeddings, the low-rank branch and the sparse MLPs of its model.
    """

    keeps_width: ClassVar[str] = "recycled=true"
    chosen: Tensor

    undecayed = ("p", "g", "maps")  # coefficients are not pulled away from the identity

    class Config(Options):
        k: int = option(2, "slices of the stream", most=64, least=1)
        schedule: Literal["alternating", "same"] = option(
            "alternating", "the slice that a block runs on: the next one at each block, or always the first"
        )
        recycled: bool = option(False, "start as copies and end as the mean, instead of a wider embedding")
        form: Literal["scalar", "gemma3n"] = option("scalar", "numbers are learned, or made of the token")

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.form == "gemma3n" and (self.schedule != "same" or self.recycled):
                raise ValueError(
                    f"form=gemma3n with schedule={self.schedule}, recycled={str(self.recycled).lower()}: its "
                    "first slice is always the active one, and its slices are projections; state "
                    "schedule=same, recycled=false, or write gemma3n-altup"
                )

    config: Config

    def __init__(self, config: Config, *, body: list[Block], dim: int, **place: int) -> None:
        super().__init__(config, body=body, dim=dim, **place)
        k, count = config.k, len(body)
        self.active = [0 if config.schedule == "same" else i % k for i in range(count)]
        if config.form == "gemma3n":
            self.maps = nn.ModuleList([Routed(dim, k) for _ in body])
            self.ends = Projected(dim, k)
        else:
            self.p = nn.Parameter(torch.eye(k).repeat(count, 1, 1))
            self.g = nn.Parameter(torch.ones(count, k))
            self.register_buffer("chosen", torch.eye(k)[self.active], persistent=False)  # (blocks, K)

    @property
    def stream_width(self) -> int:
        return self.config.k * self.dim if self.wide else self.dim

    @property
    def wide(self) -> bool:
        """Whether the stream is K D wide outside, too."""
        return self.config.form == "scalar" and not self.config.recycled

    def thread(self, x: Tensor, run: Run, ctx: Context) -> Tensor:
        if self.config.form == "gemma3n":
            return self._thread_routed(x, run)
        k = self.config.k
        slices: list[Tensor] = list(x.unflatten(-1, (k, self.dim)).unbind(-2)) if self.wide else k * [x]
        for block, j, mix in zip(self.order(), self.active, self._mixes(), strict=True):
            # Predict and correct are one product of all that is there, K x (K + 1) by (K + 1) x (B T D): what
            # moves K small vectors one by one costs more than the layer saves.
            rows = torch.stack([*slices, run(block, slices[j]).to(x.dtype)])
            with full_precision(x):
                slices = list((mix.to(x.dtype) @ rows.flatten(1)).unflatten(1, rows.shape[1:]).unbind(0))
        return torch.cat(slices, dim=-1) if self.wide else sum(slices[1:], slices[0]) / k

    def own_flops(self, length: int) -> int:
        k, dim = self.config.k, self.dim
        if self.config.form == "scalar":
            return len(self.body) * length * 2 * k * (k + 1) * dim
        coefficients = 2 * k * (2 * dim + k * k + k)
        a_block = coefficients + 2 * k * k * dim
        ends = 2 * 2 * (k - 1) * dim * dim
        return length * (len(self.body) * a_block + ends) + self.own_uncounted(length)

    def own_uncounted(self, length: int) -> int:
        correction = 2 * self.config.k * self.dim  # of gemma3n, a multiplication and a sum
        return len(self.body) * length * correction if self.config.form == "gemma3n" else 0

    def _mixes(self) -> tuple[Tensor, ...]:
        """For each block, P + g (e_j - P_j) beside g, (K, K + 1), P_j row j of P: x and f -> the next x.

        x_i = z_i + g_i (x_j + f - z_j) with z = P x.
        """
        old = self.chosen - (self.chosen[..., None] * self.p).sum(1)
        return torch.cat([self.p + self.g[..., None] * old[:, None], self.g[..., None]], dim=-1).unbind(0)

    def _thread_routed(self, x: Tensor, run: Run) -> Tensor:
        slices = self.ends.widen(x)  # (..., K, D)
        for block, maps in zip(self.order(), cast("Iterable[Routed]", self.maps), strict=True):
            predicted = maps.predict(slices)
            y = run(block, predicted[..., 0, :])
            slices = maps.correct(predicted, y.to(x.dtype))
        return self.ends.narrow(slices)


class Routed(nn.Module):
    """The coefficients of a token, of slices (..., K, D), the first of which is active.

    m(u) = tanh(W_r norm(u) / D), K numbers. Predict z = x + C x with C (K, K) = W_p m(x_0); correct z_i + (1
    + c_i) (L(z_0) - z_0) with c = W_c m(L(z_0)).
    """

    def __init__(self, dim: int, k: int) -> None:
        super().__init__()
        self.norm = RMSNorm(dim)
        self.router = nn.Parameter(0.02 * torch.randn(k, dim))
        self.prediction = nn.Parameter(0.02 * torch.randn(k * k, k))
        self.correction = nn.Parameter(0.02 * torch.randn(k, k))

    def predict(self, x: Tensor) -> Tensor:
        with full_precision(x):
            weights = self._coefficients(x[..., 0, :], self.prediction)
            return x + weights.unflatten(-1, (x.shape[-2], x.shape[-2])) @ x

    def correct(self, z: Tensor, change: Tensor) -> Tensor:
        """`change` (..., D): what the block adds to the active slice."""
        with full_precision(z):
            weights = 1 + self._coefficients(z[..., 0, :] + change, self.correction)
            return z + weights[..., None] * change[..., None, :]

    def _coefficients(self, u: Tensor, weight: Tensor) -> Tensor:
        high = torch.promote_types(u.dtype, torch.float32)
        routed = torch.tanh(F.linear(self.norm(u).to(high) / u.shape[-1], self.router.to(high)))
        return F.linear(routed, weight.to(high).clamp(-CLIP, CLIP)).to(u.dtype)


class Projected(nn.Module):
    """x (..., D) -> slices x and U_i x, each as large as x; at the end the mean of slice 0 and V_i x_i."""

    def __init__(self, dim: int, k: int) -> None:
        super().__init__()
        shape = k - 1, dim, dim
        several = k > 1
        self.up = nn.Parameter(dim**-0.5 * torch.randn(shape)) if several else None
        self.down = nn.Parameter(dim**-0.5 * torch.randn(shape)) if several else None

    def widen(self, x: Tensor) -> Tensor:
        if self.up is None:
            return x[..., None, :]
        others = F.linear(x, self.up.flatten(0, 1)).unflatten(-1, self.up.shape[:2])
        return torch.cat([x[..., None, :], resized(others, x[..., None, :])], dim=-2)

    def narrow(self, slices: Tensor) -> Tensor:
        if self.down is None:
            return slices[..., 0, :]
        first, others = slices[..., :1, :], slices[..., 1:, :]
        others = torch.einsum("...kd,ked->...ke", others, self.down)
        return torch.cat([first, resized(others, first)], dim=-2).mean(-2)


def resized(x: Tensor, like: Tensor) -> Tensor:
    """x with the root mean square of `like` over the last axis, in the dtype of `like`."""
    high = torch.promote_types(like.dtype, torch.float32)
    # The square root has no slope at 0.
    wanted = like.to(high).square().mean(-1, keepdim=True).clamp(min=1e-30).sqrt()
    size = x.to(high).square().mean(-1, keepdim=True).clamp(min=FLOOR).sqrt()
    return (x.to(high) * (wanted / size)).to(like.dtype)


EQUATION = "x_i = z_i + (1 + c_i) (L(z_0) - z_0), z = x + C x, for each block, C of token x_0, c of L(z_0)"
EXAMPLE = "gemma3n-altup{mh-attention mlp}"
variant(
    "gemma3n-altup",
    of="altup",
    example=EXAMPLE,
    equation=EQUATION,
    form="gemma3n",
    schedule="same",
    k=4,
    known_as="Gemma 3n",
)
