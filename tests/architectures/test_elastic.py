"""Submodels of a nested model: chosen, mixed, cut out, compared, and used to draft."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import architectures
from architectures.elastic import (
    Sampling,
    by_layer,
    consistency,
    count_params,
    extract,
    granularities,
    mix_and_match,
    nested_layers,
    set_granularity,
    speculate,
)
from architectures.primitive import Context, Primitive
from architectures.sizes.accounting import account_model
from tests.architectures.helpers import random_tokens

SPECS = [
    "2*(mh-attention matformer-mlp)",
    "2*(matformer-attention[heads=8, group=2] matformer-swiglu[inner=96])",
    "repeat{matformer-attention matformer-mlp} (mamba + matformer-attention matformer-mlp) matformer-mlp",
    "hyper-connections{matformer-attention matformer-mlp} moe-mlp[experts=4] matformer-attention",
]
NESTED = SPECS[1]


def build(spec: str, *, double: bool = True, dim: int = 32, **where: Any) -> architectures.SequenceModel:
    settings: dict[str, Any] = {"vocab_size": 11, "max_len": 40, "seed": 0} | where
    model = architectures.build(spec, dim=dim, **settings)
    return model.double() if double else model


def rows(count: int = 3, length: int = 9, seed: int = 0) -> Tensor:
    return random_tokens(count, length, vocab=11, seed=seed)


def mixes(model: torch.nn.Module, count: int = 3) -> list[tuple[int, ...]]:
    draw, layers = random.Random(0), nested_layers(model)
    random_ones = [tuple(draw.randrange(4) for _ in layers) for _ in range(count)]
    return [(g,) * len(layers) for g in range(4)] + random_ones


@pytest.mark.parametrize("readout", ["every", "last"])
@pytest.mark.parametrize("spec", SPECS)
def test_an_extracted_model_computes_what_the_submodel_does(spec: str, readout: str) -> None:
    for double, tolerance in ((True, 1e-12), (False, 1e-5)):
        model, tokens = build(spec, double=double, readout=readout), rows()
        for mix in mixes(model):
            small = extract(model, mix)
            logits, *_ = model.call(tokens, Context(granularity=by_layer(model, mix)))
            error = (small(tokens) - logits).abs().max() / logits.abs().max()
            assert error <= tolerance
            set_granularity(model, mix)
            assert torch.equal(model(tokens), logits) and torch.equal(model(tokens), logits)
            set_granularity(model, 3)


@pytest.mark.parametrize("spec", SPECS)
def test_its_spec_rebuilds_its_shapes_without_nested_layers(spec: str) -> None:
    model = build(spec, options=architectures.ModelOptions(tied=True))
    for mix in mixes(model):
        small = extract(model, mix)
        assert not nested_layers(small) and architectures.parse(str(small.spec)) == small.spec
        again = build(str(small.spec), seed=1, options=small.options)
        again.load_state_dict(small.state_dict())
        assert torch.equal(again(rows()), small(rows()))
        found = sum(p.numel() for p in small.parameters())
        counted = architectures.account(
            small.spec, vocab_size=11, dim=32, seq_len=40, options=small.options
        ).params
        assert count_params(model, mix) == found == counted


def test_its_size_is_the_formula() -> None:
    model = build("3*(matformer-attention[heads=8, kv_heads=4] matformer-swiglu[inner=96])")
    whole = sum(p.numel() for p in model.parameters())
    for mix in mixes(model, 5):
        heads = sum((8 + 4 + 4 + 8) * 4 * 32 * (3 - g) // 4 for g in mix[::2])
        inner = sum(3 * 32 * 96 * (8 - 2**g) // 8 for g in mix[1::2])
        assert count_params(model, mix) == whole - heads - inner


def test_its_weights_are_copies_and_survive_saving(tmp_path: Path) -> None:
    model = build(NESTED).train()
    small = extract(model, 1)
    before = model(rows())
    with torch.no_grad():
        for p in small.parameters():
            p.add_(1)
    assert torch.equal(model(rows()), before) and small.training and not extract(model.eval(), 1).training
    torch.save(small.state_dict(), tmp_path / "small.pt")
    again = build(str(small.spec), seed=5)
    again.load_state_dict(torch.load(tmp_path / "small.pt", weights_only=True))
    assert torch.equal(again(rows()), small(rows()))


def test_values_are_shared_between_equal_sizes() -> None:
    model = build("value-residual{matformer-attention matformer-mlp matformer-attention}")
    logits, *_ = model.call(rows(), Context(granularity=1))
    torch.testing.assert_close(extract(model, 1)(rows()), logits, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="value-residual needs equal widths"):
        model.call(rows(), Context(granularity=by_layer(model, (0, 1, 1))))


@pytest.mark.parametrize(
    "draw, passes",
    [("uniform", 4 * (0.25,)), ("joint", 4 * (1.0,)), ("w1-1-1-5", (1 / 8, 1 / 8, 1 / 8, 5 / 8))],
)
def test_a_training_step_costs_what_its_draw_runs(draw: str, passes: tuple[float, ...]) -> None:
    spec = f"mlp repeat{{matformer-attention[draw={draw}] matformer-swiglu[draw={draw}]}}"
    model = build(spec)
    set_granularity(model, 2)
    found = account_model(model, 16)
    assert set(by_layer(model, 2).values()) == {2}
    assert [layer.granularity for layer in nested_layers(model).values()] == [2, 2], "left as it was"
    each = [account_model(extract(model, g), 16).flops for g in range(4)]
    assert found.flops == pytest.approx(each[2])
    expected = 3 * sum(often * flops for often, flops in zip(passes, each, strict=True))
    assert found.training_flops == pytest.approx(expected)
    assert architectures.account(spec, vocab_size=11, dim=32, seq_len=16).training_flops == pytest.approx(
        expected
    )


def test_a_plain_model_trains_at_three_forward_passes_and_none_where_draws_disagree() -> None:
    plain = architectures.account("mamba mlp", vocab_size=5, dim=32, seq_len=16)
    assert plain.require_training_flops() == plain.training_flops == 3 * plain.flops
    mixed = architectures.account("matformer-mlp matformer-mlp[draw=joint]", vocab_size=5, dim=32, seq_len=16)
    assert mixed.training_flops is None and mixed.flops > 0
    with pytest.raises(ValueError, match="give every nested layer the same"):
        mixed.require_training_flops()


def test_buffers_come_along() -> None:
    model = build("matformer-mlp moe-mlp[balance=bias]")
    router = model.get_submodule("blocks.1.layer.router")
    with torch.no_grad():
        router.get_buffer("bias").copy_(torch.arange(8.0))
    small = extract(model, 0)
    assert torch.equal(small.get_buffer("blocks.1.layer.router.bias"), torch.arange(8.0).double())


def test_granularities_name_the_layers_and_their_sizes() -> None:
    model = build("mh-attention matformer-mlp[inner=64] matformer-attention[heads=4]")
    assert granularities(model) == {"blocks.1.layer": (8, 16, 32, 64), "blocks.2.layer": (1, 2, 3, 4)}
    assert by_layer(model, [1, 2]) == {"blocks.1.layer": 1, "blocks.2.layer": 2}
    set_granularity(model, (0, 2))
    assert [layer.granularity for layer in nested_layers(model).values()] == [0, 2]


def test_the_cost_of_a_static_size_is_accounted() -> None:
    model = build(NESTED)
    set_granularity(model, (1, 0, 2, 3))
    mine, theirs = account_model(model, 20), account_model(extract(model, (1, 0, 2, 3)), 20)
    assert (mine.flops, mine.active, mine.state) == (theirs.flops, theirs.active, theirs.state)
    assert mine.params > theirs.params


def test_mix_and_match_is_the_largest_of_least_slope_within_the_budget() -> None:
    model = build("5*(mh-attention matformer-mlp)")
    sizes = {mix: count_params(model, mix) for mix in itertools.product(range(4), repeat=5)}
    gentle = {m: n for m, n in sizes.items() if list(m) == sorted(m) and m[-1] - m[0] <= 1}
    assert len(gentle) == 16
    smallest, largest = min(sizes.values()), max(sizes.values())
    for budget in range(smallest, largest + 999, 997):
        mix = mix_and_match(model, budget)
        assert mix in gentle and sizes[mix] == max(n for n in gentle.values() if n <= budget)
    assert mix_and_match(model, smallest) == (0,) * 5 and mix_and_match(model, largest) == (3,) * 5
    with pytest.raises(ValueError, match=f"below the {smallest:,} parameters of the smallest.*raise it"):
        mix_and_match(model, smallest - 1)


def test_attention_and_mlps_are_mixed_together() -> None:
    model = build(NESTED)
    budget = (count_params(model, 1) + count_params(model, 2)) / 2
    mix = mix_and_match(model, budget)
    assert list(mix) == sorted(mix) and set(mix) == {1, 2} and count_params(model, mix) <= budget


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda m: set_granularity(m, 4), "granularity 4 of matformer-attention"),
        (lambda m: set_granularity(m, (1, 1)), "2 granularities are given for 4 nested layers"),
        (lambda m: extract(build("mlp"), 0), "no nested layer; use some, such as matformer-swiglu"),
        (lambda m: mix_and_match(build("mlp"), 9), "no nested layer; use some, such as matformer-swiglu"),
        (
            lambda m: Sampling.of(build("matformer-mlp matformer-mlp[granularities=2]")),
            "have 2, 4 sizes; give all of them the same",
        ),
        (
            lambda m: Sampling.of(build("matformer-mlp matformer-mlp[draw=joint]")),
            r"drawn in 2 ways \(joint, uniform\).*give every nested layer the same draw=",
        ),
        (lambda m: speculate(m, rows(), 0), "count=0 and drafts=4 must be at least 1"),
        (lambda m: speculate(m, rows(), 40), "max_len"),
        (lambda m: speculate(m, rows()[0], 4), r"shape \(9,\) and torch.int64 is not rows of tokens"),
        (lambda m: speculate(m, rows(length=0), 4), "at least one row and token"),
        (lambda m: speculate(m, rows(count=0), 4), "at least one row and token"),
        (lambda m: speculate(m, rows() / 2, 4), "torch.float32 is not rows of tokens"),
        (lambda m: speculate(m.blocks[0], rows(), 4), "speculate takes a SequenceModel.*of type Block"),
        (lambda m: extract(m.blocks, 0), "extract takes a SequenceModel or an ImageModel, not ModuleList"),
        (lambda m: extract(m.blocks[0].layer, 0), "not MatFormerAttention"),
        (lambda m: account_model(torch.nn.Linear(2, 2), 4), "account_model takes a SequenceModel"),  # type: ignore[arg-type]
        (lambda m: m(rows(length=0)), "a sequence of 0 tokens has no answer"),
        (lambda m: m.prefill(rows(length=0), m.init_state(3)), "a sequence of 0 tokens has no answer"),
    ],
)
def test_what_does_not_fit_is_refused(call: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(build(NESTED))


def test_sizes_are_drawn_as_often_as_they_should_be_and_by_seed_and_step_alone() -> None:
    sampling = Sampling.of(build("matformer-mlp[draw=w1-2-3-4]"))
    assert sampling.probabilities == pytest.approx((0.1, 0.2, 0.3, 0.4)) and not sampling.all
    drawn = [sampling.draw(3, step) for step in range(1000)]
    torch.manual_seed(1)
    again = Sampling.of(build("2*(matformer-attention[draw=w1-2-3-4] matformer-mlp[draw=w1-2-3-4])", seed=9))
    assert drawn[100:200] == [again.draw(3, step) for step in range(100, 200)]
    assert drawn[:50] != [sampling.draw(4, step) for step in range(50)]
    expected = [1000 * p for p in sampling.probabilities]
    chi = sum((drawn.count(g) - e) ** 2 / e for g, e in enumerate(expected))
    assert chi < 11.34  # the 99 % point with three degrees of freedom
    never = Sampling.of(build("matformer-mlp[draw=w0-1-0-0]"))
    assert {never.draw(0, step) for step in range(50)} == {1}


def test_what_is_not_drawn() -> None:
    assert Sampling.of(build("mlp")) == Sampling() and Sampling().draw(0, 0) is None
    joint = Sampling.of(build("matformer-mlp[draw=joint]"))
    assert joint.all == (0, 1, 2, 3) and joint.draw(0, 0) is None


def test_consistency_of_known_distributions() -> None:
    whole = torch.tensor([[[0.0, 1.0], [2.0, 0.0]]], dtype=torch.float64)
    same = consistency(whole + 5, whole)
    assert same.agreement == 1 and abs(same.kl) < 1e-12
    found = consistency(torch.tensor([[[0.0, 1.0], [0.0, 0.0]]], dtype=torch.float64).flip(-1), whole)
    p, q = torch.tensor([1.0, 0.0]).softmax(0), torch.tensor([0.0, 1.0]).softmax(0)
    r, u = torch.tensor([0.5, 0.5]), torch.tensor([2.0, 0.0]).softmax(0)
    kl = ((p * (p / q).log()).sum() + (r * (r / u).log()).sum()) / 2
    assert found.agreement == 0.5 and found.kl == pytest.approx(float(kl), rel=1e-6)


def greedy(model: architectures.SequenceModel, prompt: Tensor, count: int) -> Tensor:
    tokens = prompt
    for _ in range(count):
        tokens = torch.cat([tokens, model(tokens)[:, -1:].argmax(-1)], dim=1)
    return tokens[:, prompt.shape[1] :]


CACHES = [*SPECS[:2], "2*(matformer-attention[conv=3] matformer-mlp)", "mamba matformer-mlp", SPECS[2]]


@pytest.mark.parametrize("spec", CACHES)
@pytest.mark.parametrize("drafts", [1, 4])
def test_speculation_decodes_exactly_what_the_whole_model_would(spec: str, drafts: int) -> None:
    model = build(spec)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.blocks.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    set_granularity(model, 1)  # a static size is not what is decoded
    prompt = rows(2, 5)
    found = [speculate(model, prompt, 17, granularity=g, drafts=drafts) for g in (0, 2, 3)]
    set_granularity(model, 3)
    expected = greedy(model, prompt, 17)
    for one in found:
        assert torch.equal(one.tokens, expected) and one.accepted <= one.drafted
    # What the whole model drafts is always accepted: a pass for drafts + 1 tokens, and one for the prompt.
    assert found[2].accepted == found[2].drafted and found[2].passes == 1 + -(-16 // (drafts + 1))
    assert found[0].accepted < found[0].drafted


def test_one_cache_serves_drafting_and_verifying(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("2*(mh-attention matformer-mlp)")
    lengths: list[int] = []
    prefill = type(model).prefill

    def watched(self: Any, tokens: Tensor, state: Any, ctx: Context | None = None) -> Any:
        assert ctx is not None and isinstance(ctx.granularity, dict)
        lengths.append(tokens.shape[1] if max(ctx.granularity.values()) == 3 else -tokens.shape[1])
        if max(ctx.granularity.values()) == 0:
            assert any(state[0][0][:, : known.shape[1]].equal(known) for known in caches)
        logits, after = prefill(self, tokens, state, ctx)
        if max(ctx.granularity.values()) == 3:
            caches.append(after[0][0][:, :5])
        return logits, after

    caches: list[Tensor] = []
    monkeypatch.setattr(type(model), "prefill", watched)
    speculate(model, rows(1, 5), 12, drafts=3)
    assert lengths[0] == 5 and lengths.count(5) == 1, "the prompt is read once, by the whole model"
    assert set(lengths[1:]) <= {-1, 1, 2, 3, 4}


def test_primitives_inside_wrappers_keep_their_place() -> None:
    model = build(SPECS[2])
    names = [m.name for m in model.modules() if isinstance(m, Primitive)]
    plain = [m.name for m in extract(model, 0).modules() if isinstance(m, Primitive)]
    assert plain == [n.replace("matformer-", "") for n in names]
