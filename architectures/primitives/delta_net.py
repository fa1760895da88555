"""Delta rules with one strength per head: DeltaNet, with forgetting, with several steps per token."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.families.matrix_memory import MatrixMemory, Vectors
from architectures.families.options import output_rank, taps
from architectures.functional.delta import delta_rule, delta_step, unit
from architectures.functional.steps import draw_rate, draw_step_bias, log_decay, strength
from architectures.primitive import Context, State, option
from architectures.registry import primitive


@primitive("delta-net", mixes="time", version=1, paper="arXiv:2406.06484", known_as="fast weights")
class DeltaNet(MatrixMemory):
    """S_t = (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T,  o_t = S_t^T q_t / sqrt(K).

    x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V) -> (B, T, D), after a short causal convolution and silu;
    q and k have length 1, b_t in (0, 1) is a sigmoid per head, and the output is normalised per head by
    RMSNorm. `negative_eigenvalues` doubles b_t (arXiv:2411.12537): the transition may then reflect, which
    state tracking needs. Differs from the paper: heads of 16 channels by default.
    """

    form = "tied"

    class Config(MatrixMemory.Config):
        conv: int = taps(4)
        negative_eigenvalues: bool = option(False, "write strength in (0, 2) instead of (0, 1)")

    config: Config

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.add_projection()
        self.strength = nn.Linear(dim, self.heads, bias=False)
        self.add_output()

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Vectors, State]:
        (q, k, v), tail = self.vectors(x, carry[0])
        q, k = unit(q) * self.scale, unit(k)
        b = strength(self.strength(x), doubled=self.config.negative_eigenvalues)[..., None]
        return Vectors(q=q, k=b * k, v=v, y=k), (tail,)


@primitive(
    "gated-delta-net", mixes="time", version=1, paper="arXiv:2412.06464", known_as="Qwen3-Next, Olmo Hybrid"
)
class GatedDeltaNet(MatrixMemory):
    """S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T,  o_t = S_t^T q_t / sqrt(K).

    x (B, T, D) -> (B, T, D). As `delta-net`, with one decay per head, log a_t = -exp(log_rate) softplus(W x_t
    + dt_bias), and an output gated by silu(g), g a map of rank `output_rank`. Differs from the paper: K = V =
    16 by default; there V = 2 K, with far wider heads.
    """

    form = "tied"
    undecayed = ("log_rate", "dt_bias")

    class Config(DeltaNet.Config):
        output_rank: int = output_rank()

    config: Config

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.add_projection()
        self.add_gate(config.output_rank)
        self.dt = nn.Linear(dim, self.heads, bias=False)
        self.dt_bias = nn.Parameter(draw_step_bias(self.heads))
        self.log_rate = nn.Parameter(draw_rate(self.heads, 0, 16).log())
        self.strength = nn.Linear(dim, self.heads, bias=False)
        self.add_output()

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Vectors, State]:
        (q, k, v), tail = self.vectors(x, carry[0])
        q, k = unit(q) * self.scale, unit(k)
        b = strength(self.strength(x), doubled=self.config.negative_eigenvalues)[..., None]
        log_a = log_decay(self.dt(x), self.dt_bias, self.log_rate)  # (B, T, H)
        # The state is asked after it decayed.
        return Vectors(q=q, k=b * k, v=v, log_a=log_a, y=log_a.exp()[..., None] * k), (tail,)


@primitive("gated-delta-product", mixes="time", version=1, paper="arXiv:2502.10297")
class GatedDeltaProduct(MatrixMemory):
    """S_t = G_n(...G_1(a_t S_{t-1})),  G_j(S) = (I - b_j k_j k_j^T) S + b_j k_j v_j^T,  o_t = S_t^T q_t.

    x (B, T, D) -> q (B, T, H, K), k (B, T, n, H, K), v (B, T, n, H, V) -> (B, T, D), with n = `substeps`:
    `gated-delta-net` with n steps of the delta rule per token, each with a key, a value and a strength b_j of
    its own. The state decays once per token, before the first step, and is read after the last. b_j is in (0,
    2), or (0, 1) without `negative_eigenvalues`; q is scaled by 1 / sqrt(K). Differs from the paper: K = V =
    16 by default.
    """

    form = "tied"
    undecayed = ("log_rate", "dt_bias")

    class Config(MatrixMemory.Config):
        conv: int = taps(4)
        substeps: int = option(2, "steps of the delta rule per token", most=64, least=1)
        negative_eigenvalues: bool = option(True, "write strength in (0, 2) instead of (0, 1)")
        forget: bool = option(True, "one decay per head, before the first step of a token")

    config: Config

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.substeps = config.substeps
        keys, values = self.heads * self.key_dim, self.heads * self.value_dim
        self.add_projection(keys, self.substeps * keys, self.substeps * values)
        self.add_gate()
        if config.forget:
            self.dt = nn.Linear(dim, self.heads, bias=False)
            self.dt_bias = nn.Parameter(draw_step_bias(self.heads))
            self.log_rate = nn.Parameter(draw_rate(self.heads, 0, 16).log())
        self.strength = nn.Linear(dim, self.substeps * self.heads, bias=False)
        self.add_output()

    @property
    def value_widths(self) -> tuple[int, ...]:
        return (self.substeps * self.heads * self.value_dim,)

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Vectors, State]:
        z, tail = self.conv(self.project(x), carry[0])
        high = torch.promote_types(x.dtype, torch.float32)
        q, k, v = z.to(high).split(self.widths, dim=-1)
        q = unit(q.unflatten(-1, (self.heads, -1))) * self.scale
        k = unit(k.unflatten(-1, (self.substeps, self.heads, -1)))  # (B, T, n, H, K)
        v = v.unflatten(-1, (self.substeps, self.heads, -1))
        b = strength(self.strength(x), doubled=self.config.negative_eigenvalues)
        b = b.unflatten(-1, (self.substeps, self.heads))[..., None]
        log_a, y = None, k
        if self.config.forget:
            log_a = log_decay(self.dt(x), self.dt_bias, self.log_rate)
            log_a = F.pad(log_a[:, :, None], (0, 0, 0, self.substeps - 1))  # (B, T, n, H): 0 after the first
            y = log_a.exp()[..., None] * k  # a step asks the state after it decayed
        return Vectors(q=q, k=b * k, v=v, log_a=log_a, y=y), (tail,)

    def recur(self, z: Vectors, s: Tensor) -> tuple[Tensor, Tensor]:
        """The steps as T n tokens of the delta rule, of which only the last of each n is read."""
        assert z.y is not None
        q = F.pad(z.q[:, :, None], (0, 0, 0, 0, self.substeps - 1, 0))
        log_a = None if z.log_a is None else z.log_a.flatten(1, 2)
        q, k, v, y = (u.flatten(1, 2) for u in (q, z.k, z.v, z.y))
        o, s = delta_rule(q, k, v, log_a, s, y=y)
        return o[:, self.substeps - 1 :: self.substeps], s

    def recur_once(self, z: Vectors, s: Tensor) -> tuple[Tensor, Tensor]:
        assert z.y is not None
        o = z.q
        for j in range(self.substeps):
            log_a = None if z.log_a is None else z.log_a[:, 0, j]
            o, s = delta_step(z.q[:, 0], z.k[:, 0, j], z.v[:, 0, j], log_a, s, y=z.y[:, 0, j])
        return o[:, None], s

    def state_flops(self, length: int) -> int:
        # A cell and step is asked and written; a cell and token is read.
        return (4 * self.substeps + 2) * length * self.heads * self.key_dim * self.value_dim

    def recur_flops(self, length: int) -> tuple[int, int]:
        return super().recur_flops(length * self.substeps)
