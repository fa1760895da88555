"""Softmax attention over a fixed number of slots that forget: gated slot attention and Raven."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.families.matrix_memory import MatrixMemory, Trait, Vectors
from architectures.families.options import per_head
from architectures.functional.delta import LOG_DECAY_MIN, VECTOR_CHUNK, delta_flops, delta_rule, match
from architectures.functional.precision import full_precision
from architectures.functional.steps import draw_rate, draw_step_bias, log_decay
from architectures.parts.norms import RMSNorm
from architectures.primitive import Context, State, choose, option
from architectures.registry import primitive


class SlotOptions(MatrixMemory.Config):
    key_dim: int | None = per_head("key width")
    slots: int | None = option(None, "slots per head; none: key_dim", per="head", sizes="state", least=1)


class Slots(Trait):
    """The state of both layers, a key and a value for each slot, and its two forms.

    A write is 1 - a_t: what a slot forgets makes room for what it takes up.
    """

    key_dim: int
    value_dim: int
    slots: int
    out: nn.Linear

    def recur(self, z: Vectors, s: Tensor) -> tuple[Tensor, Tensor]:
        assert z.log_a is not None
        keys, values = s.split([self.key_dim, self.value_dim], dim=-1)
        rate = -torch.expm1(z.log_a)
        logits, keys = match(z.q, z.k, rate, z.log_a, keys)
        o, values = delta_rule(logits.softmax(-1), rate, z.v, z.log_a, values)
        return o, torch.cat([keys, values], dim=-1)

    def recur_once(self, z: Vectors, s: Tensor) -> tuple[Tensor, Tensor]:
        assert z.log_a is not None
        with full_precision(s):
            log_a = z.log_a[:, 0, :, :, None]
            new = torch.cat([z.k, z.v], dim=-1)[:, 0, :, None]
            s = log_a.exp() * s - torch.expm1(log_a) * new
            keys, values = s.split([self.key_dim, self.value_dim], dim=-1)
            weights = (keys @ z.q[:, 0, :, :, None]).softmax(-2)
            return (weights.mT @ values)[:, None, :, 0], s

    def read(self, o: Tensor, x: Tensor, tokens: Vectors) -> Tensor:
        return self.out(self.norm(F.silu(o.flatten(-2))).to(x.dtype))

    def memory_shape(self) -> tuple[int, ...]:
        return self.heads, self.slots, self.key_dim + self.value_dim

    def recur_flops(self, length: int) -> tuple[int, int]:
        # Both passes multiply pairs of tokens, slots and one width; the first has slots for values.
        first = delta_flops(length, self.key_dim, self.slots, chunk=VECTOR_CHUNK, form="plain")
        second = delta_flops(length, self.slots, self.value_dim, chunk=VECTOR_CHUNK, form="plain")
        return self.heads * (first[0] + second[0]), self.heads * (first[1] + second[1])


@primitive("gsa", mixes="time", version=1, paper="arXiv:2409.07146")
class GatedSlotAttention(Slots, MatrixMemory):
    """[P, U]_t = diag(a_t) [P, U]_{t-1} + (1 - a_t) [k_t, v_t]^T,  o_t = U_t^T softmax(P_t q_t).

    x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V), a (B, T, H, M) -> (B, T, D). A head keeps M slots, each
    with a key, the row of P (M, K), and a value, that of U (M, V): moving averages whose rate is the slot's
    gate, log a_t = logsigmoid(W x_t) / 8, kept above -5. q, k and v pass silu, after the short convolution
    where there is one; silu(o) is normalised by RMSNorm over all heads. Differs from the paper: heads of 16
    channels, and as many slots, by default.
    """

    decay, anew = "vector", False

    class Config(SlotOptions):
        pass

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.slots = config.slots or self.key_dim
        self.add_projection(activation=False)
        self.forget = nn.Linear(dim, self.heads * self.slots, bias=False)
        self.norm = RMSNorm(self.heads * self.value_dim)
        self.out = nn.Linear(self.heads * self.value_dim, dim, bias=False)

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Vectors, State]:
        vectors, tail = self.vectors(x, carry[0])
        q, k, v = (F.silu(z) for z in vectors)
        log_a = F.logsigmoid(self.forget(x).to(v.dtype).unflatten(-1, (self.heads, -1))) / 8
        return Vectors(q=q, k=k, v=v, log_a=log_a.clamp(min=LOG_DECAY_MIN)), (tail,)


@primitive("raven", mixes="time", version=1, paper="https://github.com/goombalab/raven")
class Raven(Slots, MatrixMemory):
    """[P, U]_t = diag(a_t) [P, U]_{t-1} + (1 - a_t) [k_t, v_t]^T,  o_t = U_t^T softmax(P_t q_t), a sparse.

    As `gsa`, but a token touches `top_k` of a head's M slots: log a_t = r_t g_t, with r_t (B, T, H, M) the
    sigmoid(W_r x_t) of the slots with the largest logits over their sum, and 0 for the others, which neither
    forget nor take anything up. x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V) -> (B, T, D). g_t is one
    decay per head, as in `gated-delta-net`, or with `decay=slot` one per slot, as in `gsa`; log a_t is kept
    above -5. q, k and v pass silu, and q and k RMSNorm after it. In training Gumbel noise on the logits tries
    other slots. Counted work writes the chosen slots and reads all. Differs from the paper: heads of 16
    channels with as many slots, of which half are touched (there 32 of 64), and the bound on log a_t.

    Hypothesis: slots that are left alone keep their pairs, so that in-context recall falls later than that of
    `gsa` of the same state as pairs are added.
    """

    decay, anew = "vector", False
    undecayed = ("log_rate", "dt_bias")

    class Config(SlotOptions):
        top_k: int | None = option(None, "slots of a head that a token touches; none: half of them", least=1)
        decay: Literal["head", "slot"] = option("head", "what has a rate of forgetting of its own")
        noise: bool = option(True, "Gumbel noise on the logits of the slots in training")

    config: Config

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.slots = config.slots or self.key_dim
        self.top_k = config.top_k or max(1, self.slots // 2)
        if self.top_k > self.slots:
            raise ValueError(f"top_k={self.top_k} must be at most slots {self.slots}; lower it")
        self.add_projection(activation=False)
        self.query_norm, self.key_norm = RMSNorm(self.key_dim), RMSNorm(self.key_dim)
        self.route = nn.Linear(dim, self.heads * self.slots, bias=False)
        if config.decay == "head":
            self.dt = nn.Linear(dim, self.heads, bias=False)
            self.dt_bias = nn.Parameter(draw_step_bias(self.heads))
            self.log_rate = nn.Parameter(draw_rate(self.heads, 0, 16).log())
        else:
            self.forget = nn.Linear(dim, self.heads * self.slots, bias=False)
        self.norm = RMSNorm(self.heads * self.value_dim)
        self.out = nn.Linear(self.heads * self.value_dim, dim, bias=False)

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Vectors, State]:
        vectors, tail = self.vectors(x, carry[0])
        q, k, v = (F.silu(z) for z in vectors)
        log_a = (self.routes(x, ctx) * self.log_forget(x)).clamp(min=LOG_DECAY_MIN)
        return Vectors(q=self.query_norm(q), k=self.key_norm(k), v=v, log_a=log_a), (tail,)

    def log_forget(self, x: Tensor) -> Tensor:
        """g (B, T, H, 1) or (B, T, H, M), at most 0, at least float32."""
        if self.config.decay == "head":
            return log_decay(self.dt(x), self.dt_bias, self.log_rate)[..., None]
        high = torch.promote_types(x.dtype, torch.float32)
        return F.logsigmoid(self.forget(x).to(high).unflatten(-1, (self.heads, -1))) / 8

    def routes(self, x: Tensor, ctx: Context | None) -> Tensor:
        """r (B, T, H, M), at least float32."""
        high = torch.promote_types(x.dtype, torch.float32)
        with full_precision(x):  # rounding would change the choice
            logits = F.linear(x.to(high), self.route.weight.to(high)).unflatten(-1, (self.heads, -1))
        if self.config.noise and ctx is not None and ctx.seed is not None:  # in training
            uniform = ctx.noise(f"{self.path}/route", tuple(logits.shape), logits)
            if uniform is not None:
                logits = logits - (-uniform.clamp(min=1e-20).log()).log()
        best = logits.detach().topk(self.top_k, dim=-1).indices
        every = torch.arange(self.slots, device=x.device)
        chosen = choose((best[..., None] == every).any(-2), ctx)
        scores = torch.where(chosen, logits.sigmoid(), torch.zeros_like(logits))
        return scores / (scores.sum(-1, keepdim=True) + 1e-9)

    def state_flops(self, length: int) -> int:
        # A cell is read at every token, and written where its slot is chosen.
        return 2 * length * self.heads * (self.slots + self.top_k) * (self.key_dim + self.value_dim)
