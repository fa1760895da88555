"""Titans with a linear memory: gradients of batches of tokens, with momentum and forgetting."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from architectures.families.matrix_memory import MatrixMemory, Vectors
from architectures.families.options import taps
from architectures.families.trained_memory import TrainedMemory, tokens_of_a_batch
from architectures.functional.delta import unit
from architectures.functional.inner_batches import descend_with_momentum, momentum_descend_flops
from architectures.functional.steps import draw_rate, draw_step_bias, log_decay, strength
from architectures.primitive import Context, State
from architectures.registry import primitive


@primitive("titans-linear", mixes="time", version=1, paper="arXiv:2501.00663", known_as="Titans (LMM)")
class TitansLinear(TrainedMemory, MatrixMemory):
    """S_t = a_t S_{t-1} - M_t,  M_t = m_t M_{t-1} + r_t k_t (S_0^T k_t - v_t)^T,  o_t = S_t^T q_t.

    x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V), a, m, r (B, T, H) -> (B, T, D). Token t reads S_t, but
    the gradients of all tokens of a batch of C = `batch` are those at S_0, the state at the end of the batch
    before: there is nothing to solve. q, k and v pass a short causal convolution and silu, q and k have
    length 1. The output is normalised per head by RMSNorm and gated by silu. Decoding carries S, M, S_0, and
    the number of tokens in the batch as the length of an empty tensor. Differs from the paper: its gates are
    functions of the token that it leaves open; here a_t is the decay of `gated-delta-net`, m_t a sigmoid, and
    r_t = (1 - m_t) / C times a sigmoid, so that no batch takes more than the whole error away. The memory is
    a matrix, heads are 16 wide, and there is neither attention nor a persistent memory beside it.

    Hypothesis: recalls less than `momentum-delta-net`, whose errors are those of the token before, and more
    with smaller batches.
    """

    anew = False
    undecayed = ("log_rate", "dt_bias", "momentum.bias")

    class Config(MatrixMemory.Config):
        conv: int = taps(4)
        batch: int = tokens_of_a_batch()

    config: Config

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.add_projection()
        self.add_gate()
        self.dt = nn.Linear(dim, self.heads, bias=False)
        self.dt_bias = nn.Parameter(draw_step_bias(self.heads))
        self.log_rate = nn.Parameter(draw_rate(self.heads, 0, 16).log())
        self.momentum = nn.Linear(dim, self.heads)
        nn.init.zeros_(self.momentum.bias)
        self.strength = nn.Linear(dim, self.heads, bias=False)
        self.add_output()

    def memory_shape(self) -> tuple[int, ...]:
        return self.heads, 3 * self.key_dim, self.value_dim

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Vectors, State]:
        (q, k, v), tail = self.vectors(x, carry[0])
        log_a = log_decay(self.dt(x), self.dt_bias, self.log_rate)  # (B, T, H)
        logit = self.momentum(x).to(v.dtype)
        rate = strength(-logit) * strength(self.strength(x)) / self.config.batch
        kept = rate, F.logsigmoid(logit), carry[1].shape[1]
        tokens = Vectors(q=unit(q), k=unit(k), v=v, log_a=log_a, kept=kept)
        return tokens, (tail, self.advance(carry[1], x.shape[1]))

    def recur(self, z: Vectors, s: Tensor) -> tuple[Tensor, Tensor]:
        assert z.log_a is not None
        rate, log_m, since = z.kept
        return descend_with_momentum(z.q, z.k, z.v, rate, z.log_a, log_m, s, since, self.config.batch)

    recur_once = recur

    def state_flops(self, length: int) -> int:
        # S_0 is asked, M takes the token up, S takes M up and is read; or as the batches do, if that is less.
        cells = self.heads * self.key_dim * self.value_dim
        return min(8 * length * cells, sum(self.recur_flops(length)))

    def recur_flops(self, length: int) -> tuple[int, int]:
        products, rest = momentum_descend_flops(length, self.key_dim, self.value_dim, self.config.batch)
        return self.heads * products, self.heads * rest
