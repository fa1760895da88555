"""Mixture of depths: layers that a token passes or skips, as a learned threshold has it."""

from __future__ import annotations

import functools
from statistics import NormalDist

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.families.recurrent import step_once
from architectures.families.wrapper import Advance, Block, Run, Wrapper, outermost
from architectures.functional.packing import pack, ranks
from architectures.functional.precision import full_precision
from architectures.parts.norms import rms_norm
from architectures.primitive import Context, Options, State, choose, option
from architectures.registry import primitive


@primitive(
    "mixture-of-depths",
    mixes="stream",
    paper="arXiv:2404.02258",
    example="mixture-of-depths{mh-attention mlp}",
    known_as="MoD",
)
class MixtureOfDepths(Wrapper):
    """y = x + r body(x) where r = w . norm(x) + b >= 0, else y = x, for each token: (B, T, D) -> (B, T, D).

    body(x) is what the blocks add together. It sees the chosen tokens alone, as a sequence of their own: a
    token that is not chosen writes no key and moves no state, and positions are counted among the chosen.
    Training chooses by the same threshold as decoding, so both forms are causal; the cross-entropy of
    sigmoid(r) with the best `capacity` of a row, weighted by `loss`, moves the threshold to where so many
    pass. Only this loss sees the whole row. A capacity of 1 has no w and b, and is `repeat[times=1]`.
    Decoding keeps a place in a growing cache for every token, of which each row fills as many as it chose.
    Differs from the paper: there training takes the best of the row, which depends on later tokens; the
    router reads a normed x and has a bias, by which `capacity` of normal inputs pass at the start; `capacity`
    is a half, there an eighth in rows of 2048. `forward`, with losses of its body, has all, the chosen first.

    Hypothesis: as good as the body for all tokens where many of them are noise or say nothing new, worse
    where every token has to be kept, as in copying and compression.
    """

    step = step_once
    rewrites = True  # a place of a token that was not chosen is filled by a later one
    undecayed = ("router", "bias")

    class Config(Options):
        capacity: float = option(0.5, "part of the tokens that are to pass; 1: all", most=1)
        loss: float = option(0.01, "weight of the loss that moves the threshold", least=0)

        def __post_init__(self) -> None:
            super().__post_init__()
            if not 0 < self.capacity <= 1:
                raise ValueError(
                    f"capacity={self.capacity:g} must be above 0 and at most 1; 1 is every token"
                )

    config: Config

    def __init__(self, config: Config, *, body: list[Block], dim: int, **place: int) -> None:
        super().__init__(config, body=body, dim=dim, **place)
        if not self.causal:
            raise ValueError(
                "mixture-of-depths puts the tokens that skip its body behind the others, where a layer that "
                "is not causal would see them; use causal layers"
            )
        self.selects = config.capacity < 1
        if self.selects:
            self.router = nn.Parameter(dim**-0.5 * torch.randn(dim))
            self.bias = nn.Parameter(torch.full((1,), NormalDist().inv_cdf(config.capacity)))

    @functools.cached_property
    def by_row(self) -> list[bool]:
        """Whether each tensor of the body has rows; counters are the same for all, and here of each row.

        Known once the model is built: a wrapper around this one may still add to the body.
        """
        one, two = (super(MixtureOfDepths, self).init_state(batch) for batch in (1, 2))
        return [a.shape != b.shape for a, b in zip(one, two, strict=True)]

    @property
    def state_kinds(self) -> tuple[str, ...]:
        return ("counter", *super().state_kinds) if self.selects else super().state_kinds

    def thread(self, x: Tensor, run: Run, ctx: Context) -> Tensor:
        return x + self._added(x, run)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        if not self.selects:
            return super().forward(x, ctx)
        ctx = Context() if ctx is None else ctx
        logits = self._logits(x)
        chosen = choose(logits.detach() >= 0, ctx)
        if self.config.loss:
            key = f"{self.path}/depth"
            loss = self.config.loss * self._lag(logits)
            ctx.losses[key] = ctx.losses[key] + loss if key in ctx.losses else loss
        rank = ranks(chosen)
        shared = self._alone(ctx)
        outside = ctx.tell(None if ctx.tokens is None else pack(ctx.tokens, rank))
        added = self._added(pack(x, rank), lambda block, u: block(u, ctx))
        ctx.shared, ctx.tokens = shared, outside
        return self._spread(x, logits, chosen, added, rank)

    def init_state(self, batch: int, length: int | None = None) -> State:
        """How long each row's tensors are along axis 1 (B, tensors), and the states of the blocks."""
        inside = super().init_state(batch, length)
        if not self.selects:
            return inside
        rows = [
            t if by_row else t.expand(batch, *t.shape).clone()
            for t, by_row in zip(inside, self.by_row, strict=True)
        ]
        sizes = torch.tensor([_size(t) for t in rows], device=self.router.device, dtype=torch.int64)
        return sizes.expand(batch, -1).clone(), *rows

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        if not self.selects:
            return super().prefill(x, state, ctx)
        ctx = Context() if ctx is None else ctx
        logits = self._logits(x)
        chosen = choose(logits.detach() >= 0, ctx)
        rank = ranks(chosen)
        shared = self._alone(ctx)
        u, tokens = pack(x, rank), None if ctx.tokens is None else pack(ctx.tokens, rank)
        outside = ctx.tell(None)
        added = torch.zeros_like(x)
        pieces: list[tuple[list[int], list[Tensor]]] = []
        for (count, *_), rows in self._groups(chosen, state).items():
            before = self._of_rows(state, rows)
            ctx.tell(None if tokens is None else tokens[rows, :count])
            run = Advance("prefill", before, ctx)
            if count:
                added[rows, :count] = self._added(u[rows, :count], run).to(x.dtype)
            pieces.append((rows, run.after if count else list(before)))
        ctx.shared, ctx.tokens = shared, outside
        return self._spread(x, logits, chosen, added, rank), self._merged(state, pieces, x.shape[1])

    def measure_state(self, length: int) -> dict[str, int]:
        """As if every token were chosen, for which there is a place."""
        parts = [layer.measure_state(length) for layer in outermost(self.body)]
        return {kind: sum(part[kind] for part in parts) for kind in ("recurrent", "conv", "growing", "total")}

    def flops(self, length: int) -> int:
        passing = max(1, round(self.config.capacity * length))
        return sum(block.flops(passing) for block in self.order()) + self.own_flops(length)

    def own_flops(self, length: int) -> int:
        return 2 * length * self.dim * self.selects + self.own_uncounted(length)

    def own_uncounted(self, length: int) -> int:
        return 2 * length * self.dim * self.selects

    def _logits(self, x: Tensor) -> Tensor:
        """r (B, T), at least in float32, also under autocast, which would change the choice."""
        high = x.to(torch.promote_types(x.dtype, torch.float32))
        with full_precision(x):
            normed = rms_norm(high, high.new_ones(self.dim), divisor=self.dim)
            return (normed @ self.router.to(high.dtype)[:, None])[..., 0] + self.bias.to(high.dtype)

    def _lag(self, logits: Tensor) -> Tensor:
        """The cross-entropy with a choice of the best `capacity` of each row."""
        count = max(1, round(self.config.capacity * logits.shape[1]))
        least = logits.detach().topk(count, dim=1).values[:, -1:]
        # Equal tokens stand on the same side, whatever their logits were rounded to.
        best = logits.detach() >= least - 1e-5 * least.abs().clamp(min=1)
        return F.binary_cross_entropy_with_logits(logits, best.to(logits.dtype))

    def _added(self, x: Tensor, run: Run) -> Tensor:
        """What the blocks add to x together."""
        total = None
        for block in self.order():
            y = run(block, x if total is None else x + total)
            total = y if total is None else total + y
        assert total is not None
        return total

    def _spread(self, x: Tensor, logits: Tensor, chosen: Tensor, added: Tensor, rank: Tensor) -> Tensor:
        """x and, where it was chosen, r times what was added to it."""
        weight = torch.where(chosen, logits, torch.zeros_like(logits)).to(x.dtype)
        back = added.gather(1, rank[..., None].expand(added.shape))
        return x + weight[..., None] * back.to(x.dtype)

    def _alone(self, ctx: Context) -> dict[str, Tensor]:
        """Take away what earlier layers left for all tokens, of which the blocks see some."""
        if ctx.shared and any(layer.value_widths for layer in self.inside()):
            raise ValueError(
                "mixture-of-depths stands where layers share their values, and its body does not see every "
                "token; put value-residual into its body, around the layers that share"
            )
        shared, ctx.shared = ctx.shared, {}
        return shared

    def _groups(self, chosen: Tensor, state: State) -> dict[tuple[int, ...], list[int]]:
        """Rows that have chosen as many tokens, now and before: number now, rest -> rows."""
        sizes, *tensors = state
        if chosen.is_meta:  # without numbers every token is chosen
            return {(chosen.shape[1],): list(range(len(chosen)))}
        marks = [chosen.sum(1), *sizes.unbind(1)]
        counters = (t for t, by_row in zip(tensors, self.by_row, strict=True) if not by_row)
        marks += [mark for t in counters for mark in (t.unbind(1) if t.dim() > 1 else (t,))]
        groups: dict[tuple[int, ...], list[int]] = {}
        for row, mark in enumerate(zip(*(m.tolist() for m in marks), strict=True)):
            groups.setdefault(mark, []).append(row)
        return groups

    def _of_rows(self, state: State, rows: list[int]) -> State:
        """The state of the blocks for rows whose tensors are equally long."""
        sizes, *tensors = state
        found, lengths = [], [_size(t) for t in tensors] if sizes.is_meta else sizes[rows[0]].tolist()
        for t, by_row, size in zip(tensors, self.by_row, lengths, strict=True):
            rest = t[:, :size] if t.dim() > 1 else t
            found.append(rest[rows] if by_row else rest[rows[0]])
        return tuple(found)

    def _merged(self, state: State, pieces: list[tuple[list[int], list[Tensor]]], length: int) -> State:
        """The states of all rows beside each other, padded at their ends."""
        sizes, *tensors = state
        sizes, merged = sizes.clone(), []
        for j, (old, kind) in enumerate(zip(tensors, super().state_kinds, strict=True)):
            new = [(rows, after[j]) for rows, after in pieces]
            axis = int(self.by_row[j])
            if old.dim() > 1:
                longest = max(t.shape[axis] for _, t in new)
                # A place for every token, whoever fills it: what is kept does not depend on the choice.
                longest = old.shape[1] + length if kind == "growing" else longest
                old = old.new_zeros(old.shape[0], longest, *old.shape[2:])
            else:
                old = old.clone()
            for rows, t in new:
                if old.dim() > 1:
                    old[rows, : t.shape[axis]] = t.to(old.dtype)
                    sizes[rows, j] = t.shape[axis]
                else:
                    old[rows] = t.to(old.dtype)
            merged.append(old)
        return sizes, *merged


def _size(t: Tensor) -> int:
    return t.shape[1] if t.dim() > 1 else 0
