"""What no machine can hold is refused by name, before memory is taken."""

from __future__ import annotations

import time
from typing import Any

import pytest
from torch import nn

import architectures
from architectures import registry
from architectures.model import check_size, sketch
from architectures.primitive import SETTLED
from architectures.sizes.accounting import account_model
from architectures.sizes.bounds import check_sizes, machine_memory

WHERE: dict[str, Any] = {"vocab_size": 16, "dim": 64, "max_len": 32}


@pytest.mark.parametrize(
    "spec, message",
    [
        ("swiglu[inner=16777217]", r"swiglu\[inner\]=16777217 is refused; expected .* at most 16,777,216"),
        ("mamba[d_state=9223372036854775808]", "d_state.*at most"),
        ("mamba[conv=-99999999]", "conv.*at least -256"),
        ("matformer-mlp[granularities=99999999999999999999]", "granularities.*at most"),
        ("mh-attention[rope_base=1e31]", "rope_base.*at most 1e"),
        ("rg-lru[expand=1e31]", "expand.*at most 1,?024"),
        ("repeat[times=4096]{mamba}", "more than 4096 layers"),
        ("repeat[times=64]{repeat[times=64]{mamba mlp}}", "more than 4096 layers"),
        ("4096*repeat[times=2]{mlp}", "more than 4096 layers"),
        ("mlp " * 300_000, "1200000 characters; expected at most"),
    ],
)
def test_a_number_out_of_bounds_is_refused_where_it_stands(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        architectures.parse(spec)


def test_a_repeated_body_counts_as_often_as_it_is_run() -> None:
    assert len(architectures.parse("repeat[times=4095]{mamba}")) == 1
    with pytest.raises(ValueError, match="depth=64 makes 4160 layers"):
        architectures.scale("repeat[times=64]{mamba}", depth=64)


@pytest.mark.parametrize(
    "sizes, message",
    [
        ({"dim": 2**18 + 1}, "dim=262145 must be at most 262,144"),
        ({"max_len": 10**40}, "max_len=.a number of more than 30 digits. must be at most"),
        ({"vocab_size": -5}, "vocab_size=-5 must be at least 1"),
        ({"dim": 64.0}, "dim=64.0 is not a whole number"),
        ({"dim": True}, "dim=True is not a whole number"),
    ],
)
def test_the_sizes_of_a_model_have_bounds(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_sizes(**sizes)
    with pytest.raises(ValueError, match=message):
        architectures.build("mlp", **{**WHERE, **sizes}, seed=0)


def test_a_model_that_does_not_fit_is_refused_before_memory_is_taken(monkeypatch: Any) -> None:
    size = check_size(architectures.parse("mlp"), **WHERE)
    built = architectures.build("mlp", **WHERE, seed=0)
    assert size == sum(4 * t.numel() for t in (*built.parameters(), *built.buffers()))
    monkeypatch.setattr("architectures.model.machine_memory", lambda: size)
    check_size(architectures.parse("mlp"), **WHERE)
    with pytest.raises(ValueError, match="needed 4 times: more than .* GiB of this machine; choose"):
        check_size(architectures.parse("mlp"), **WHERE, copies=4)
    with pytest.raises(ValueError, match="choose smaller sizes"):
        architectures.build("mlp mlp", **WHERE, seed=0)
    # On the meta device a size takes no memory.
    assert sketch("mlp mlp", **WHERE).embedding.weight.is_meta


def test_the_memory_of_the_machine_heeds_a_limit_of_the_process(monkeypatch: Any) -> None:
    resource = pytest.importorskip("resource")
    assert 2**27 < machine_memory()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (2**20, 2**20))
    assert machine_memory() == 2**20


def test_a_tensor_that_none_can_have_is_refused_by_its_layer() -> None:
    with pytest.raises(ValueError, match=r"moe-mlp\[.*\] cannot be built at width 262144 and .*smaller"):
        sketch("moe-mlp[experts=16777216,inner=16777216,top_k=1]", **{**WHERE, "dim": 2**18})


@pytest.mark.parametrize("name", [n for n in registry.names() if registry.get(n).mixes != "stream"])
def test_a_sketch_has_the_shapes_of_the_model(name: str) -> None:
    """A sketch copies equal layers, which is right if the second has the shapes of all later ones."""
    where = {**WHERE, "max_len": 16}
    model, drawn = architectures.build(f"3*{name}", **where, seed=0), sketch(f"3*{name}", **where)
    assert {n: t.shape for n, t in model.state_dict().items()} == {
        n: t.shape for n, t in drawn.state_dict().items()
    }
    assert [layer.index for _, layer in model.layers()] == [layer.index for _, layer in drawn.layers()]
    assert len({id(p) for p in drawn.parameters()}) == len(list(model.parameters()))


@pytest.mark.parametrize(
    "spec",
    [
        *("1*mamba", "delta-net", "sliding-attention[window=17000]", "retnet", "mla", "1*hyena"),
        "sequence-altup[stride=3]{mh-attention}",
        "sequence-altup[stride=16]{mla}",
    ],
)
def test_the_state_of_a_long_sequence_is_that_of_a_settled_one(spec: str) -> None:
    length = SETTLED + 1000
    found = architectures.account(spec, vocab_size=16, dim=32, seq_len=length).state
    layer = sketch(spec, vocab_size=16, dim=32, max_len=length).layers()[0][1]
    assert found == layer._state_after(length)


def test_many_nested_layers_are_counted_fast() -> None:
    start = time.process_time()
    architectures.account("400*matformer-attention", vocab_size=16, dim=64, seq_len=8)
    # Under 1 s; in quadratic time 8 s.
    assert time.process_time() - start < 4


def test_many_equal_layers_are_counted_fast() -> None:
    one = architectures.account("1*mamba", vocab_size=16, seq_len=64)
    start = time.process_time()
    many = architectures.account("4096*mamba", vocab_size=16, seq_len=64)
    # About 1 s; each layer by itself took 7 s.
    assert time.process_time() - start < 5
    assert many.layers[0] == one.layers[0] == many.layers[-1]
    norm = 128
    assert many.core == 4096 * (one.core - norm) + norm


class Broken(nn.Module):
    def __init__(self) -> None:
        raise TypeError("no such width")


@pytest.mark.parametrize(
    "spec, message",
    [
        ("torch.nn:Module", "Module cannot be run on an input .*NotImplementedError.*; a layer maps"),
        (f"{__name__}:Broken", "Broken cannot be built at width 64 .*TypeError: no such width; repair it"),
        ("json:dumps", "json:dumps is a function, not a class"),
        ("abc:ABC", "abc:ABC is the class ABC; name a Primitive or an nn.Module class"),
        ("no_such_module:Layer", "there is no module no_such_module"),
    ],
)
def test_what_is_no_layer_is_refused(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model = architectures.build(spec, **WHERE, seed=0)
        account_model(model, 8)
