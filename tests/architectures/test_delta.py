"""The matrix-state recurrence in chunks against its definition, a loop over tokens, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from architectures.functional.delta import (
    SCALAR_CHUNK,
    VECTOR_CHUNK,
    delta_flops,
    delta_rule,
    delta_step,
    unit,
)
from architectures.registry import get
from tests.architectures.helpers import close, noise, unroll

B, H, K, V = 2, 3, 4, 5
LENGTHS = [1, 5, 16, 37, 64, 100]
FORMS = ["plain", "tied", "free"]
DECAYS = ["none", "scalar", "vector"]


def naive(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_a: Tensor | None = None,
    state: Tensor | None = None,
    *,
    x: Tensor | None = None,
    y: Tensor | None = None,
    read: str = "post",
    bonus: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The equations, one token at a time, with the transition written out as a matrix."""
    width = k.shape[-1]
    s = q.new_zeros(q.shape[0], q.shape[2], width, v.shape[-1]) if state is None else state
    outputs = []
    for t in range(q.shape[1]):
        a = torch.ones_like(q[:, t]) if log_a is None else log_a[:, t].exp()
        a = a[..., None].expand(*a.shape, width) if a.dim() == 2 else a
        transition = torch.diag_embed(a)
        if y is not None:
            left = -k[:, t] if x is None else x[:, t]
            transition = transition + torch.einsum("bhk,bhj->bhkj", left, y[:, t])
        write = torch.einsum("bhk,bhv->bhkv", k[:, t], v[:, t])
        seen = s if bonus is None else s + bonus[..., None] * write
        s = transition @ s + write
        outputs.append(torch.einsum("bhkv,bhk->bhv", seen if read == "pre" else s, q[:, t]))
    return torch.stack(outputs, dim=1), s


def tensors(
    length: int, form: str = "plain", decay: str = "none", *, entering: bool = True, beta: float | None = None
) -> dict[str, Any]:
    """Keys of length 1; x, y and the write key as a gated delta rule has them, or x free of the others."""
    shape = (B, length, H)
    key = unit(noise(*shape, K, seed=2))
    values: dict[str, Any] = {"q": noise(*shape, K), "k": key, "v": noise(*shape, V, seed=3)}
    if decay != "none":
        values["log_a"] = -noise(*(shape if decay == "scalar" else (*shape, K)), seed=4).square().clamp(max=5)
    if form != "plain":
        strength = 2 * noise(*shape, 1, seed=5).sigmoid() if beta is None else torch.full((*shape, 1), beta)
        strength = strength.double()
        a = values["log_a"].exp() if decay != "none" else torch.ones(*shape, 1).double()
        values["k"], values["y"] = strength * key, key * (a[..., None] if a.dim() == 3 else a)
        if form == "free":
            values["x"] = -0.7 * strength * unit(key + 0.5 * noise(*shape, K, seed=6))
    if entering:
        values["state"] = noise(B, H, K, V, seed=7)
    return values


def agree(
    f: Callable[..., Any],
    g: Callable[..., Any],
    values: dict[str, Tensor],
    *,
    atol: float = 1e-9,
    **options: Any,
) -> None:
    """Both outputs are equal, relative to the largest, and so are all gradients."""
    results = []
    for function in (f, g):
        leaves = {n: z.detach().clone().requires_grad_() for n, z in values.items()}
        outputs = function(**leaves, **options)
        loss = sum((o * noise(*o.shape, seed=8 + i)).sum() for i, o in enumerate(outputs))
        results.append((*outputs, *torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)))
    names = ("o", "last state", *(f"gradient of {n}" for n in values))
    for name, a, b in zip(names, *results, strict=True):
        close(a, b, atol, name=name)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", LENGTHS)
def test_the_chunks_are_the_recurrence(length: int, form: str, decay: str) -> None:
    agree(delta_rule, naive, tensors(length, form, decay))
    agree(delta_rule, naive, tensors(length, form, decay, entering=False))


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", [1, 16, 37])
def test_reading_before_writing_with_and_without_a_bonus(length: int, form: str, decay: str) -> None:
    values = tensors(length, form, decay)
    agree(delta_rule, naive, values, read="pre")
    agree(delta_rule, naive, {**values, "bonus": noise(H, K, seed=9)}, read="pre")


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", LENGTHS)
def test_the_chunks_in_float32(length: int, form: str, decay: str) -> None:
    values = tensors(length, form, decay)
    low = delta_rule(**{n: z.float() for n, z in values.items()})
    assert all(z.dtype == torch.float32 for z in low)
    for a, b in zip(low, naive(**values), strict=True):
        close(a.double(), b, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("read", ["post", "pre"])
def test_one_token_at_a_time(form: str, decay: str, read: Any) -> None:
    values = tensors(9, form, decay)
    bonus = noise(H, K, seed=9) if read == "pre" else None
    expected, last = naive(**values, read=read, bonus=bonus)
    state = values.pop("state")
    for t in range(9):
        token = {n: z[:, t] for n, z in values.items()}
        before = state.clone()
        log_a = token.pop("log_a", None)
        o, after = delta_step(**token, log_a=log_a, state=state, read=read, bonus=bonus)
        close(o, expected[:, t], atol=1e-12)
        assert torch.equal(state, before), "the given state is left as it was"
        state = after
    close(state, last, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 3, 16, 200])
@pytest.mark.parametrize("form", FORMS)
def test_the_size_of_a_chunk_is_no_part_of_the_function(chunk: int, form: str) -> None:
    values = tensors(37, form, "scalar")
    agree(lambda **z: delta_rule(**z, chunk=chunk), naive, values)


@pytest.mark.parametrize("decay, value", [("vector", -5.0), ("vector", -1e-4), ("scalar", -1e-4)])
@pytest.mark.parametrize("form", FORMS)
def test_decays_at_their_bounds(form: str, decay: str, value: float) -> None:
    extreme(form, decay, value)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [-20.0, -50.0, -1000.0, -5e7, float("-inf")])
def test_a_scalar_decay_has_no_bound(form: str, value: float) -> None:
    extreme(form, "scalar", value)


def extreme(form: str, decay: str, value: float, length: int = 100) -> None:
    """Finite in float32 forward and backward, and right."""
    values = tensors(length, form, decay)
    log_a = torch.full_like(values["log_a"], value)
    some = noise(*log_a.shape, seed=11) > 0.5
    # All of the decays at the extreme, a third of them next to 1, and next to ordinary ones.
    for fixed in (log_a, torch.where(some, log_a, 0.0), torch.where(some, log_a, values["log_a"] / 20)):
        values["log_a"] = fixed
        leaves = {n: z.float().requires_grad_() for n, z in values.items()}
        outputs = delta_rule(**leaves)
        for a, b in zip(outputs, naive(**values), strict=True):
            close(a.double(), b, atol=1e-4)
        gradients = torch.autograd.grad(
            torch.stack([o.square().sum() for o in outputs]).sum(), list(leaves.values())
        )
        assert all(bool(torch.isfinite(g).all()) for g in gradients)


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("decay", DECAYS)
def test_write_strengths_at_their_bounds(beta: float, decay: str) -> None:
    values = tensors(100, "tied", decay, beta=beta)
    agree(delta_rule, naive, values)
    leaves = {n: z.float().requires_grad_() for n, z in values.items()}
    o, last = delta_rule(**leaves)
    gradients = torch.autograd.grad(o.square().sum() + last.square().sum(), list(leaves.values()))
    assert all(bool(torch.isfinite(g).all()) for g in gradients)
    if beta == 0 and decay == "none":
        close(last, values["state"].float(), atol=1e-6)


def test_a_full_overwrite_reads_back_what_it_wrote() -> None:
    values = tensors(37, "tied", "none", beta=1.0)
    values["q"] = values["y"]
    # Keys have length 1 up to the eps in the root.
    close(delta_rule(**values)[0], values["v"], atol=1e-4)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("read", ["post", "pre"])
def test_the_future_is_exactly_unseen(form: str, decay: str, dtype: torch.dtype, read: Any) -> None:
    length, cut = 70, 39
    values = {n: z.to(dtype).requires_grad_() for n, z in tensors(length, form, decay).items()}
    loss = delta_rule(**values, read=read)[0][:, :cut].square().sum()
    for name, gradient in zip(values, torch.autograd.grad(loss, list(values.values())), strict=True):
        if name != "state":
            assert not gradient[:, cut:].any(), name
            assert gradient[:, : cut - 1].any(), name


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("form", FORMS)
def test_vmap_equals_the_loop(form: str, decay: str) -> None:
    values = tensors(37, form, decay, entering=False)
    shared = {"v": values.pop("v")}
    stacked = {n: torch.stack([z, 0.9 * z, 0.8 * z]) for n, z in values.items()}

    def loop(**z: Any) -> tuple[Tensor, ...]:
        rows = [delta_rule(**{n: t[r] for n, t in z.items() if n != "v"}, v=z["v"]) for r in range(3)]
        return tuple(torch.stack(part) for part in zip(*rows, strict=True))

    def batched(**z: Tensor) -> Any:
        v = z.pop("v")
        return torch.vmap(lambda t: delta_rule(**t, v=v))(z)

    agree(batched, loop, {**stacked, **shared}, atol=1e-11)


def test_special_cases_coincide() -> None:
    values = tensors(37, "tied", "scalar")
    scalar = delta_rule(**values)
    wide = values["log_a"][..., None].expand(B, 37, H, K)
    vector = delta_rule(**{**values, "log_a": wide})
    free = delta_rule(**values, x=-values["k"])
    still = delta_rule(**{**values, "log_a": torch.zeros(B, 37, H).double()})
    without = delta_rule(**{n: z for n, z in values.items() if n != "log_a"})
    nothing = delta_rule(**{**values, "y": torch.zeros_like(values["y"])})
    plain = delta_rule(**{n: z for n, z in values.items() if n != "y"})
    for a, b in [(vector, scalar), (free, scalar), (still, without), (nothing, plain)]:
        for i in range(2):
            close(a[i], b[i], atol=1e-11)


def test_a_length_is_a_prefix_and_the_state_continues() -> None:
    values = tensors(100, "tied", "scalar")
    state = values.pop("state")
    whole, last = delta_rule(**values, state=state)
    first, middle = delta_rule(**{n: z[:, :37] for n, z in values.items()}, state=state)
    second, end = delta_rule(**{n: z[:, 37:] for n, z in values.items()}, state=middle)
    close(torch.cat([first, second], dim=1), whole, atol=1e-11)
    close(end, last, atol=1e-11)


def test_autocast_rounds_nothing_inside() -> None:
    values = {n: z.float() for n, z in tensors(37, "tied", "scalar").items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = delta_rule(**values)
    assert all(torch.equal(a, b) for a, b in zip(low, delta_rule(**values), strict=True))


def test_there_is_a_shape_on_meta() -> None:
    values = {n: z.to("meta") for n, z in tensors(37, "free", "vector").items()}
    o, last = delta_rule(**values)
    assert o.shape == (B, 37, H, V) and last.shape == (B, H, K, V)


@pytest.mark.parametrize("function", [delta_rule, delta_step])
def test_senseless_combinations_are_refused(function: Any) -> None:
    q = noise(2, 3, 4) if function is delta_step else noise(2, 7, 3, 4)
    given = {"q": q, "k": q, "v": q, "log_a": None, "state": noise(2, 3, 4, 4)}
    with pytest.raises(ValueError, match="x without y"):
        function(**given, x=q)
    with pytest.raises(ValueError, match="post, pre"):
        function(**given, read="both")
    with pytest.raises(ValueError, match="read='pre'"):
        function(**given, bonus=noise(3, 4))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", [2, 37, 100])
def test_the_products_are_counted(form: Any, length: int) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    for decay, chunk in (("scalar", SCALAR_CHUNK), ("vector", VECTOR_CHUNK)):
        values = tensors(length, form, decay)
        with FlopCounterMode(display=False) as counter:
            delta_rule(**values)
        products, rest = delta_flops(length, K, V, chunk=chunk, form=form)
        assert counter.get_total_flops() == B * H * products and rest > 0


def layer(name: str, dim: int = 48, **options: Any) -> Any:
    entry = get(name)
    torch.manual_seed(0)
    return entry.cls(entry.config(options), dim=dim, max_len=64).double()


def test_a_gated_delta_net_that_forgets_nothing_is_a_delta_net() -> None:
    plain, gated = layer("delta-net"), layer("gated-delta-net")
    gated.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        gated.log_rate.fill_(-float("inf"))
        for each in (plain, gated):
            each.out.weight.copy_(torch.eye(48))
    x = noise(2, 37, 48)
    y, state = plain.prefill(x, plain.init_state(2))
    z, other = gated.prefill(x, gated.init_state(2))
    for a, b in zip(other, state, strict=True):
        close(a, b, atol=1e-12)
    close(z, y * torch.nn.functional.silu(gated.gate(x)), atol=1e-12)


@pytest.mark.parametrize("name", ["delta-net", "gated-delta-net", "mh-gated-linear-attention"])
@pytest.mark.parametrize("conv", [0, 1, 4])
def test_steps_equal_forward_with_any_convolution(name: str, conv: int) -> None:
    made, x = layer(name, conv=conv), noise(2, 21, 48)
    y, state = unroll(made, x)
    close(y, made(x), atol=1e-12)
    assert len(state) == len(made.state_kinds)


@pytest.mark.parametrize("name", ["delta-net", "gated-delta-net"])
def test_negative_eigenvalues_double_the_write_strength(name: str) -> None:
    x = noise(1, 1, 48)
    once, twice = layer(name), layer(name, negative_eigenvalues=True)
    a, b = (m.prefill(x, m.init_state(1))[1][0] for m in (once, twice))
    close(b, 2 * a, atol=1e-12)


def test_states_at_width_128_are_as_published() -> None:
    for name in ("delta-net", "gated-delta-net"):
        sizes = layer(name, 128).measure_state(40)
        assert (sizes["recurrent"], sizes["conv"]) == (2048, 1152)
    assert layer("mh-gated-linear-attention", 128).measure_state(40)["total"] == 2048
    assert layer("gated-linear-attention", 128).measure_state(40)["total"] == 128**2
