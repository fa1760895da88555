"""The contract of DESIGN's `Primitive`, for every registered name: a new file inherits every proof."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import architectures
from architectures.blocks import Block
from architectures.builder import Builder
from architectures.grammar.stripe import Layer, Parallel, Spec
from architectures.primitive import Primitive, count_state
from architectures.registry import get
from architectures.sizes.memory import PeakMemory

NAMES = architectures.names()
ROUTED = [n for n in NAMES if get(n).cls.routed]
DIM = 48


def make(
    name: str, *, dim: int = DIM, max_len: int = 80, seed: int = 0, index: int = 0, depth: int = 1
) -> Primitive:
    """One layer as the model builds it, wrappers by their registered example."""
    spec = architectures.parse(f"1*{get(name).example}")
    block = Builder(spec, dim, max_len, seed).blocks(spec, "blocks")[0]
    layer = block.layer if isinstance(block, Block) else block
    assert isinstance(layer, Primitive)
    return layer


STEPPED = [n for n in NAMES if make(n).causal]


def perturbed(layer: Primitive) -> Primitive:
    """Away from a special initialisation, where zeros would hide mistakes."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return layer


def noise(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def unroll(layer: Primitive, x: Tensor) -> tuple[Tensor, Any]:
    state, outputs = layer.init_state(x.shape[0]), []
    for t in range(x.shape[1]):
        y, state = layer.step(x[:, t], state)
        outputs.append(y)
    return torch.stack(outputs, dim=1), state


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(3, 1, 48), (1, 2, 16), (3, 37, 48), (2, 65, 80)])
def test_any_length_and_any_width_divisible_by_16_keep_shape_and_dtype(
    name: str, shape: tuple[int, int, int]
) -> None:
    layer = make(name, dim=shape[2])
    y = layer(noise(*shape, dtype=torch.float32))
    assert y.shape == shape and y.dtype == torch.float32 and bool(torch.isfinite(y).all())


@pytest.mark.parametrize("name", STEPPED)
def test_changing_the_future_leaves_the_past_alone(name: str) -> None:
    layer = perturbed(make(name)).double()
    x = noise(2, 37, DIM).requires_grad_()
    cut = 19
    (gradient,) = torch.autograd.grad(layer(x)[:, :cut].square().sum(), x)
    assert gradient[:, :cut].abs().max() > 0
    leak = gradient[:, cut:].abs().max() / gradient.abs().max()
    assert leak == 0 if layer.exact_causality else leak < 1e-12


@pytest.mark.parametrize("name", STEPPED)
def test_the_leak_in_float32_is_nothing_or_the_rounding_of_a_transform(name: str) -> None:
    layer = perturbed(make(name))
    x = noise(2, 64, DIM, dtype=torch.float32).requires_grad_()
    (gradient,) = torch.autograd.grad(layer(x)[:, :31].square().sum(), x)
    leak = gradient[:, 31:].abs().max() / gradient.abs().max()
    assert leak == 0 if layer.exact_causality else leak < 1e-6


@pytest.mark.parametrize("name", STEPPED)
@pytest.mark.parametrize("length", [1, 5, 37, 67])
def test_step_unrolled_equals_forward(name: str, length: int) -> None:
    layer = perturbed(make(name)).double()
    x = noise(3, length, DIM)
    y, _ = unroll(layer, x)
    torch.testing.assert_close(y, layer(x), rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", STEPPED)
def test_prefill_continues_from_any_state(name: str) -> None:
    layer = perturbed(make(name)).double()
    x = noise(3, 41, DIM)
    first, state = layer.prefill(x[:, :17], layer.init_state(3))
    second, state = layer.prefill(x[:, 17:40], state)
    last, _ = layer.step(x[:, 40], state)
    joined = torch.cat([first, second, last[:, None]], dim=1)
    torch.testing.assert_close(joined, layer(x), rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", STEPPED)
def test_step_leaves_the_given_state_as_it_was(name: str) -> None:
    layer = perturbed(make(name)).double()
    _, state = unroll(layer, noise(2, 9, DIM))
    before = [s.clone() for s in state]
    layer.step(noise(2, DIM, seed=3), state)
    assert all(torch.equal(a, b) for a, b in zip(state, before, strict=True))


@pytest.mark.parametrize("name", STEPPED)
def test_state_is_as_measured_and_constant_where_nothing_grows(name: str) -> None:
    layer = make(name, dim=64)
    sizes = {}
    for length in (1, 33, 66):
        _, state = unroll(layer, noise(1, length, 64, dtype=torch.float32))
        sizes[length] = count_state(state, layer.state_kinds)
        assert layer.measure_state(length) == sizes[length]
    assert sizes[33]["total"] == sum(sizes[33][k] for k in ("recurrent", "conv", "growing"))
    if sizes[66]["growing"]:
        assert sizes[66]["growing"] == 2 * sizes[33]["growing"] == 66 * sizes[1]["growing"]
    assert sizes[66]["recurrent"] == sizes[33]["recurrent"] and sizes[66]["conv"] == sizes[33]["conv"]


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_a_batch_are_independent(name: str) -> None:
    layer = perturbed(make(name)).double()
    x = noise(4, 21, DIM)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(layer(x)[order], layer(x[order]), rtol=0, atol=1e-12)
    changed = x.clone()
    changed[1] = noise(21, DIM, seed=9)
    kept = [0, 2, 3]
    torch.testing.assert_close(layer(changed)[kept], layer(x)[kept], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_has_a_gradient(name: str) -> None:
    x = noise(4, 37, DIM)
    fresh = make(name).double()
    (fresh(x) * noise(4, 37, DIM, seed=5)).sum().backward()
    missing = [n for n, p in fresh.named_parameters() if p.grad is None]
    assert not missing
    layer = perturbed(make(name)).double()
    (layer(x) * noise(4, 37, DIM, seed=5)).sum().backward()
    for n, p in layer.named_parameters():
        assert p.grad is not None and bool(torch.isfinite(p.grad).all()) and p.grad.abs().max() > 0, n


@pytest.mark.parametrize("name", ROUTED)
def test_every_slice_of_a_routed_tensor_has_a_gradient_over_a_large_batch(name: str) -> None:
    layer = perturbed(make(name))
    (
        layer(noise(96, 80, DIM, dtype=torch.float32)) * noise(96, 80, DIM, dtype=torch.float32, seed=5)
    ).sum().backward()
    found = {n: p for n, p in layer.named_parameters() if n in type(layer).routed}
    assert found
    for n, p in found.items():
        assert p.grad is not None and bool((p.grad.flatten(1).abs().amax(1) > 0).all()), n


# A straight-through estimate is proved in the layer's own tests.
@pytest.mark.parametrize("name", [n for n in NAMES if not get(n).cls.straight_through])
def test_the_gradient_is_the_slope(name: str) -> None:
    layer = perturbed(make(name, dim=16, max_len=8)).double()
    parameters = dict(layer.named_parameters())

    def loss(x: Tensor, *values: Tensor) -> Tensor:
        bound = dict(zip(parameters, values, strict=True))
        return torch.func.functional_call(layer, bound, (x,))

    assert torch.autograd.gradcheck(
        loss, (noise(1, 4, 16).requires_grad_(), *parameters.values()), fast_mode=True, atol=1e-6
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides_the_weights_and_nothing_else_does(name: str) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = make(name, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second, third = make(name, seed=3), make(name, seed=4)
    pairs = list(zip(first.parameters(), second.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), third.parameters(), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_wrapping_a_layer_in_a_model_leaves_its_weights(name: str) -> None:
    model = architectures.build(f"1*{get(name).example}", vocab_size=7, dim=DIM, max_len=80, seed=0)
    alone = make(name)
    inside = model.layers()[0][1]
    for (n, a), (_, b) in zip(alone.named_parameters(), inside.named_parameters(), strict=True):
        assert torch.equal(a, b), n


@pytest.mark.parametrize("name", NAMES)
def test_builds_on_meta(name: str) -> None:
    with torch.device("meta"):
        layer = make(name)
    assert all(p.device.type == "meta" for p in layer.parameters())
    assert layer(torch.empty(2, 9, DIM, device="meta")).shape == (2, 9, DIM)


def _fused_attention_flops(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    batch, heads, length, width = q
    return 4 * batch * heads * length * k[2] * width


@pytest.mark.parametrize("name", NAMES)
# Not length 1: einsum multiplies a contraction of one element out, where the counter sees nothing.
@pytest.mark.parametrize("length", [2, 37, 80])
def test_executed_flops_agree_with_the_counter(name: str, length: int) -> None:
    layer = make(name)
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with (
        torch.no_grad(),
        FlopCounterMode(display=False, custom_mapping={fused: _fused_attention_flops}) as counter,
    ):
        layer(noise(1, length, DIM, dtype=torch.float32))
    assert counter.get_total_flops() == layer.executed(length) - layer.unseen(length)


@pytest.mark.parametrize("name", NAMES)
def test_the_algorithm_does_no_more_than_was_executed(name: str) -> None:
    layer = make(name)
    for length in (1, 37, 80):
        assert 0 < layer.flops(length) <= layer.executed(length)


@pytest.mark.parametrize("name", NAMES)
def test_bf16_autocast_stays_close_to_float32(name: str) -> None:
    layer = perturbed(make(name))  # some layers start as zero
    x = noise(2, 37, DIM, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = layer(x)
    low.float().square().mean().backward()  # outside, as the trainer does
    exact = layer(x)
    # bfloat16 has 8 bits of mantissa; a handful of products in a row keeps two decimal digits.
    assert (low.float() - exact).abs().max() < 0.05 * exact.abs().max()
    assert all(bool(torch.isfinite(p.grad).all()) for p in layer.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", [n for n in STEPPED if not make(n).measure_state(32)["growing"]])
def test_memory_is_linear_in_time_where_the_state_is_fixed(name: str) -> None:
    def peak(length: int) -> int:
        with torch.device("meta"):
            layer = make(name, dim=32, max_len=8192)
        x = torch.empty(1, length, 32, device="meta", requires_grad=True)
        with PeakMemory() as memory:
            layer(x).square().sum().backward()
        return memory.peak

    assert peak(8192) <= 2.05 * peak(4096)


def _stacked(name: str, replicas: int) -> tuple[Primitive, dict[str, Tensor], list[Primitive]]:
    layers = [perturbed(make(name, seed=r)) for r in range(replicas)]
    stacked = {
        n: torch.stack([dict(layer.named_parameters())[n].detach() for layer in layers]).requires_grad_()
        for n, _ in layers[0].named_parameters()
    }
    # Buffers too, as the trainer does: some are drawn with the weights.
    for n, _ in layers[0].named_buffers():
        stacked[n] = torch.stack([dict(layer.named_buffers())[n] for layer in layers])
    return copy.deepcopy(layers[0]), stacked, layers


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shared", [True, False])
def test_vmap_over_stacked_parameters_equals_the_loop(name: str, shared: bool) -> None:
    base, stacked, layers = _stacked(name, 3)
    x = noise(2, 37, DIM, dtype=torch.float32) if shared else noise(3, 2, 37, DIM, dtype=torch.float32)
    weight = noise(2, 37, DIM, dtype=torch.float32, seed=4)

    def loss(parameters: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.func.functional_call(base, parameters, (x,))
        return (y * weight).sum(), y

    losses, outputs = torch.vmap(loss, in_dims=(0, None if shared else 0))(stacked, x)
    losses.sum().backward()
    for r, layer in enumerate(layers):
        y = layer(x if shared else x[r])
        (y * weight).sum().backward()
        torch.testing.assert_close(outputs[r], y, rtol=0, atol=float(2e-6 * y.detach().abs().max()))
        for n, p in layer.named_parameters():
            assert p.grad is not None and stacked[n].grad is not None
            scale = float(p.grad.abs().max())
            torch.testing.assert_close(
                stacked[n].grad[r], p.grad, rtol=0, atol=1e-5 * scale, msg=f"gradient of {n}"
            )


def _compiles(name: str, backend: str) -> None:
    layer = perturbed(make(name))
    x = noise(2, 21, DIM, dtype=torch.float32)
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend=backend, fullgraph=True)
    y, z = layer(x), compiled(x)
    torch.testing.assert_close(z, y, rtol=0, atol=float(2e-6 * y.detach().abs().max()))
    eager = torch.autograd.grad(y.square().sum(), list(layer.parameters()))
    fast = torch.autograd.grad(z.square().sum(), list(layer.parameters()))
    # A gradient whose terms cancel, such as that of a scale before a norm, is rounding of the others' size:
    # for `hyper-connections`, eager and compiled are both 3e-5 from float64 there.
    rounding = 1e-8 * max(float(a.abs().max()) for a in eager)
    for (n, _), a, b in zip(layer.named_parameters(), eager, fast, strict=True):
        atol = float(1e-5 * a.abs().max()) + rounding
        torch.testing.assert_close(b, a, rtol=0, atol=atol, msg=f"gradient of {n}")


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", NAMES)
def test_compile_gives_the_same_numbers(name: str) -> None:
    _compiles(name, "aot_eager")


# One name a class: names of one class differ in sizes.
CLASSES = sorted({get(n).cls: n for n in reversed(NAMES)}.values())


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", CLASSES)
def test_inductor_gives_the_same_numbers(name: str) -> None:
    _compiles(name, "inductor")


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_drawn_in_forward_and_nothing_is_kept(name: str) -> None:
    layer = make(name)
    x = noise(2, 9, DIM, dtype=torch.float32)
    state = torch.get_rng_state()
    before = {n: t.clone() for n, t in layer.state_dict().items()}
    attributes = set(vars(layer))
    first, second = layer(x), layer(x)
    assert torch.equal(first, second) and torch.equal(torch.get_rng_state(), state)
    assert (
        all(torch.equal(t, before[n]) for n, t in layer.state_dict().items())
        and set(vars(layer)) == attributes
    )
    held = [n for m in layer.modules() for n, v in vars(m).items() if isinstance(v, Tensor)]
    assert not held, "tensors kept as plain attributes do not follow the module"


@pytest.mark.parametrize("name", NAMES)
def test_hints_name_parameters_and_options_say_how_they_scale(name: str) -> None:
    layer, entry = make(name), get(name)
    assert set(layer.hints()) <= {n for n, _ in layer.named_parameters()}
    import dataclasses

    for field in dataclasses.fields(entry.cls.Config):
        assert field.metadata.get("scales") in ("absolute", "head", "width"), field.name
        assert field.metadata.get("doc"), field.name


@pytest.mark.parametrize("name", NAMES)
def test_more_tokens_than_max_len_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="max_len"):
        make(name, max_len=16).init_state(2, 17)


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_states_the_equation_and_the_registration_the_paper(name: str) -> None:
    entry = get(name)
    assert entry.cls.__doc__ and "=" in entry.cls.__doc__ and "(B, T, D)" in entry.cls.__doc__
    assert entry.paper.startswith("arXiv:")


def test_a_registered_name_is_a_layer_of_its_own_spec() -> None:
    for name in NAMES:
        spec = architectures.parse(f"1*{get(name).example}")
        assert isinstance(spec, Spec) and len(spec) == 1
        item = spec.layers[0]
        assert isinstance(item, Layer | Parallel) and str(item).startswith(name)


def test_modules_hold_parameters_only_that_act() -> None:
    assert all(isinstance(make(name), nn.Module) for name in NAMES)
