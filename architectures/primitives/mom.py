"""A mixture of memories: a token writes to, and reads from, the few matrix memories that a router names."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.families.matrix_memory import CELL, MatrixMemory, Vectors
from architectures.families.options import taps
from architectures.functional.delta import SCALAR_CHUNK, delta_flops, delta_rule, unit
from architectures.functional.steps import draw_rate, draw_step_bias, log_decay, strength
from architectures.functional.value_residual import share_value
from architectures.parts.routing import Router, RoutingConfig
from architectures.parts.short_conv import ShortConv
from architectures.primitive import Context, State, linear_flops, option
from architectures.registry import primitive


@primitive("mom", mixes="time", version=1, paper="arXiv:2502.13685")
class MixtureOfMemories(MatrixMemory):
    """o_t = sum_e w_te S_e^T q_t,  S_e = a_te (I - b_te k_te k_te^T) S_e + b_te k_te v_te^T where w_te > 0.

    x (B, T, D) -> q (B, T, H, K), k (B, T, E, H, K), v (B, T, E, H, V), w (B, T, E) -> (B, T, D). E memories,
    each a `gated-delta-net` with maps to k, v, b and a of its own; q, the rates of forgetting and the output
    are shared. A router gives a token `top_k` of them with weights of sum 1, see `Router`; the others neither
    forget nor are written. With `shared` one more memory, of weight 1, takes every token. `forward` runs the
    recurrence over the chosen pairs of a token and a memory alone, one memory after the other. Differs from
    the paper: the short convolution stands before the routing, not on the tokens of a memory, so that each
    token passes the maps of all memories, which are counted; heads of 16 channels; four memories.

    Hypothesis: tokens that go to different memories do not overwrite each other, so that in-context recall
    holds for more pairs than in `gated-delta-net` at the same work of the recurrence; the state is E times as
    large.
    """

    form = "tied"
    undecayed = ("log_rate", "dt_bias")
    routed = ("maps",)
    # Where a memory begins in the order of `forward` depends on later tokens, and with it the order of sums.
    exact_causality = False

    class Config(RoutingConfig, MatrixMemory.Config):
        conv: int = taps(4)
        experts: int = option(4, "memories that a token may be sent to", least=1)
        top_k: int = option(2, "memories that a token is sent to", least=1)
        shared: bool = option(False, "one more memory that every token is sent to")

    config: Config

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.memories = config.experts + config.shared
        self.used = config.top_k + config.shared
        keys, values = self.heads * self.key_dim, self.heads * self.value_dim
        self.query = nn.Linear(dim, keys, bias=False)
        self.router = Router(dim, config)
        # Of each memory: to keys, values, write strengths and steps.
        self.widths = [keys, values, self.heads, self.heads]
        self.maps = nn.Parameter(
            torch.empty(self.memories, sum(self.widths), dim).uniform_(-(dim**-0.5), dim**-0.5)
        )
        self.conv = ShortConv(keys + self.memories * (keys + values), config.conv, canon=config.canon)
        self.dt_bias = nn.Parameter(draw_step_bias(self.heads))
        self.log_rate = nn.Parameter(draw_rate(self.heads, 0, 16).log())
        self.add_gate()
        self.add_output()

    @property
    def value_widths(self) -> tuple[int, ...]:
        return (self.memories * self.heads * self.value_dim,)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        tokens, _ = self.write(x, self.init_carry(x, x.shape[0]), ctx)
        tokens.v = share_value(tokens.v, ctx, self.index)
        return self.read(self.recur_chosen(tokens), x, tokens)

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Vectors, State]:
        """k, v, y (B, T, E, H, .) and log_a (B, T, E, H) of all memories; kept: the weights (B, T, E)."""
        weights = self.router(x, ctx, self.path)
        weights = torch.cat([weights, weights.new_ones(*x.shape[:2], int(self.config.shared))], dim=-1)
        z = F.linear(x, self.maps.flatten(0, 1)).unflatten(-1, (self.memories, -1))
        k, v, b, dt = z.split(self.widths, dim=-1)
        joined = torch.cat([self.query(x), k.flatten(2), v.flatten(2)], dim=-1)
        joined, tail = self.conv(joined, carry[0])
        joined = joined.to(torch.promote_types(x.dtype, torch.float32))
        q, k, v = joined.split([self.widths[0], k.shape[2:].numel(), v.shape[2:].numel()], dim=-1)
        q = unit(q.unflatten(-1, (self.heads, -1))) * self.scale
        k = unit(k.unflatten(-1, (self.memories, self.heads, -1)))
        v = v.unflatten(-1, (self.memories, self.heads, -1))
        log_a = log_decay(dt, self.dt_bias, self.log_rate)
        chosen = weights[..., None] > 0  # what is not chosen decays by 1, writes and corrects nothing
        log_a, b = (torch.where(chosen, g, torch.zeros_like(g)) for g in (log_a, strength(b)))
        y = log_a.exp()[..., None] * k
        return Vectors(q=q, k=b[..., None] * k, v=v, log_a=log_a, y=y, kept=weights), (tail,)

    def recur_chosen(self, z: Vectors) -> Tensor:
        """What all memories give from their start, o (B, T, H, V).

        The chosen tokens of a memory stand behind each other, and one memory behind the other: one recurrence
        over `used` T tokens, which forgets everything where a memory begins.
        """
        assert z.log_a is not None and z.y is not None
        batch, length, heads = z.q.shape[:3]
        every = torch.arange(self.memories * length, device=z.q.device).view(self.memories, length)
        # As many as are chosen, even where a weight is rounded to 0.
        best = z.kept.detach().topk(self.used, dim=-1).indices[..., None]
        chosen = (best == torch.arange(self.memories, device=best.device)).any(-2).mT  # (B, E, T)
        order = torch.where(chosen, every, every.numel()).flatten(1).sort(-1).values
        order = order[:, : self.used * length]  # (B, N)
        memory, time = order // length, order % length

        def pick(u: Tensor) -> Tensor:
            """(B, T, E, ...) -> (B, N, ...)."""
            rows = u.transpose(1, 2).flatten(1, 2).flatten(2)
            found = rows.gather(1, order[..., None].expand(-1, -1, rows.shape[-1]))
            return found.unflatten(-1, tuple(u.shape[3:]))

        k, v, y, log_a, weights = (pick(u) for u in (z.k, z.v, z.y, z.log_a, z.kept[..., None]))
        first = (memory != F.pad(memory, (1, 0), value=-1)[:, :-1])[..., None]
        log_a = torch.where(first, torch.full_like(log_a, -math.inf), log_a)
        y = torch.where(first[..., None], torch.zeros_like(y), y)
        at = time[..., None].expand(-1, -1, heads * z.q.shape[-1])
        q = z.q.flatten(2).gather(1, at).view_as(k)
        o = (delta_rule(q, k, v, log_a, y=y)[0] * weights[..., None]).flatten(2)
        found = o.new_zeros(batch, length, o.shape[-1])
        found = found.scatter_add(1, time[..., None].expand(-1, -1, o.shape[-1]), o)
        return found.unflatten(-1, (heads, -1))

    def recur(self, z: Vectors, s: Tensor) -> tuple[Tensor, Tensor]:
        o, s = super().recur(self.beside(z), s)
        return self.mix(o, z), s

    def recur_once(self, z: Vectors, s: Tensor) -> tuple[Tensor, Tensor]:
        o, s = super().recur_once(self.beside(z), s)
        return self.mix(o, z), s

    def beside(self, z: Vectors) -> Vectors:
        """The heads of all memories beside each other (B, T, E H, .), each asked by every token."""
        assert z.log_a is not None and z.y is not None
        q = z.q[:, :, None].expand(-1, -1, self.memories, -1, -1)
        q, k, v, y, log_a = (u.flatten(2, 3) for u in (q, z.k, z.v, z.y, z.log_a))
        return Vectors(q=q, k=k, v=v, log_a=log_a, y=y)

    def mix(self, o: Tensor, z: Vectors) -> Tensor:
        o = o.unflatten(2, (self.memories, self.heads))
        return (z.kept[..., None, None].to(o.dtype) * o).sum(2)

    def memory_shape(self) -> tuple[int, ...]:
        return self.memories * self.heads, self.key_dim, self.value_dim

    def reads(self, length: int) -> int:
        """All but the memories that a token is not sent to."""
        idle = (self.memories - self.used) * self.heads * self.key_dim * self.value_dim
        return self.measure_state(length)["total"] - idle

    def products(self, length: int) -> int:
        # Of all memories: what a token would give to another one may meet the taps of a later token.
        return length * linear_flops(self) + self.router.flops(length) + 2 * length * self.maps.numel()

    def state_flops(self, length: int) -> int:
        return CELL[self.form] * length * self.used * self.heads * self.key_dim * self.value_dim

    def recur_flops(self, length: int) -> tuple[int, int]:
        rows = self.used * length
        products, rest = delta_flops(
            rows, self.key_dim, self.value_dim, chunk=SCALAR_CHUNK, form=self.form, anew=True
        )
        return self.heads * products, self.heads * rest
