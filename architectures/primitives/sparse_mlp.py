"""A feed-forward layer of which each token uses one unit of every block, chosen by a small controller."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.axes import Axes
from architectures.families.options import inner_width
from architectures.families.recurrent import Recurrent
from architectures.functional.precision import full_precision
from architectures.functional.weighted_rows import row_products, weighted_rows
from architectures.parts.sru import SRU
from architectures.primitive import Context, Options, State, choose, divisors, option, round_up
from architectures.registry import primitive

# In training: how far Gumbel noise moves the choice, and the share of steps whose mask is one-hot.
NOISE = 0.1
HARD = 0.3
# Elements of gathered rows that a step may copy: about what a core's own cache holds.
COPIED = 2**18


@primitive("sparse-mlp", mixes="channel", version=2, paper="arXiv:2111.12763", known_as="Terraformer")
class SparseMLP(Recurrent):
    """y = W_2 (relu(W_1 x) * m(x)), m one-hot in each block of N units: argmax of x C_1^T C_2 + b.

    (B, T, D) -> (B, T, D); W_1, W_2 both (F, D), a unit per row; C_1 (R, D), C_2 (R, F), m (B, T, F/N, N).
    `forward` computes every unit and masks; `step` reads the F/N chosen rows of each matrix and no other.
    Without noise in the context m is that of the equation. In training, the choice is moved by 0.1 Gumbel
    noise, and one draw per step and layer decides: one-hot (30 %), or the softmax in its place (70 %). A
    one-hot m has the gradient of the softmax (straight-through), so the layer's gradient is not a slope. With
    `slope=all` it reaches the controller from every unit whose W_1 x is positive, as the equation has it;
    with `slope=chosen`, as the public code has it (google/trax, the mask before the ReLU), from the chosen
    ones only. `multiply` turns a one-hot m into m times the softmax, a factor without a gradient. N = 1 is
    the dense ReLU layer, without a controller. `sru` adds y += SRU(x) beside it, the layer's only state.
    Differs from the paper: no biases b_1 and b_2 unless `bias`; blocks of 16, there 64.
    """

    kind = "mlp"
    routed = ("up", "down")
    writers = ("down", "down_bias", "sru.up")
    straight_through = True

    class Config(Options):
        inner: int | None = inner_width("4 times the width, rounded up to whole blocks", ", whole blocks")
        block: int = option(16, "units of which one is used, N; 1: all, the dense layer", least=1)
        rank: int | None = option(None, "rank of the controller; none: inner / block", per="width", least=1)
        slope: Literal["all", "chosen"] = option("all", "units that teach the controller where m is one-hot")
        multiply: bool = option(False, "multiply the chosen units by the controller's softmax")
        rescale: bool = option(False, "start W_2 larger, by the root of N, as fewer units are summed")
        bias: bool = option(False, "biases of both maps, as in the paper's equation")
        sru: int = option(0, "width of an SRU beside the layer; 0: none", sizes="state", least=0)

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.inner is not None and self.inner % self.block:
                choices = ", ".join(str(d) for d in divisors(self.inner))
                raise ValueError(
                    f"inner={self.inner} is not divisible by block={self.block}; choose block from "
                    f"{choices}, or inner={round_up(self.inner, self.block)}"
                )

    config: Config

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.inner = config.inner or round_up(4 * dim, config.block)
        self.chosen = self.inner // config.block
        self.up = nn.Parameter(_glorot(self.inner, dim))
        root = math.sqrt(config.block) if config.rescale else 1.0
        self.down = nn.Parameter(_glorot(self.inner, dim) * root)
        self.up_bias = nn.Parameter(torch.zeros(self.inner)) if config.bias else None
        self.down_bias = nn.Parameter(torch.zeros(dim)) if config.bias else None
        self.reduce: nn.Linear | None = None
        if config.block > 1:  # one unit per block needs no choice
            rank = config.rank or self.chosen
            self.reduce = nn.Linear(dim, rank, bias=False)
            nn.init.xavier_uniform_(self.reduce.weight)
            self.choose = nn.Parameter(_glorot(rank, self.inner))
            self.choose_bias = nn.Parameter(1e-6 * torch.randn(self.inner))
        self.sru = SRU(dim, config.sru) if config.sru else None

    def size_step(self, option: str) -> int:
        return self.config.block if option == "inner" else 1

    @property
    def state_kinds(self) -> tuple[str, ...]:
        return () if self.sru is None else ("recurrent",)

    def init_state(self, batch: int, length: int | None = None) -> State:
        """The state of the SRU (B, N), where there is one."""
        self.check_length(length)
        return () if self.sru is None else (self.sru.init_state(batch),)

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        return self._beside(self._dense(x, ctx), x, state)

    def step(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        # In large batches too: a gathered product is slower than a dense one, but there are N times fewer.
        y = self._dense(x[:, None], ctx) if self.reduce is None else self._gathered(x)[:, None]
        y, state = self._beside(y, x[:, None], state)
        return y[:, 0], state

    def mask(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        """m (B, T, F/N, N); what it is in training depends on the context's seed and step."""
        logits = self._logits(x)
        soft = logits.softmax(-1)
        order, hard = logits.detach(), None
        if ctx is not None and ctx.seed is not None:
            u = ctx.noise(f"{self.path}/gumbel", tuple(logits.shape), logits)
            draw = ctx.noise(f"{self.path}/hard", (), logits)
            assert u is not None and draw is not None
            order, hard = order - NOISE * (-u.clamp(1e-6, 1 - 1e-6).log()).log(), draw < HARD
        one_hot = order.argmax(-1, keepdim=True) == torch.arange(self.config.block, device=x.device)
        one_hot = choose(one_hot, ctx)
        m = one_hot.to(soft.dtype) + (soft - soft.detach())
        if self.config.multiply:
            m = m * soft.detach()
        return m if hard is None else torch.where(hard, m, soft)

    def flops(self, length: int) -> int:
        return self._flops(length, self.chosen)

    def executed_flops(self, length: int) -> int:
        return self._flops(length, self.inner)

    def uncounted_flops(self, length: int) -> int:
        mask = 0 if self.reduce is None else self.inner
        return length * mask + (0 if self.sru is None else self.sru.uncounted_flops(length))

    def active_params(self) -> int:
        return super().active_params() - 2 * (self.inner - self.chosen) * self.dim

    def axes(self) -> Axes:
        """Whole blocks: each chooses by itself, and a new one adds nothing while its rows of W_2 are zero."""
        rank = None if self.reduce is None else self.reduce.out_features
        units = {"up": "F D", "up_bias": "F", "down": "F D", "down_bias": "D"}
        return Axes(
            sizes={"F": self.inner} | ({} if rank is None else {"P": rank}),
            tensors=units | {"reduce.weight": "P D", "choose": "P F", "choose_bias": "F"},
            zero={"F": ("down",), "D": ("down", "down_bias")},
            options={"inner": "F"} | ({} if rank is None else {"rank": "P"}),
        )

    def _flops(self, length: int, units: int) -> int:
        """Products with `units` rows of both matrices, the controller, the mask, the SRU."""
        flops = 4 * length * self.dim * units
        if self.reduce is not None:
            flops += length * (units + 2 * (self.reduce.weight.numel() + self.choose.numel()))
        return flops + (0 if self.sru is None else self.sru.flops(length))

    def _logits(self, x: Tensor) -> Tensor:
        """(..., F/N, N), at least in float32, also under autocast, which would change the choice."""
        assert self.reduce is not None
        high = torch.promote_types(x.dtype, torch.float32)
        with full_precision(x):
            narrow = F.linear(x.to(high), self.reduce.weight.to(high))
            logits = narrow @ self.choose.to(high) + self.choose_bias.to(high)
            return logits.unflatten(-1, (self.chosen, self.config.block))

    def _dense(self, x: Tensor, ctx: Context | None) -> Tensor:
        h = F.linear(x, self.up, self.up_bias)
        if self.reduce is None:
            h = F.relu(h)
        else:
            m = self.mask(x, ctx).flatten(-2).to(h.dtype)
            # The same values either way; after a ReLU of the product, what is masked out has no slope.
            h = F.relu(h) * m if self.config.slope == "all" else F.relu(h * m)
        y = h @ self.down
        return y if self.down_bias is None else y + self.down_bias

    def _gathered(self, x: Tensor) -> Tensor:
        """x (B, D) -> (B, D) from the chosen rows."""
        logits = self._logits(x)
        start = torch.arange(0, self.inner, self.config.block, device=x.device)
        rows = start + logits.argmax(-1)  # (B, F/N)
        x = x.to(self.up.dtype)
        # The few rows of one token are copied, into the cache; more are multiplied in place.
        one = x.shape[0] == 1 and self.chosen * self.dim <= COPIED
        h = (self.up.index_select(0, rows[0]) @ x[0])[None] if one else row_products(self.up, rows, x)
        h = F.relu(h if self.up_bias is None else h + self.up_bias[rows])
        if self.config.multiply:
            h = h * logits.softmax(-1).amax(-1).to(h.dtype)
        y = h @ self.down.index_select(0, rows[0]) if one else weighted_rows(self.down, rows, h)
        return y if self.down_bias is None else y + self.down_bias

    def _beside(self, y: Tensor, x: Tensor, state: State) -> tuple[Tensor, State]:
        if self.sru is None:
            return y, state
        change, c = self.sru(self.sru.down(x), state[0])
        return y + change, (c,)


def _glorot(rows: int, columns: int) -> Tensor:
    bound = math.sqrt(6 / (rows + columns))
    return torch.empty(rows, columns).uniform_(-bound, bound)
