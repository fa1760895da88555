"""The channel mixers of RWKV-5, 6 and 7: a squared-ReLU MLP that also sees the token before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.families.feed_forward import FeedForward
from architectures.functional.rwkv import channel_power, depth_ratios
from architectures.parts.short_conv import TokenShift
from architectures.primitive import Context, Primitive, State, linear_flops
from architectures.registry import primitive


class ShiftedMLP(Primitive):
    """What the three have in common: the inner width, and the token before as the state (B, 1, D)."""

    writers = ("value",)
    # Multiplications a token and channel of the model outside the matrix products.
    work: ClassVar[int] = 0

    config: Config

    @dataclass(frozen=True, kw_only=True)
    class Config(FeedForward.Config):
        pass

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.inner = config.inner or 4 * dim
        self.key = nn.Linear(dim, self.inner, bias=False)
        self.value = nn.Linear(self.inner, dim, bias=False)
        self.shift = TokenShift(dim)

    @property
    def state_kinds(self) -> tuple[str, ...]:
        return ("conv",)

    def mix(self, x: Tensor, previous: Tensor) -> Tensor:
        """The tokens and their predecessors (B, T, D) -> (B, T, D)."""
        raise NotImplementedError(f"{type(self).__name__} defines no mix")

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        return self.prefill(x, self.init_state(x.shape[0]), ctx)[0]

    def init_state(self, batch: int, length: int | None = None) -> State:
        """The token before (B, 1, D), zeros."""
        self.check_length(length)
        return (self.shift.init_tail(self.key.weight, batch),)

    def step(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        y, state = self.prefill(x[:, None], state, ctx)
        return y[:, 0], state

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        previous, last = self.shift(x, state[0])
        return self.mix(x, previous), (last,)

    def flops(self, length: int) -> int:
        return length * linear_flops(self) + self.uncounted_flops(length)

    def uncounted_flops(self, length: int) -> int:
        return length * self.work * self.dim


@primitive("rwkv5-channel-mix", mixes="channel", version=1, paper="arXiv:2404.05892")
class RWKV5ChannelMix(ShiftedMLP):
    """y = sigmoid(W_r z_r) * W_v relu(W_k z_k)^2,  z = mu x_t + (1 - mu) x_{t-1}: (B, T, D) -> (B, T, D).

    r and k have each their own mu, one a channel. Differs from the paper: an inner width of 4 D, there 3.5 D;
    the maps start uniform in +-1 / sqrt(fan-in), as in the MAD study's code (athms/mad-lab), where the
    authors' code (BlinkDL/RWKV-LM) starts W_k orthogonal, W_r and W_v at 0.
    """

    work = 5

    def __init__(
        self, config: ShiftedMLP.Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1
    ) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.receptance = nn.Linear(dim, dim, bias=False)
        token = channel_power(dim, depth_ratios(index, depth)[1])
        self.mix_key, self.mix_receptance = nn.Parameter(token), nn.Parameter(token.clone())

    def mix(self, x: Tensor, previous: Tensor) -> Tensor:
        change = x - previous
        z_k, z_r = (
            torch.addcmul(previous, change, mu.to(x.dtype)) for mu in (self.mix_key, self.mix_receptance)
        )
        return self.receptance(z_r).sigmoid() * self.value(F.relu(self.key(z_k)).square())


@primitive("rwkv6-channel-mix", mixes="channel", version=1, paper="arXiv:2404.05892")
class RWKV6ChannelMix(ShiftedMLP):
    """y = sigmoid(W_r z_r) * W_v relu(W_k z_k)^2,  z = x_t + mu (x_{t-1} - x_t): (B, T, D) -> (B, T, D).

    That of RWKV-5 with 1 - mu for mu, and the same initial maps. Differs from the paper: an inner width of
    4 D, there 3.5 D.
    """

    work = 5

    def __init__(
        self, config: ShiftedMLP.Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1
    ) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.receptance = nn.Linear(dim, dim, bias=False)
        before = 1 - channel_power(dim, depth_ratios(index, depth)[1])
        self.mix_key, self.mix_receptance = nn.Parameter(before), nn.Parameter(before.clone())

    def mix(self, x: Tensor, previous: Tensor) -> Tensor:
        change = previous - x
        z_k, z_r = (torch.addcmul(x, change, mu.to(x.dtype)) for mu in (self.mix_key, self.mix_receptance))
        return self.receptance(z_r).sigmoid() * self.value(F.relu(self.key(z_k)).square())


@primitive("rwkv7-channel-mix", mixes="channel", version=1, paper="arXiv:2503.14456")
class RWKV7ChannelMix(ShiftedMLP):
    """y = W_v relu(W_k z)^2,  z = x_t + mu (x_{t-1} - x_t), mu one per channel: (B, T, D) -> (B, T, D).

    No gate. W_k starts orthogonal and W_v at zero, so that the layer adds nothing at first. Differs from the
    paper: nothing in the map; its public code (BlinkDL/RWKV-LM) draws W_k uniformly.
    """

    work = 2

    def __init__(
        self, config: ShiftedMLP.Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1
    ) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.mix_key = nn.Parameter(1 - channel_power(dim, depth_ratios(index, depth)[1] ** 4))
        nn.init.orthogonal_(self.key.weight)
        nn.init.zeros_(self.value.weight)

    def mix(self, x: Tensor, previous: Tensor) -> Tensor:
        z = torch.addcmul(x, previous - x, self.mix_key.to(x.dtype))
        return self.value(F.relu(self.key(z)).square())
