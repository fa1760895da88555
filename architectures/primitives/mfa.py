"""Multi-matrix factorisation attention: wide heads ask through a narrow map, and share one key a token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from architectures.families.options import count_of_heads, default_heads, divide
from architectures.families.recurrent import forward_anew, step_once
from architectures.functional.attention import attend, attend_past, visible_pairs
from architectures.functional.rotary import rotate, rotated_width
from architectures.functional.value_residual import share_value
from architectures.parts.norms import RMSNorm
from architectures.primitive import Context, Options, Primitive, State, linear_flops, option, round_up
from architectures.registry import primitive


class FactoredQueries(Primitive):
    """The base of the two: queries of low rank, and a cache of one key, or key and value, of a token.

    The keys are kept as they were before RoPE and turned when they are read, all of them.
    """

    kind = "attention"
    forward = forward_anew
    step = step_once

    class Config(Options):
        heads: int | None = count_of_heads()
        key_dim: int | None = option(
            None, "key and value width; none: twice width / heads", per="head", sizes="state", least=1
        )
        rank: int | None = option(
            None, "rank of the map to the queries; none: D / 4, rounded up to 16", per="width", least=1
        )
        rope: bool = option(True, "rotate queries and keys by their position")

    config: Config

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.heads = config.heads or default_heads(dim)
        self.key_dim = config.key_dim or 2 * divide("dim", dim, "heads", self.heads)
        if config.rope:
            rotated_width(self.key_dim, 1.0)  # refuses an odd width
        self.scale = self.key_dim**-0.5
        self.rank = config.rank or round_up(dim / 4, 16)
        self.down = nn.Linear(dim, self.rank, bias=False)
        self.norm = RMSNorm(self.rank)
        self.query = nn.Linear(self.rank, self.heads * self.key_dim, bias=False)
        self.key = nn.Linear(dim, self.key_dim, bias=False)
        self.out = nn.Linear(self.heads * self.key_dim, dim, bias=False)

    def size_step(self, option: str) -> int:
        return 2 if option == "key_dim" and self.config.rope else 1

    @property
    def state_kinds(self) -> tuple[str, ...]:
        return ("growing",) * len(self.init_state(1))

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        cache = tuple(torch.cat(pair, dim=1) for pair in zip(state, self.remember(x, ctx), strict=True))
        k, v = self.recall(cache)
        q = self.query(self.norm(self.down(x))).unflatten(-1, (self.heads, -1))
        at = torch.arange(k.shape[1], device=x.device)
        if self.config.rope:
            q, k = rotate(q, at[k.shape[1] - x.shape[1] :]), rotate(k, at)
        k, v = (z.expand(-1, -1, self.heads, -1) for z in (k, v))
        # With nothing before it, a prompt takes the fused kernel, whose memory does not grow with T * T.
        answer = attend_past if k.shape[1] > x.shape[1] else attend
        return self.out(answer(q, k, v, scale=self.scale).flatten(-2)), cache

    def remember(self, x: Tensor, ctx: Context | None) -> tuple[Tensor, ...]:
        """What is kept of new tokens, each (B, T, 1, K)."""
        raise NotImplementedError

    def recall(self, cache: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """The keys before RoPE and the values, (B, S, 1, K)."""
        raise NotImplementedError

    def flops(self, length: int) -> int:
        return 4 * visible_pairs(length) * self.heads * self.key_dim + length * linear_flops(self)

    def executed_flops(self, length: int) -> int:
        return 4 * length**2 * self.heads * self.key_dim + length * linear_flops(self)


@primitive("mfa", mixes="time", version=1, paper="arXiv:2412.19255", known_as="Step-3")
class MultiMatrixAttention(FactoredQueries):
    """o_t = sum_{s <= t} softmax_s(q_t . k_s / sqrt(K)) v_s, q = W_u RMSNorm(W_d x), one k and v.

    x (B, T, D) -> q (B, T, H, K), k, v (B, T, K) -> (B, T, D). Multi-query attention whose heads are wider
    than usual, and may be more, as a map of low `rank` makes their queries cheap; the cache grows with K
    only. Differs from the paper: the norm of the narrow vector is that of the code of Step-3; by default
    heads are twice as wide as those of attention, and the rank is D / 4.

    Hypothesis: recalls better than `mqa` of an equal cache, as its heads ask in more dimensions.
    """

    def __init__(
        self, config: FactoredQueries.Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1
    ) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.value = nn.Linear(dim, self.key_dim, bias=False)

    @property
    def value_widths(self) -> tuple[int, ...]:
        return (self.key_dim,)

    def init_state(self, batch: int, length: int | None = None) -> State:
        """Keys and values (B, t, 1, K)."""
        self.check_length(length)
        cache = self.key.weight.new_zeros(batch, 0, 1, self.key_dim)
        return cache, cache

    def remember(self, x: Tensor, ctx: Context | None) -> tuple[Tensor, ...]:
        return self.key(x)[:, :, None], share_value(self.value(x)[:, :, None], ctx, self.index)

    def recall(self, cache: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        return cache[0], cache[1]


@primitive("mfa-kr", mixes="time", version=1, paper="arXiv:2412.19255", known_as="MFA-Key-Reuse")
class KeyReuseAttention(FactoredQueries):
    """o_t = sum_{s <= t} softmax_s(q_t . k_s / sqrt(K)) v_s, one k for all heads, v = k + a * N k.

    x (B, T, D) -> q (B, T, H, K), k (B, T, K) -> (B, T, D), with q as in `mfa`. The values are made from the
    keys before RoPE by a matrix N and a vector a so that a token leaves one vector only. The values are a
    function of the keys, so the layer shares none with others. Differs from the paper: sizes as in `mfa`; a
    starts at 0, where no public code says how.

    Hypothesis: recalls a little worse than `mfa`, at half of its cache, and better than `mfa` of equal cache.
    """

    def __init__(
        self, config: FactoredQueries.Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1
    ) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.reuse = nn.Linear(self.key_dim, self.key_dim, bias=False)
        self.amount = nn.Parameter(torch.zeros(self.key_dim))

    def init_state(self, batch: int, length: int | None = None) -> State:
        """Keys (B, t, 1, K)."""
        self.check_length(length)
        return (self.key.weight.new_zeros(batch, 0, 1, self.key_dim),)

    def remember(self, x: Tensor, ctx: Context | None) -> tuple[Tensor, ...]:
        return (self.key(x)[:, :, None],)

    def recall(self, cache: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        return cache[0], cache[0] + self.amount * self.reuse(cache[0])
