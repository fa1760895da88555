"""HGRN: a gated recurrence of one number per channel, which forgets less the deeper it lies."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.families.options import canon_taps, taps
from architectures.families.recurrent import Recurrent
from architectures.functional.scan import linear_scan
from architectures.parts.norms import RMSNorm
from architectures.parts.short_conv import ShortConv
from architectures.primitive import Context, Options, State, option
from architectures.registry import primitive


@primitive("hgrn", mixes="time", version=1, paper="arXiv:2311.04823")
class HGRN(Recurrent):
    """h_t = f_t * h_{t-1} + (1 - f_t) * silu(W_i x_t),  f_t = b + (1 - b) sigmoid(W_f x_t).

    x (B, T, D) -> f, h (B, T, R), R = `expand` * D -> y = W_o [norm(h) * silu(W_g x)] (B, T, D), with RMSNorm
    over R. b, one per channel, is the least that a layer keeps; the first layer has b = 0 and no parameter
    for it. Differs from the paper: h is real, as in the public code (fla-org/flash-linear-attention), there
    complex and turned by a learned angle; and as in `hgrn2` every layer has a bound of its own, the sigmoid
    of a parameter that starts where the paper's softmax over depth does at zero, at index / depth.

    Hypothesis: a vector is too small a state for recall, so it memorises and compresses like its matrix
    relatives and falls behind `hgrn2` wherever values are asked by their keys.
    """

    undecayed = ("bound", "conv.weight", "conv.canon")

    class Config(Options):
        expand: int = option(1, "width of the recurrence over the model's", sizes="state", least=1)
        conv: int = taps(0, "a short convolution, without silu, on f and i")
        canon: int = canon_taps("f and i, behind conv")

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.inner = inner = config.expand * dim
        self.project = nn.Linear(dim, 2 * inner, bias=False)  # f, i
        self.conv = ShortConv(2 * inner, config.conv, activation=False, canon=config.canon)
        self.bound: nn.Parameter | None = None
        if index:
            self.bound = nn.Parameter(torch.full((inner,), math.log(index / (depth - index))))
        self.gate = nn.Linear(dim, inner, bias=False)
        self.norm = RMSNorm(inner)
        self.out = nn.Linear(inner, dim, bias=False)

    state_kinds = ("recurrent", "conv")

    def init_state(self, batch: int, length: int | None = None) -> State:
        """h (B, R), in at least float32, and the tail of the short convolution (B, taps - 1, 2 R)."""
        self.check_length(length)
        like = self.project.weight
        high = torch.promote_types(like.dtype, torch.float32)
        return like.new_zeros(batch, self.inner, dtype=high), self.conv.init_tail(like, batch)

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        h, tail = state
        z, tail = self.conv(self.project(x), tail)
        f, i = z.to(torch.promote_types(x.dtype, torch.float32)).chunk(2, dim=-1)  # (B, T, R)
        log_f = F.logsigmoid(f)
        if self.bound is not None:
            bound = self.bound.to(f.dtype)
            log_f = torch.logaddexp(F.logsigmoid(bound), F.logsigmoid(-bound) + log_f)
        f, written = log_f.exp(), -torch.expm1(log_f) * F.silu(i)
        first = written[:, :1] + f[:, :1] * h[:, None]
        h = linear_scan(f, torch.cat([first, written[:, 1:]], dim=1))
        y = self.out(self.norm(h).to(x.dtype) * F.silu(self.gate(x)))
        return y, (h[:, -1], tail)

    def uncounted_flops(self, length: int) -> int:
        # A cell: the bound, 1 - f and its product with the input, multiply-add of the state, gate.
        return self.conv.flops(length) + 7 * length * self.inner
