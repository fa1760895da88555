"""The channel mixers of RWKV-5, 6 and 7: a squared-ReLU MLP that also sees the token before."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from architectures.families.options import inner_width
from architectures.families.recurrent import forward_anew, step_once
from architectures.families.shifted import channel_power, depth_ratios
from architectures.parts.short_conv import TokenShift
from architectures.primitive import Context, Options, Primitive, State, linear_flops
from architectures.registry import primitive


class ShiftedMLP(Primitive):
    """What the three have in common: y = W_v relu(W_k z)^2, gated or not; the state is the token before."""

    kind = "mlp"
    forward = forward_anew
    step = step_once
    state_kinds = ("conv",)
    writers = ("value",)
    # z = a + mu (b - a): whether a is the token and b the one before, or the other way round.
    from_token: ClassVar[bool] = True
    mix_key: nn.Parameter

    class Config(Options):
        inner: int | None = inner_width("4 times the width")

    def __init__(self, config: Any, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.inner = config.inner or 4 * dim
        self.key = nn.Linear(dim, self.inner, bias=False)
        self.value = nn.Linear(self.inner, dim, bias=False)
        self.shift = TokenShift(dim)
        self.receptance: nn.Linear | None = None

    def add_gate(self, mix: Tensor) -> None:
        """sigmoid(W_r z_r), with a mix of its own that starts as that of the key."""
        self.receptance = nn.Linear(self.dim, self.dim, bias=False)
        self.mix_key, self.mix_receptance = nn.Parameter(mix), nn.Parameter(mix.clone())

    def init_state(self, batch: int, length: int | None = None) -> State:
        """The token before (B, 1, D), zeros."""
        self.check_length(length)
        return (self.shift.init_tail(self.key.weight, batch),)

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        previous, last = self.shift(x, state[0])
        a, b = (x, previous) if self.from_token else (previous, x)
        change = b - a
        z = torch.addcmul(a, change, self.mix_key.to(x.dtype))
        if self.receptance is None:
            return self.value(F.relu(self.key(z)).square()), (last,)
        gate = self.receptance(torch.addcmul(a, change, self.mix_receptance.to(x.dtype))).sigmoid()
        return gate * self.value(F.relu(self.key(z)).square()), (last,)

    def flops(self, length: int) -> int:
        return length * linear_flops(self) + self.uncounted_flops(length)

    def uncounted_flops(self, length: int) -> int:
        return (2 if self.receptance is None else 5) * length * self.dim  # a mix is 2, the gate 1


@primitive("rwkv5-channel-mix", mixes="channel", version=1, paper="arXiv:2404.05892")
class RWKV5ChannelMix(ShiftedMLP):
    """y = sigmoid(W_r z_r) * W_v relu(W_k z_k)^2,  z = mu x_t + (1 - mu) x_{t-1}: (B, T, D) -> (B, T, D).

    r and k have each their own mu, one per channel. Differs from the paper: an inner width of 4 D, there 3.5
    D; the maps start uniform in +-1 / sqrt(fan-in), as in the MAD study's code (athms/mad-lab), where the
    authors' code (BlinkDL/RWKV-LM) starts W_k orthogonal, W_r and W_v at 0.
    """

    from_token = False

    def __init__(self, config: Any, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.add_gate(channel_power(dim, depth_ratios(index, depth)[1]))


@primitive("rwkv6-channel-mix", mixes="channel", version=1, paper="arXiv:2404.05892")
class RWKV6ChannelMix(ShiftedMLP):
    """y = sigmoid(W_r z_r) * W_v relu(W_k z_k)^2,  z = x_t + mu (x_{t-1} - x_t): (B, T, D) -> (B, T, D).

    That of RWKV-5 with 1 - mu for mu, and the same initial maps. Differs from the paper: an inner width of 4
    D, there 3.5 D.
    """

    def __init__(self, config: Any, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.add_gate(1 - channel_power(dim, depth_ratios(index, depth)[1]))


@primitive("rwkv7-channel-mix", mixes="channel", version=1, paper="arXiv:2503.14456")
class RWKV7ChannelMix(ShiftedMLP):
    """y = W_v relu(W_k z)^2,  z = x_t + mu (x_{t-1} - x_t), mu one per channel: (B, T, D) -> (B, T, D).

    No gate. W_k starts orthogonal and W_v at zero, so that the layer adds nothing at first. Differs from the
    paper: nothing in the map; its public code (BlinkDL/RWKV-LM) draws W_k uniformly.
    """

    def __init__(self, config: Any, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.mix_key = nn.Parameter(1 - channel_power(dim, depth_ratios(index, depth)[1] ** 4))
        nn.init.orthogonal_(self.key.weight)
        nn.init.zeros_(self.value.weight)
