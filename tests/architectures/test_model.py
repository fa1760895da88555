"""The model around the layers: readouts, seeds, decoding, hints and the context."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import architectures
from architectures import registry
from architectures.blocks import Block, Branches
from architectures.grammar.presets import PRESETS, ModelOptions
from architectures.model import SequenceModel, build, resolve_options
from architectures.primitive import Context, Hint, Primitive, State, option
from architectures.registry import primitive
from tests.architectures.helpers import layer_at, random_tokens

HYBRIDS = [
    "transformer++",
    "striped-hyena",
    "striped-mamba",
    "mh-sliding-attention[window=5] swiglu linear-attention[key_dim=4] mlp",
    "(mamba + mh-attention) swiglu",
    "(hyena swiglu + mlp + mamba mh-attention swiglu) mlp",
    "((mamba + mh-linear-attention mlp) swiglu + (hyena + attention)) mh-attention",
]


@primitive("test-chatty", mixes="channel", version=1)
class Chatty(Primitive):
    """Leaves something in every part of its context; without one, y = weight * x."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        size: int = option(4, "a width", scales="width")

    seen: Tensor

    def __init__(self, config: Config, *, dim: int, max_len: int, index: int = 0, depth: int = 1) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.weight = nn.Parameter(torch.randn(dim, dim))
        self.gain = nn.Parameter(torch.ones(dim))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        y = self.gain * (x @ self.weight)
        if ctx is None:
            return y
        first = ctx.shared.setdefault("first", y)
        ctx.losses[f"chatty.{self.index}"] = 0.5 * y.square().mean()
        ctx.updates[f"chatty.{self.index}.seen"] = self.seen + x.shape[1]
        noise = ctx.noise(f"chatty.{self.index}", (x.shape[-1],), x)
        return y + first if noise is None else y + first + noise

    def hints(self) -> dict[str, Hint]:
        return {"weight": Hint(decay=False, lr_scale=0.1)}

    def flops(self, length: int) -> int:
        return 2 * length * self.dim**2


@primitive("test-misled", mixes="channel", version=1)
class Misled(Chatty):
    """Its hints name what is not a parameter."""

    def hints(self) -> dict[str, Hint]:
        return {"wieght": Hint(decay=False)}


ENTRIES = {name: registry._entries.pop(name) for name in ("test-chatty", "test-misled")}


@pytest.fixture
def chatty() -> Iterator[None]:
    registry._entries.update(ENTRIES)
    yield
    for name in ENTRIES:
        del registry._entries[name]


def make(
    spec: str, *, dim: int = 48, max_len: int = 40, seed: int = 0, vocab_size: int = 11, **rest: object
) -> SequenceModel:
    return build(spec, vocab_size=vocab_size, dim=dim, max_len=max_len, seed=seed, **rest)  # type: ignore[arg-type]


tokens = partial(random_tokens, vocab=11)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters())


@pytest.mark.parametrize("readout", ["every", "last"])
@pytest.mark.parametrize("length", [1, 37])
def test_every_readout_gives_logits_for_every_position(readout: str, length: int) -> None:
    model = make("mh-attention swiglu", readout=readout)
    logits = model(tokens(3, length))
    assert logits.shape == (3, length, 11) and bool(torch.isfinite(logits).all())
    logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


def test_the_readout_every_is_written_out() -> None:
    model = make("mlp (swiglu + mlp)").double()
    x = model.embedding(tokens(2, 9))
    blocks: Any = model.blocks
    mlp, parallel = blocks

    def norm(x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()

    x = x + mlp.layer(norm(x))
    left, right = (branch[0] for branch in parallel.layer.branches)
    x = x + (left(norm(x)) + right(norm(x))) / 2
    torch.testing.assert_close(
        model(tokens(2, 9)), norm(x) @ model.get_parameter("head.weight").T, rtol=0, atol=1e-12
    )


def test_the_readout_last_decodes_the_last_position_alone() -> None:
    model = make("hyena mlp", readout="last").double()
    seen: list[Tensor] = []
    assert model.decoder is not None
    handle = model.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    logits = model(tokens(2, 9))
    handle.remove()
    x = model.embedding(tokens(2, 9))
    for block in model.blocks:
        x = x + block(x)
    torch.testing.assert_close(seen[0], x[:, -1], rtol=0, atol=1e-12)
    # The same vector without the encoder: position t depends on t and the vector only.
    decoded = model.head(model.norm(model.decoder(seen[0], 12)))
    torch.testing.assert_close(decoded[:, :9], logits, rtol=0, atol=1e-12)
    assert (decoded[:, 0] - decoded[:, 1]).abs().max() > 1e-3


def test_the_code_of_positions_is_sinusoidal_and_no_parameter() -> None:
    model = make("mlp", readout="last", dim=7, max_len=33)
    assert model.decoder is not None
    code = model.decoder.positions
    assert code.shape == (33, 7) and "decoder.positions" not in model.state_dict()
    frequency = [10_000 ** (-i / 3) for i in range(4)]
    expected = [[f(t * w) for f in (math.sin, math.cos) for w in frequency][:7] for t in range(33)]
    torch.testing.assert_close(code, torch.tensor(expected), rtol=0, atol=1e-5)


def test_the_same_seed_gives_the_same_weights() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = make("striped-mamba", seed=3, readout="last")
    assert torch.equal(torch.get_rng_state(), before), "the global random state is as it was"
    torch.rand(7)
    second, third = (
        make("striped-mamba", seed=3, readout="last"),
        make("striped-mamba", seed=4, readout="last"),
    )
    assert list(weights(first)) == list(weights(second))
    for name, value in weights(first).items():
        assert torch.equal(value, weights(second)[name]), name
    for part in ("embedding", "head", "decoder.maps.0", "blocks.0.layer.project", "blocks.2.layer.query"):
        assert not torch.equal(weights(first)[f"{part}.weight"], weights(third)[f"{part}.weight"]), part


def test_the_random_state_is_put_back_when_a_layer_refuses() -> None:
    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="not divisible"):
        make("mlp mh-attention[heads=5]")
    assert torch.equal(torch.get_rng_state(), before)


def test_equal_layers_start_with_different_weights() -> None:
    model = make("2*mlp (mlp + mlp)")
    ups = [value for name, value in weights(model).items() if name.endswith("up.weight")]
    assert len(ups) == 4 and len({tuple(u.flatten().tolist()) for u in ups}) == 4


def test_a_layer_at_the_end_leaves_the_other_weights_alone() -> None:
    short, long = (
        make("mlp (mamba + mh-attention swiglu)"),
        make("mlp (mamba + mh-attention swiglu) hyena mlp"),
    )
    assert set(weights(short)) < set(weights(long))
    for name, value in weights(short).items():
        assert torch.equal(value, weights(long)[name]), name
    last = make("mlp (mamba + mh-attention swiglu)", readout="last")
    for name, value in weights(short).items():
        assert torch.equal(value, weights(last)[name]), name


def test_a_longer_vocabulary_or_context_leaves_the_layers_alone() -> None:
    small, large = make("mh-attention mlp"), make("mh-attention mlp", vocab_size=99, max_len=77)
    for name, value in weights(small).items():
        if name.startswith("blocks"):
            assert torch.equal(value, weights(large)[name]), name


@pytest.mark.parametrize("spec", HYBRIDS)
def test_decoding_equals_the_parallel_form(spec: str) -> None:
    model = make(spec).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(7), dtype=p.dtype))
        inputs = tokens(3, 37)
        expected = model(inputs)
        state = model.init_state(3, 37)
        parts = []
        for chunk in (inputs[:, :17], inputs[:, 17:19]):
            y, state = model.prefill(chunk, state)
            parts.append(y)
        for t in range(19, 37):
            y, state = model.step(inputs[:, t], state)
            parts.append(y[:, None])
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("spec", HYBRIDS)
def test_the_future_does_not_reach_the_past_of_a_model(spec: str) -> None:
    model = make(spec).double()
    inputs = tokens(2, 23)
    changed = inputs.clone()
    changed[:, 11:] = (changed[:, 11:] + 1) % 11
    difference = (model(inputs) - model(changed)).abs().amax((0, 2))
    assert difference[:11].max() < 1e-12 and difference[11:].min() > 1e-6


def test_more_tokens_than_max_len_are_refused() -> None:
    model = make("hyena mh-attention", max_len=8)
    message = "9 tokens are more than max_len 8; build the model with max_len=9"
    for refused in (
        lambda: model(tokens(2, 9)),
        lambda: model.call(tokens(2, 9), Context()),
        lambda: model.init_state(2, 9),
        lambda: model.prefill(tokens(2, 9), model.init_state(2)),
    ):
        with pytest.raises(ValueError, match=message):
            refused()
    _, state = model.prefill(tokens(2, 8), model.init_state(2, 8))
    with pytest.raises(ValueError, match=message):
        model.step(tokens(2), state)
    assert model(tokens(2, 8)).shape == (2, 8, 11)


def test_an_encoder_of_whole_sequences_is_not_decoded_step_by_step() -> None:
    model = make("mlp", readout="last")
    for refused in (lambda: model.prefill(tokens(2, 5), ((),)), lambda: model.step(tokens(2), ((),))):
        with pytest.raises(ValueError, match="readout='last'.*build it with readout='every'"):
            refused()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocab_size": 0}, "vocab_size=0 must be at least 1"),
        ({"dim": -3}, "dim=-3 must be at least 1"),
        ({"max_len": 0}, "max_len=0 must be at least 1"),
        ({"readout": "first"}, "readout='first' is not one of every, last"),
    ],
)
def test_a_model_that_cannot_be_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make("mlp", **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spec", "dim", "message"),
    [
        (
            "mlp attention[heads=7]",
            100,
            "dim 100 is not divisible by heads 7; choose heads from 1, 2, 4, 5, 10, 20,",
        ),
        (
            "linear-attention[heads=3]",
            16,
            "dim 16 is not divisible by heads 3; choose heads from 1, 2, 4, 8, 16",
        ),
        (
            "mh-attention",
            40,
            "dim 40 is not divisible by the default head width 16; state heads= or change dim",
        ),
        ("mh-linear-attention", 8, "dim 8 is not divisible by the default head width 16"),
        ("attention[heads=16]", 48, "key width 3 a head is odd.*choose an even key_dim or rope=false"),
    ],
)
def test_a_width_that_the_heads_do_not_divide_is_refused_with_the_remedy(
    spec: str, dim: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(spec, dim=dim)


def test_tied_weights_are_one_parameter() -> None:
    model = make("mlp", options=ModelOptions(tied=True))
    assert model.head.weight is model.embedding.weight and "head.weight" not in weights(model)
    assert set(model.hints()) == set(weights(model))
    x = model.embedding(tokens(2, 5))
    x = model.norm(x + model.blocks[0](x))
    expected = x @ model.embedding.weight.T / 48**0.5
    torch.testing.assert_close(model(tokens(2, 5)), expected, rtol=0, atol=1e-5)
    again = copy.deepcopy(model).double()
    assert again.head.weight is again.embedding.weight


def test_the_norm_of_a_model_is_an_option() -> None:
    options = ModelOptions(norm="layer", norm_eps=1e-3)
    model = make("mlp (mlp + swiglu)", options=options).double()
    norms = [m for m in model.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert len(norms) == 3 and not [m for m in model.modules() if type(m).__name__ == "RMSNorm"]
    x = 3 + torch.linspace(-1, 2, model.dim, dtype=torch.float64).sin()
    centred = x - x.mean(-1, keepdim=True)
    expected = centred / (centred.square().mean(-1, keepdim=True) + 1e-3).sqrt()
    torch.testing.assert_close(model.norm(x), expected, rtol=0, atol=1e-12)
    hints = model.hints()
    assert not any(hints[n].decay for n, _ in model.named_parameters() if "norm" in n)
    small = make("mlp", options=ModelOptions(norm_eps=1e-3))
    assert {m.eps for m in small.modules() if hasattr(m, "eps")} == {1e-3}
    assert make("mlp").norm.eps == 1e-6
    for bad, said in (
        ({"norm": "batch"}, "norm='batch' is not one of rms, layer"),
        ({"norm_eps": 0}, "norm_eps=0 must be positive"),
        ({"norm_eps": float("inf")}, "norm_eps=inf must be positive and finite"),
        ({"embedding_std": float("nan")}, "embedding_std=nan must be positive and finite"),
    ):
        with pytest.raises(ValueError, match=said):
            ModelOptions(**bad)


def test_options_are_those_of_the_preset_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    tied = ModelOptions(tied=True, embedding_std=0.02)
    monkeypatch.setitem(PRESETS, "test-tied", type(PRESETS["mamba"])(spec="2*mlp", options=tied))
    assert resolve_options(" test-tied ") == make("test-tied").options == tied
    assert make("test-tied", options=ModelOptions()).options == ModelOptions()
    assert make("2*mlp").options == resolve_options(architectures.parse("test-tied")) == ModelOptions()
    with pytest.raises(ValueError, match="embedding_std=0 must be positive"):
        ModelOptions(embedding_std=0)


def test_the_embedding_starts_at_its_standard_deviation() -> None:
    for std in (1.0, 0.02):
        model = make("mlp", vocab_size=500, options=ModelOptions(embedding_std=std))
        assert abs(float(model.embedding.weight.detach().std()) / std - 1) < 0.02


@pytest.mark.parametrize(
    "spec", ["transformer++", "striped-mamba", "(hyena swiglu + mlp) linear-attention[feature_map=identity]"]
)
@pytest.mark.parametrize("readout", ["every", "last"])
def test_hints_cover_the_parameters_and_spare_vectors_and_the_embedding(spec: str, readout: str) -> None:
    model = make(spec, readout=readout)
    hints = model.hints()
    assert list(hints) == list(weights(model))
    for name, value in weights(model).items():
        if value.dim() < 2 or name == "embedding.weight":
            assert not hints[name].decay, name
    assert hints["head.weight"] == Hint() and any(h.decay for n, h in hints.items() if n.startswith("blocks"))


def test_the_hints_of_a_layer_are_those_of_the_model(chatty: None) -> None:
    hints = make("mlp (test-chatty + mlp)").hints()
    assert hints["blocks.1.layer.branches.0.0.weight"] == Hint(decay=False, lr_scale=0.1)
    assert hints["blocks.1.layer.branches.0.0.gain"] == Hint(decay=False)
    assert hints["blocks.1.layer.branches.1.0.up.weight"] == Hint()
    with pytest.raises(ValueError, match="Misled.hints names 'wieght', which is not a parameter of it"):
        make("test-misled").hints()


def test_layers_are_listed_and_counted_in_the_order_of_the_spec() -> None:
    spec = "mlp (mamba swiglu + (hyena + attention mlp) mamba) mh-attention"
    model = make(spec)
    found = [(type(layer).__name__, layer.index, layer.depth) for _, layer in model.layers()]
    assert found == [
        ("MLP", 0, 3),
        ("Mamba", 0, 5),
        ("SwiGLU", 1, 3),
        ("Hyena", 1, 5),
        ("Attention", 2, 5),
        ("MLP", 2, 3),
        ("Mamba", 3, 5),
        ("Attention", 4, 5),
    ]
    assert model.spec == architectures.parse(spec)
    assert all(model.get_submodule(name) is layer for name, layer in model.layers())


def test_branches_share_one_norm_and_are_averaged() -> None:
    model = make("(mlp + (swiglu + mlp) mlp)").double()
    block: Any = model.blocks[0]
    assert isinstance(block, Block) and isinstance(block.layer, Branches)
    branches: Any = block.layer.branches
    (first,), (inner, rest) = branches
    assert isinstance(inner, Branches), "the first item of a branch reads the normed input as it is"
    x = torch.randn(2, 5, 48, dtype=torch.float64)
    nested: Any = inner.branches
    (one,), (other,) = nested
    second = (one(x) + other(x)) / 2
    expected = (first(x) + second + rest(second)) / 2
    torch.testing.assert_close(block.layer(x), expected, rtol=0, atol=1e-12)


def test_a_call_returns_losses_and_updates(chatty: None) -> None:
    model = make("test-chatty mlp test-chatty").double()
    inputs = tokens(2, 5)
    ctx = Context()
    logits, losses, updates = model.call(inputs, ctx)
    assert list(losses) == ["chatty.0", "chatty.2"] and list(ctx.shared) == ["first"]
    assert {name: float(value) for name, value in updates.items()} == {"chatty.0.seen": 5, "chatty.2.seen": 5}
    assert float(layer_at(model, 0).seen) == 0, "a forward pass writes no buffer"
    sum(losses.values()).backward()  # type: ignore[union-attr]
    assert layer_at(model, 2).weight.grad is not None
    assert torch.equal(model(inputs), logits), "evaluation shares between layers what training does"
    again, losses, _ = model.call(inputs, Context())
    assert torch.equal(again, logits) and losses["chatty.0"].item() > 0


def test_noise_is_keyed_by_seed_step_and_name() -> None:
    like = torch.zeros((), dtype=torch.float64)

    def draw(name: str = "a", **key: int) -> Tensor:
        noise = Context(**key).noise(name, (1000,), like)  # type: ignore[arg-type]
        assert noise is not None
        return noise

    first = draw(seed=1, step=2)
    before = torch.get_rng_state()
    assert torch.equal(draw(seed=1, step=2), first) and torch.equal(torch.get_rng_state(), before)
    for other in (
        draw(seed=2, step=2),
        draw(seed=1, step=3),
        draw("b", seed=1, step=2),
        draw(seed=12, step=0),
    ):
        assert abs(float(torch.corrcoef(torch.stack([first, other]))[0, 1])) < 0.15
    assert first.dtype == torch.float64 and 0 <= first.min() and first.max() < 1
    assert abs(float(first.mean()) - 0.5) < 0.05
    assert Context().noise("a", (3,), like) is None and Context(step=5).noise("a", (3,), like) is None


def test_noise_stays_below_one_beside_bfloat16() -> None:
    noise = Context(seed=0).noise("a", (100_000,), torch.zeros((), dtype=torch.bfloat16))
    assert noise is not None and noise.dtype == torch.float32 and float(noise.max()) < 1


def test_the_noise_of_a_model_changes_with_the_step(chatty: None) -> None:
    model = make("mlp test-chatty")
    inputs = tokens(2, 5)

    def logits(**key: int) -> Tensor:
        return model.call(inputs, Context(**key))[0]  # type: ignore[arg-type]

    assert torch.equal(logits(seed=1, step=4), logits(seed=1, step=4))
    assert not torch.equal(logits(seed=1, step=4), logits(seed=1, step=5))
    assert not torch.equal(logits(seed=1, step=4), logits(seed=2, step=4))
    assert torch.equal(logits(), logits(step=3))


def test_replicas_share_their_noise(chatty: None) -> None:
    models = [make("test-chatty mlp", seed=s) for s in range(3)]
    stacked, _ = torch.func.stack_module_state(list(models))
    base = copy.deepcopy(models[0])
    inputs = tokens(2, 5)

    class Called(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = base

        def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
            logits, losses, _ = self.model.call(inputs, Context(seed=1, step=4))
            return logits, losses["chatty.0"]

    called = Called()
    parameters = {f"model.{name}": value for name, value in stacked.items()}
    logits, losses = torch.vmap(
        lambda p: torch.func.functional_call(called, p, (inputs,)), randomness="same"
    )(parameters)
    for r, model in enumerate(models):
        y, alone, _ = model.call(inputs, Context(seed=1, step=4))
        torch.testing.assert_close(logits[r], y, rtol=0, atol=1e-5)
        torch.testing.assert_close(losses[r], alone["chatty.0"], rtol=0, atol=1e-5)
    noise = torch.vmap(lambda x: Context(seed=1).noise("a", (4,), x) + 0 * x, randomness="same")(
        torch.zeros(3, 4)
    )
    assert torch.equal(noise[0], noise[1]) and torch.equal(noise[1], noise[2])


@pytest.mark.parametrize("spec", HYBRIDS)
@pytest.mark.parametrize("readout", ["every", "last"])
def test_a_model_builds_and_runs_on_meta(spec: str, readout: str) -> None:
    with torch.device("meta"):
        model = make(spec, readout=readout)
        logits = model(torch.zeros(2, 9, dtype=torch.int64))
    assert logits.shape == (2, 9, 11)
    assert all(t.is_meta for t in (*model.parameters(), *model.buffers()))
    real = make(spec, readout=readout)
    assert {n: p.shape for n, p in weights(model).items()} == {n: p.shape for n, p in weights(real).items()}


def test_a_model_is_saved_and_loaded_with_weights_only(tmp_path: object) -> None:
    model, other = make("striped-hyena", seed=1), make("striped-hyena", seed=2)
    path = f"{tmp_path}/model.pt"
    torch.save(model.state_dict(), path)
    other.load_state_dict(torch.load(path, weights_only=True))
    assert torch.equal(model(tokens(2, 9)), other(tokens(2, 9)))


def test_a_state_is_a_tuple_of_values_for_each_block() -> None:
    model = make("mlp (mamba + mh-attention swiglu)")
    state: tuple[State, ...] = model.init_state(3)
    assert [len(s) for s in state] == [0, 5]
    assert all(isinstance(t, Tensor) for s in state for t in s)
