"""What tests of layers share: a layer out of its spec, numbers to feed it, and what it is compared with."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

import architectures
from architectures.model import SequenceModel

Module = TypeVar("Module", bound=nn.Module)


def noise(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def random_tokens(*shape: int, vocab: int = 5, seed: int = 0) -> Tensor:
    return torch.randint(vocab, shape, generator=torch.Generator().manual_seed(seed))


def moved(module: Module, by: float = 0.1) -> Module:
    """Every parameter away from where it starts, where zeros and ones would hide a mistake."""
    with torch.no_grad():
        for i, p in enumerate(module.parameters()):
            p.add_(by * noise(*p.shape, seed=i))
    return module


# A layer under test is `Any`: tests read the parameters and sizes of its own class.
def layer_of(
    spec: str, options: str = "", *, dim: int = 32, max_len: int = 160, seed: int = 0, away: float = 0.0
) -> Any:
    """The one layer of a spec in float64, its parameters `away` from where they start."""
    spec = f"1*{spec}[{options}]" if options else f"1*{spec}"
    model = architectures.build(spec, vocab_size=5, dim=dim, max_len=max_len, seed=seed)
    layer = model.layers()[0][1].double()
    return moved(layer, away) if away else layer


def wrapper_of(spec: str, *, dim: int = 32, away: float = 0.3) -> Any:
    """The one wrapper of a spec in float64, its parameters `away` from where they start."""
    model = architectures.build(spec, vocab_size=5, dim=dim, max_len=64, seed=0).double()
    return moved(model.blocks[0], away) if away else model.blocks[0]


def model_of(
    spec: Any, *, dim: int = 32, max_len: int = 24, seed: int = 0, readout: Any = "every", **options: Any
) -> Any:
    """A model over 7 tokens in float64, its parameters away from where they start."""
    more = architectures.ModelOptions(**options)
    size: dict[str, Any] = {"vocab_size": 7, "dim": dim, "max_len": max_len}
    return moved(architectures.build(spec, **size, readout=readout, seed=seed, options=more).double(), 0.3)


def wild(seed: int = 0) -> Callable[[str, Tensor], Tensor]:
    """N(0, 3^2) for every free entry of a grown model."""
    generator = torch.Generator().manual_seed(seed)
    return lambda name, like: 3 * torch.randn(like.shape, generator=generator, dtype=like.dtype)


def layer_at(model: Any, i: int) -> Any:
    """The layer of a model's block i."""
    return model.blocks[i].layer


def stacked(modules: Sequence[nn.Module]) -> dict[str, Tensor]:
    """The parameters of replicas, one beside the other in a first axis."""
    named = [dict(module.named_parameters()) for module in modules]
    return {n: torch.stack([parameters[n].detach() for parameters in named]) for n in named[0]}


def parameters_in(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def close(a: Tensor, b: Tensor, atol: float = 1e-11, *, least: float = 1e-6, name: str = "") -> None:
    """They differ by at most `atol` of the largest element of b, which counts as `least` where it is less."""
    atol = atol * max(least, float(b.detach().abs().max()))
    torch.testing.assert_close(a.to(b.dtype), b, rtol=0, atol=atol, msg=lambda m: f"{name}: {m}")


def agree(
    layer: Any,
    definition: Callable[[Any, Tensor], Tensor],
    x: Tensor,
    *,
    atol: float = 1e-10,
    slope: float | None = 1e-9,
    low: float = 1e-4,
) -> None:
    """Values, gradients of all parameters unless `slope` is None, and float32 values are the definition's."""
    with torch.set_grad_enabled(slope is not None):
        y, expected = layer(x), definition(layer, x)
    close(y, expected, atol)
    if slope is not None:
        named = dict(layer.named_parameters())
        ours, theirs = (slopes(z, list(named.values())) for z in (y, expected))
        for name, a, b in zip(named, ours, theirs, strict=True):
            close(a, b, slope, least=1e-3, name=name)
    close(copy.deepcopy(layer).float()(x.float()).detach(), expected.detach(), low)


def slopes(y: Tensor, leaves: list[Tensor]) -> tuple[Tensor, ...]:
    """The gradient of a weighted sum of y, zeros where a leaf has no part in it."""
    loss = (y * noise(*y.shape, seed=5)).sum()
    return torch.autograd.grad(loss, leaves, materialize_grads=True)


def unroll(layer: Any, x: Tensor) -> tuple[Tensor, Any]:
    """Outputs and last state, token by token."""
    return in_pieces(layer, x, *range(1, x.shape[1]))


def in_pieces(layer: Any, x: Tensor, *cuts: int) -> tuple[Tensor, Any]:
    """Outputs and last state, piece by piece; a piece of one token is a step."""
    state, rows = layer.init_state(x.shape[0]), []
    for start, end in pairwise((0, *cuts, x.shape[1])):
        if end - start == 1:
            y, state = layer.step(x[:, start], state)
            y = y[:, None]
        else:
            y, state = layer.prefill(x[:, start:end], state)
        rows.append(y)
    return torch.cat(rows, dim=1), state


def decodes_and_learns(spec: str, length: int = 17, steps: int = 7) -> SequenceModel:
    """The model of a spec, whose steps and prefill equal the whole; all its parameters have finite slopes."""
    model = architectures.build(spec, vocab_size=5, dim=32, max_len=64, seed=0).double()
    tokens = random_tokens(2, length)
    whole = model(tokens)
    close(in_pieces(model, tokens, *range(1, steps + 1))[0], whole)
    whole.square().sum().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in model.parameters())
    return model


def finite(layer: Any, x: Tensor) -> Tensor:
    """The output, which is finite like every gradient."""
    x = x.detach().requires_grad_()
    y: Tensor = layer(x)
    gradients = torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])
    assert all(bool(torch.isfinite(z).all()) for z in (y, *gradients))
    return y


def silu(z: Tensor) -> Tensor:
    return z / (1 + torch.exp(-z))


def rms(z: Tensor, eps: float = 1e-6) -> Tensor:
    """z of mean square 1 over its last axis."""
    return z / torch.sqrt(z.square().mean(-1, keepdim=True) + eps)


def unit(z: Tensor) -> Tensor:
    """z of length 1 over its last axis."""
    return z / torch.sqrt(z.square().sum(-1, keepdim=True) + 1e-6)


def short_conv(z: Tensor, weight: Tensor | None, bias: Tensor | float = 0.0) -> Tensor:
    """sum_i weight[:, -1 - i] z_{t - i} + bias, token by token; z where there are no taps."""
    if weight is None:
        return z
    rows, taps = [], weight.shape[1]
    for t in range(z.shape[1]):
        terms = [weight[:, taps - 1 - i] * z[:, t - i] for i in range(min(taps, t + 1))]
        rows.append(torch.stack(terms).sum(0) + bias)
    return torch.stack(rows, dim=1)


def convolved(z: Tensor, weight: Tensor | None, bias: Tensor | float = 0.0) -> Tensor:
    """The short convolution and silu, where there are taps."""
    return z if weight is None else silu(short_conv(z, weight, bias))


def heads_of_attention(layer: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q (B, T, H, K), k (B, T, G, K), v (B, T, G, V) of a softmax attention, before any position."""
    heads, shared = layer.heads, layer.kv_heads
    u = torch.cat([mapped(m, x) for m in (layer.query, layer.key, layer.value)], dim=-1)
    if layer.config.conv:
        u = convolved(u, layer.conv.weight)
    q, k, v = u.split([heads * layer.key_dim, shared * layer.key_dim, shared * layer.value_dim], -1)
    q, k, v = q.unflatten(-1, (heads, -1)), k.unflatten(-1, (shared, -1)), v.unflatten(-1, (shared, -1))
    if layer.config.qk_norm:
        q, k = rms(q) * layer.query_norm.weight, rms(k) * layer.key_norm.weight
    return q, k, v


def turned(z: Tensor, t: int, width: int, base: float = 1e4) -> Tensor:
    """RoPE on the first `width` channels of z (..., K) at position t, pair by pair."""
    out, half = list(z.unbind(-1)), width // 2
    for i in range(half):
        angle = t * base ** (-i / half)
        a, b = z[..., i], z[..., i + half]
        out[i] = a * math.cos(angle) - b * math.sin(angle)
        out[i + half] = a * math.sin(angle) + b * math.cos(angle)
    return torch.stack(out, dim=-1)


def gated_out(layer: Any, o: Tensor, x: Tensor) -> Tensor:
    """What a softmax attention makes of what its heads found for one token."""
    o = o * torch.sigmoid(mapped(layer.gate, x)) if layer.config.gate else o
    return mapped(layer.out, o)


def mapped(linear: Any, x: Tensor) -> Tensor:
    """W x + b."""
    y = x @ linear.weight.T
    return y if linear.bias is None else y + linear.bias


def rotated(layer: Any, z: Tensor) -> Tensor:
    """z (B, T, H, K) of a softmax attention, turned as its queries and keys are."""
    rows = [turned(z[:, t], t, layer.rotated, layer.rope_base) for t in range(z.shape[1])]
    return torch.stack(rows, dim=1)


def rotated_heads(layer: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v of a softmax attention as they meet."""
    q, k, v = heads_of_attention(layer, x)
    return rotated(layer, q), rotated(layer, k), v


def attended(layer: Any, x: Tensor, weigh: Callable[[Tensor, Tensor, int, int], Tensor]) -> Tensor:
    """An attention query by query and head by head: `weigh` gives the weights (B, t + 1) of the keys
    (B, t + 1, K) for the query (B, K) of position t and head h."""
    q, k, v = rotated_heads(layer, x)
    rows = []
    for t in range(x.shape[1]):
        found = []
        for h in range(layer.heads):
            g = h * layer.kv_heads // layer.heads
            weights = weigh(q[:, t, h], k[:, : t + 1, g], t, h)
            found.append((weights[..., None] * v[:, : t + 1, g]).sum(1))
        rows.append(gated_out(layer, torch.cat(found, dim=-1), x[:, t]))
    return torch.stack(rows, dim=1)
