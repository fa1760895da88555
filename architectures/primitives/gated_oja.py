"""The gated Oja rule: a delta rule that erases on the side of the values."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor, nn

from architectures.families.channel_maps import ChannelMaps, check_gate, decay_gate
from architectures.families.matrix_memory import MatrixMemory, Vectors
from architectures.families.options import taps
from architectures.functional.delta import VECTOR_CHUNK, delta_flops, delta_rule, delta_step, match, unit
from architectures.functional.precision import full_precision
from architectures.functional.steps import strength
from architectures.primitive import Context, State, option
from architectures.registry import primitive


@primitive("gated-oja", mixes="time", version=1, paper="arXiv:2510.26692")
class GatedOja(ChannelMaps, MatrixMemory):
    """S_t = S_{t-1} diag(a_t) (I - b_t v_t v_t^T) + b_t k_t v_t^T,  o_t = S_t^T q_t / sqrt(K).

    x (B, T, D) -> q, k (B, T, H, K), v, a (B, T, H, V) -> (B, T, D). `kda` with keys and values exchanged in
    what decays and what is erased: one decay per value channel, and what the state holds for the value v_t
    makes room for k_t. Its transpose is the state of `kda` for the key v_t and the value k_t, read by the
    other side. q, k and v have length 1: with b_t in (0, 1), or (0, 2), nothing grows. Differs from the
    paper: the rule has none, only the operator `gated_oja_rule` of flash-linear-attention, which gives length
    1 to q and k alone. The layer around it is ours: the maps, the gates and the norm are those of `kda`, from
    whose paper they are, with 16 channels a head by default.

    Hypothesis: as `kda` on every task, since a pair is as well erased by its value as by its key.
    """

    form = "tied"
    decay, anew = "vector", False
    undecayed = ("log_rate", "dt_bias")

    class Config(MatrixMemory.Config):
        conv: int = taps(4)
        gate: str = decay_gate()
        negative_eigenvalues: bool = option(False, "erase with strength in (0, 2) instead of (0, 1)")

        def __post_init__(self) -> None:
            super().__post_init__()
            check_gate(self.gate)

    config: Config

    def __init__(self, config: Any, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.gates = self.heads * self.value_dim
        self.add_projection()
        self.add_maps(self.value_dim)
        self.strength = nn.Linear(dim, self.heads, bias=False)

    def memory_shape(self) -> tuple[int, ...]:
        """The state is kept as its transpose."""
        return self.heads, self.value_dim, self.key_dim

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Vectors, State]:
        (q, k, v), tail = self.vectors(x, carry[0])
        b = strength(self.strength(x), doubled=self.config.negative_eigenvalues)[..., None]
        return Vectors(q=unit(q) * self.scale, k=unit(k), v=v, log_a=self.log_decay(x), kept=b), (tail,)

    def feed(self, z: Vectors) -> Vectors:
        """Values of length 1, whichever layer they are from."""
        return dataclasses.replace(z, v=unit(z.v))

    def recur(self, z: Vectors, s: Tensor) -> tuple[Tensor, Tensor]:
        """`kda` on (v, k), asked for what it holds of each value, says what is written; then q reads."""
        assert z.log_a is not None
        asked, b = z.log_a.exp() * z.v, z.kept
        found, _ = delta_rule(asked, b * z.v, z.k, z.log_a, s, y=asked, read="pre")
        return match(z.q, b * (z.k - found), z.v, z.log_a, s)

    def recur_once(self, z: Vectors, s: Tensor) -> tuple[Tensor, Tensor]:
        assert z.log_a is not None
        v, log_a = z.v[:, 0], z.log_a[:, 0]
        _, s = delta_step(v, z.kept[:, 0] * v, z.k[:, 0], log_a, s, y=log_a.exp() * v)
        with full_precision(s):
            return (s @ z.q[:, 0, ..., None])[:, None, ..., 0], s

    def recur_flops(self, length: int) -> tuple[int, int]:
        key, value = self.key_dim, self.value_dim
        first = delta_flops(length, value, key, chunk=VECTOR_CHUNK, form="tied")
        second = delta_flops(length, key, value, chunk=VECTOR_CHUNK, form="plain")
        return self.heads * (first[0] + second[0]), self.heads * (first[1] + second[1])
