"""Linear attention that forgets: by a factor per key channel, a rate per head, or a bound set by depth."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.families.matrix_memory import MatrixMemory, Vectors
from architectures.families.options import count_of_heads, output_rank, taps
from architectures.functional.delta import LOG_DECAY_MIN
from architectures.functional.rotary import rotate
from architectures.parts.norms import RMSNorm
from architectures.primitive import Context, State, option
from architectures.registry import primitive, variant


@primitive("gated-linear-attention", mixes="time", version=1, paper="arXiv:2312.06635")
class GatedLinearAttention(MatrixMemory):
    """S_t = diag(a_t) S_{t-1} + k_t v_t^T,  o_t = S_t^T q_t / sqrt(K),  a_t = sigmoid(W x_t + b)^(1/16).

    x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V) -> (B, T, D). W has rank `gate_rank`; log a_t is kept
    above -5, which its division by 16 makes a formality. The output is normalised per head by RMSNorm and
    gated by silu(g), g a map of rank `output_rank`. Differs from the paper: K = V instead of V = 2 K with
    four heads, and the short convolution of q, k and v is an option.
    """

    decay = "vector"

    class Config(MatrixMemory.Config):
        heads: int | None = count_of_heads(1)
        gate_rank: int = option(16, "rank of the map from the token to its decay; 0: full", least=0)
        output_rank: int = output_rank()

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.add_projection()
        self.add_gate(config.output_rank)
        rank = config.gate_rank
        self.decay_in = nn.Linear(dim, rank, bias=False) if rank else nn.Identity()
        self.decay_out = nn.Linear(rank or dim, self.heads * self.key_dim)
        self.add_output()

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Vectors, State]:
        (q, k, v), tail = self.vectors(x, carry[0])
        logit = self.decay_out(self.decay_in(x)).to(v.dtype).unflatten(-1, (self.heads, -1))
        log_a = (F.logsigmoid(logit) / 16).clamp(min=LOG_DECAY_MIN)
        return Vectors(q=q * self.scale, k=k, v=v, log_a=log_a), (tail,)


variant("mh-gated-linear-attention", of="gated-linear-attention", heads=None)


@primitive("retnet", mixes="time", version=1, paper="arXiv:2307.08621", known_as="retention")
class RetNet(MatrixMemory):
    """S_t = g S_{t-1} + k_t v_t^T,  o_t = S_t^T q_t / sqrt(K),  g = 1 - 2^(-5-h) in head h = 0, 1, ...

    x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V) -> (B, T, D). q and k are rotated by RoPE; the rates are
    constants. The output is normalised per head by RMSNorm and gated by silu. The state counts the tokens for
    the rotation. Differs from the paper: heads of 16 channels by default, a short convolution of q, k and v
    as an option, and a norm that does not subtract the mean.
    """

    class Config(MatrixMemory.Config):
        value_dim: int | None = option(None, "value width per head; none: 2 D / heads", per="head", least=1)

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        if self.key_dim % 2:
            raise ValueError(
                f"key width {self.key_dim} a head is odd, and RoPE rotates pairs; choose an even key_dim"
            )
        if config.value_dim is None:
            self.value_dim = 2 * self.value_dim
        self.add_projection()
        self.add_gate()
        self.add_output()

    def size_step(self, option: str) -> int:
        return 2 if option == "key_dim" else 1

    carry_kinds = ("conv", "counter")

    def init_carry(self, like: Tensor, batch: int) -> State:
        """The tail of the short convolution and the number of tokens so far."""
        return self.conv.init_tail(like, batch), torch.zeros((), dtype=torch.int64, device=like.device)

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Vectors, State]:
        (q, k, v), tail = self.vectors(x, carry[0])
        positions = carry[1] + torch.arange(x.shape[1], device=x.device)
        q, k = rotate(q, positions) * self.scale, rotate(k, positions)
        rates = torch.log1p(-torch.exp2(-5 - torch.arange(self.heads, device=x.device, dtype=q.dtype)))
        log_a = rates.expand(*x.shape[:2], self.heads)  # (B, T, H)
        return Vectors(q=q, k=k, v=v, log_a=log_a), (tail, carry[1] + x.shape[1])


@primitive("hgrn2", mixes="time", version=1, paper="arXiv:2404.07904")
class HGRN2(MatrixMemory):
    """S_t = diag(f_t) S_{t-1} + (1 - f_t) v_t^T,  o_t = S_t^T q_t,  f_t = b + (1 - b) sigmoid(W x_t).

    x (B, T, D) -> q, f (B, T, H, K), v (B, T, H, V) -> (B, T, D); q passes silu. The output is normalised
    over the whole width by RMSNorm. b, one per key channel, is the least that a layer keeps; the first layer
    has b = 0 and no parameter for it. log f is kept above -5. Differs from the paper: there the bounds of all
    layers are one tensor, a softmax over depth summed up to the layer; here every layer has its own, b =
    sigmoid of a parameter that starts where that tensor does at zero, at index / depth.
    """

    decay = "vector"
    undecayed = ("bound",)

    class Config(MatrixMemory.Config):
        conv: int = taps(0, "a short convolution, without silu, on q, f and v")

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.add_projection(activation=False)
        self.bound: nn.Parameter | None = None
        if index:
            start = math.log(index / (depth - index))
            self.bound = nn.Parameter(torch.full((self.heads * self.key_dim,), start))
        self.norm = RMSNorm(self.heads * self.value_dim)
        self.out = nn.Linear(self.heads * self.value_dim, dim, bias=False)

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Vectors, State]:
        (q, f, v), tail = self.vectors(x, carry[0])
        log_f = F.logsigmoid(f)
        if self.bound is not None:
            bound = self.bound.to(f.dtype).unflatten(0, (self.heads, -1))
            log_f = torch.logaddexp(F.logsigmoid(bound), F.logsigmoid(-bound) + log_f)
        log_f = log_f.clamp(min=LOG_DECAY_MIN)
        return Vectors(q=F.silu(q), k=-torch.expm1(log_f), v=v, log_a=log_f), (tail,)

    def read(self, o: Tensor, x: Tensor, tokens: Vectors) -> Tensor:
        return self.out(self.norm(o.flatten(-2)).to(x.dtype))
