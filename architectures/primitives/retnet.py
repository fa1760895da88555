"""Retention: linear attention that forgets at one fixed rate a head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.families.matrix_memory import MatrixMemory, Tokens
from architectures.functional.norms import rms_norm
from architectures.functional.rotary import rotate
from architectures.parts.short_conv import ShortConv
from architectures.primitive import Context, State, option
from architectures.registry import primitive


@primitive("retnet", mixes="time", version=1, paper="arXiv:2307.08621")
class RetNet(MatrixMemory):
    """S_t = g S_{t-1} + k_t v_t^T,  o_t = S_t^T q_t / sqrt(K),  g = 1 - 2^(-5-h) in head h = 0, 1, ...

    x (B, T, D) -> q, k (B, T, H, K), v (B, T, H, V) -> (B, T, D). q and k are rotated by RoPE; the rates are
    constants. The output is normalised a head by RMSNorm and gated by silu. The state counts the tokens for
    the rotation. Differs from the paper: heads of 16 channels by default, a short convolution of q, k and v
    as an option, and a norm that does not subtract the mean.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(MatrixMemory.Config):
        value_dim: int | None = option(None, "value width a head; none: 2 width / heads", scales="head")

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        if self.key_dim % 2:
            raise ValueError(
                f"key width {self.key_dim} a head is odd, and RoPE rotates pairs; choose an even key_dim"
            )
        if config.value_dim is None:
            self.value_dim = 2 * self.value_dim
        self.widths = [self.heads * w for w in (self.key_dim, self.key_dim, self.value_dim)]
        self.gates = self.heads * self.value_dim
        self.project = nn.Linear(dim, sum(self.widths), bias=False)
        self.conv = ShortConv(sum(self.widths), config.conv)
        self.gate = nn.Linear(dim, self.heads * self.value_dim, bias=False)
        self.norm = nn.Parameter(torch.ones(self.value_dim))
        self.out = nn.Linear(self.heads * self.value_dim, dim, bias=False)

    def size_step(self, option: str) -> int:
        return 2 if option == "key_dim" else 1

    @property
    def carry_kinds(self) -> tuple[str, ...]:
        return ("conv", "counter")

    def init_carry(self, like: Tensor, batch: int) -> State:
        """The tail of the short convolution and the number of tokens so far."""
        return self.conv.init_tail(like, batch), torch.zeros((), dtype=torch.int64, device=like.device)

    def write(self, x: Tensor, carry: State, ctx: Context | None) -> tuple[Tokens, State]:
        z, tail = self.conv(self.project(x), carry[0])
        high = torch.promote_types(x.dtype, torch.float32)
        q, k, v = (u.unflatten(-1, (self.heads, -1)) for u in z.to(high).split(self.widths, dim=-1))
        positions = carry[1] + torch.arange(x.shape[1], device=x.device)
        q, k = rotate(q, positions) * self.scale, rotate(k, positions)
        rates = torch.log1p(-torch.exp2(-5 - torch.arange(self.heads, device=x.device, dtype=high)))
        log_a = rates.expand(*x.shape[:2], self.heads)  # (B, T, H)
        return Tokens(q=q, k=k, v=v, log_a=log_a), (tail, carry[1] + x.shape[1])

    def read(self, o: Tensor, x: Tensor, tokens: Tokens) -> Tensor:
        o = rms_norm(o, self.norm, divisor=self.value_dim).flatten(-2).to(x.dtype)
        return self.out(o * F.silu(self.gate(x)))
