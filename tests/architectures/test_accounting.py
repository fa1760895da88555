"""The counts of `account` against models that are really built, closed forms and published sizes."""

from __future__ import annotations

import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import architectures
from architectures import registry
from architectures.blocks import Block
from architectures.grammar import index
from architectures.grammar.presets import ModelOptions
from architectures.grammar.stripe import parse
from architectures.model import _outline, build, sketched
from architectures.primitive import Context, Primitive, State, option
from architectures.registry import primitive
from architectures.sizes.accounting import KINDS, account, account_model
from architectures.sizes.allowance import Allowance, Exceeded

# Presets that differ in kind; all of them are counted in test_presets.py.
KINDS_OF_PRESETS = ["transformer++", "striped-hyena", "mamba", "jamba", "kimi-linear", "falcon-h1"]
SPECS = [
    *KINDS_OF_PRESETS,
    "mlp",
    "3*(mh-sliding-attention[window=5] mlp[inner=7])",
    "(mamba + (hyena attention[key_dim=6, value_dim=10] + mlp)) 2*mh-linear-attention",
]


@primitive("test-repeat", mixes="stream", version=1, example="test-repeat{mlp}")
class Repeat(Primitive):
    """y = the stream after its body was added `times` times over, with the same weights."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        times: int = option(3, "how often the body is run")

    config: Config
    body: Any

    def __init__(
        self, config: Config, *, body: list[Block], dim: int, max_len: int, index: int = 0, depth: int = 1
    ) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.body = nn.ModuleList(body)
        self.gain = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        for _ in range(self.config.times):
            for block in self.body:
                x = x + self.gain * block(x, ctx)
        return x

    def flops(self, length: int) -> int:
        return self.config.times * sum(block.flops(length) for block in self.body)


@primitive("test-pair", mixes="time", version=1)
class Pair(Primitive):
    """y = down(mixer(x)): a layer that holds another one."""

    def __init__(self, config: object, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        entry = registry.get("mamba")
        self.mixer = entry.cls(entry.config({}), dim=dim, max_len=max_len)
        self.down = nn.Linear(dim, dim, bias=False)

    def flops(self, length: int) -> int:
        return self.mixer.flops(length) + 2 * length * self.dim**2


@primitive("test-careless", mixes="time", version=1)
class Careless(Primitive):
    """y = x; it names no kind for the tensor of its state."""

    def init_state(self, batch: int, length: int | None = None) -> State:
        return (torch.zeros(batch, self.dim),)

    def step(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        return x, state

    def flops(self, length: int) -> int:
        return 0


ENTRIES = {name: registry._entries.pop(name) for name in ("test-repeat", "test-pair", "test-careless")}


class Plain(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.map = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x)


@pytest.fixture
def extra() -> Iterator[None]:
    registry._entries.update(ENTRIES)
    yield
    for name in ENTRIES:
        del registry._entries[name]


def size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(("readout", "tied"), [("every", False), ("last", False), ("every", True)])
def test_the_account_is_the_count_of_a_model_that_was_built(spec: str, readout: str, tied: bool) -> None:
    options = ModelOptions(tied=tied)
    model = build(spec, vocab_size=23, dim=48, max_len=37, readout=readout, seed=0, options=options)
    found = account(spec, vocab_size=23, dim=48, seq_len=37, readout=readout, options=options)
    assert found == account_model(model, 37)
    assert found.seq_len == 37
    assert found.params == size(model) == sum(v.numel() for v in dict(model.named_parameters()).values())
    assert found.embedding == (1 if tied else 2) * 23 * 48
    assert found.core == found.params - found.embedding
    layers = [layer for _, layer in model.layers()]
    assert found.active == found.core - sum(size(layer) - layer.active_params() for layer in layers)
    assert (found.active < found.core) == ("moe-mlp" in str(model.spec))
    assert [layer.params for layer in found.layers] == [size(layer) for layer in layers]
    norms = sum(size(m) for m in model.modules() if type(m).__name__ == "RMSNorm" and size(m) == 48)
    decoder = size(model.get_submodule("decoder.maps")) if model.decoder else 0
    assert found.core == sum(layer.params for layer in found.layers) + norms + decoder
    assert [layer.flops for layer in found.layers] == [layer.flops(37) / 37 for layer in layers]


@pytest.mark.parametrize("spec", SPECS)
def test_totals_are_sums_over_the_layers_of_the_spec(spec: str) -> None:
    found = account(spec, vocab_size=23, dim=48, seq_len=37)
    assert [layer.name for layer in found.layers] == [
        layer.name for layer in architectures.parse(spec).walk()
    ]
    assert [layer.mixes for layer in found.layers] == [registry.get(x.name).mixes for x in found.layers]
    assert found.state is not None and set(found.state) == set(KINDS)
    for kind in KINDS:
        assert found.state[kind] == sum(layer.state[kind] for layer in found.layers if layer.state)
    assert found.state["total"] == sum(found.state[k] for k in KINDS if k != "total")
    assert found.nominal == sum(layer.nominal or 0 for layer in found.layers)
    assert math.isclose(found.flops, sum(layer.flops for layer in found.layers) + 2 * 48 * 23)


@pytest.mark.parametrize("spec", SPECS)
def test_the_state_is_that_of_decoding(spec: str) -> None:
    model = build(spec, vocab_size=23, dim=48, max_len=37, seed=0)
    state = model.init_state(1)
    _, state = model.prefill(torch.zeros(1, 20, dtype=torch.int64), state)
    for _ in range(17):
        _, state = model.step(torch.zeros(1, dtype=torch.int64), state)
    elements = sum(t.numel() for part in state for t in part if t.is_floating_point())
    found = account(spec, vocab_size=23, dim=48, seq_len=37)
    assert found.state is not None and found.state["total"] == elements


@pytest.mark.parametrize(
    ("layer", "state", "nominal"),
    [
        ("attention", {"growing": 32_768}, 0),
        ("mh-attention", {"growing": 32_768}, 0),
        ("attention[heads=16]", {"growing": 32_768}, 0),
        ("sliding-attention", {"recurrent": 8_192}, 8_192),
        ("mh-sliding-attention", {"recurrent": 8_192}, 8_192),
        ("mh-linear-attention[feature_map=identity]", {"recurrent": 2_048}, 2_048),
        ("linear-attention[heads=8]", {"recurrent": 2_048 + 128}, 2_048),
        ("mh-linear-attention", {"recurrent": 2_048 + 128}, 2_048),
        ("linear-attention", {"recurrent": 128 * 128 + 128}, 128 * 128),
        ("mamba[d_state=16]", {"recurrent": 4_096, "conv": 768}, 4_096),
        ("mamba", {"recurrent": 1_024, "conv": 768}, 1_024),
        ("hyena", {"growing": 128 * 512, "conv": 2 * 3 * 512}, 2_048),
        ("mlp", {}, 0),
        ("swiglu", {}, 0),
    ],
)
def test_the_state_of_a_layer_at_width_128_after_128_tokens(
    layer: str, state: dict[str, int], nominal: int
) -> None:
    found = account(f"1*{layer}", vocab_size=16, seq_len=128)
    expected = {"recurrent": 0, "conv": 0, "growing": 0, **state}
    assert found.state == {**expected, "total": sum(expected.values())}
    assert found.nominal == nominal


def test_the_presets_compared_at_equal_state_have_equal_state() -> None:
    for name in ("hyena", "mamba"):
        assert account(name, vocab_size=16, seq_len=128).nominal == 4_096
    for name in ("mh-attention", "hyena"):
        short, long = (account(f"1*{name}", vocab_size=16, seq_len=t).state for t in (64, 128))
        assert (
            short and long and long["growing"] == 2 * short["growing"] > 0 and long["conv"] == short["conv"]
        )


@pytest.mark.parametrize(
    ("dim", "length", "vocabulary", "depth"), [(48, 37, 23, 3), (128, 128, 16, 1), (256, 1, 7, 2)]
)
def test_the_flops_of_a_transformer(dim: int, length: int, vocabulary: int, depth: int) -> None:
    inner = math.ceil(8 * dim / 3 / 16) * 16
    attention = 8 * dim**2 + 4 * dim * (length + 1) / 2  # four maps; scores and values of the visible pairs
    swiglu = 6 * dim * inner + inner
    expected = depth * (attention + swiglu) + 2 * dim * vocabulary
    found = account(f"{depth}*(mh-attention swiglu)", vocab_size=vocabulary, dim=dim, seq_len=length)
    assert math.isclose(found.flops, expected, rel_tol=1e-12)
    assert found.params == depth * (4 * dim**2 + 3 * dim * inner + 2 * dim) + 2 * vocabulary * dim + dim


def test_the_readout_last_costs_two_maps_more() -> None:
    every, last = (account("mlp", vocab_size=7, dim=48, seq_len=9, readout=r) for r in ("every", "last"))
    assert last.flops - every.flops == 4 * 48**2
    assert last.params - every.params == 2 * (48**2 + 48 + 48)


def test_unknown_state_is_not_no_state(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "layers_of_this_test:Plain"
    monkeypatch.setitem(sys.modules, "layers_of_this_test", sys.modules[__name__])
    found = account(f"mamba {name} mlp", vocab_size=7, dim=48, seq_len=9)
    assert found.state is None and found.nominal is None
    assert [layer.state is None for layer in found.layers] == [False, True, False]
    mine = found.layers[1]
    assert (mine.name, mine.nominal, mine.params) == (name, None, 48 * 48 + 48)
    assert mine.flops == 2 * 48 * 48


@pytest.mark.parametrize(
    "unknown", ["encoder-attention", "lsh-attention[causal=false]", "layers_of_this_test:Plain", "test-pair"]
)
def test_the_state_of_what_holds_an_unknown_one_is_unknown(
    unknown: str, monkeypatch: pytest.MonkeyPatch, extra: None
) -> None:
    monkeypatch.setitem(sys.modules, "layers_of_this_test", sys.modules[__name__])
    for spec in (
        f"{unknown} mlp",
        f"({unknown} + mqa) mlp",
        f"repeat{{mqa {unknown}}}",
        f"reversible{{gated-delta-net ({unknown} + mlp)}} mlp",
        f"(mlp + altup[recycled=true]{{mqa {unknown} mlp}})",
        f"repeat{{hyper-connections{{mlp repeat{{mamba {unknown}}}}} mqa}}",
        f"sequence-altup{{{unknown} mamba}}",
    ):
        found = account(spec, vocab_size=7, dim=64, seq_len=12)
        assert found.state is None and found.nominal is None and found.flops > 0, spec


def test_a_mistake_in_a_state_is_no_unknown_state(extra: None) -> None:
    with pytest.raises(
        ValueError, match="a state of 1 tensors has 0 kinds; state_kinds must name each tensor"
    ):
        account("test-careless", vocab_size=7, dim=48, seq_len=9)


def test_a_wrapper_counts_its_body_once_and_its_runs_each_time(extra: None) -> None:
    body = account("mlp (mamba + swiglu)", vocab_size=7, dim=48, seq_len=9)
    plain = account("swiglu", vocab_size=7, dim=48, seq_len=9)
    (whole,) = account("test-repeat{mlp (mamba + swiglu)}", vocab_size=7, dim=48, seq_len=9).layers
    assert math.isclose(whole.flops, 3 * sum(layer.flops for layer in body.layers))
    assert whole.params == sum(layer.params for layer in body.layers) + 3 * 48  # two norms and the gain
    found = account(
        "test-repeat{mlp} swiglu test-repeat[times=2]{test-repeat{mlp}}", vocab_size=7, dim=48, seq_len=9
    )
    assert [layer.name for layer in found.layers] == ["test-repeat", "swiglu", "test-repeat"]
    assert [layer.mixes for layer in found.layers] == ["stream", "channel", "stream"]
    mlp = body.layers[0]
    assert found.layers[0].params == mlp.params + 48 + 48
    assert found.layers[0].flops == 3 * mlp.flops
    assert found.layers[2].flops == 2 * 3 * mlp.flops
    assert found.layers[1] == plain.layers[0]
    assert found.state is None, "the wrapper of this test defines none"


def test_a_layer_inside_a_layer_is_counted_once(extra: None) -> None:
    found, mamba = (account(f"1*{x}", vocab_size=7, dim=48, seq_len=9) for x in ("test-pair", "mamba"))
    (layer,) = found.layers
    assert layer.params == mamba.layers[0].params + 48 * 48 == found.core - 2 * 48
    assert found.flops - mamba.flops == 2 * 48 * 48
    assert found.state is None and layer.state is None


@pytest.mark.parametrize("spec", KINDS_OF_PRESETS)
def test_a_huge_model_is_counted_at_once_and_without_its_memory(spec: str) -> None:
    large = architectures.scale(spec, depth=64, dim=8192)
    account(large, vocab_size=50, dim=64, seq_len=16)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    found = account(large, vocab_size=50_257, dim=8192, seq_len=4096)
    seconds, grown = time.process_time() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert found.params > 5_000_000_000 and len(found.layers) == len(list(large.walk()))
    assert found.state is not None and found.state["total"] > 1_000_000
    assert grown * 1024 < 200_000_000, "ru_maxrss is in kilobytes on Linux"
    assert seconds < 10


@pytest.mark.parametrize("spec", SPECS)
def test_a_small_model_counts_as_its_sketch(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is built, and a large one is not: see `Allowance`."""
    found = account(spec, vocab_size=23, dim=48, seq_len=37)
    monkeypatch.setattr("architectures.model.Allowance", lambda: Allowance(0))
    _outline.cache_clear()
    outline = sketched(parse(spec), 23, 48, 37, "every", ModelOptions())
    assert {p.device.type for p in outline.parameters()} == {"meta"}
    assert found == account(spec, vocab_size=23, dim=48, seq_len=37)
    _outline.cache_clear()


def test_an_allowance_is_asked_before_a_tensor_is_made() -> None:
    for make in (
        lambda: torch.empty(2**40),
        lambda: torch.randn(2**20, 2**20),
        lambda: torch.zeros((2**20, 2**20)),
        lambda: torch.arange(2**40),
        lambda: nn.Linear(2**20, 2**20),
        lambda: [torch.ones(2**20) for _ in range(9)],
    ):
        with pytest.raises(Exceeded), Allowance(2**21):
            make()
    with Allowance(2**21):
        nn.Linear(2**9, 2**9)


def test_a_small_model_with_a_large_state_is_counted_without_it() -> None:
    layer = "log-linear-mamba2[d_state=1000,conv=0,expand=32]"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = account(layer, vocab_size=16, dim=64, seq_len=128)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert found.state is not None and found.state["total"] > 10_000_000
    assert grown * 1024 < 200_000_000, "ru_maxrss is in kilobytes on Linux"


@pytest.mark.slow
def test_no_layer_takes_memory_to_be_counted() -> None:
    code = """
import resource
from architectures import account, names
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
account("mlp", vocab_size=50, dim=64, seq_len=16)
account("mlp", vocab_size=50_000, dim=8192, seq_len=65536)
for name in names():
    before = peak()
    try:
        account(name, vocab_size=50_000, dim=8192, seq_len=65536)
    except ValueError:
        continue
    print(name, (peak() - before) // 1024)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    grown = {name: int(megabytes) for name, megabytes in map(str.split, found.stdout.splitlines())}
    assert len(grown) > 50 and max(grown.values()) < 150, grown


@pytest.mark.parametrize("name", ["softpick", "wall", "delta-former", "statistical-topk-attention", "moba"])
def test_no_block_of_a_long_sequence_is_gone_through_to_count_it(name: str) -> None:
    class Calls(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.count += 1
            return func(*args, **(kwargs or {}))

    with Calls() as calls:
        account(name, vocab_size=7, dim=32, seq_len=100_000)
    assert calls.count < 1000


def test_the_index_is_the_registry() -> None:
    text = index.PATH.read_text(encoding="utf-8")
    assert text == index.render(index.describe()), "run `python -m architectures.grammar.index`"
    assert index.read() == index.describe()


def test_the_index_says_what_a_listing_needs() -> None:
    rows = {row["name"]: row for row in index.read()}
    assert list(rows) == sorted(rows) == architectures.names()
    for name, row in rows.items():
        entry = registry.get(name)
        assert (row["mixes"], row["version"], row["paper"]) == (entry.mixes, entry.version, entry.paper)
        assert row["summary"] and row["params"] > 0 and row["flops"] > 0
        assert row["reads"] is None if row["state"] is None else row["reads"] <= row["state"]["total"]
        assert all(set(option) == {"default", "doc", "scales"} for option in row["options"].values())
    assert rows["mh-attention"]["options"]["heads"]["default"] is None
    assert rows["attention"]["options"]["heads"]["default"] == 1
    assert rows["mamba"]["state"] == {"recurrent": 1024, "conv": 768, "growing": 0, "total": 1792}
    assert rows["mamba"]["reads"] == 1792 and rows["dsa"]["reads"] == 32 * 256 + 128 * 16
    assert (rows["mamba"]["nominal"], rows["hyena"]["nominal"]) == (1024, 2048)
    assert rows["mlp"]["params"] == 8 * 128**2 and rows["mlp"]["flops"] == 16 * 128**2


def test_writing_the_index_writes_what_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "PATH", tmp_path / "index.json")
    monkeypatch.setattr(index, "describe", lambda: [{"name": "mlp"}])
    index.write()
    assert index.read() == json.loads((tmp_path / "index.json").read_text()) == [{"name": "mlp"}]


def test_the_index_is_read_without_torch() -> None:
    code = "from architectures.grammar import index; import sys; "
    code += "print(len(index.read()), 'torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.stdout.split() == [str(len(index.read())), "False"], found.stderr
