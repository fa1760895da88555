"""Engram: tables of the last few tokens, whose rows are let in as far as they fit the stream."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.families.options import taps
from architectures.families.recurrent import Recurrent
from architectures.functional.ids import next_prime, odd_multipliers
from architectures.parts.norms import RMSNorm
from architectures.primitive import Context, Hint, Options, State, option
from architectures.registry import primitive

# The most n-grams that get a row each, and how many rows there are for each id where n-grams are more.
MOST_GRAMS, ROWS_PER_ID = 100_000, 5
TABLE_LR = 5.0
# The least |s| under the root, whose slope at 0 is infinite.
FLOOR = 1e-6


@primitive(
    "engram", mixes="time", version=1, paper="arXiv:2601.07372", known_as="conditional memory, DeepSeek"
)
class Engram(Recurrent):
    """y = a + silu(conv(norm(a))), a = sigmoid(root(norm(W_k e) . x / sqrt(D))) W_v e, e of the last ids.

    (B, T, D) -> (B, T, D), root(s) = sign(s) sqrt|s|. For each n = 2 .. N, each of the `heads` has a table,
    in which the last n ids have a row of `row_dim` channels; e joins all rows. Where the n-grams of ids are
    many, they share rows: (m_1 i_t xor m_2 i_{t-1} ..) mod P with fixed odd m and a prime P of each table.
    The convolution has `taps`, N tokens apart, which are 0 at the start. The state: N - 1 ids, and what the
    convolution reads.
    Differs from the paper: x comes through the norm of the block, so that W_k e alone is normalised; one
    stream, not four; no merging of similar ids; the multipliers are the same in every layer; n-grams that
    are at most 100,000 have a row each.

    Hypothesis: memorisation reaches its ceiling with few active parameters; what has to be found in the
    context is unmoved.
    """

    kind = "experts"
    reads_tokens: ClassVar[bool] = True
    writers = ("value",)
    undecayed = ("conv",)

    class Config(Options):
        ngrams: int = option(3, "N, the most tokens that are looked up together", least=2)
        heads: int = option(4, "tables for each number of tokens", per="width", least=1)
        row_dim: int = option(16, "channels of a row", sizes="params", least=1)
        rows: int | None = option(
            None,
            "least rows of a table; none: one for each n-gram, or 5 for each id where these are over 100,000",
            least=2,
        )
        taps: int = taps(4, "a convolution and silu on what is let in")

    config: Config

    def __init__(
        self,
        config: Config,
        *,
        dim: int,
        max_len: int,
        vocab_size: int,
        index: int = 0,
        depth: int = 1,
    ) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.vocab_size = vocab_size
        # An id more for what is before the first token.
        base = vocab_size + 1
        self.multipliers = odd_multipliers(config.ngrams, base)
        self.sizes: list[list[int]] = []
        self.exact: list[bool] = []
        last = 0
        for n in range(2, config.ngrams + 1):
            grams = base**n
            self.exact.append(grams <= (config.rows or MOST_GRAMS))
            if self.exact[-1]:
                self.sizes.append(config.heads * [grams])
                continue
            found: list[int] = []
            for _ in range(config.heads):
                found.append(last := next_prime(max(last, (config.rows or ROWS_PER_ID * vocab_size) - 1)))
            self.sizes.append(found)
        width = (config.ngrams - 1) * config.heads * config.row_dim
        self.table = nn.Parameter(torch.randn(sum(map(sum, self.sizes)), config.row_dim))
        self.key = nn.Linear(width, dim)
        self.value = nn.Linear(width, dim)
        self.key_norm = RMSNorm(dim)
        self.value_norm = RMSNorm(dim) if config.taps else None
        self.conv = nn.Parameter(torch.zeros(dim, config.taps)) if config.taps else None

    @property
    def state_kinds(self) -> tuple[str, ...]:
        return ("conv", "conv")

    def init_state(self, batch: int, length: int | None = None) -> State:
        """The last N - 1 ids, at first one of no token, and what the convolution reads (B, N taps - N, D)."""
        self.check_length(length)
        before = max(self.config.taps - 1, 0) * self.config.ngrams
        ids = torch.full(
            (batch, self.config.ngrams - 1), self.vocab_size, dtype=torch.int64, device=self.table.device
        )
        return ids, self.table.new_zeros(batch, before, self.dim)

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        ids, tail = state
        ids = torch.cat([ids, self.token_ids(ctx)], dim=1)
        e = F.embedding(self.find(ids), self.table).flatten(-2)
        high = torch.promote_types(x.dtype, torch.float32)
        s = (self.key_norm(self.key(e)).to(high) * x.to(high)).sum(-1, keepdim=True) / math.sqrt(self.dim)
        gate = torch.sigmoid(s.sign() * s.abs().clamp(min=FLOOR).sqrt())
        a = gate.to(x.dtype) * self.value(e)
        if self.conv is not None and self.value_norm is not None:
            joined = torch.cat([tail, self.value_norm(a).to(tail.dtype)], dim=1)
            step, length = self.config.ngrams, x.shape[1]
            weights = enumerate(self.conv.unbind(1))
            rows = [w * joined[:, i * step : i * step + length] for i, w in weights]
            a, tail = a + F.silu(sum(rows[1:], rows[0])), joined[:, length:]
        return a, (ids[:, x.shape[1] :], tail)

    def find(self, ids: Tensor) -> Tensor:
        """The rows (B, T, tables) of the last T ids, given the N - 1 before them too: (B, N - 1 + T)."""
        length = ids.shape[1] - self.config.ngrams + 1
        back = [ids[:, -length - i : ids.shape[1] - i] for i in range(self.config.ngrams)]
        found, offset = [], 0
        packed, mixed = back[0], self.multipliers[0] * back[0]
        for i, (sizes, exact) in enumerate(zip(self.sizes, self.exact, strict=True), start=1):
            mixed = mixed ^ self.multipliers[i] * back[i]
            if exact:
                packed = packed * (self.vocab_size + 1) + back[i]
            for size in sizes:
                found.append((packed if exact else mixed % size) + offset)
                offset += size
        return torch.stack(found, dim=-1)

    def uncounted_flops(self, length: int) -> int:
        return length * self.dim * (2 + 1 + (2 * self.config.taps + 1 if self.config.taps else 0))

    def active_params(self) -> int:
        rows = sum(map(sum, self.sizes)) - sum(map(len, self.sizes))
        return super().active_params() - rows * self.config.row_dim

    def hints(self) -> dict[str, Hint]:
        return super().hints() | {"table": Hint(decay=False, lr_scale=TABLE_LR)}
