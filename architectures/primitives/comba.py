"""Comba: a delta rule whose feedback and whose query are corrected by a fraction of the key."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from architectures.families.matrix_memory import MatrixMemory, Vectors
from architectures.families.options import taps
from architectures.functional.delta import unit
from architectures.functional.steps import draw_rate, draw_step_bias, log_decay, strength
from architectures.parts.norms import rms_norm
from architectures.primitive import Context, State, option
from architectures.registry import primitive


@primitive("comba", mixes="time", version=1, paper="arXiv:2506.02475")
class Comba(MatrixMemory):
    """S_t = a_t S_{t-1} + b_t k_t (v_t - S_{t-1}^T p_t)^T,  o_t = S_t^T (q_t - d p_t),  p_t = sigmoid(c) k_t.

    x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V) -> (B, T, D). q and k pass a short causal convolution and
    silu, have length 1, and q is scaled by 1 / sqrt(K) once it is corrected; a_t and b_t are the decay and
    the sigmoid of `gated-delta-net`. The state is asked before it decays, as in the published kernels, and by
    p_t, of which c is learned per head, from 1 on; d, learned per head as well, takes from the query what the
    key will answer. The output is normalised per head by RMSNorm and gated by a sigmoid. Differs from the
    paper: q is corrected after it was given its length, not before, and p_t keeps the length sigmoid(c),
    which the published kernels take away again; heads of 16 channels, K = V, where V = 2 K there.

    Hypothesis: close to `gated-delta-net` everywhere, with the correction of the query ahead of it on fuzzy
    recall.
    """

    form = "tied"
    undecayed = ("log_rate", "dt_bias", "feedback", "correction")

    class Config(MatrixMemory.Config):
        conv: int = taps(4)
        correction: float = option(1.0, "where d starts; 0.02 is the authors' hint for small models", least=0)

    config: Config

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.add_projection()
        self.add_gate()
        self.gates += 3 * self.heads * self.key_dim  # p, d p and its difference from q
        self.dt = nn.Linear(dim, self.heads, bias=False)
        self.dt_bias = nn.Parameter(draw_step_bias(self.heads))
        self.log_rate = nn.Parameter(draw_rate(self.heads, 0, 16).log())
        self.strength = nn.Linear(dim, self.heads, bias=False)
        self.feedback = nn.Parameter(torch.ones(self.heads))
        self.correction = nn.Parameter(torch.full((self.heads,), float(config.correction)))
        self.add_output()

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Vectors, State]:
        (q, k, v), tail = self.vectors(x, carry[0])
        q, k = unit(q), unit(k)
        p = self.feedback.to(k.dtype).sigmoid()[:, None] * k
        q = (q - self.correction.to(q.dtype)[:, None] * p) * self.scale
        b = strength(self.strength(x))[..., None]
        log_a = log_decay(self.dt(x), self.dt_bias, self.log_rate)  # (B, T, H)
        return Vectors(q=q, k=b * k, v=v, log_a=log_a, y=p), (tail,)

    def read(self, o: Tensor, x: Tensor, tokens: Vectors) -> Tensor:
        o = rms_norm(o, self.norm, divisor=self.value_dim).flatten(-2).to(x.dtype)
        return self.out(o * torch.sigmoid(self.gate(x)))
