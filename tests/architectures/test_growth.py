"""Growth keeps the function: exactly, in any order, with anything in the free entries, optimiser included."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import architectures
from architectures import registry
from architectures.checkpoint import load, save
from architectures.elastic import set_granularity
from architectures.growth import (
    add_heads,
    add_layer,
    grow,
    plan,
    widen_hidden,
    widen_keys,
    widen_mlp,
    widen_values,
)
from architectures.growth.engine import describe
from architectures.primitive import Context
from architectures.stored import stored_numbers
from architectures.vision import ImageModel
from tests.architectures.helpers import layer_at, model_of, parameters_in, random_tokens, wild

VOCAB, LENGTH = 7, 12
make = partial(model_of, dim=16)
ATTENTION = [
    "attention[heads=2]",
    "attention[heads=4, kv_heads=2, gate=true, conv=2]",
    "attention[heads=4, kv_heads=2, qk_norm=true]",
    "attention[heads=2, qk_norm=true, rope_fraction=0.5]",
    "attention[heads=2, rope=false, qk_norm=true]",
    "mqa[heads=4]",
    "attention[heads=4, kv_heads=2, bias=all, gate=true]",
    "fox[heads=2, rope=true, gate=true]",
    "path-attention[heads=2]",
]
CHANNEL = [
    "mlp",
    "relu2-mlp",
    "swiglu",
    "mlp[bias=true]",
    "swiglu[bias=true]",
    "moe-mlp[experts=4]",
    "moe-mlp[experts=2, activation=swiglu, shared=1, balance=bias]",
]


def tokens(seed: int = 3, rows: int = 2) -> Tensor:
    return random_tokens(rows, LENGTH, vocab=VOCAB, seed=seed)


@torch.no_grad()
def change(old: Any, new: Any) -> float:
    before, after = old(tokens()), new(tokens())
    return float((after - before).abs().max() / before.abs().max())


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


OPERATIONS: list[tuple[Any, int]] = [(add_heads, 8), (widen_values, 13), (widen_keys, 12), (widen_hidden, 24)]


@pytest.mark.parametrize("rule", ["keep", "rescale"])
@pytest.mark.parametrize("layer", ATTENTION)
def test_attention_grows_in_every_direction_and_keeps_its_function(layer: str, rule: Any) -> None:
    model = make(f"{layer} mlp")
    for operation, to in OPERATIONS:
        takes_away = operation is widen_keys and any(word in layer for word in ("qk_norm", "conv", "bias"))
        if rule == "rescale" and takes_away:
            with pytest.raises(ValueError, match="takes the factor of W_k away; use rule='keep'"):
                operation(model, to=to, rule=rule, fill=wild())
            continue
        before = {n: p.clone() for n, p in model.named_parameters()}
        grown, none = operation(model, to=to, rule=rule, fill=wild(), generator=generator())
        assert none is None and parameters_in(grown) > parameters_in(model)
        assert change(model, grown) <= 1e-12, operation.__name__
        # Pure: the old model is as it was. The new spec rebuilds exactly these shapes.
        assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
        again = architectures.build(grown.spec, vocab_size=VOCAB, dim=grown.dim, max_len=24, seed=1)
        assert {n: p.shape for n, p in again.named_parameters()} == {
            n: p.shape for n, p in grown.named_parameters()
        }
        model = grown  # the next operation grows what this one left


@pytest.mark.parametrize("rule", ["keep", "rescale"])
@pytest.mark.parametrize("layer", CHANNEL)
def test_channel_mixers_grow_and_keep_their_function(layer: str, rule: Any) -> None:
    model = make(f"attention[heads=2] {layer}")
    for operation, to in ((widen_mlp, 81), (widen_hidden, 24), (widen_mlp, 97)):
        grown, _ = operation(model, to=to, rule=rule, fill=wild(), generator=generator())
        assert change(model, grown) <= 1e-12
        model = grown


@pytest.mark.parametrize("rule", ["keep", "rescale"])
def test_tied_readouts_branches_and_bodies(rule: Any) -> None:
    spec = "(attention[heads=2] + swiglu mlp) repeat{mla[heads=2] mlp} value-residual{fox[heads=2] attention}"
    model = make(spec, tied=True)
    for operation, to in ((widen_hidden, 24), (widen_mlp, 80), (widen_keys, 20), (widen_hidden, 26)):
        grown, _ = operation(model, to=to, rule=rule, fill=wild(), generator=generator())
        assert change(model, grown) <= 1e-12
        assert grown.head.weight is grown.embedding.weight
        model = grown


MEMORIES = ["delta-net", "gated-delta-net", "kda", "retnet", "hgrn2", "mh-gated-linear-attention", "rwkv6"]


@pytest.mark.parametrize("layer", MEMORIES)
def test_layers_around_a_matrix_state_follow_the_width(layer: str) -> None:
    model = make(f"{layer} swiglu", dim=32)
    grown, _ = widen_hidden(model, to=48, fill=wild(), generator=generator())
    assert change(model, grown) <= 1e-12
    before, after = describe(layer_at(model, 0)), describe(layer_at(grown, 0))
    assert before is not None and after is not None and after.sizes == before.sizes


@pytest.mark.parametrize(
    "layer", ["attention", "swiglu", "moe-mlp", "mamba", "hyena", "(mlp + attention)", "repeat{mlp}", "mla"]
)
@pytest.mark.parametrize("at", range(3))
def test_a_layer_can_be_added_anywhere(layer: str, at: int) -> None:
    model = make("mh-attention (mlp + swiglu)")
    grown, _ = add_layer(model, to=4, at=at, layer=layer, fill=wild(), generator=generator())
    assert len(grown.spec) == 4 and change(model, grown) <= 1e-12
    assert [p for p, _ in grown.layers()] == [layer.path for _, layer in grown.layers()]


# With parts beside the body that are not the identity, whatever the body writes.
NEVER_SILENT = ["gemma3n-altup", "loop"]
# What has no tensor that writes its output is refused.
ADDED = [registry.get(name) for name in architectures.names() if name not in NEVER_SILENT]
SILENT = [entry.example for entry in ADDED if entry.cls.writers]
SILENT += [
    "sparse-mlp[bias=true]",
    "sparse-mlp[block=1, bias=true, inner=16]",
    "sparse-mlp[sru=8, bias=true, multiply=true]",
    "product-key-memory[gate=true]",
    "sparse-attention[out=true]",
    "moe-mlp[shared=1, activation=swiglu]",
    "(sparse-mlp[bias=true] + sru mlp)",
]


@pytest.mark.parametrize("layer", SILENT)
def test_every_layer_is_added_without_a_trace_and_learns(layer: str) -> None:
    model = make("mh-attention mlp", dim=32)
    # What mixes their streams starts as the identity, and is it no more once it is free.
    streams = layer.startswith(("altup", "attn-res", "hyper-connections", "sequence-altup"))
    fill = None if streams else wild()
    assert change(model, add_layer(model, to=3, at=1, layer=layer, fill=fill)[0]) <= 1e-12
    grown, _ = add_layer(model, to=3, at=1, layer=layer, generator=generator())
    optimizer = torch.optim.SGD(grown.parameters(), lr=0.1)
    idle = {n for n, _ in grown.named_parameters() if n.startswith("blocks.1.")}
    for step in range(3):
        optimizer.zero_grad()
        loss_of(grown, step).backward()
        idle -= {n for n, p in grown.named_parameters() if p.grad is not None and p.grad.any()}
        optimizer.step()
    assert not idle


def test_without_a_layer_the_pattern_goes_on() -> None:
    model = make("2*(mh-attention swiglu)")
    grown, _ = add_layer(model, to=7, generator=generator())
    assert str(grown.spec) == "3*(mh-attention swiglu) mh-attention"


def random_step(rng: random.Random, model: Any, rule: Any, seed: int) -> Any:
    """One operation with a random new size, on all layers or on one."""
    more = {"generator": generator(seed), "fill": wild(seed), "rule": rule}
    kind = rng.choice(["mlp", "heads", "keys", "values", "hidden", "layer"])
    every = [(i, describe(layer)) for i, (_, layer) in enumerate(model.layers())]
    if kind == "hidden":
        return widen_hidden(model, to=model.dim + rng.randint(1, 3), **more)[0]
    if kind == "layer":
        layer = rng.choice(["attention[heads=1, key_dim=2]", "mlp[inner=3]"])
        return add_layer(
            model, to=len(model.spec) + 1, at=rng.randint(0, len(model.spec)), layer=layer, **more
        )[0]
    letter = {"mlp": "F", "heads": "G", "keys": "K", "values": "V"}[kind]
    i, anatomy = rng.choice([(i, a) for i, a in every if a is not None and letter in a.sizes])
    now = anatomy.sizes[letter]
    operation: Any = {"mlp": widen_mlp, "heads": add_heads, "keys": widen_keys, "values": widen_values}[kind]
    to = now + 2 * rng.randint(1, 2) if kind == "keys" else now + rng.randint(1, 2)
    return operation(model, to=to * (anatomy.sizes["R"] if kind == "heads" else 1), layers=[i], **more)[0]


@pytest.mark.parametrize("rule", ["keep", "rescale", "either"])
def test_200_random_compositions_of_eight_operations(rule: str) -> None:
    rng = random.Random(rule)
    worst = 0.0
    for trial in range({"keep": 100, "rescale": 50, "either": 50}[rule]):
        # QK-norm leaves the keys no factor to be rescaled.
        norm = "true" if rule == "keep" and trial % 2 else "false"
        model = start = make(
            f"attention[heads=2, kv_heads=1, key_dim=4, value_dim=3, qk_norm={norm}] swiglu[inner=5]",
            dim=4,
            seed=trial,
            tied=trial % 3 == 0,
        )
        for step in range(8):
            chosen = rng.choice(["keep", "rescale"]) if rule == "either" else rule
            model = random_step(rng, model, chosen, 8 * trial + step)
        worst = max(worst, change(start, model))
    assert worst <= 1e-12


def test_the_order_of_operations_does_not_matter() -> None:
    model = make("attention[heads=2] mlp")
    one = widen_hidden(widen_keys(model, to=12, fill=wild(1))[0], to=20, fill=wild(2))[0]
    two = widen_keys(widen_hidden(model, to=20, fill=wild(3))[0], to=12, fill=wild(4))[0]
    assert change(one, two) <= 1e-12 and one.spec == two.spec
    assert stored_numbers(one) == stored_numbers(two)


# What must be zero, and what must be kept: break one at a time, and the function is another one.

ZEROS: list[tuple[Callable[..., Any], int, str, list[str]]] = [
    (widen_mlp, 80, "mlp", ["blocks.1.layer.down.weight"]),
    (widen_mlp, 80, "moe-mlp[experts=2, inner=8]", ["blocks.1.layer.down"]),
    (add_heads, 4, "mlp", ["blocks.0.layer.out.weight"]),
    (widen_values, 13, "mlp", ["blocks.0.layer.out.weight"]),
    (widen_keys, 12, "mlp", ["blocks.0.layer.key.weight"]),
    (
        widen_hidden,
        20,
        "mlp",
        ["embedding.weight", "blocks.0.layer.out.weight", "blocks.1.layer.down.weight"],
    ),
]


def new_entries(
    model: Any, operation: Any, fill: Any = None, **arguments: Any
) -> tuple[Any, dict[str, Tensor]]:
    """The grown model, and for each tensor which of its entries are new."""
    ones = copy.deepcopy(model)
    with torch.no_grad():
        for p in ones.parameters():
            p.fill_(1)
    marked = operation(ones, fill=lambda name, like: 0 * like, generator=generator(), **arguments)[0]
    grown = operation(model, fill=fill, generator=generator(), **arguments)[0]
    return grown, {n: p.detach() == 0 for n, p in marked.named_parameters()}


@pytest.mark.parametrize("operation, to, channel, zeros", ZEROS, ids=lambda v: getattr(v, "__name__", ""))
def test_a_non_zero_in_any_block_that_must_be_zero_is_seen(
    operation: Any, to: int, channel: str, zeros: list[str]
) -> None:
    model = make(f"attention[heads=2] {channel}")
    grown, new = new_entries(model, operation, to=to, fill=wild())
    found = {n for n, p in grown.named_parameters() if new[n].any() and not p[new[n]].any()}
    assert found == set(zeros)
    for name in zeros:
        broken = copy.deepcopy(grown)
        with torch.no_grad():
            broken.get_parameter(name)[new[name]] = 0.1
        assert change(model, broken) > 1e-4, name


def test_a_new_layer_that_writes_is_seen() -> None:
    model = make("attention[heads=2] mlp")
    for layer, writer in (("attention", "out"), ("swiglu", "down")):
        grown, _ = add_layer(model, to=3, at=1, layer=layer, fill=wild())
        with torch.no_grad():
            grown.get_parameter(f"blocks.1.layer.{writer}.weight").fill_(0.1)
        assert change(model, grown) > 1e-4


KEPT = [
    (widen_keys, 12, "blocks.0.layer", "scale", {}),
    (widen_keys, 12, "blocks.0.layer", "rotary_width", {}),
    (widen_hidden, 20, "blocks.0.norm", "divisor", {}),
    (widen_hidden, 20, "blocks.1.norm", "divisor", {}),
    (widen_hidden, 20, "norm", "divisor", {}),
    (widen_hidden, 20, "", "head_scale", {"tied": True}),
]


@pytest.mark.parametrize("operation, to, path, number, options", KEPT)
def test_a_stored_number_that_is_not_kept_is_seen(
    operation: Any, to: int, path: str, number: str, options: Any
) -> None:
    model = make("attention[heads=2] mlp", **options)
    grown, _ = operation(model, to=to, fill=wild())
    fresh = architectures.build(
        grown.spec, vocab_size=VOCAB, dim=grown.dim, max_len=24, seed=0, options=model.options
    )
    other = stored_numbers(fresh)[path][number]
    assert stored_numbers(model)[path][number] == stored_numbers(grown)[path][number] != other
    setattr(grown.get_submodule(path), number, other)
    assert change(model, grown) > 1e-5


def test_qk_norm_that_sums_new_channels_is_seen() -> None:
    model = make("attention[heads=2, qk_norm=true] mlp")
    grown, _ = widen_keys(model, to=12, fill=wild())
    layer_at(grown, 0)._counted = lambda z: None
    assert change(model, grown) > 1e-4


@pytest.mark.parametrize("operation, to", [(widen_keys, 12), (widen_hidden, 20)])
def test_a_dropped_rescale_is_seen(operation: Any, to: int) -> None:
    model = make("attention[heads=2] mlp", tied=True)
    grown, new = new_entries(model, operation, to=to, fill=wild(), rule="rescale")
    names = {n for n, _ in model.named_parameters()}
    scaled = {
        n for n in names if not torch.equal(grown.get_parameter(n)[~new[n]], model.get_parameter(n).flatten())
    }
    norms = {
        "blocks.0.norm.weight",
        "blocks.1.norm.weight",
    }  # the last one's factor is 1: the tied scale's undoes it
    assert scaled == ({"blocks.0.layer.key.weight"} if operation is widen_keys else norms)
    for name in scaled:
        broken = copy.deepcopy(grown)
        with torch.no_grad():
            p = broken.get_parameter(name)
            p[~new[name]] = model.get_parameter(name).flatten()
        assert change(model, broken) > 1e-4


def test_epsilon_follows_the_rescale() -> None:
    """Where activations are as small as epsilon, the paper's form without it is 6 % off."""
    model = make("mlp")
    with torch.no_grad():
        model.embedding.weight.mul_(0.001)
    grown, _ = widen_hidden(model, to=48, rule="rescale", fill=wild())
    assert change(model, grown) <= 1e-12
    norms: list[Any] = [module for module in grown.modules() if hasattr(module, "eps")]
    for norm in norms:
        norm.eps = 1e-6
    assert change(model, grown) > 1e-2


# Learning goes on: nothing is dead, and old entries move as they would have.


def loss_of(model: Any, step: int) -> Tensor:
    batch = tokens(seed=100 + step, rows=4)
    logits, losses, _ = model.call(batch[:, :-1], Context(seed=step))
    return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()) + sum(losses.values())


EVERY: list[tuple[Any, dict[str, Any], str]] = [
    (widen_mlp, {"to": 80}, "attention[heads=2] moe-mlp[experts=2]"),
    (widen_mlp, {"to": 80}, "attention[heads=2] swiglu"),
    (add_heads, {"to": 4}, "attention[heads=2, qk_norm=true, gate=true, conv=2] mlp"),
    (widen_values, {"to": 13}, "attention[heads=2, gate=true, conv=2] mlp"),
    (widen_keys, {"to": 12}, "attention[heads=2] mlp"),
    (widen_keys, {"to": 12}, "attention[heads=2, qk_norm=true] mlp"),
    (widen_keys, {"to": 12}, "path-attention[heads=2] mlp"),
    (widen_hidden, {"to": 20}, "attention[heads=2, conv=2] swiglu"),
    (add_layer, {"to": 4, "at": 1, "layer": "attention swiglu"}, "attention[heads=2] mlp"),
    (add_heads, {"to": 4}, "fox[heads=2] mlp"),
]


@pytest.mark.parametrize("operation, arguments, spec", EVERY)
def test_every_new_tensor_learns_within_two_steps(operation: Any, arguments: Any, spec: str) -> None:
    grown, new = new_entries(make(spec), operation, **arguments)
    if operation is add_layer:
        new = {
            n: torch.ones_like(m) if n.startswith(("blocks.1.", "blocks.2.")) else 0 * m > 0
            for n, m in new.items()
        }
    optimizer = torch.optim.SGD(grown.parameters(), lr=0.1)
    moved = {n: torch.zeros_like(p) for n, p in grown.named_parameters()}
    for step in range(2):
        optimizer.zero_grad()
        loss_of(grown, step).backward()
        for n, p in grown.named_parameters():
            moved[n] += p.grad.abs()
        optimizer.step()
    dead = [n for n in new if new[n].any() and not moved[n][new[n]].any()]
    assert any(m.any() for m in new.values()) and not dead


def adamw(model: Any) -> torch.optim.Optimizer:
    hints = model.hints()
    groups = [
        {"params": [p for n, p in model.named_parameters() if hints[n].decay == decay], "weight_decay": wd}
        for decay, wd in ((True, 0.1), (False, 0.0))
    ]
    return torch.optim.AdamW(groups, lr=1e-2)


def adam(model: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=0.1, amsgrad=True)


def sgd(model: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)


GROW_ALL: list[tuple[Any, dict[str, Any]]] = [
    (widen_mlp, {"to": 20}),
    (widen_keys, {"to": 12}),
    (add_heads, {"to": 4}),
    (widen_values, {"to": 9}),
    (widen_hidden, {"to": 12}),
    (add_layer, {"to": 3, "at": 1, "layer": "swiglu[inner=4]"}),
]


def grow_all(model: Any, optimizer: Any = None, **more: Any) -> Any:
    for operation, arguments in GROW_ALL:
        model, optimizer = operation(model, optimizer, **arguments, **more)
    return model, optimizer


@pytest.mark.parametrize("rule", ["keep", "rescale"])
@pytest.mark.parametrize("kind", [adamw, adam, sgd])
def test_with_new_entries_frozen_training_goes_on_as_before(kind: Any, rule: Any) -> None:
    model = make("attention[heads=2, key_dim=4] swiglu[inner=8]", dim=8)
    optimizer = kind(model)

    def update(model: Any, optimizer: Any, step: int) -> float:
        optimizer.zero_grad()
        loss = loss_of(model, step)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    for step in range(5):
        update(model, optimizer, step)
    _, new = new_entries(model, grow_all, rule=rule)
    new = {n: torch.ones_like(m) if n.startswith("blocks.1.") else m for n, m in new.items()}
    grown, carried = grow_all(model, optimizer, rule=rule, generator=generator())
    assert type(carried) is type(optimizer)
    frozen = {n: p.detach().clone() for n, p in grown.named_parameters()}
    for step in range(5, 55):
        a, b = update(model, optimizer, step), update(grown, carried, step)
        assert abs(a - b) <= 1e-10 * abs(a), step
        with torch.no_grad():
            for n, p in grown.named_parameters():
                p[new[n]] = frozen[n][new[n]]
    assert change(model, grown) <= 1e-10


def test_groups_hyperparameters_and_moments_are_carried() -> None:
    model = make("attention[heads=2] mlp")
    optimizer = adamw(model)
    loss_of(model, 0).backward()
    optimizer.step()
    grown, carried = widen_mlp(model, optimizer, to=80)
    assert carried is not None and carried.defaults == optimizer.defaults
    for old, new in zip(optimizer.param_groups, carried.param_groups, strict=True):
        assert {k: v for k, v in old.items() if k != "params"} == {
            k: v for k, v in new.items() if k != "params"
        }
    down, before = layer_at(grown, 1).down.weight, layer_at(model, 1).down.weight
    state, was = carried.state[down], optimizer.state[before]
    for key in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(state[key][:, :64], was[key]) and not state[key][:, 64:].any()
    assert state["step"] == was["step"] == 1 and state["step"] is not was["step"]
    deeper, carried = add_layer(model, optimizer, to=3, layer="mlp")
    fresh = layer_at(deeper, 2).up.weight
    assert carried is not None and fresh not in carried.state
    assert any(p is fresh for p in carried.param_groups[0]["params"])  # the matrices' group
    assert any(p is deeper.get_parameter("blocks.2.norm.weight") for p in carried.param_groups[1]["params"])


def test_frozen_tensors_stay_frozen_and_buffers_are_kept() -> None:
    model = make("moe-mlp[experts=4, balance=bias] mlp")
    layer_at(model, 0).router.bias.add_(torch.arange(4.0))
    model.embedding.weight.requires_grad_(False)
    grown, _ = widen_hidden(model.eval(), to=24)
    assert not grown.embedding.weight.requires_grad and not grown.training
    assert torch.equal(layer_at(grown, 0).router.bias, layer_at(model, 0).router.bias)


# Decoding, files, and the inverse of extraction.


@torch.no_grad()
def test_decoding_after_growth_equals_the_whole_forward() -> None:
    model, _ = grow_all(
        make("attention[heads=2, key_dim=4, qk_norm=true] swiglu[inner=8]", dim=8), fill=wild()
    )
    x = tokens()
    whole = model(x)
    first, state = model.prefill(x[:, :5], model.init_state(2))
    rest = []
    for t in range(5, LENGTH):
        y, state = model.step(x[:, t], state)
        rest.append(y)
    torch.testing.assert_close(torch.cat([first, torch.stack(rest, 1)], 1), whole, rtol=1e-11, atol=1e-9)


@torch.no_grad()
def test_a_cache_from_before_goes_on_where_it_can_and_is_refused_where_it_cannot() -> None:
    model = make("attention[heads=2] mlp")
    x = tokens()
    _, state = model.prefill(x[:, :5], model.init_state(2))
    expected, _ = model.step(x[:, 5], state)
    for operation, to in ((widen_mlp, 80), (widen_hidden, 24)):
        grown, _ = operation(model, to=to, fill=wild())
        torch.testing.assert_close(grown.step(x[:, 5], state)[0], expected, rtol=1e-11, atol=1e-11)
    for operation, to in ((widen_keys, 12), (widen_values, 12), (add_heads, 4), (add_layer, 3)):
        grown, _ = operation(model, to=to)
        with pytest.raises((RuntimeError, ValueError)):
            grown.step(x[:, 5], state)


def test_a_file_carries_stored_numbers_and_optimiser_through_growth(tmp_path: Any) -> None:
    model = make("attention[heads=2, qk_norm=true] swiglu", tied=True)
    optimizer = adamw(model)
    loss_of(model, 0).backward()
    optimizer.step()
    grown, carried = widen_keys(model, optimizer, to=12, fill=wild())
    save(grown, tmp_path / "a.pt", carried)
    loaded, again = load(tmp_path / "a.pt")
    assert again is not None and torch.equal(loaded(tokens()), grown(tokens()))
    assert stored_numbers(loaded) == stored_numbers(grown) and loaded.spec == grown.spec
    more, again = widen_hidden(loaded, again, to=24, fill=wild())
    assert change(model, more) <= 1e-12
    save(more, tmp_path / "a.pt", again)
    loaded, again = load(tmp_path / "a.pt")
    assert change(model, loaded) <= 1e-12 and again is not None
    for m, o in ((model, optimizer), (loaded, again)):
        o.zero_grad()
        loss_of(m, 1).backward()
        o.step()
    torch.testing.assert_close(
        layer_at(loaded, 0).value.weight[:, :16], layer_at(model, 0).value.weight, rtol=1e-9, atol=1e-12
    )


def test_widening_gives_back_what_extraction_took() -> None:
    big = make("attention[heads=2] swiglu[inner=12]")
    small = make("attention[heads=2] swiglu[inner=8]")
    with torch.no_grad():
        for name, p in small.named_parameters():
            p.copy_(big.get_parameter(name)[tuple(slice(n) for n in p.shape)])
    grown, _ = widen_mlp(small, to=12, fill=lambda name, like: big.get_parameter(name))
    assert change(small, grown) <= 1e-12
    for name, p in grown.named_parameters():
        if "down" not in name:
            assert torch.equal(p, big.get_parameter(name)), name
    with torch.no_grad():
        layer_at(grown, 1).down.weight[:, 8:] = layer_at(big, 1).down.weight[:, 8:]
    assert torch.equal(grown(tokens()), big(tokens()))


# The planner.


@pytest.mark.parametrize(
    "spec, dim",
    [
        ("3*(mh-attention swiglu)", 48),
        ("mh-attention[heads=3, key_dim=20, value_dim=16] swiglu (mlp + mla) mh-attention swiglu", 32),
        ("mh-attention[kv_heads=2, value_dim=18] swiglu mh-attention swiglu", 32),
    ],
)
def test_grow_reaches_the_very_architecture(spec: str, dim: int) -> None:
    model = make("2*(mh-attention swiglu)", dim=32)
    grown, optimizer = grow(model, spec, adamw(model), dim=dim, fill=wild(), generator=generator())
    assert grown.spec == architectures.parse(spec) and grown.dim == dim and optimizer is not None
    assert change(model, grown) <= 1e-12
    assert parameters_in(grown) == architectures.account(spec, vocab_size=VOCAB, dim=dim, seq_len=12).params


def test_the_plan_names_its_steps() -> None:
    steps = plan(make("2*(mh-attention swiglu)", dim=32), "3*(mh-attention swiglu)", dim=64)
    assert [s.verb for s in steps] == ["widen_hidden", "widen_mlp", "add_heads", "add_layer"]
    assert str(steps[0]) == "widen_hidden to 64" and str(steps[-1]) == "add_layer at 4, 5"
    assert plan(make("mh-attention"), "mh-attention") == []


# Refusals: one line with the rule and the remedy.


class Centred(nn.Module):
    """A layer with LayerNorm, whose mean sees zeros in new channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm, self.out = nn.LayerNorm(dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(x))


def last() -> Any:
    return architectures.build("mlp", vocab_size=5, dim=16, max_len=8, readout="last", seed=0)


def nested(granularity: int) -> Any:
    model = make("matformer-mlp")
    set_granularity(model, granularity)
    return model


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (
        lambda: widen_mlp(make("attention mlp"), to=63),
        "below the inner width 64 of blocks.1.layer.*choose 64",
    ),
    (lambda: widen_hidden(make("mlp"), to=8), "to=8 is below the width 16 of the model"),
    (lambda: widen_hidden(make("mlp"), to=20, layers=[0]), "acts on all layers"),
    (lambda: widen_hidden(last(), to=20), "sinusoidal position code"),
    (lambda: widen_hidden(make("mamba mlp"), to=20), "no rule for mamba"),
    (lambda: widen_hidden(make("hyper-connections{mlp}"), to=20), "no rule for hyper-connections"),
    (lambda: widen_mlp(make("mamba"), to=20), "finds no layer whose inner width"),
    (lambda: widen_mlp(make("mamba mlp"), to=200, layers=[0]), "no rule for mamba"),
    (lambda: widen_mlp(make("mlp"), to=200, layers=[3]), r"layers=\[3\] are not among the 1 layers"),
    (lambda: add_layer(make("mlp"), to=2, layer=3), "3 is not an architecture; give a spec"),  # type: ignore[arg-type]
    (lambda: grow(make("mlp"), "mlp", dim="64"), "dim='64' is not a whole number"),  # type: ignore[arg-type]
    (
        lambda: widen_mlp(make("mlp"), to=200, layers=cast(Any, ["a"])),
        r"layers=\['a'\] are not among .*; give a list",
    ),
    (lambda: widen_mlp(make("mlp"), to=200, layers=1), r"layers=\[1\] are not among"),  # type: ignore[arg-type]
    (lambda: widen_mlp(make("mlp"), to=99, rule=cast(Any, "no")), "rule='no' is not one of keep, rescale"),
    (lambda: widen_keys(make("attention[heads=2]"), to=9), "RoPE rotates pairs"),
    (lambda: add_heads(make("attention[heads=4, kv_heads=2]"), to=5), "whole groups of 2"),
    (lambda: add_heads(make("value-residual{attention attention}"), to=2), "value-residual mixes its values"),
    (lambda: add_layer(make("mlp"), to=0), "to=0 is below the number of layers 1"),
    (lambda: add_layer(make("mlp"), to=2, at=5, layer="mlp"), "at=5 is not a whole number between"),
    (lambda: add_layer(make("mlp"), to=2, at=0), "say what to add"),
    (lambda: add_layer(make("mlp"), to=10**7, layer="mlp"), "to=10000000 is more than the 4,096 layers"),
    (lambda: add_layer(make("mlp"), to=cast(Any, 2.5)), "to=2.5 is not a whole number.*such as to=1"),
    (lambda: widen_hidden(make("mlp"), to=cast(Any, 24.0)), "to=24.0 is not a whole number; .*to=16"),
    (lambda: widen_mlp(make("mlp"), to=cast(Any, True)), "to=True is not a whole number"),
    (lambda: widen_hidden(make("mlp"), to=10**9), "dim=1000000000 must be at most 262,144"),
    (
        lambda: add_layer(make("mlp"), to=2, layer="gemma3n-altup[k=2]{mlp}"),
        r"^mlp gemma3n-altup\[k=2\]\{mlp\} would not compute what mlp does \(relative change .*\): "
        r"gemma3n-altup\[k=2\]\{mlp\} writes even where",
    ),
    (lambda: widen_mlp(nested(1), to=128), "blocks.0.layer is set to granularity 1.*set_granularity.*3"),
    (lambda: add_layer(nested(0), to=2), "blocks.0.layer is set to granularity 0"),
    (lambda: grow(nested(0), "matformer-mlp mlp"), "blocks.0.layer is set to granularity 0"),
    (lambda: widen_hidden(nested(2), to=20), "blocks.0.layer is set to granularity 2"),
    (lambda: widen_mlp(make("matformer-mlp"), to=100), "not divisible by 8.*choose inner=96"),
    (lambda: grow(make("attention mlp"), "attention swiglu"), "mlp cannot become swiglu"),
    (lambda: grow(make("attention"), "attention[gate=true]"), "another function"),
    (lambda: grow(make("attention mlp"), "attention"), "keep every layer"),
    (lambda: grow(make("mlp"), "mlp[inner=8]"), "would shrink: inner width 64 to 8"),
    (lambda: grow(make("mlp"), "mlp", dim=8), "dim=8 is below"),
    (lambda: grow(make("delta-net", dim=32), "delta-net[heads=4, key_dim=8]"), "no rule"),
    (lambda: grow(last(), "mlp", dim=32), "sinusoidal position code"),
]


@pytest.mark.parametrize("act, message", REFUSED)
def test_what_cannot_be_kept_is_refused(act: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        act()
    assert "\n" not in str(error.value)


VERBS: list[tuple[Callable[..., Any], dict[str, Any]]] = [
    (widen_mlp, {"to": 256}),
    (add_heads, {"to": 8}),
    (widen_keys, {"to": 16}),
    (widen_values, {"to": 16}),
    (widen_hidden, {"to": 64}),
    (add_layer, {"to": 6}),
    (grow, {"spec": "mlp"}),
    (plan, {"spec": "mlp"}),
]


@pytest.mark.parametrize("verb, arguments", VERBS)
def test_a_model_that_is_not_ours_is_refused_in_one_sentence(verb: Any, arguments: dict[str, Any]) -> None:
    torch_layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    image = ImageModel("2*(encoder-attention[rope=false] mlp)", classes=10, size=8, patch=2, dim=32, seed=0)
    for model in (nn.TransformerEncoder(torch_layer, 2), image, Centred(32), make("mlp").blocks[0].layer):
        with pytest.raises(
            ValueError, match="takes a SequenceModel, which architectures.build makes"
        ) as error:
            verb(model, **arguments)
        assert type(model).__name__ in str(error.value) and "\n" not in str(error.value)


def test_layer_norm_is_refused(monkeypatch: Any) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "centred", sys.modules[__name__])
    model = architectures.build("centred:Centred mlp", vocab_size=5, dim=16, max_len=8, seed=0)
    with pytest.raises(ValueError, match="a LayerNorm: zeros in new channels change its mean"):
        widen_hidden(model, to=20)
    with pytest.raises(
        ValueError, match=r"cannot silence Centred \(blocks.1.layer\): its `writers`, out, name no tensor"
    ):
        add_layer(make("mlp"), to=2, layer="centred:Centred")


def test_an_optimiser_that_is_not_known_or_not_the_models_is_refused() -> None:
    model = make("mlp")
    with pytest.raises(ValueError, match="RMSprop cannot be carried over; use AdamW"):
        widen_mlp(model, torch.optim.RMSprop(model.parameters()), to=80)
    with pytest.raises(ValueError, match="not a parameter of the model"):
        widen_mlp(model, adamw(make("mlp")), to=80)
