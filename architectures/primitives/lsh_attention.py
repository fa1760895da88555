"""LSH attention: softmax attention among tokens that a random hash puts into one bucket."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.families.options import SILU, count_of_heads, head_widths, per_head, taps
from architectures.families.recurrent import Recurrent
from architectures.functional import lsh
from architectures.functional.attention import visible_pairs
from architectures.functional.delta import unit
from architectures.functional.precision import full_precision
from architectures.functional.rotary import rotate, rotated_width
from architectures.functional.value_residual import share_value
from architectures.parts.short_conv import ShortConv
from architectures.primitive import Context, Options, State, choose, linear_flops, option
from architectures.registry import primitive


@primitive("lsh-attention", mixes="time", version=1, paper="arXiv:2001.04451", known_as="Reformer")
class LSHAttention(Recurrent):
    """o_i = sum_j softmax_j(q_i . k_j) v_j over the j <= i that share a bucket with i in any hash.

    x (B, T, D) -> q (B, T, H, K), v (B, T, H, V) -> (B, T, D); k = q / |q|. A hash of q is argmax [q R; -q R]
    for a random rotation R, drawn with the weights and fixed. A token sees itself only where it is alone.
    `window`: only the last tokens of each bucket, in time linear in T. `chunk`: the form of the paper, sorted
    by bucket and cut into chunks, each seeing those beside it; not causal: the cuts move with later tokens.
    Differs from the paper: without `chunk` every token of a bucket is seen; positions by RoPE, which the hash
    does not see.
    """

    kind = "attention"
    undecayed = ("conv.weight",)

    class Config(Options):
        heads: int | None = count_of_heads()
        key_dim: int | None = per_head("key width")
        value_dim: int | None = per_head("value width")
        hashes: int = option(2, "hashes; a pair is visible if it meets in any", least=1)
        buckets: int = option(16, "buckets of a hash, an even number", least=2)
        window: int | None = option(None, "tokens seen of each bucket, the latest ones; none: all", least=1)
        chunk: int | None = option(None, "length of a chunk of the sorted form; needs causal=false", least=1)
        causal: bool = option(True, "see earlier tokens only")
        rope: bool = option(True, "rotate queries and keys by their position")
        conv: int = taps(0, f"{SILU} q and v")

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.buckets % 2:
                raise ValueError(f"buckets={self.buckets} must be even: a rotated axis has two ends")
            if self.causal and self.chunk is not None:
                raise ValueError(
                    f"chunk={self.chunk} cannot be causal: where the sorted tokens are cut depends on later "
                    "tokens; leave chunk out (window= is its causal relative), or state causal=false"
                )
            if not self.causal and self.window is not None:
                raise ValueError(f"window={self.window} looks back; with causal=false state chunk instead")
            if not self.causal and self.conv:
                raise ValueError(f"conv={self.conv} looks back; with causal=false leave it out")

    config: Config

    rotations: Tensor

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.causal = config.causal
        # Where a sorted sequence is cut into blocks depends on later tokens, and with it the order of sums.
        self.exact_causality = config.window is None
        self.heads, self.key_dim, self.value_dim = head_widths(dim, config)
        if config.rope:
            rotated_width(self.key_dim, 1.0)  # refuses an odd width
        self.query = nn.Linear(dim, self.heads * self.key_dim, bias=False)
        self.value = nn.Linear(dim, self.heads * self.value_dim, bias=False)
        self.out = nn.Linear(self.heads * self.value_dim, dim, bias=False)
        self.conv = ShortConv(self.query.out_features + self.value.out_features, config.conv)
        shape = self.heads, config.hashes, self.key_dim, config.buckets // 2
        self.register_buffer("rotations", torch.randn(shape))

    @property
    def value_widths(self) -> tuple[int, ...]:
        return (self.heads * self.value_dim,)

    @property
    def state_kinds(self) -> tuple[str, ...]:
        return ("growing", "growing", "growing", *(("conv",) if self.conv.taps else ()))

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        positions = torch.arange(x.shape[1], device=x.device)
        q, k, v, buckets, _ = self._project(x, positions, self._init_tails(x.shape[0]), ctx)
        return self.out(self._attend(q, k, v, buckets).flatten(-2))

    def init_state(self, batch: int, length: int | None = None) -> State:
        """Keys (B, t, H, K), values (B, t, H, V), buckets (B, t, H, N), and the tail of the convolution."""
        self.check_length(length)
        like, dtype = self.query.weight, lsh.bucket_dtype(self.config.buckets)
        cache = (like.new_zeros(batch, 0, self.heads, width) for width in (self.key_dim, self.value_dim))
        buckets = like.new_zeros(batch, 0, self.heads, self.config.hashes, dtype=dtype)
        return *cache, buckets, *self._init_tails(batch)

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        if not self.config.causal:
            raise NotImplementedError("lsh-attention[causal=false] sees later tokens; it cannot be decoded")
        keys, values, kept, *tails = state
        past = keys.shape[1]
        positions = past + torch.arange(x.shape[1], device=x.device)
        q, k, v, buckets, tails = self._project(x, positions, tails, ctx)
        k, v, buckets = (torch.cat(z, dim=1) for z in ((keys, k), (values, v), (kept, buckets)))
        if past:
            o = lsh.attend_buckets_past(q, k, v, buckets, window=self.config.window)
        else:
            o = self._attend(q, k, v, buckets)
        return self.out(o.flatten(-2)), (k, v, buckets, *tails)

    def flops(self, length: int) -> int:
        """Pairs as even, independent hashes would make them."""
        c = self.config
        pairs = visible_pairs(length) if c.causal else length**2
        met = 1 - (1 - 1 / c.buckets) ** c.hashes
        pairs = length + round((pairs - length) * met)
        return self._flops(length, min(pairs, self._near_pairs(length) or pairs))

    def executed_flops(self, length: int) -> int:
        ends = [(e - start, e if self.config.causal else length) for start, e in lsh.bucket_rows(length)]
        return self._flops(length, self._near_pairs(length) or sum(rows * keys for rows, keys in ends))

    def uncounted_flops(self, length: int) -> int:
        return self.conv.flops(length)

    def _near_pairs(self, length: int) -> int:
        """Pairs that are multiplied out in a window or in chunks; 0 without them."""
        c = self.config
        size = c.window or c.chunk
        return c.hashes * lsh.near_pairs(length, size, bool(c.chunk), c.causal) if size else 0

    def _flops(self, length: int, pairs: int) -> int:
        products = linear_flops(self) + 2 * self.rotations.numel()
        scores = 2 * pairs * self.heads * (self.key_dim + self.value_dim)
        return length * products + scores + self.conv.flops(length)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, buckets: Tensor) -> Tensor:
        c = self.config
        size = c.window or c.chunk
        if size is None:
            return lsh.attend_buckets(q, k, v, buckets, causal=c.causal)
        return lsh.attend_near(q, k, v, buckets, size=size, chunks=c.chunk is not None, causal=c.causal)

    def _init_tails(self, batch: int) -> State:
        return (self.conv.init_tail(self.query.weight, batch),) if self.conv.taps else ()

    def _project(
        self, x: Tensor, positions: Tensor, tails: State | list[Tensor], ctx: Context | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, list[Tensor]]:
        """q, k (B, T, H, K), v (B, T, H, V), buckets (B, T, H, N) of x (B, T, D), and the next tails."""
        after = list(tails)
        high = torch.promote_types(x.dtype, torch.float32)
        with full_precision(x):  # rounding would change buckets
            q = F.linear(x.to(high), self.query.weight.to(high))
        v = self.value(x)
        if self.conv.taps:
            joined, after[0] = self.conv(torch.cat([q, v], dim=-1), after[0])
            q, v = joined.split([q.shape[-1], v.shape[-1]], dim=-1)
        q = q.unflatten(-1, (self.heads, self.key_dim))
        v = share_value(v.unflatten(-1, (self.heads, self.value_dim)), ctx, self.index)
        buckets = choose(lsh.hash_buckets(q.detach(), self.rotations), ctx)
        k = unit(q)
        if self.config.rope:
            q, k = rotate(q, positions), rotate(k, positions)
        return q.to(v.dtype), k.to(v.dtype), v, buckets, after
