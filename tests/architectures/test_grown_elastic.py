"""What is cut out of a grown model computes what it did inside: any operation, any mix, any round trip."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import architectures
from architectures import registry
from architectures.checkpoint import load, save
from architectures.elastic import by_layer, count_params, extract, nested_layers, set_granularity
from architectures.growth import add_heads, add_layer, grow, widen_hidden, widen_keys, widen_mlp, widen_values
from architectures.primitive import Context
from architectures.vision import ImageModel
from tests.architectures.helpers import layer_at, model_of, parameters_in, random_tokens, wild

VOCAB = 7
SPECS = [
    "2*(matformer-attention[qk_norm=true, gate=true, conv=3] matformer-mlp)",
    "matformer-attention[heads=8, group=2, rope_fraction=0.5] matformer-swiglu[inner=48] mh-attention mlp",
    "matformer-encoder-attention[granularities=2] matformer-mlp[granularities=2]",
    "repeat{matformer-attention matformer-mlp} (matformer-attention + matformer-swiglu[inner=16] mlp)",
]


def tokens() -> Tensor:
    return random_tokens(2, 19, vocab=VOCAB, seed=3)


def gap(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


def random_mix(model: Any, rng: random.Random) -> tuple[int, ...]:
    return tuple(rng.randrange(len(layer.widths)) for layer in nested_layers(model).values())


OPERATIONS: list[tuple[Any, dict[str, Any]]] = [
    (widen_hidden, {"to": 48}),
    (widen_keys, {"to": 24}),
    (add_heads, {"to": 24}),
    (widen_values, {"to": 17}),
    (widen_mlp, {"to": 192}),
    (add_layer, {"to": 5, "at": 1, "layer": "matformer-mlp[inner=16]"}),
]


@pytest.mark.parametrize("rule", ["keep", "rescale"])
@pytest.mark.parametrize("spec", SPECS)
def test_every_size_of_a_grown_model_is_what_is_cut_out(spec: str, rule: Any) -> None:
    start, rng = model_of(spec, tied=rule == "keep"), random.Random(spec)
    model, done = start, 0
    for operation, arguments in OPERATIONS:
        try:
            model = operation(model, rule=rule, fill=wild(done), **arguments)[0]
        except ValueError as error:
            assert "takes the factor of W_k away" in str(error) and rule == "rescale"
            continue
        done += 1
        assert gap(model(tokens()), start(tokens())) <= 1e-12
        count = min(len(layer.widths) for layer in nested_layers(model).values())
        whole = tuple(len(layer.widths) - 1 for layer in nested_layers(model).values())
        for mix in (whole, *range(count), random_mix(model, rng), random_mix(model, rng)):
            small = extract(model, mix)
            logits, *_ = model.call(tokens(), Context(granularity=by_layer(model, mix)))
            assert gap(small(tokens()), logits) <= 1e-12
            assert count_params(model, mix) == parameters_in(small)
        assert torch.equal(extract(model, whole)(tokens()), model(tokens()))
    assert done >= 5


def random_step(model: Any, rng: random.Random, seed: int) -> Any:
    """One operation on all layers that have what it widens; the model itself where it is refused."""
    operation: Any = rng.choice(
        [widen_hidden, widen_keys, widen_values, add_heads, widen_mlp, add_layer, grow]
    )
    more: dict[str, Any] = {"fill": wild(seed), "generator": torch.Generator().manual_seed(seed)}
    if rng.random() < 0.3 and operation is not add_layer:
        more["rule"] = "rescale"
    if operation is add_layer:
        more |= {
            "at": rng.randint(0, len(model.spec)),
            "layer": rng.choice(["mlp[inner=3]", "matformer-mlp"]),
        }
    sizes = {widen_hidden: model.dim + 4 * rng.randint(1, 4), add_layer: len(model.spec) + 1}
    more |= {"spec": model.spec, "dim": model.dim + 16} if operation is grow else {}
    if operation is not grow:
        more["to"] = sizes.get(operation, 8 * rng.randint(1, 12))
    try:
        return operation(model, **more)[0]
    except ValueError as error:
        assert "\n" not in str(error)
        return model


@pytest.mark.parametrize("trial", range(12))
def test_growing_cutting_and_saving_in_any_order_keeps_the_function(trial: int, tmp_path: Path) -> None:
    rng = random.Random(trial)
    spec = rng.choice([*SPECS, "mla sparse-mlp[bias=true] matformer-attention matformer-mlp"])
    model = model_of(spec, seed=trial, tied=rng.random() < 0.5)
    expected = model(tokens())
    for step in range(10):
        model = random_step(model, rng, 100 * trial + step)
        assert gap(model(tokens()), expected) <= 1e-12
        if rng.random() < 0.3:
            save(model, tmp_path / "model.pt")
            written, (model, _) = model, load(tmp_path / "model.pt")
            assert torch.equal(model(tokens()), written(tokens()))
        if rng.random() < 0.15 and nested_layers(model):
            mix = random_mix(model, rng)
            set_granularity(model, mix)
            save(model, tmp_path / "set.pt")
            expected = model(tokens())
            assert torch.equal(load(tmp_path / "set.pt")[0](tokens()), expected)
            model = extract(model, mix)
            assert gap(model(tokens()), expected) <= 1e-12


DECODED = [name for name in architectures.names() if registry.get(name).cls.mixes != "stream"]


@pytest.mark.parametrize("name", DECODED)
def test_any_layer_beside_a_nested_one_is_carried_along(name: str, tmp_path: Path) -> None:
    """Grown as far as there are rules, cut, saved, read and grown again, at an odd width of the stream."""
    model = model_of(f"{name} matformer-attention[heads=4, key_dim=6] matformer-mlp[inner=40]", dim=48)
    expected, turned = model(tokens()), 0
    for operation, to in ((widen_keys, 10), (widen_hidden, 56), (widen_mlp, 480), (widen_hidden, 57)):
        try:
            model, turned = operation(model, to=to, fill=wild(to))[0], turned + 1
        except ValueError as error:
            assert "\n" not in str(error)
    assert turned and gap(model(tokens()), expected) <= 1e-12
    mix = random_mix(model, random.Random(name))
    expected, *_ = model.call(tokens(), Context(granularity=by_layer(model, mix)))
    save(extract(model, mix), tmp_path / "small.pt")
    small, _ = load(tmp_path / "small.pt")
    assert gap(small(tokens()), expected) <= 1e-12
    larger, _ = widen_keys(small, to=18, layers=[1], fill=wild(1))
    assert gap(larger(tokens()), expected) <= 1e-12


EVERY_WAY: list[tuple[Any, dict[str, Any]]] = [
    (add_layer, {"to": 4, "at": 0, "layer": "mh-attention"}),
    (add_layer, {"to": 5, "at": 1, "layer": "mh-attention mlp"}),
    (add_layer, {"to": 6}),
    (widen_hidden, {"to": 48}),
    (widen_hidden, {"to": 33}),
    (widen_keys, {"to": 34}),
    (widen_values, {"to": 33}),
    (add_heads, {"to": 16}),
    (widen_mlp, {"to": 160}),
    (widen_mlp, {"to": 1024}),
]


@pytest.mark.slow
@pytest.mark.parametrize("readout", ["every", "last"])
@pytest.mark.parametrize("name", architectures.names())
def test_every_layer_grows_and_is_saved_or_is_refused_in_a_sentence(
    name: str, readout: str, tmp_path: Path
) -> None:
    example = registry.get(name).example
    every: tuple[dict[str, Any], ...] = ({}, {"tied": True}, {"readout_sparsity": 2})
    for options in every if readout == "every" else every[:1]:
        model = model_of(f"{example} mlp {example}", readout=readout, **options)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        model(tokens()).square().mean().backward()
        optimizer.step()
        expected = model(tokens())
        for (operation, arguments), rule in itertools.product(EVERY_WAY, ("keep", "rescale")):
            try:
                grown, carried = operation(model, optimizer, rule=rule, **arguments)
            except ValueError as error:
                assert "\n" not in str(error)
                continue
            assert gap(grown(tokens()), expected) <= 1e-12, (operation.__name__, arguments, rule)
            save(grown, tmp_path / "grown.pt", carried)
            assert torch.equal(load(tmp_path / "grown.pt")[0](tokens()), grown(tokens()))


def test_a_vision_model_keeps_its_stored_numbers() -> None:
    model = ImageModel(
        "matformer-encoder-attention matformer-mlp", classes=5, size=8, patch=2, dim=32, seed=0
    )
    model.norm.eps = 0.5
    layer_at(model, 0).scale = 0.3
    images = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(extract(model, 3)(images), model(images))
