"""Hyena: long implicit convolutions between two gates, alone, with several heads, and as experts."""

from __future__ import annotations

import math
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from architectures.families.gated_conv import GatedConv, GatedConvConfig
from architectures.families.options import divide, taps
from architectures.families.recurrent import Recurrent
from architectures.functional.long_conv import long_conv, long_conv_flops
from architectures.parts.implicit_filter import ImplicitFilter, filter_order, filter_positions
from architectures.parts.linear import TiledLinear, copies_of_map
from architectures.parts.routing import Router, RoutingConfig
from architectures.parts.short_conv import ShortConv
from architectures.primitive import Context, Hint, Options, State, option
from architectures.registry import primitive


class ImplicitOperator:
    """A trait of gated convolutions: h conv u + d * u, h a network of time; all of u is remembered."""

    exact_causality = False
    memory_kinds: tuple[str, ...] = ("growing",)
    config: Any
    inner: int
    max_len: int
    check_length: Any

    def add_operator(self) -> None:
        learned = self.config.positions == "learned"
        self.filter = ImplicitFilter(self.inner, self.config.order, self.max_len, learned=learned)
        self.skip = nn.Parameter(torch.randn(self.inner))

    def init_memory(self, like: Tensor, batch: int) -> State:
        """The history of u (B, t, inner)."""
        return (like.new_zeros(batch, 0, self.inner),)

    def convolve(self, u: Tensor, memory: State) -> tuple[Tensor, State]:
        history, h = self._extend(u, memory)
        return long_conv(history, h)[:, memory[0].shape[1] :] + self.skip * u, (history,)

    def convolve_once(self, u: Tensor, memory: State) -> tuple[Tensor, State]:
        history, h = self._extend(u, memory)
        return (h.flip(0).to(u.dtype) * history).sum(1, keepdim=True) + self.skip * u, (history,)

    def hints(self) -> dict[str, Hint]:
        return cast(Any, super()).hints() | self.filter.hints()

    def nominal_state(self, length: int) -> int:
        return self.inner * self.config.order

    def _extend(self, u: Tensor, memory: State) -> tuple[Tensor, Tensor]:
        """The history with u, and as many taps."""
        history = torch.cat([memory[0], u], dim=1)
        self.check_length(history.shape[1])
        return history, self.filter(history.shape[1])


@primitive("hyena", mixes="time", version=1, paper="arXiv:2302.10866", known_as="StripedHyena, Evo")
class Hyena(ImplicitOperator, GatedConv):
    """y = W_o [q * (h conv (k * v) + d * (k * v))] with q, k, v = short_conv(W_i x); h is a network of time.

    (B, T, D) -> (B, T, D), inner width `expand` * D. The filter h (T, inner) is a sine network of the
    position, of width `order`, under a fixed exponential window; its length is tied to `max_len`. The
    operator is of order 2. The nominal state is the distilled one: `order` elements per channel. The public
    MAD code (athms/mad-lab) reads q, k and v from shared features and trains those of the position: `tied=4`
    and `positions=learned`. Differs from the paper: the position features are fixed by default.
    """

    undecayed = ("skip", "conv.weight")

    class Config(Options):
        expand: int = option(4, "inner width over the model's width", least=1)
        order: int = filter_order(4, " per channel")
        conv: int = taps(3, "the short convolution of q, k and v")
        tied: int = copies_of_map()
        positions: Literal["fixed", "learned"] = filter_positions()

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        inner = config.expand * dim
        self.add_gates(inner, TiledLinear(dim, 3 * inner, config.tied))
        self.add_operator()
        self.out = nn.Linear(inner, dim)

    def operator_flops(self, length: int) -> tuple[int, int]:
        return 0, 2 * length * self.inner + long_conv_flops(length, self.inner)  # 2: skip * u and its sum


@primitive("mh-hyena", mixes="time", version=1, paper="arXiv:2310.18780")
class MHHyena(Recurrent):
    """S_t = sum_{s <= t} h_{t-s} k_s v_s^T + d k_t v_t^T,  o_t = S_t^T q_t,  y = W_o o, for each head.

    (B, T, D) -> (B, T, D), q, k, v = short_conv(W_i x) (B, T, H, K) with K = `head_dim`; one filter h, that
    of `hyena`, and one skip d for each head. The nominal state is the distilled one: `order` copies of H (K,
    K) matrices, as in arXiv:2403.17844, 2,048 at width 128; the state of `step` is the history of k and v.
    Differs from the paper: the position features are fixed by default. The public MAD code (athms/mad-lab)
    has `tied=4`, as in `hyena`, and `positions=learned`; there the number of heads and their width change
    places (8 heads of 16: `head_dim=16`).
    """

    kind = "convolution"
    exact_causality = False

    undecayed = ("skip", "conv.weight")

    class Config(Options):
        head_dim: int = option(8, "K, channels of one head", per="head", least=1)
        order: int = filter_order(2, "s per head")
        conv: int = taps(3, "the short convolution of q, k and v")
        tied: int = copies_of_map()
        positions: Literal["fixed", "learned"] = filter_positions()

    config: Config

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.width = config.head_dim
        self.heads = divide("dim", dim, "head_dim", self.width)
        self.project = TiledLinear(dim, 3 * dim, config.tied)
        self.conv = ShortConv(3 * dim, config.conv, bias=True, activation=False)
        self.filter = ImplicitFilter(self.heads, config.order, max_len, learned=config.positions == "learned")
        self.skip = nn.Parameter(torch.randn(self.heads))
        self.out = nn.Linear(dim, dim)

    state_kinds = ("growing", "growing", "conv")

    def init_state(self, batch: int, length: int | None = None) -> State:
        """The histories of k and v (B, t, H, K) and the tail of the short convolution (B, taps - 1, 3 D)."""
        self.check_length(length)
        weight = self.project.weight
        history = weight.new_zeros(batch, 0, self.heads, self.width)
        return history, history.clone(), self.conv.init_tail(weight, batch)

    def step(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        q, k, v, state = self._extend(x[:, None], state)
        keys, values, _ = state
        h = self.filter(keys.shape[1]).flip(0).to(q.dtype)  # (t, H)
        # The same sum with q inside: no outer product is formed for one token.
        o = ((h * (q * keys).sum(-1))[..., None] * values).sum(1, keepdim=True)
        return self._read(q, k, v, o)[:, 0], state

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        past = state[0].shape[1]
        q, k, v, state = self._extend(x, state)
        return self._read(q, k, v, self._convolve(q, state[0], state[1], past)), state

    def uncounted_flops(self, length: int) -> int:
        cells = self.dim * self.width  # H K^2
        n = 2 * length
        # Each cell to its spectrum and back, the filters (K copies per head) to theirs, and their products.
        fft = round(5 * n * math.log2(n) * (2 * cells + self.dim)) + 6 * (length + 1) * cells
        skip = length * (4 * self.dim + self.heads)  # q . k, times d, times v, and the sum
        outer = 3 * length * cells  # and the reading by q
        return self.conv.flops(length) + outer + fft + skip

    def nominal_state(self, length: int) -> int:
        return self.heads * self.width**2 * self.config.order

    def hints(self) -> dict[str, Hint]:
        return super().hints() | self.filter.hints()

    def _extend(self, x: Tensor, state: State) -> tuple[Tensor, Tensor, Tensor, State]:
        """q, k, v of the new tokens, and the state with them."""
        keys, values, tail = state
        z, tail = self.conv(self.project(x), tail)
        q, k, v = z.unflatten(-1, (3 * self.heads, self.width)).chunk(3, dim=2)  # (B, T, H, K)
        keys, values = torch.cat([keys, k], dim=1), torch.cat([values, v], dim=1)
        self.check_length(keys.shape[1])
        return q, k, v, (keys, values, tail)

    def _convolve(self, q: Tensor, k: Tensor, v: Tensor, past: int) -> Tensor:
        """The convolved outer products of k and v, read by q, which starts at position `past`."""
        q, k = (z.movedim(-1, 1)[..., None] for z in (q, k))  # (B, K, T, H, 1)
        cells = k * v[:, None]  # (B, K, T, H, K)
        # The rows of k are as good as more sequences, and only v needs copies of the filter. With none, where
        # v is folded too, Inductor (torch 2.13, CPU) gave the filter wrong gradients.
        h = self.filter(v.shape[1])[..., None].expand(-1, -1, self.width).flatten(1)  # (T, D)
        s = long_conv(cells.flatten(3).flatten(0, 1), h).view_as(cells)[:, :, past:]
        return (q * s).sum(1)  # (B, T, H, K)

    def _read(self, q: Tensor, k: Tensor, v: Tensor, o: Tensor) -> Tensor:
        """The output of what the convolution gave; the skip needs only the product of q and k."""
        score = self.skip * (q * k).sum(-1)
        return self.out((o + score[..., None] * v).flatten(-2))


@primitive("hyena-experts", mixes="time", version=1, paper="arXiv:2403.17844")
class HyenaExperts(ImplicitOperator, GatedConv):
    """y = W_o sum_e g_e o_e, o_e = q_e * (h_e conv (k_e * v_e) + d_e * (k_e * v_e)), g of the best k experts.

    x (B, T, D) -> q, k, v = short_conv(W_i x), each E experts of `expert_dim` contiguous channels -> (B, T,
    D); g (B, T, E), softmax(W_r x) over the chosen and 0 for all others, see `Router`. Every expert hears
    every token, and the token chooses whom it reads. The filter h and the nominal state, 2,048 at the
    defaults, are those of `hyena`; the state of `step` is the history of k * v. Differs from the paper: the
    position features are fixed by default. Differs from the public MAD code (athms/mad-lab): there the scores
    of all other experts are set to 0 before the softmax, and keep a share of the output; the router has a
    bias.
    """

    undecayed = ("conv.weight", "skip", "filter")

    class Config(GatedConvConfig, RoutingConfig):
        expert_dim: int = option(16, "channels of one expert", least=1)
        order: int = filter_order(16, " per channel")
        positions: Literal["fixed", "learned"] = filter_positions()

    config: Config

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        inner = config.experts * config.expert_dim
        self.add_gates(inner, nn.Linear(dim, 3 * inner))
        self.out = nn.Linear(config.expert_dim, dim)
        self.router = Router(dim, config)
        self.add_operator()

    def read(self, o: Tensor, x: Tensor, ctx: Context | None) -> Tensor:
        weights = self.router(x, ctx, self.path).to(o.dtype)
        o = o.unflatten(-1, (self.config.experts, self.config.expert_dim))
        return self.out((weights[..., None] * o).sum(-2))

    def flops(self, length: int) -> int:
        idle = (self.config.experts - self.config.top_k) * self.config.expert_dim
        return self.executed_flops(length) - 3 * length * idle  # their q, weight and part of the sum

    def operator_flops(self, length: int) -> tuple[int, int]:
        rest = 4 * length * self.inner  # the skip, and the weighted sum over the experts
        return self.router.flops(length), long_conv_flops(length, self.inner) + rest
