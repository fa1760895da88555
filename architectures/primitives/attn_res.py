"""Attention residuals: each block reads a learned mixture of what the blocks before it wrote."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from architectures.families.wrapper import Block, Run, Wrapper
from architectures.functional.precision import full_precision
from architectures.parts.norms import rms_norm
from architectures.primitive import Context, Options, option
from architectures.registry import primitive


@primitive(
    "attn-res",
    mixes="stream",
    paper="arXiv:2603.15031",
    example="attn-res{mh-attention mlp swiglu}",
    known_as="AttnRes; with block > 1 Block AttnRes",
)
class AttnRes(Wrapper):
    """u_l = n sum_i p_i r_i, p = softmax_i(w_l . norm(r_i)), r_0 = x, r_i = f_i(u_i): (B, T, D) -> (B, T, D).

    In place of the residual stream, each block f_l of the body has a query w_l (D,) of its own and attends,
    token by token, over the n outputs before it and x; a last query makes the wrapper's output. norm is
    RMSNorm with a weight for each query. With `block` s, the blocks are grouped by s: a source is x, the sum
    of a closed group, or the sum so far of the open one. All w start at 0, which is the plain residual. The
    answer of `hyper-connections` to the same question is several streams and maps between them, that of
    `altup` one wide stream of which a block changes a part; this one keeps every output apart, and what it
    costs grows with the depth. Decoding carries nothing more. Differs from the paper: mixtures are multiplied
    by the number n of their sources, which the norm that follows undoes, so that w = 0 is the residual
    without a norm, too; the block that reads x alone has no query.

    Hypothesis: equal to the plain residual at four blocks or fewer and better with depth, first where an
    answer takes several hops.
    """

    undecayed = ("query", "scale")

    class Config(Options):
        block: int = option(1, "s, blocks of the body whose outputs are summed into one source", least=1)

    config: Config

    def __init__(self, config: Config, *, body: list[Block], dim: int, **place: int) -> None:
        super().__init__(config, body=body, dim=dim, **place)
        self.query = nn.Parameter(torch.zeros(len(body), dim))
        self.scale = nn.Parameter(torch.ones(len(body), dim))

    def thread(self, x: Tensor, run: Run, ctx: Context) -> Tensor:
        sources, keys, group = [x], [self._key(x)], self.config.block
        for i, block in enumerate(self.order()):
            y = run(block, self._mix(i - 1, sources, keys) if i else x).to(x.dtype)
            if i % group:
                sources[-1] = y = sources[-1] + y
                keys[-1] = self._key(y)
            else:
                sources.append(y)
                keys.append(self._key(y))
        return self._mix(len(self.body) - 1, sources, keys)

    def own_flops(self, length: int) -> int:
        """Scores and mixtures of all sources, and the sums inside of the groups."""
        return length * self.dim * 2 * self._sources() + self.own_uncounted(length)

    def own_uncounted(self, length: int) -> int:
        count = len(self.body)
        sums = count - -(-count // self.config.block)
        return length * self.dim * (2 * self._sources() + sums)

    def _sources(self) -> int:
        """Sources of all mixtures together; after i blocks there are those of the groups begun, and x."""
        return sum(1 + -(-i // self.config.block) for i in range(1, len(self.body) + 1))

    def _key(self, source: Tensor) -> Tensor:
        high = source.to(torch.promote_types(source.dtype, torch.float32))
        return rms_norm(high, high.new_ones(self.dim), divisor=self.dim)

    def _mix(self, i: int, sources: list[Tensor], keys: list[Tensor]) -> Tensor:
        with full_precision(keys[0]):
            query = (self.query[i] * self.scale[i]).to(keys[0].dtype)[:, None]  # (D, 1)
            weights = torch.cat([key @ query for key in keys], dim=-1).softmax(-1)  # (..., n)
        weights = (len(sources) * weights).to(sources[0].dtype)
        terms = [weights[..., i, None] * source for i, source in enumerate(sources)]
        return sum(terms[1:], terms[0])
