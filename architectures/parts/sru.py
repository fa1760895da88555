"""The simple recurrent unit between two maps: a narrow gated memory of each channel by itself."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from architectures.functional.scan import linear_scan
from architectures.primitive import linear_flops

# What keeps the variance of the highway through fresh gates (arXiv:1709.02755).
HIGHWAY = math.sqrt(3)


class SRU(nn.Module):
    """c_t = f_t c_{t-1} + (1 - f_t) z_t,  h_t = r_t c_t + (1 - r_t) sqrt(3) u_t,  y = W_out h,  u = W_in x.

    f = sigmoid(W_f u + b_f), r = sigmoid(W_r u + b_r), z = W u + b: x (B, T, D) -> u, c (B, T, N) -> y (B, T,
    D). No gate looks at the state, so that it is a linear scan, at least in float32.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.down = nn.Linear(dim, width, bias=False)
        self.gates = nn.Linear(width, 3 * width)  # f, r, z
        self.up = nn.Linear(width, dim, bias=False)
        nn.init.zeros_(self.gates.bias)

    def forward(self, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """u = down(x) (B, T, N) and c before it (B, N) -> y (B, T, D) and c after it."""
        high = torch.promote_types(u.dtype, torch.float32)
        f, r, z = self.gates(u).to(high).chunk(3, dim=-1)
        f, r = f.sigmoid(), r.sigmoid()
        written = (1 - f) * z
        written = torch.cat([written[:, :1] + f[:, :1] * state[:, None], written[:, 1:]], dim=1)
        c = linear_scan(f, written)
        h = r * c + (1 - r) * (HIGHWAY * u)
        return self.up(h.to(u.dtype)), c[:, -1]

    def init_state(self, batch: int) -> Tensor:
        weight = self.down.weight
        return weight.new_zeros(batch, self.width, dtype=torch.promote_types(weight.dtype, torch.float32))

    def flops(self, length: int) -> int:
        return length * linear_flops(self) + self.uncounted_flops(length)

    def uncounted_flops(self, length: int) -> int:
        # A cell: 1 - f and its product, the multiply-add of the state, and the highway.
        return 9 * length * self.width
