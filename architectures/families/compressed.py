"""The base of attention to a window of tokens and, of what is older, one entry for every few tokens.

A subclass says which of the entries a query sees. The rest is here: what queries and entries are made of, the
state, and the count of the work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.families.key_values import RotaryOptions
from architectures.families.options import count_of_heads, default_heads, divide
from architectures.families.recurrent import forward_anew, step_once
from architectures.functional.attention import attend, hidden, visible_pairs
from architectures.functional.rotary import rotate_first, rotated_width
from architectures.functional.selection import additive
from architectures.parts.compressor import Compressor
from architectures.parts.norms import RMSNorm, rms_norm
from architectures.primitive import Context, Primitive, State, linear_flops, option, round_up


@dataclass(kw_only=True)
class Asked:
    """What is asked of N entries: by x (B, T, D) at `positions` (T,), `low` (B, T, R), q (B, T, H, K).

    seen     (T, N), the entries that are whole
    waiting  tokens before x of which there is no entry yet
    """

    x: Tensor
    low: Tensor
    q: Tensor
    entries: Tensor
    positions: Tensor
    seen: Tensor
    waiting: int


class CompressedAttention(Primitive):
    """Softmax attention of H heads to one sequence of keys, which are the values: tokens, entries, a sink.

    The state is (window, tail, entries, waiting, count, *own): the keys of the last tokens (B, W, K), what
    the next entry needs of them, the entries (B, t // m, K), a whole number for each token without an entry,
    the number of tokens, and what the subclass keeps.
    """

    kind = "attention"
    forward = forward_anew
    step = step_once
    undecayed: tuple[str, ...] = ("sink", "compressor.bias")
    overlap = False

    class Config(RotaryOptions):
        heads: int | None = count_of_heads()
        key_dim: int | None = option(
            None, "width of the one key, which is the value, too; none: width / heads", per="head", least=1
        )
        query_rank: int | None = option(
            None, "width that queries pass; none: D / 4, rounded up to 16", per="width", least=1
        )
        rope_fraction: float = option(0.5, "part of the channels that is rotated, in whole pairs")
        window: int = option(16, "tokens that are seen as they are, the own one included", least=1)
        stride: int = option(8, "tokens by which an entry is later than the one before", least=1)

    config: Any

    def __init__(self, config: Any, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.heads = config.heads or default_heads(dim)
        self.key_dim = config.key_dim or divide("dim", dim, "heads", self.heads)
        self.rotated = rotated_width(self.key_dim, config.rope_fraction) if config.rope else 0
        self.rank = config.query_rank or round_up(dim / 4, 16)
        self.query_down = nn.Linear(dim, self.rank, bias=False)
        self.query_norm = RMSNorm(self.rank)
        self.query_up = nn.Linear(self.rank, self.heads * self.key_dim, bias=False)
        self.key = nn.Linear(dim, self.key_dim, bias=False)
        self.key_norm = RMSNorm(self.key_dim)
        self.compressor = Compressor(dim, self.key_dim, config.stride, overlap=self.overlap)
        self.sink = nn.Parameter(torch.zeros(self.heads))
        self.out = nn.Linear(self.heads * self.key_dim, dim, bias=False)

    @property
    def state_kinds(self) -> tuple[str, ...]:
        return "recurrent", "conv", "growing", "counter", "counter"

    def init_state(self, batch: int, length: int | None = None) -> State:
        self.check_length(length)
        like, tail = self.key.weight, self.compressor.init_tail(batch)
        waiting, count = (torch.zeros(n, dtype=torch.int64, device=like.device) for n in ((0,), ()))
        empty = tail.new_zeros(batch, 0, self.key_dim)
        return like.new_zeros(batch, 0, self.key_dim), tail, empty, waiting, count

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        window, tail, entries, waiting, count, *own = state
        length, stride, most = x.shape[1], self.config.stride, self.config.window
        positions = count + torch.arange(length, device=x.device)
        low = self.query_norm(self.query_down(x))
        q = self.query_up(low).unflatten(-1, (self.heads, self.key_dim))
        q = self.turn(rms_norm(q, q.new_ones(self.key_dim), divisor=self.key_dim), positions, self.rotated)
        key = self.turn(self.key_norm(self.key(x))[:, :, None], positions, self.rotated)[:, :, 0]
        window = torch.cat([window, key], dim=1)
        new, tail = self.compressor(x, tail, len(waiting), entries.shape[1])
        entries = self.after(entries, new, self.rotated)
        at = torch.arange(entries.shape[1], device=x.device)
        asked = Asked(
            x=x,
            low=low,
            q=q,
            entries=entries,
            positions=positions,
            seen=at < (positions[:, None] + 1) // stride,
            waiting=len(waiting),
        )
        chosen, own = self.select(asked, own, ctx)
        near = ~hidden(length, window.shape[1], most, x.device)
        visible = torch.cat([near.expand(len(chosen), -1, -1), chosen], dim=-1)
        o = self.meet(q, torch.cat([window, entries], dim=1), visible)
        y = self.out(self.turn(o, -positions, self.rotated).flatten(-2).to(x.dtype))
        waiting = waiting.new_zeros((len(waiting) + length) % stride)
        window = window[:, max(0, window.shape[1] - most) :]
        return y, (window, tail, entries, waiting, count + length, *own)

    def select(self, asked: Asked, own: list[Tensor], ctx: Context | None) -> tuple[Tensor, list[Tensor]]:
        """Which entries are seen (B or 1, T, N), and the next state of the subclass."""
        return asked.seen[None], own

    def turn(self, z: Tensor, positions: Tensor, count: int) -> Tensor:
        """RoPE on the first `count` channels of z (B, T, H, .)."""
        return rotate_first(z, positions, count, count, base=self.config.rope_base) if count else z

    def after(self, entries: Tensor, new: Tensor, count: int) -> Tensor:
        """The entries (B, N, .), and the new ones rotated by the position of their first token."""
        at = (torch.arange(new.shape[1], device=new.device) + entries.shape[1]) * self.config.stride
        return torch.cat([entries, self.turn(new[:, :, None], at, count)[:, :, 0]], dim=1)

    def meet(self, q: Tensor, keys: Tensor, visible: Tensor) -> Tensor:
        """q (B, T, H, K), keys (B, S, K), visible (B or 1, T, S) -> (B, T, H, K); a sink takes the rest."""
        scale = self.key_dim**-0.5
        values = F.pad(keys, (0, 0, 0, 1))[:, :, None].expand(-1, -1, self.heads, -1)
        # One more channel carries the score of the sink, whose key and value are zero in the others.
        score = F.pad(self.sink.to(keys.dtype)[None], (0, 0, keys.shape[1], 0))
        score = score.expand(len(keys), -1, -1)[..., None]
        q = F.pad(q, (0, 1), value=1 / scale)
        mask = additive(F.pad(visible, (0, 1), value=True), keys)[:, None]
        return attend(q, torch.cat([values, score], dim=-1), values, scale=scale, mask=mask)

    def entry_pairs(self, length: int) -> int:
        """Pairs of a query and an entry that it sees."""
        return sum((t + 1) // self.config.stride for t in range(length))

    def flops(self, length: int) -> int:
        pairs = visible_pairs(length, self.config.window) + self.entry_pairs(length)
        return length * linear_flops(self) + 4 * pairs * self.heads * self.key_dim + self.elementwise(length)

    def executed_flops(self, length: int) -> int:
        met = length * (length + length // self.config.stride + 1)
        products = length * linear_flops(self) + 4 * met * self.heads * (self.key_dim + 1)
        return products + self.uncounted_flops(length)

    def uncounted_flops(self, length: int) -> int:
        return self.elementwise(length)

    def elementwise(self, length: int) -> int:
        return self.compressor.flops(length)
