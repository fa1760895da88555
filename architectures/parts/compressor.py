"""What makes one vector of every few tokens: a softmax over them, channel by channel."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.functional.precision import full_precision
from architectures.parts.norms import RMSNorm


class Compressor(nn.Module):
    """e_i = RMSNorm(sum_j softmax_j(z_j + b_j) * c_j), one for every `stride` tokens; b starts at 0.

    c, z (B, T, K) are maps of x. With `overlap` they are 2 K wide, and the sum is over the first halves of
    the `stride` tokens before, none for the first entry, and the second halves of the own ones. What is
    carried is c and z of the last tokens, as many as the next entry may need.
    """

    def __init__(self, dim: int, width: int, stride: int, *, overlap: bool) -> None:
        super().__init__()
        self.stride, self.overlap, self.width = stride, overlap, width
        self.maps = nn.Linear(dim, (4 if overlap else 2) * width, bias=False)
        self.bias = nn.Parameter(torch.zeros(stride, (2 if overlap else 1) * width))
        self.norm = RMSNorm(width)

    def init_tail(self, batch: int) -> Tensor:
        """Zeros for the tokens before the first, at least float32."""
        like, kept = self.maps.weight, (2 if self.overlap else 1) * self.stride - 1
        high = torch.promote_types(like.dtype, torch.float32)
        return like.new_zeros(batch, kept, self.maps.out_features, dtype=high)

    def forward(self, x: Tensor, tail: Tensor, waiting: int, done: int) -> tuple[Tensor, Tensor]:
        """x (B, T, D) after `waiting` tokens of no entry yet and `done` entries -> new entries, next tail."""
        before = self.stride if self.overlap else 0
        with full_precision(x):
            maps = F.linear(x.to(tail.dtype), self.maps.weight.to(tail.dtype))
        joined = torch.cat([tail, maps], dim=1)
        count = (waiting + x.shape[1]) // self.stride
        rows = joined[:, tail.shape[1] - waiting - before :]
        own = self.slots(rows[:, before : before + count * self.stride], count, self.overlap)
        if self.overlap:
            first = torch.arange(done, done + count, device=x.device)[:, None, None] == 0
            c, z = self.slots(rows[:, : count * self.stride], count, False)
            z = z.masked_fill(first, float("-inf"))
            own = torch.cat([c, own[0]], dim=2), torch.cat([z, own[1]], dim=2)
        entries = (own[1].softmax(2) * own[0]).sum(2)
        return self.norm(entries), joined[:, x.shape[1] :]

    def slots(self, rows: Tensor, count: int, second: bool) -> tuple[Tensor, Tensor]:
        """c and z + b (B, N, stride, K) of N entries, the first halves or the second ones."""
        halves = slice(self.width, None) if second else slice(self.width)
        c, z = rows.unflatten(1, (count, self.stride)).chunk(2, dim=-1)
        return c[..., halves], z[..., halves] + self.bias[:, halves].to(z.dtype)

    def flops(self, length: int) -> int:
        """The weighted sums; what is a map is an `nn.Linear`."""
        return 2 * (length // self.stride) * self.stride * self.bias.shape[1]
