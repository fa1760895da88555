"""MesaNet: linear regression of values on keys, solved anew for every token."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.families.matrix_memory import MatrixMemory, Vectors
from architectures.families.options import SILU, taps
from architectures.functional.delta import SCALAR_CHUNK, delta_flops, delta_rule, delta_step, unit
from architectures.functional.steps import softplus
from architectures.primitive import Context, State
from architectures.registry import primitive

# The least regulariser, which bounds the condition of every system, and where it starts.
RIDGE_MIN = 0.25
RIDGE_START = 1.0


@primitive("mesa-net", mixes="time", version=1, paper="arXiv:2506.05233")
class MesaNet(MatrixMemory):
    """H_t = a_t H_{t-1} + b_t k_t k_t^T,  G_t = a_t G_{t-1} + b_t k_t v_t^T,  o_t = G_t^T (H_t + R)^-1 q_t.

    x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V) -> (B, T, D). q and k pass a short causal convolution and
    silu, and have length 1. a_t and b_t in (0, 1) are sigmoids per head; R is diagonal, softplus(ridge) +
    0.25, learned per key channel, and starts at 1. The output is normalised per head by RMSNorm. The state is
    H and G side by side, (B, H, K, K + V). Differs from the paper: the systems are solved by Cholesky factors
    instead of 30 steps of conjugate gradients; heads are 16 wide by default.
    """

    undecayed = ("ridge",)
    anew = False

    class Config(MatrixMemory.Config):
        conv: int = taps(4, f"{SILU} q and k")

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        keys, values = self.heads * self.key_dim, self.heads * self.value_dim
        self.add_projection(keys, keys)
        self.value = nn.Linear(dim, values, bias=False)
        self.forget = nn.Linear(dim, self.heads)
        self.strength = nn.Linear(dim, self.heads)
        start = math.log(math.expm1(RIDGE_START - RIDGE_MIN))
        self.ridge = nn.Parameter(torch.full((self.heads, self.key_dim), start))
        self.add_output()

    def memory_shape(self) -> tuple[int, ...]:
        return self.heads, self.key_dim, self.key_dim + self.value_dim

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Vectors, State]:
        vectors, tail = self.vectors(x, carry[0])
        q, k = (unit(z) for z in vectors)
        high = q.dtype
        v = self.value(x).to(high).unflatten(-1, (self.heads, -1))
        log_a = F.logsigmoid(self.forget(x).to(high))  # (B, T, H)
        strength = self.strength(x).to(high).sigmoid()[..., None]
        return Vectors(q=q, k=strength * k, v=v, log_a=log_a, kept=k), (tail,)

    def recur(self, z: Vectors, s: Tensor) -> tuple[Tensor, Tensor]:
        """The factors of all H_t take no gradient: their solution is a guess, corrected by what remains of q.

        What remains is rounding, but its gradient is that of the solution, at the price of a recurrence
        instead of the K x K gradient of a factor a token.
        """
        ridge = self._ridge(z.q)
        moment, joint = s.split([self.key_dim, self.value_dim], dim=-1)
        factor = self._factors(z, moment, ridge)
        guess = _solve(factor, z.q.detach())
        applied, moment = delta_rule(guess, z.k, z.kept, z.log_a, moment)
        found = guess + _solve(factor, z.q - applied - ridge * guess)
        o, joint = delta_rule(found, z.k, z.v, z.log_a, joint)
        return o, torch.cat([moment, joint], dim=-1)

    def recur_once(self, z: Vectors, s: Tensor) -> tuple[Tensor, Tensor]:
        assert z.log_a is not None
        ridge = self._ridge(z.q)
        _, s = delta_step(z.q[:, 0], z.k[:, 0], torch.cat([z.kept, z.v], dim=-1)[:, 0], z.log_a[:, 0], s)
        moment, joint = s.split([self.key_dim, self.value_dim], dim=-1)
        factor = torch.linalg.cholesky_ex(moment + torch.diag_embed(ridge))[0]
        return (_solve(factor, z.q[:, 0])[..., None] * joint).sum(-2)[:, None], s

    def state_flops(self, length: int) -> int:
        # H and G are written and G is read; a factor and its two triangular systems.
        key, value = self.key_dim, self.value_dim
        token = 2 * key**2 + 4 * key * value + self._solve_flops(1)
        return length * self.heads * token

    def recur_flops(self, length: int) -> tuple[int, int]:
        key, total, rest = self.key_dim, 0, length * (self.key_dim**2 + self._solve_flops(2))
        for shape in ((1, key**2), (key, key), (key, self.value_dim)):
            products, others = delta_flops(length, *shape, chunk=SCALAR_CHUNK, form=self.form)
            total, rest = total + products, rest + others
        return self.heads * total, self.heads * rest

    def _ridge(self, like: Tensor) -> Tensor:
        return softplus(self.ridge.to(like.dtype)) + RIDGE_MIN  # (H, K)

    def _factors(self, z: Vectors, moment: Tensor, ridge: Tensor) -> Tensor:
        """Cholesky factors of H_t + R, (B, T, H, K, K): H_t is a recurrence on one row of K^2 cells."""
        cells = (z.k[..., None] * z.kept[..., None, :]).flatten(-2).detach()
        one = torch.ones_like(cells[..., :1])
        log_a = None if z.log_a is None else z.log_a.detach()
        h, _ = delta_rule(one, one, cells, log_a, moment.detach().flatten(-2)[:, :, None])
        h = h.unflatten(-1, (self.key_dim, self.key_dim))
        return torch.linalg.cholesky_ex(h + torch.diag_embed(ridge.detach()))[0]

    def _solve_flops(self, solutions: int) -> int:
        return self.key_dim**3 // 3 + solutions * 2 * self.key_dim**2


def _solve(factor: Tensor, right: Tensor) -> Tensor:
    """(L L^T)^-1 right: factor (..., K, K), right (..., K)."""
    half = torch.linalg.solve_triangular(factor, right[..., None], upper=False)
    return torch.linalg.solve_triangular(factor.mT, half, upper=True)[..., 0]
