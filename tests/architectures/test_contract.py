"""The contract of `Primitive`, for every registered name: a new file inherits every proof.

The checks are those of `mad check`, wrappers are asked by their registered example.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from unittest import mock

import pytest
import torch
from peak_memory import PeakMemory

import architectures
from architectures import builder
from architectures.blocks import Block
from architectures.builder import Builder
from architectures.contract.checkup import CHECKS, examine, one_layer
from architectures.contract.forward import shape
from architectures.contract.subject import Size, Subject, told
from architectures.contract.training import compiled
from architectures.grammar.stripe import Layer, Parallel, Spec
from architectures.primitive import Primitive
from architectures.registry import get

NAMES = architectures.names()
DIM, VOCAB = 48, 7
# Asked of layers that decode, which all of ours do that are causal.
DECODING = {"causality", "recurrence", "prefill", "step", "state", "growth"}


def make(name: str, *, dim: int = DIM, max_len: int = 80, seed: int = 0) -> Primitive:
    """One layer as the model builds it."""
    spec = Spec((one_layer(name),))
    block = Builder(spec, dim, max_len, seed, VOCAB).blocks(spec, "blocks")[0]
    layer = block.layer if isinstance(block, Block) else block
    assert isinstance(layer, Primitive)
    return layer


def draws(name: str) -> bool:
    """Whether a layer draws initial weights: some start all of theirs from constants."""
    drawn = []

    @contextlib.contextmanager
    def seeded(seed: int, part: str) -> Iterator[None]:
        with builder.seeded(seed, part):
            before = torch.get_rng_state()
            yield
            drawn.append(not torch.equal(before, torch.get_rng_state()))

    with mock.patch.object(Builder, "seeded", lambda self, part: seeded(self.seed, part)):
        make(name)
    return any(drawn)


STEPPED = [n for n in NAMES if make(n).causal]
# One name per class: names of one class differ in sizes.
CLASSES = sorted({get(n).cls: n for n in reversed(NAMES)}.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_keeps_the_contract_and_is_asked_all_of_it(name: str) -> None:
    findings = {found.check: found for found in examine(name, dim=DIM)}
    assert set(findings) == set(CHECKS) and findings.pop("compile").result == "not run"
    assert not {c: found.seen for c, found in findings.items() if found.result in ("failed", "not run")}
    layer = make(name)
    unasked = set() if layer.causal else set(DECODING)
    unasked |= {"step"} if layer.causal and not layer.init_state(1) else set()
    unasked |= {"slope"} if layer.straight_through else set()  # Proved in the layer's own tests.
    assert unasked == {check for check, found in findings.items() if found.result == "not applicable"}
    assert all(p.requires_grad for p in layer.parameters())
    pairs = zip(layer.parameters(), make(name, seed=1).parameters(), strict=True)
    other = any(not torch.equal(a, b) for a, b in pairs)
    assert other == draws(name), "another seed gives other weights, where any are drawn"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(3, 1, 48), (1, 2, 16), (3, 37, 48), (2, 65, 80)])
def test_any_batch_length_and_width_divisible_by_16_keep_shape_and_dtype(
    name: str, size: tuple[int, int, int]
) -> None:
    shape(Subject(one_layer(name)), Size(*size))


@pytest.mark.parametrize("name", STEPPED)
def test_by_default_a_state_is_constant_early_or_grows_with_the_tokens(name: str) -> None:
    layer = make(name, dim=64, max_len=96)
    first, early, late = (layer.measure_state(length) for length in (16, 48, 96))
    assert late["growing"] == 2 * early["growing"] == 6 * first["growing"]
    assert late["recurrent"] == early["recurrent"] and late["conv"] == early["conv"]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", CLASSES)
def test_compile_gives_the_same_numbers(name: str) -> None:
    compiled(Subject(one_layer(name), dtype=torch.float32), Size(2, 21, DIM))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", CLASSES)
def test_inductor_gives_the_same_numbers(name: str) -> None:
    compiled(Subject(one_layer(name), dtype=torch.float32), Size(2, 21, DIM), backend="inductor")


@pytest.mark.parametrize(
    "name", [n for n in CLASSES if n in STEPPED and not make(n).measure_state(32)["growing"]]
)
def test_memory_is_linear_in_time_where_the_state_is_fixed(name: str) -> None:
    def peak(length: int) -> int:
        with torch.device("meta"):
            layer = make(name, dim=32, max_len=8192)
        x = torch.empty(1, length, 32, device="meta", requires_grad=True)
        with PeakMemory() as memory:
            layer(x, told(x)).square().sum().backward()
        return memory.peak

    assert peak(4096) <= 2.05 * peak(2048)


@pytest.mark.parametrize("name", NAMES)
def test_wrapping_a_layer_in_a_model_leaves_its_weights(name: str) -> None:
    model = architectures.build(f"1*{get(name).example}", vocab_size=VOCAB, dim=DIM, max_len=80, seed=0)
    alone = make(name)
    inside = model.layers()[0][1]
    for (n, a), (_, b) in zip(alone.named_parameters(), inside.named_parameters(), strict=True):
        assert torch.equal(a, b), n


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_states_the_equation_and_the_registration_the_paper(name: str) -> None:
    entry = get(name)
    assert entry.cls.__doc__ and "=" in entry.cls.__doc__ and "(B, T, D)" in entry.cls.__doc__
    assert entry.paper.startswith(("arXiv:", "https://"))


def test_a_registered_name_is_a_layer_of_its_own_spec() -> None:
    for name in NAMES:
        spec = architectures.parse(f"1*{get(name).example}")
        assert isinstance(spec, Spec) and len(spec) == 1
        item = spec.layers[0]
        assert isinstance(item, Layer | Parallel) and str(item).startswith(name)
