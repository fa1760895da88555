"""M2RNN: a matrix memory that is not linear in its state."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.families.matrix_memory import MatrixMemory, Vectors
from architectures.families.options import taps
from architectures.functional.steps import draw_rate, draw_step_bias, log_decay
from architectures.functional.tanh_recurrence import tanh_recurrence
from architectures.parts.norms import RMSNorm
from architectures.primitive import Context, State, option
from architectures.registry import primitive


@primitive("m2rnn", mixes="time", version=1, paper="arXiv:2603.14360")
class M2RNN(MatrixMemory):
    """S_t = f_t S_{t-1} + (1 - f_t) tanh(S_{t-1} W + k_t v_t^T),  o_t = S_t^T q_t + d * v_t.

    x (B, T, D) -> q, k (B, T, K), shared by all heads, v (B, T, H, V), f (B, T, H) -> (B, T, D). q, k and v
    pass a short causal convolution and silu; f_t is the decay of `gated-delta-net`. W (V, V) per head starts
    as the identity, d (V) per head at 1. The output, gated by silu, is normalised by RMSNorm over all heads.
    The gradient of every element of S_t is clipped to +-`clip` at each token, so it is not the slope where
    the clip binds. Sequential: nothing is done in chunks, and both passes take T steps, each with a product
    of V x V for every row of S. Differs from the paper: heads of 16 channels by default, with K = 16 for an
    equal state, where K = 64 there.

    Hypothesis: follows states at lengths beyond those trained on, where linear memories fail; recalls no more
    than a linear memory of equal state.
    """

    anew = False
    undecayed = ("log_rate", "dt_bias", "skip")
    straight_through = True  # a clipped gradient is no slope

    class Config(MatrixMemory.Config):
        conv: int = taps(4)
        clip: float | None = option(
            1.0, "bound on an element of the gradient of the state, at each token; none: no bound", least=0
        )

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.clip == 0:
                raise ValueError("clip=0 lets no gradient through; choose a number above 0, or none")

    config: Config

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        key, values = self.key_dim, self.heads * self.value_dim
        self.add_projection(key, key, values)
        self.add_gate()
        self.gates += 2 * values  # d v
        self.dt = nn.Linear(dim, self.heads, bias=False)
        self.dt_bias = nn.Parameter(draw_step_bias(self.heads))
        self.log_rate = nn.Parameter(draw_rate(self.heads, 0, 16).log())
        self.transition = nn.Parameter(torch.eye(self.value_dim).repeat(self.heads, 1, 1))
        self.skip = nn.Parameter(torch.ones(self.heads, self.value_dim))
        self.norm = RMSNorm(values)
        self.out = nn.Linear(values, dim, bias=False)

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Vectors, State]:
        z, tail = self.conv(self.project(x), carry[0])
        q, k, v = z.to(torch.promote_types(x.dtype, torch.float32)).split(self.widths, dim=-1)
        log_f = log_decay(self.dt(x), self.dt_bias, self.log_rate)  # (B, T, H)
        return Vectors(q=q, k=k, v=v.unflatten(-1, (self.heads, -1)), log_a=log_f), (tail,)

    def recur(self, z: Vectors, s: Tensor) -> tuple[Tensor, Tensor]:
        assert z.log_a is not None
        w = self.transition.to(z.v.dtype)
        return tanh_recurrence(z.q, z.k, z.v, z.log_a.exp(), w, s, clip=self.config.clip)

    recur_once = recur

    def read(self, o: Tensor, x: Tensor, tokens: Vectors) -> Tensor:
        o = (o + self.skip.to(o.dtype) * tokens.v).flatten(-2).to(x.dtype)
        return self.out(self.norm(o * F.silu(self.gate(x))))

    def measure_state(self, length: int) -> dict[str, int]:
        """Its sizes are those after the first token, and each token is a step."""
        return super().measure_state(min(length, 1))

    def state_flops(self, length: int) -> int:
        return sum(self.recur_flops(length))

    def recur_flops(self, length: int) -> tuple[int, int]:
        # A cell of S: a row times a column of W, and its reading; k v^T and its sum, and the mean by f.
        cells = length * self.heads * self.key_dim * self.value_dim
        return (2 * self.value_dim + 2) * cells, 5 * cells
