"""The RWKV layers against their equations, token by token in float64; the contract tests cover the rest."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

import architectures
from architectures.functional.delta import LOG_DECAY_MIN
from architectures.primitive import Context
from architectures.registry import get
from tests.architectures.helpers import close, convolved, in_pieces, moved, noise, parameters_in, rms, stacked

DIM = 32
TIME = ["rwkv5", "rwkv6", "rwkv7"]
CHANNEL = [f"{name}-channel-mix" for name in TIME]
ODD = {"heads": 3, "key_dim": 5, "value_dim": 7, "conv": 3}
RANKS: dict[str, dict[str, Any]] = {
    "rwkv5": {},
    "rwkv6": {"lerp_rank": 3, "decay_rank": 5},
    "rwkv7": {"decay_rank": 3, "rate_rank": 5, "value_rank": 7, "gate_rank": 9},
}
FIRST = "rwkv7/v_first/0"


def fresh(name: str, *, dim: int = DIM, index: int = 0, depth: int = 1, **options: Any) -> Any:
    entry = get(name)
    torch.manual_seed(0)
    return entry.cls(entry.config(options), dim=dim, max_len=80, index=index, depth=depth)


def shaken(name: str, *, amount: float = 0.2, **options: Any) -> Any:
    """Away from the initial zeros and ones, with every term of the equations at work, in float64."""
    layer = fresh(name, **options).double()
    with torch.no_grad():
        for i, p in enumerate(layer.parameters()):
            p.add_(amount * noise(*p.shape, seed=100 + i))
    return layer


def before(x: Tensor) -> Tensor:
    """Each token's predecessor, zeros for the first."""
    rows = [torch.zeros_like(x[:, 0]), *x.unbind(1)]
    return torch.stack(rows[:-1], dim=1)


def heads_of(z: Tensor, layer: Any) -> Tensor:
    return z.reshape(*z.shape[:-1], layer.heads, z.shape[-1] // layer.heads)


def maps(p: dict[str, Tensor], layer: Any, *seen: Tensor) -> list[Tensor]:
    """r, k, v (B, T, H, .) of what each of them sees."""
    z = [m @ p[f"{n}.weight"].T for n, m in zip(("receptance", "key", "value"), seen, strict=True)]
    if "conv.weight" in p:
        widths = [u.shape[-1] for u in z]
        z = [convolved(u, w) for u, w in zip(z, p["conv.weight"].split(widths), strict=True)]
    return [heads_of(u, layer) for u in z]


def normed(o: Tensor, p: dict[str, Tensor], eps: float) -> Tensor:
    """o (B, T, H, V): mean 0 and variance 1 a head."""
    o = rms(o - o.mean(-1, keepdim=True), eps)
    return o.flatten(2) * p["norm.weight"] + p["norm.bias"]


def low_rank(p: dict[str, Tensor], name: str, z: Tensor, act: Any = None) -> Tensor:
    h = z @ p[f"{name}.inner.weight"].T
    y = (h if act is None else act(h)) @ p[f"{name}.outer.weight"].T
    return y + p[f"{name}.outer.bias"] if f"{name}.outer.bias" in p else y


def recall(r: Tensor, k: Tensor, v: Tensor, a: Tensor, u: Tensor) -> Tensor:
    """RWKV-5 and 6: a (B, T, H, K), u (H, K); reading sees the past, and the present through the bonus."""
    s = torch.zeros(*k[:, 0].shape, v.shape[-1], dtype=v.dtype)
    outputs = []
    for t in range(r.shape[1]):
        write = torch.einsum("bhk,bhv->bhkv", k[:, t], v[:, t])
        outputs.append(torch.einsum("bhk,bhkv->bhv", r[:, t], s + u[..., None] * write))
        s = a[:, t, ..., None] * s + write
    return torch.stack(outputs, dim=1)


def rwkv5(layer: Any, x: Tensor, first: Tensor | None = None) -> Tensor:
    p, last = dict(layer.named_parameters()), before(x)
    xr, xk, xv, xg = (x * mu + last * (1 - mu) for mu in p["mix"])
    r, k, v = maps(p, layer, xr, xk, xv)
    log_a = torch.maximum(-p["forget"].exp(), torch.tensor(LOG_DECAY_MIN))
    a = heads_of(log_a.exp(), layer).expand_as(k)
    o = recall(r, k, v, a, heads_of(p["bonus"], layer)) / 8
    g = xg @ p["gate.weight"].T
    return (normed(o, p, 1e-5) * g * torch.sigmoid(g)) @ p["out.weight"].T


def rwkv6(layer: Any, x: Tensor, first: Tensor | None = None) -> Tensor:
    p, change = dict(layer.named_parameters()), before(x) - x
    rank = layer.config.lerp_rank
    h = torch.tanh((x + change * p["mix_all"]) @ p["lerp_in.weight"].T)
    mixed = []
    for i in range(5):
        m = h[..., i * rank : (i + 1) * rank] @ p["lerp_out"][i]
        mixed.append(x + change * (p["mix"][i] + m))
    xw, xk, xv, xr, xg = mixed
    r, k, v = maps(p, layer, xr, xk, xv)
    log_a = torch.maximum(-low_rank(p, "forget", xw, torch.tanh).exp(), torch.tensor(LOG_DECAY_MIN))
    o = recall(r, k, v, heads_of(log_a.exp(), layer), heads_of(p["bonus"], layer))
    g = xg @ p["gate.weight"].T
    return (normed(o, p, 64e-5) * g * torch.sigmoid(g)) @ p["out.weight"].T


def rwkv7(layer: Any, x: Tensor, first: Tensor | None = None) -> Tensor:
    p, change = dict(layer.named_parameters()), before(x) - x
    xr, xw, xk, xv, xa, xg = (x + change * mu for mu in p["mix"])
    r, k, v = maps(p, layer, xr, xk, xv)
    w = heads_of(torch.exp(-math.exp(-0.5) * torch.sigmoid(low_rank(p, "forget", xw, torch.tanh))), layer)
    a = heads_of(torch.sigmoid(low_rank(p, "rate", xa)), layer)
    if layer.index:
        share = heads_of(torch.sigmoid(low_rank(p, "first", xv)), layer)
        v = v * (1 - share) + (0 if first is None else first * share)
    c = k * heads_of(p["removal_key"], layer)
    c = c / torch.sqrt(c.square().sum(-1, keepdim=True) + 1e-6)
    k = k * (1 + (a - 1) * heads_of(p["write_rate"], layer))
    s = torch.zeros(*k[:, 0].shape, v.shape[-1], dtype=v.dtype)
    outputs = []
    for t in range(x.shape[1]):
        change_by = torch.diag_embed(w[:, t]) - torch.einsum("bhk,bhj->bhkj", a[:, t] * c[:, t], c[:, t])
        s = change_by @ s + torch.einsum("bhk,bhv->bhkv", k[:, t], v[:, t])
        outputs.append(torch.einsum("bhk,bhkv->bhv", r[:, t], s))
    o = normed(torch.stack(outputs, dim=1), p, v.shape[-1] * 1e-5)
    o = o + ((r * k * heads_of(p["bonus"], layer)).sum(-1, keepdim=True) * v).flatten(2)
    return (o * low_rank(p, "gate", xg, torch.sigmoid)) @ p["out.weight"].T


def channel(layer: Any, x: Tensor) -> Tensor:
    p, last = dict(layer.named_parameters()), before(x)

    def mixed(mu: Tensor) -> Tensor:
        own = mu if layer.name == "rwkv5-channel-mix" else 1 - mu
        return own * x + (1 - own) * last

    y = torch.relu(mixed(p["mix_key"]) @ p["key.weight"].T) ** 2 @ p["value.weight"].T
    if layer.name == "rwkv7-channel-mix":
        return y
    return torch.sigmoid(mixed(p["mix_receptance"]) @ p["receptance.weight"].T) * y


PLAIN = {"rwkv5": rwkv5, "rwkv6": rwkv6, "rwkv7": rwkv7}


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("index", [0, 2])
@pytest.mark.parametrize("length", [1, 5, 37, 67])
@pytest.mark.parametrize("name", TIME)
def test_a_time_mixer_is_its_definition(name: str, length: int, index: int, odd: bool) -> None:
    layer = shaken(name, index=index, depth=4, **({**ODD, **RANKS[name]} if odd else {}))
    x = noise(2, length, DIM)
    expected = PLAIN[name](layer, x)
    assert expected.abs().max() > 0.1
    close(layer(x), expected)
    close(layer.float()(x.float()).double(), expected, atol=1e-4)


@pytest.mark.parametrize("length", [1, 5, 37, 67])
@pytest.mark.parametrize("name", CHANNEL)
def test_a_channel_mixer_is_its_definition(name: str, length: int) -> None:
    for options in ({}, {"inner": 24}):
        layer, x = shaken(name, index=1, depth=3, **options), noise(2, length, DIM)
        close(layer(x), channel(layer, x))
        close(layer.float()(x.float()).double(), channel(layer.double(), x), atol=1e-4)


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("name", TIME)
def test_steps_and_pieces_equal_the_whole_of_a_later_layer(name: str, odd: bool) -> None:
    layer = shaken(name, index=2, depth=4, **({**ODD, **RANKS[name]} if odd else {}))
    x = noise(2, 21, DIM)
    y, state = in_pieces(layer, x, *range(9, 21))
    close(y, layer(x), atol=1e-11)
    assert len(state) == len(layer.state_kinds)


def test_later_layers_mix_with_the_values_that_the_first_left() -> None:
    first, later = shaken("rwkv7"), shaken("rwkv7", index=1, depth=2)
    x, z, ctx = noise(2, 21, DIM), noise(2, 21, DIM, seed=2), Context()
    close(first(x, ctx), rwkv7(first, x))
    assert list(ctx.shared) == [FIRST]
    p = dict(first.named_parameters())
    mu = p["mix"][3]
    v = maps(p, first, x, x, x + (before(x) - x) * mu)[2]
    close(ctx.shared[FIRST], v)
    close(later(z, ctx), rwkv7(later, z, v))
    assert list(ctx.shared) == [FIRST], "only the first leaves its values"
    assert not torch.allclose(later(z, ctx), later(z))


def test_a_layer_that_finds_no_first_values_gates_its_own_and_leaves_them() -> None:
    layer, later = shaken("rwkv7", index=1, depth=3), shaken("rwkv7", index=2, depth=3)
    x, ctx = noise(2, 9, DIM), Context()
    alone = layer(x, ctx)
    close(alone, rwkv7(layer, x))
    close(layer(x), alone)
    (left,) = ctx.shared.values()
    close(layer(x, ctx), alone, name="called once more, as by a wrapper")
    close(later(x, ctx), rwkv7(later, x, left))
    layer(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in layer.parameters())


def test_only_later_layers_own_a_mix_of_values() -> None:
    assert not any(n.startswith("first") for n, _ in fresh("rwkv7").named_parameters())
    assert any(n.startswith("first") for n, _ in fresh("rwkv7", index=1, depth=2).named_parameters())


def test_first_values_may_have_other_heads_of_the_same_width() -> None:
    ctx, x = Context(), noise(1, 5, DIM)
    fresh("rwkv7").double()(x, ctx)
    fresh("rwkv7", index=1, depth=2, heads=4).double()(x, ctx)


@pytest.mark.parametrize(
    "spec",
    [
        "rwkv7 rwkv7-channel-mix rwkv7 rwkv7-channel-mix",
        "rwkv6 rwkv6-channel-mix rwkv7 rwkv5-channel-mix rwkv7",
    ],
)
def test_a_model_decodes_what_it_computes_in_parallel(spec: str) -> None:
    model = moved(architectures.build(spec, vocab_size=11, dim=DIM, max_len=40, seed=0).double())
    tokens = torch.randint(11, (2, 30), generator=torch.Generator().manual_seed(1))
    whole = model(tokens)
    close(in_pieces(model, tokens, *range(17, 30))[0], whole, atol=1e-10)
    whole.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def sharing() -> tuple[list[Any], Tensor]:
    models = [architectures.build("rwkv7 rwkv7", vocab_size=7, dim=DIM, max_len=32, seed=s) for s in range(2)]
    tokens = torch.randint(7, (2, 21), generator=torch.Generator().manual_seed(1))
    return [moved(model, 0.05) for model in models], tokens


def test_layers_that_share_values_are_mapped_over_replicas() -> None:
    models, tokens = sharing()
    base = copy.deepcopy(models[0])
    mapped = torch.vmap(lambda p: torch.func.functional_call(base, p, (tokens,)))(stacked(models))
    for model, y in zip(models, mapped, strict=True):
        close(y, model(tokens), atol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_layers_that_share_values_are_compiled() -> None:
    models, tokens = sharing()
    torch._dynamo.reset()
    compiled = torch.compile(models[0], backend="aot_eager", fullgraph=True)
    close(compiled(tokens), models[0](tokens), atol=1e-5)


@pytest.mark.parametrize("name", TIME)
def test_values_are_shared_with_the_value_residual(name: str) -> None:
    layer, x = shaken(name, index=1, depth=2), noise(2, 9, DIM)
    key = "value-residual/1"
    ctx = Context(shared={key: torch.tensor([1.0, 0.0]).double()})
    close(layer(x, ctx), layer(x), atol=1e-12)
    ctx = Context(shared={key: torch.tensor([2.0, 0.0]).double()})
    doubled = copy.deepcopy(layer)
    with torch.no_grad():
        doubled.value.weight.mul_(2)
    close(layer(x, ctx), doubled(x), atol=1e-12)


def powers(exponent: float, dim: int = DIM) -> Tensor:
    return torch.tensor([(n / dim) ** exponent for n in range(dim)])


@pytest.mark.parametrize("index, depth", [(0, 1), (0, 4), (2, 4), (3, 4)])
def test_rwkv5_and_6_start_as_published(index: int, depth: int) -> None:
    rho, left = (index / (depth - 1) if depth > 1 else 0.0), 1 - index / depth
    key = 30
    options = {"index": index, "depth": depth, "heads": 3, "key_dim": 10, "value_dim": 4}
    five, six = fresh("rwkv5", **options), fresh("rwkv6", **options)
    up = [n / (key - 1) for n in range(key)]
    w = torch.tensor([-6 + 5 * z ** (0.7 + 1.3 * rho) for z in up])
    u = torch.tensor([rho * (1 - z) + 0.1 * ((n + 1) % 3 - 1) for n, z in enumerate(up)])
    token, half = powers(left), powers(0.5 * left)
    value = token + 0.3 * rho
    near: dict[str, Any] = dict(rtol=0, atol=1e-5)
    torch.testing.assert_close(five.mix, torch.stack([half, token, value, half]), **near)
    torch.testing.assert_close(six.mix, 1 - torch.stack([token, token, value, half, half]), **near)
    torch.testing.assert_close(six.mix_all, 1 - token, **near)
    for forget, bonus in ((five.forget, five.bonus), (six.forget.outer.bias, six.bonus)):
        torch.testing.assert_close(forget, w, **near)
        torch.testing.assert_close(bonus, u, **near)
    for layer in (five, six):
        assert bool((layer.norm.weight == 1).all()) and not bool(layer.norm.bias.any())
        for linear in (layer.receptance, layer.key, layer.value, layer.gate, layer.out):
            assert uniform(linear.weight, linear.in_features**-0.5)
    for p in (six.lerp_in.weight, six.lerp_out, six.forget.inner.weight, six.forget.outer.weight):
        assert p.abs().max() <= 1e-4 and float(p.detach().std()) == pytest.approx(5.8e-5, rel=0.1)
    for name in ("rwkv5-channel-mix", "rwkv6-channel-mix"):
        layer = fresh(name, index=index, depth=depth)
        mu = token if name[4] == "5" else 1 - token
        for p in (layer.mix_key, layer.mix_receptance):
            torch.testing.assert_close(p, mu, **near)
        for linear in (layer.key, layer.value, layer.receptance):
            assert uniform(linear.weight, linear.in_features**-0.5)


@pytest.mark.parametrize("index, depth", [(0, 1), (0, 4), (2, 4), (3, 4)])
def test_rwkv7_starts_as_published(index: int, depth: int) -> None:
    rho, left = (index / (depth - 1) if depth > 1 else 0.0), 1 - index / depth
    layer = fresh("rwkv7", index=index, depth=depth)
    near: dict[str, Any] = dict(rtol=0, atol=1e-5)
    mu = [1 - powers(p * left) for p in (0.2, 0.9, 0.7, 0.7, 0.9, 0.2)]
    torch.testing.assert_close(layer.mix, torch.stack(mu), **near)
    up = torch.arange(DIM) / (DIM - 1)
    place = torch.tensor([((n % 16) - 7.5) / 7.5 for n in range(DIM)])
    zigzag = place * place.abs()
    torch.testing.assert_close(
        layer.forget.outer.bias, -6 + 6 * up ** (1 + rho**0.3) + 0.5 + 2.5 * zigzag, **near
    )
    torch.testing.assert_close(layer.rate.outer.bias, -0.19 + 0.3 * zigzag + 0.4 * (up - 0.5), **near)
    torch.testing.assert_close(layer.removal_key, 0.71 - 0.1 * (up - 0.5), **near)
    assert bool((layer.write_rate == 1.02).all()) and bool((layer.bonus == -0.04).all())
    torch.testing.assert_close(layer.norm.weight, torch.full((DIM,), ((index + 1) / depth) ** 0.7), **near)
    assert not layer.norm.bias.any() and not layer.out.weight.any() and layer.gate.outer.bias is None
    parts = [layer.forget, layer.rate, layer.gate]
    if index:
        parts.append(layer.first)
        torch.testing.assert_close(layer.first.outer.bias, 0.73 - 0.4 * (up - 0.5), **near)
    for part in parts:
        assert not part.inner.weight.any() and orthogonal(part.outer.weight, 0.1)
    for square, gain in ((layer.receptance, 1.0), (layer.key, 0.1), (layer.value, 1.0)):
        assert orthogonal(square.weight, gain)
    mlp = fresh("rwkv7-channel-mix", index=index, depth=depth)
    torch.testing.assert_close(mlp.mix_key, 1 - powers(left**4), **near)
    assert orthogonal(mlp.key.weight, 1.0) and not mlp.value.weight.any()


def uniform(weight: Tensor, bound: float) -> bool:
    spread = float(weight.detach().std()) / bound
    return bool(weight.abs().max() <= bound) and spread == pytest.approx(3**-0.5, rel=0.15)


def orthogonal(weight: Tensor, gain: float) -> bool:
    """The rows, or the columns where these are fewer, are perpendicular and of length `gain`."""
    short = weight if weight.shape[0] <= weight.shape[1] else weight.T
    return torch.allclose(short @ short.T, gain**2 * torch.eye(short.shape[0]), atol=1e-5)


def test_a_map_of_more_ranks_than_channels_starts_larger() -> None:
    layer = fresh("rwkv7", dim=32, rate_rank=128)
    assert orthogonal(layer.rate.outer.weight, 0.1 * math.sqrt(128 / 32))


def test_the_ranks_of_rwkv7_grow_with_the_width() -> None:
    def ranks(layer: Any) -> list[int]:
        return [part.inner.out_features for part in (layer.forget, layer.rate, layer.first, layer.gate)]

    assert ranks(fresh("rwkv7", dim=128, index=1, depth=2)) == [32, 32, 32, 64]
    wide = get("rwkv7")
    with torch.device("meta"):
        layer: Any = wide.cls(wide.config({"heads": 16}), dim=1024, max_len=8, index=1, depth=2)
    assert ranks(layer) == [64, 64, 64, 160]
    assert ranks(fresh("rwkv7", index=1, depth=2, **RANKS["rwkv7"])) == [3, 5, 7, 9]


def test_parameters_are_the_closed_form() -> None:
    def count(name: str, **options: Any) -> int:
        return parameters_in(fresh(name, dim=d, **options))

    d, h, k, v, taps = 64, 3, 5, 7, 4
    hk, hv = h * k, h * v
    shape = {"heads": h, "key_dim": k, "value_dim": v, "conv": taps}
    core = d * (2 * hk + 2 * hv) + taps * (2 * hk + hv) + 2 * hv  # r, k, v, out; taps; norm
    assert count("rwkv5", **shape) == core + d * hv + 4 * d + 2 * hk
    assert count("rwkv6", **shape) == core + d * hv + 6 * d + 2 * 5 * 32 * d + 64 * (d + hk) + 2 * hk
    lora = 32 * (d + hk) + hk
    first = core + 6 * d + 2 * lora + 32 * (d + hv) + 3 * hk
    assert count("rwkv7", **shape) == first
    assert count("rwkv7", index=1, depth=2, **shape) == first + 32 * (d + hv) + hv
    assert count("rwkv5") == 5 * d * d + 8 * d
    assert count("rwkv5-channel-mix") == count("rwkv6-channel-mix") == 9 * d * d + 2 * d
    assert count("rwkv7-channel-mix", inner=100) == 200 * d + d


@pytest.mark.parametrize("name", TIME)
def test_states_at_width_128_are_as_published(name: str) -> None:
    layer, mlp = fresh(name, dim=128), fresh(f"{name}-channel-mix", dim=128)
    sizes, more = layer.measure_state(40), mlp.measure_state(40)
    assert sizes["recurrent"] == layer.nominal_state(40) == 2048 and sizes["conv"] == more["conv"] == 128
    assert sizes["total"] + more["total"] == 2304
    assert fresh(name, dim=128, conv=4).measure_state(40)["conv"] == 128 + 3 * 3 * 128


def test_work_is_the_closed_form() -> None:
    d, t = 128, 50
    five, six, seven = (fresh(name, dim=d).flops(t) for name in TIME)
    assert five == t * (10 * d * d + 4 * d * 16 + 8 * d + 6 * d)
    assert six == t * (10 * d * d + 4 * 5 * 32 * d + 4 * 64 * d + 4 * d * 16 + 12 * d + 6 * d)
    assert seven == t * (8 * d * d + 4 * (32 + 32 + 64) * d + 8 * d * 16 + 12 * d + 10 * d)
    assert fresh("rwkv5-channel-mix", dim=d).flops(t) == t * (18 * d * d + 5 * d)
    assert fresh("rwkv7-channel-mix", dim=d).flops(t) == t * (16 * d * d + 2 * d)


@pytest.mark.parametrize("name", TIME)
def test_the_optimiser_leaves_vectors_mixes_and_low_rank_maps_undecayed(name: str) -> None:
    layer = fresh(name, index=1, depth=2, conv=4)
    decayed = {n for n, p in layer.named_parameters() if p.dim() > 1} - set(layer.hints())
    names = ["receptance", "key", "value", "out"] + ([] if name == "rwkv7" else ["gate"])
    assert decayed == {f"{n}.weight" for n in names}
    assert not any(hint.decay for hint in layer.hints().values())


@pytest.mark.parametrize("value", [-200.0, -20.0, 1.0, 4.0, 200.0])
@pytest.mark.parametrize("name", TIME)
def test_extreme_decays_stay_finite_and_right(name: str, value: float) -> None:
    layer = shaken(name, amount=0.1)
    forget = layer.forget if name == "rwkv5" else layer.forget.outer.bias
    x = noise(2, 67, DIM)
    with torch.no_grad():
        # Next to each other: all channels at the extreme, and every other one.
        for stride in (1, 2):
            forget[::stride] = value
            expected = PLAIN[name](layer, x)
            low = copy.deepcopy(layer).float()
            y = low(x.float())
            close(y.double(), expected, atol=1e-4)
            with torch.enable_grad():
                low(x.float()).square().sum().backward()
            assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in low.parameters())
            forget.fill_(-1)


@pytest.mark.parametrize("value", [-50.0, 50.0])
def test_extreme_removals_stay_finite_and_right(value: float) -> None:
    layer, x = shaken("rwkv7", amount=0.1), noise(2, 67, DIM)
    with torch.no_grad():
        layer.rate.outer.bias.fill_(value)
        layer.forget.outer.bias.fill_(-50)  # nothing is forgotten
    close(layer.float()(x.float()).double(), rwkv7(layer.double(), x), atol=1e-4)
    layer.float()(x.float()).square().sum().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in layer.parameters())


@pytest.mark.parametrize("name", ["rwkv7", "rwkv7-channel-mix"])
def test_bf16_autocast_stays_close_where_the_start_is_silent(name: str) -> None:
    layer = shaken(name, amount=0.02, dim=48).float()
    x = noise(2, 37, 48).float()
    assert not fresh(name, dim=48)(x).any()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = layer(x)
    exact = layer(x)
    assert (low.float() - exact).abs().max() < 0.05 * exact.abs().max()


def test_rwkv6_with_fixed_mixes_and_decays_is_rwkv5() -> None:
    five, six = shaken("rwkv5", conv=4), shaken("rwkv6", conv=4)
    with torch.no_grad():
        shared = {n: p for n, p in five.state_dict().items() if n not in ("mix", "forget")}
        six.load_state_dict(shared, strict=False)
        r, k, v, g = 1 - five.mix
        six.mix.copy_(torch.stack([torch.zeros_like(r), k, v, r, g]))
        six.lerp_out.zero_()
        six.forget.outer.weight.zero_()
        six.forget.outer.bias.copy_(five.forget)
    x = noise(2, 37, DIM)
    close(six(x), five(x), atol=1e-12)
    a, b = (layer.prefill(x, layer.init_state(2))[1] for layer in (five, six))
    for left, right in zip(a, b, strict=True):
        close(left, right, atol=1e-12)


def test_rwkv6_channel_mix_is_that_of_rwkv5_with_the_other_mix() -> None:
    five, six = shaken("rwkv5-channel-mix"), shaken("rwkv6-channel-mix")
    six.load_state_dict({n: 1 - p if n.startswith("mix") else p for n, p in five.state_dict().items()})
    x = noise(2, 21, DIM)
    close(six(x), five(x), atol=1e-12)


def test_rwkv7_that_keeps_and_overwrites_all_finds_what_it_wrote() -> None:
    """With w = 1, a = 1 and one key, of length 1, removed and written: the delta rule at full strength."""
    layer, x = shaken("rwkv7"), noise(1, 9, DIM)
    with torch.no_grad():
        layer.forget.outer.bias.fill_(-1e3)
        layer.rate.outer.bias.fill_(1e3)
        layer.removal_key.fill_(1)
    tokens, _ = layer.write(x, layer.init_state(1)[1:], None)
    assert bool((tokens.log_a == 0).all())
    length = tokens.k.square().sum(-1, keepdim=True).sqrt()
    tokens.q, tokens.v = tokens.k / length, tokens.v
    tokens.k, tokens.x = tokens.k / length, -tokens.k / length
    o, _ = layer.recur(tokens, layer.init_state(1)[0])
    close(o, tokens.v, atol=1e-4)


@pytest.mark.parametrize("name", TIME)
def test_options_out_of_range_are_refused(name: str) -> None:
    for option in ("heads", "key_dim", "value_dim", *RANKS[name]):
        with pytest.raises(ValueError, match=f"{option}=0 must be at least 1"):
            fresh(name, **{option: 0})
    with pytest.raises(ValueError, match="conv=-1 must be at least 0"):
        fresh(name, conv=-1)
    with pytest.raises(ValueError, match="choose heads from"):
        fresh(name, heads=5)


@pytest.mark.parametrize("name", CHANNEL)
def test_an_inner_width_of_nothing_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="inner=0 must be at least 1"):
        fresh(name, inner=0)


@pytest.mark.parametrize("name", TIME)
def test_one_channel_a_head_is_a_layer_too(name: str) -> None:
    layer = fresh(name, heads=1, key_dim=1, value_dim=1)
    assert bool(torch.isfinite(layer(noise(1, 5, DIM).float())).all())
    assert all(bool(torch.isfinite(p).all()) for p in layer.parameters())
