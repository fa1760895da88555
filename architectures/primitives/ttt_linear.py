"""TTT-Linear: a linear map per head that is trained on the tokens as it reads them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.families.matrix_memory import MatrixMemory, Vectors
from architectures.families.options import (
    canon_taps,
    count_of_heads,
    default_heads,
    divide,
    per_head,
    taps,
)
from architectures.families.trained_memory import TrainedMemory, tokens_of_a_batch
from architectures.functional.inner_batches import descend, descend_flops, norm_error
from architectures.functional.rotary import rotate
from architectures.functional.steps import strength
from architectures.parts.norms import HeadNorm
from architectures.primitive import Context, Options, State
from architectures.registry import primitive


@primitive("ttt-linear", mixes="time", version=1, paper="arXiv:2407.04620", known_as="TTT-Linear")
class TTTLinear(TrainedMemory, MatrixMemory):
    """W_i = W_0 - r_i sum_{j<=i} s_j k_j g_j^T,  o_i = q_i + LN(W_i^T q_i),  g = d|LN(z) - (v - k)|^2 / 2 dz.

    x (B, T, D) -> q, k, v (B, T, H, K) -> (B, T, D). Token i of a batch of C = `batch` reads W_i; all
    gradients g_j of the batch are those at z = W_0^T k_j, and the next one begins with W_C. k is extended by
    a 1, for which W has a bias; LN is a LayerNorm per head, learned like the first W_0, which starts as N(0,
    0.02^2) without a bias. s_j = sigmoid(W_s x_j + c) / K, and r_i = max(0, 1 / i + tau_i), i = 1..C, with
    tau learned. q, k and v pass a short causal convolution, q and k are rotated by RoPE at the position in
    the batch. The output passes a LayerNorm over all heads and is gated by gelu. Decoding carries W_0, the
    sum of the gradients, and the number of tokens in the batch as the length of an empty tensor. Differs from
    the paper: of its Mamba backbone, but q and k have maps of their own, and v is convolved where there the
    input of the block is; heads of 16 channels by default.

    Hypothesis: recalls less than `delta-net` of equal state, unless the batch is small.
    """

    anew = False
    undecayed = ("tau", "bias", "inner_weight", "inner_bias", "rate.bias", "norm")

    class Config(Options):
        heads: int | None = count_of_heads()
        key_dim: int | None = per_head("key and value width", sizes="state")
        conv: int = taps(4, "a short convolution, without silu, on q, k and v")
        canon: int = canon_taps()
        batch: int = tokens_of_a_batch()

        def sizes(self, dim: int) -> tuple[int, int, int]:
            heads = self.heads or default_heads(dim)
            key = self.key_dim or divide("dim", dim, "heads", heads)
            return heads, key, key

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.batch = config.batch
        heads, key = self.heads, self.key_dim
        if key % 2:
            raise ValueError(f"key width {key} a head is odd, and RoPE rotates pairs; choose an even key_dim")
        self.add_projection(activation=False)
        self.add_gate()
        self.gates += heads * key  # q is added
        self.memory = nn.Parameter(0.02 * torch.randn(heads, key, key))
        self.bias = nn.Parameter(torch.zeros(heads, key))
        self.inner_weight = nn.Parameter(torch.ones(heads, key))
        self.inner_bias = nn.Parameter(torch.zeros(heads, key))
        self.tau = nn.Parameter(torch.zeros(config.batch))
        self.rate = nn.Linear(dim, heads)
        nn.init.normal_(self.rate.weight, std=0.02)
        nn.init.zeros_(self.rate.bias)
        self.norm = HeadNorm(heads * key, eps=1e-6)
        self.out = nn.Linear(heads * key, dim, bias=False)

    def init_state(self, batch: int, length: int | None = None) -> State:
        """W_0 above its bias, above as much of zeros for the sum of the gradients: (B, H, 2 (K + 1), K)."""
        zeros, *carry = super().init_state(batch, length)
        first = torch.cat([self.memory, self.bias[:, None]], dim=-2).to(zeros.dtype)
        first = F.pad(first, (0, 0, 0, first.shape[-2]))
        return first.expand(batch, *first.shape), *carry

    def memory_shape(self) -> tuple[int, ...]:
        return self.heads, 2 * (self.key_dim + 1), self.key_dim

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Vectors, State]:
        (q, k, v), tail = self.vectors(x, carry[0])
        since, length = carry[1].shape[1], x.shape[1]
        positions = (since + torch.arange(length, device=x.device)) % self.batch
        q, k = rotate(q, positions), rotate(k, positions)
        rate = strength(self.rate(x)) / self.key_dim
        return Vectors(q=q, k=k, v=v, kept=(rate, since)), (tail, self.advance(carry[1], length))

    def recur(self, z: Vectors, s: Tensor) -> tuple[Tensor, Tensor]:
        rate, since = z.kept
        count = torch.arange(1, self.batch + 1, device=s.device, dtype=s.dtype)
        pace = (1 / count + self.tau.to(s.dtype)).clamp(min=0)
        q, k = (F.pad(u, (0, 1), value=1.0) for u in (z.q, z.k))
        inner = self.inner_weight.to(s.dtype), self.inner_bias.to(s.dtype)
        return descend(q, k, z.v - z.k, rate, pace, s, since, norm_error(*inner, len(s)))

    recur_once = recur

    def read(self, o: Tensor, x: Tensor, tokens: Vectors) -> Tensor:
        o = F.layer_norm(o, o.shape[-1:], eps=1e-6)
        o = tokens.q + o * self.inner_weight.to(o.dtype) + self.inner_bias.to(o.dtype)
        o = self.norm(o.flatten(-2)[..., None, :]).to(x.dtype)
        return self.out(o * F.gelu(self.gate(x), approximate="tanh"))

    def size_step(self, option: str) -> int:
        return 2 if option == "key_dim" else 1

    def state_flops(self, length: int) -> int:
        # W_0 is asked and read, the sum is written and read; or as the batches do, where that is less.
        cells = self.heads * (self.key_dim + 1) * self.key_dim
        return min(8 * length * cells, sum(self.recur_flops(length)))

    def recur_flops(self, length: int) -> tuple[int, int]:
        products, rest = descend_flops(length, self.key_dim + 1, self.key_dim, self.batch)
        return self.heads * products, self.heads * rest
