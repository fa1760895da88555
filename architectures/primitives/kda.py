"""Delta rules with a forgetting factor per key channel: Kimi delta attention and Gated DeltaNet 2."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from architectures.families.channel_maps import ChannelMaps, check_gate, decay_gate
from architectures.families.matrix_memory import MatrixMemory, Vectors
from architectures.families.options import taps
from architectures.functional.delta import unit
from architectures.functional.steps import strength
from architectures.primitive import Context, State, option
from architectures.registry import primitive


@primitive("kda", mixes="time", version=1, paper="arXiv:2510.26692", known_as="Kimi Linear")
class KDA(ChannelMaps, MatrixMemory):
    """S_t = (I - b_t k_t k_t^T) diag(a_t) S_{t-1} + b_t k_t v_t^T,  o_t = S_t^T q_t / sqrt(K).

    x (B, T, D) -> q, k, a (B, T, H, K), v (B, T, H, V) -> (B, T, D). As `gated-delta-net`, but for the decay
    and the gate of the output, a sigmoid, which are maps of rank V. `gate` makes the logit, plus dt_bias, log
    a, one per key channel: softplus, kept above -5 in both forms of the layer, or bounded. Differs from the
    paper: heads of 16 channels by default, and the bound at -5 on the softplus gate.
    """

    form = "tied"
    decay = "vector"
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
        self.add_maps()
        self.strength = nn.Linear(dim, self.heads, bias=False)

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Vectors, State]:
        (q, k, v), tail = self.vectors(x, carry[0])
        q, k, log_a = unit(q) * self.scale, unit(k), self.log_decay(x)
        b = strength(self.strength(x), doubled=self.config.negative_eigenvalues)[..., None]
        # The state is asked after it decayed.
        return Vectors(q=q, k=b * k, v=v, log_a=log_a, y=log_a.exp() * k), (tail,)


@primitive("gdn2", mixes="time", version=1, paper="arXiv:2605.22791")
class GDN2(ChannelMaps, MatrixMemory):
    """S_t = (I - k_t (b_t * k_t)^T) diag(a_t) S_{t-1} + k_t (w_t * v_t)^T,  o_t = S_t^T q_t / sqrt(K).

    x (B, T, D) -> q, k, a, b (B, T, H, K), v, w (B, T, H, V) -> (B, T, D). The gates b (erase) and w (write)
    are sigmoids, one per channel; the rest is as in `kda`. `negative_eigenvalues` doubles b alone. Differs
    from the paper: heads of 16 channels by default, and the bound at -5 on the softplus gate.
    """

    form = "tied"
    decay = "vector"
    undecayed = ("log_rate", "dt_bias")

    class Config(KDA.Config):
        pass

    config: Config

    def __init__(self, config: Any, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.gates = self.heads * (self.key_dim + 2 * self.value_dim)
        self.add_projection()
        self.add_maps()
        self.erase = nn.Linear(dim, self.heads * self.key_dim, bias=False)
        self.admit = nn.Linear(dim, self.heads * self.value_dim, bias=False)

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Vectors, State]:
        (q, k, v), tail = self.vectors(x, carry[0])
        q, k, log_a = unit(q) * self.scale, unit(k), self.log_decay(x)
        erase = strength(self.erase(x), doubled=self.config.negative_eigenvalues).view_as(k)
        admit = strength(self.admit(x)).view_as(v)
        # The state is asked after it decayed.
        return Vectors(q=q, k=k, v=admit * v, log_a=log_a, y=log_a.exp() * erase * k), (tail,)
