"""The probe for later tokens: what cheats, and what honest authors write, as layers and as whole models."""

from __future__ import annotations

import dataclasses
import random
import typing
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import architectures
from architectures.contract.causality import find_fault, not_causal, require, require_trained
from architectures.grammar.spec import Layer, Spec
from architectures.registry import Entry, _allowed, _hints, get

LENGTH, VOCAB = 32, 11
TOKENS = torch.randint(VOCAB, (40, LENGTH), generator=torch.Generator().manual_seed(0))


class Mapped(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.map = nn.Linear(dim, dim)


class Peek(Mapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.map(F.pad(x, (0, 0, 0, 1))[:, 1:])


class Mean(Mapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.map(x - x.mean(1, keepdim=True))


class One(Mapped):
    """One position sees the next."""

    def forward(self, x: Tensor) -> Tensor:
        at = (torch.arange(x.shape[1]) == 17).to(x)[:, None]
        return self.map(x + at * x.roll(-1, 1))


class Many(Mapped):
    """Nothing is wrong with small batches."""

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x.roll(-1, 1) if len(x) >= 64 else x)


class Tossing(Mapped):
    """Noise in evaluation that hardly moves a loss: it has no mean."""

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x) + 0.1 * torch.randn_like(x)


class Long(Mapped):
    """Nothing is wrong with short sequences."""

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x.roll(-1, 1) if x.shape[1] >= LENGTH else x)


class Gated(Mapped):
    """At the initial weights nothing is seen."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gate * self.map(x.flip(1))


class Faint(Mapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.map(x + 1e-3 * x.flip(1))


class Rare(Mapped):
    """Only large values are seen by others."""

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x) + F.relu(x - 2.0).amax(1, keepdim=True)


class Closed(Mapped):
    """A gate that is all but closed, which training may open."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.gate = nn.Parameter(torch.full((dim,), -25.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x) + torch.sigmoid(self.gate) * x.roll(-1, 1)


class Single(Mapped):
    """What runs in float32 alone, as a faster kernel may."""

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x.roll(-1, 1) if x.dtype == torch.float32 else x)


class Sorted(Mapped):
    """Chunks of the order of a projection attend to themselves, as the sorted form of LSH attention does."""

    def forward(self, x: Tensor) -> Tensor:
        order = self.map(x)[..., 0].argsort(1)[..., None].expand_as(x)
        chunks = x.gather(1, order).unflatten(1, (-1, 4))
        mixed = F.scaled_dot_product_attention(chunks, chunks, chunks).flatten(1, 2)
        return torch.zeros_like(x).scatter(1, order, mixed)


class Trains(Mapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.map(x.roll(-1, 1) if self.training else x)


class Evaluates(Mapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.map(x if torch.is_grad_enabled() else x.roll(-1, 1))


class Normed(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.mT).mT


class Rows(Mapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.map(x + x.roll(1, 0))


class Hidden(Mapped):
    """What is not a number is not equal to itself."""

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x.roll(-1, 1)) / (torch.arange(x.shape[1]) != 3).to(x)[:, None] * 0.0 + self.map(x)


class Numpy(Mapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.map(x) + 0.1 * torch.from_numpy(np.random.randn(*x.shape)).to(x)


class Later(nn.Module):
    """Attention without a mask."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(dim, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x, x, x, need_weights=False)[0]


CHEATS: dict[type[Any], str] = {
    **{cls: "later" for cls in (Peek, Mean, One, Long, Gated, Faint, Rare, Sorted, Trains, Evaluates)},
    **{Closed: "later", Single: "later"},
    **{Normed: "later", Later: "later", Rows: "rows", Hidden: "nan", Numpy: "repeat"},
}


class Dropout(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(0.5), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Noisy(Mapped):
    def forward(self, x: Tensor) -> Tensor:
        return self.map(x) + (0.3 * torch.randn_like(x) if self.training else 0.0)


class Fourier(Mapped):
    """A long convolution that is computed in float32, whatever the layer is in."""

    def __init__(self, dim: int, max_len: int) -> None:
        super().__init__(dim)
        self.kernel = nn.Parameter(0.2 * torch.randn(dim, max_len))

    def forward(self, x: Tensor) -> Tensor:
        n, u = 2 * x.shape[1], self.map(x).float().mT
        spectrum = torch.fft.rfft(u, n) * torch.fft.rfft(self.kernel.float()[:, : x.shape[1]], n)
        return torch.fft.irfft(spectrum, n)[..., : x.shape[1]].mT.to(x)


class Growing(Mapped):
    """A long convolution whose decay becomes growth where its weights move: rounding reaches everywhere."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.rate = nn.Parameter(torch.full((dim,), -1e-3))

    def forward(self, x: Tensor) -> Tensor:
        n, time = x.shape[1], torch.arange(x.shape[1])
        kernel = torch.exp(2 * self.rate[:, None] * time)
        spectrum = torch.fft.rfft(self.map(x).mT, 2 * n) * torch.fft.rfft(kernel, 2 * n)
        return torch.fft.irfft(spectrum, 2 * n)[..., :n].mT


class Constant(Mapped):
    """A constant of float32, which does not become float64 with the layer."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.scale = torch.eye(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x) @ self.scale


class Masked(Mapped):
    """-1e9 where others have minus infinity."""

    def forward(self, x: Tensor) -> Tensor:
        q = self.map(x)
        hidden = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        return (q @ x.mT).masked_fill(hidden, -1e9).softmax(-1) @ x


class Recurrent(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.inner = nn.GRU(dim, dim, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[0]


class Running(nn.Module):
    """A mean over batches that is kept in training and not used there."""

    mean: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        y = x - self.mean
        if self.training:
            self.mean.mul_(0.9).add_(0.1 * x.detach().mean((0, 1)))
        return y


class Replaced(Running):
    """The same in a new tensor for each mean."""

    def forward(self, x: Tensor) -> Tensor:
        y = x - self.mean
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean((0, 1))
        return y


class Past(Mapped):
    """Sums of the past, by themselves and as the difference of two."""

    def forward(self, x: Tensor) -> Tensor:
        total = self.map(x).cumsum(1)
        return (total - F.pad(total, (0, 0, 4, 0))[:, : x.shape[1]]) / 4


class Root(Mapped):
    """Weights that, moved away from 0, give no number."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.scale = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.map(x) * (1 + self.scale.sqrt())


HONEST = [
    Dropout,
    Noisy,
    Fourier,
    Growing,
    Constant,
    Masked,
    Recurrent,
    Running,
    Replaced,
    Past,
    Root,
    nn.Identity,
]


def build(spec: str, **options: Any) -> architectures.SequenceModel:
    return architectures.build(spec, vocab_size=VOCAB, dim=32, max_len=LENGTH, seed=0, **options)


def spell(cls: type) -> str:
    return f"{cls.__module__}:{cls.__name__}"


@pytest.mark.parametrize("cheat", CHEATS)
@pytest.mark.parametrize(
    "where", ["1*{}", "mamba {} swiglu", "repeat{{mh-attention {}}}", "(swiglu + hyena {})"]
)
def test_a_layer_that_cheats_is_named_wherever_it_stands(cheat: type, where: str) -> None:
    fault = find_fault(build(where.format(spell(cheat))), TOKENS, VOCAB)
    assert fault is not None and fault.kind == CHEATS[cheat]
    assert (
        fault.who == spell(cheat) and fault.who in str(fault) and f"position {fault.position}" in str(fault)
    )
    assert fault.training == (cheat in (Trains, Normed))
    if fault.kind == "later":
        assert fault.position < fault.token < LENGTH and f"from {fault.token} on" in str(fault)


@pytest.mark.parametrize("honest", HONEST)
def test_an_honest_layer_is_let_through(honest: type) -> None:
    for where in ("1*{}", "2*(hyena {} mh-attention swiglu)", "reversible{{{} mlp}}"):
        assert find_fault(build(where.format(spell(honest))), TOKENS, VOCAB) is None


class Edges(Mapped):
    """The last position of a chunk sees the first of the next."""

    def forward(self, x: Tensor) -> Tensor:
        last = (torch.arange(x.shape[1]) % 32 == 31).to(x)[:, None]
        return self.map(x + last * x.roll(-1, 1))


def test_edges_of_chunks_are_asked_where_not_all_positions_are() -> None:
    tokens = TOKENS[:8].repeat(1, 4)
    model = architectures.build(f"{spell(Edges)} mlp", vocab_size=VOCAB, dim=128, max_len=128, seed=0)
    fault = find_fault(model, tokens, VOCAB)
    assert fault is not None and (fault.position, fault.token) == (63, 64)


def test_what_only_other_weights_show_is_said() -> None:
    for cheat, hidden in ((Gated, True), (Closed, True), (Peek, False)):
        fault = find_fault(build(f"{spell(cheat)} mlp"), TOKENS, VOCAB)
        assert fault is not None and fault.hidden is hidden
        assert ("once its weights leave their initial values" in str(fault)) is hidden


class Whole(nn.Module):
    """A model of one's own, not of ours: tokens (B, T) -> logits."""

    def __init__(self, mixer: nn.Module) -> None:
        super().__init__()
        self.embedding, self.mixer = nn.Embedding(VOCAB, 32), mixer
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, VOCAB)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        return self.head(self.norm(x + self.mixer(x)))


class Shifted(Whole):
    """Logits so large that what moves them seems small beside."""

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens) + 1e6


class Excludes(Whole):
    """Tokens that are never answers."""

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens).index_fill(-1, torch.tensor([0, 3]), -torch.inf)


@pytest.mark.parametrize("whole", [Whole, Shifted, Excludes])
def test_whole_models_are_asked_as_layers_are(whole: type[Whole]) -> None:
    for cheat in (Peek(32), Gated(32), Normed(32), Rows(32)):
        fault = find_fault(whole(cheat), TOKENS, VOCAB, who="mine:make")
        assert fault is not None and fault.who == "mine:make" and fault.kind == CHEATS[type(cheat)]
    for honest in (Recurrent(32), Dropout(32), Fourier(32, LENGTH)):
        assert find_fault(whole(honest), TOKENS, VOCAB) is None


def test_what_is_answered_after_the_last_token_may_see_all_of_them_but_no_other_row() -> None:
    encoder = "encoder-attention swiglu"
    assert find_fault(build(encoder, readout="last"), TOKENS, VOCAB, causal=False) is None
    fault = find_fault(build(f"{spell(Rows)} mlp", readout="last"), TOKENS, VOCAB, causal=False)
    assert fault is not None and fault.kind == "rows"


def test_the_model_and_the_random_state_are_left_as_they_were() -> None:
    model = build(f"{spell(Running)} {spell(Dropout)}")
    before, state = {n: t.clone() for n, t in model.state_dict().items()}, torch.get_rng_state()
    assert find_fault(model, TOKENS, VOCAB) is None and model.training
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert all(t.dtype == torch.float32 for t in model.parameters()) and torch.equal(
        torch.get_rng_state(), state
    )


def test_the_refusal_names_layer_position_task_and_remedy() -> None:
    words = r"lsh-attention\[causal=false\] sees later positions: .* position \d+ .* from \d+ on change, on "
    with pytest.raises(ValueError, match=words + "recall; use another"):
        model = build("2*(lsh-attention[causal=false] mlp)")
        require(model, TOKENS, VOCAB, who="it", task="recall", remedy="use another")


class Declares(Mapped, architectures.Primitive):
    """Says of itself that it may look ahead, and does not at these weights."""

    causal = False

    def __init__(self, config: Any, **where: Any) -> None:
        architectures.Primitive.__init__(self, config, **where)

    def forward(self, x: Tensor, ctx: Any = None) -> Tensor:
        return x


def test_a_layer_is_refused_for_what_it_declares_too() -> None:
    model = build(f"(mlp + repeat{{{spell(Declares)}}})")
    assert find_fault(model, TOKENS, VOCAB) is None and not_causal(model) == [spell(Declares), "repeat"]
    with pytest.raises(ValueError, match=f"{spell(Declares)} declares"):
        require(model, TOKENS, VOCAB, who="it", task="recall")


def values(entry: Entry, field: Any) -> Iterator[Any]:
    """Values of an option that its annotation allows, beside its default."""
    default = getattr(entry.config({}), field.name)
    for kind in _allowed(_hints(entry.cls.Config)[field.name]):
        if typing.get_origin(kind) is typing.Literal:
            yield from typing.get_args(kind)
        else:
            yield from {bool: (True, False), type(None): (None,), float: (0.25, 0.5, 1.0)}.get(kind, ())
            if kind is int:
                yield from {1, 2, 4, 8, *([2 * default, default // 2] if type(default) is int else [])}


def variants(name: str) -> Iterator[architectures.SequenceModel]:
    """A name with each value of each option; one that is refused alone, beside what would allow it."""
    entry = get(name)
    (item,) = architectures.parse(f"1*{entry.example}").layers
    assert isinstance(item, Layer)
    found = [(f.name, v) for f in dataclasses.fields(entry.cls.Config) for v in values(entry, f)]
    switches = [{k: v} for k, v in found if isinstance(v, bool | str)]
    for options in [{}, *({k: v} for k, v in found)]:
        for switch in [{}, *switches]:
            try:
                changed = entry.changed({**dict(item.options), **options, **switch})
                model = build_small(Spec((Layer(name, changed, item.body),)))
            except ValueError:
                continue
            yield model
            break


def build_small(spec: Spec) -> architectures.SequenceModel:
    return architectures.build(spec, vocab_size=7, dim=32, max_len=13, seed=0)


@pytest.mark.parametrize("name", architectures.names())
def test_every_option_of_every_layer_declares_what_the_probe_finds(name: str) -> None:
    tokens, count = TOKENS[:16, :13] % 7, 0
    for model in variants(name):
        fault = find_fault(model, tokens, 7)
        assert (fault is None) == model.layers()[0][1].causal == (not not_causal(model)), str(model.spec)
        count += 1
    assert count > len(dataclasses.fields(get(name).cls.Config))


def test_after_training_as_many_positions_are_asked_as_there_were_steps() -> None:
    model = architectures.build(f"{spell(One)} mlp", vocab_size=VOCAB, dim=128, max_len=128, seed=0)
    with torch.no_grad():
        model.get_parameter("head.weight").mul_(50)
    asked: list[Any] = [model, TOKENS.repeat(1, 4), VOCAB]
    require_trained(*asked, who="it", steps=4, batch_size=4)
    with pytest.raises(ValueError, match=r"position 17 move .* after training"):
        require_trained(*asked, who="it", steps=127, batch_size=4)


def test_after_training_batches_of_its_size_are_asked() -> None:
    model = build(f"{spell(Many)} mlp")
    with torch.no_grad():
        model.get_parameter("head.weight").mul_(50)
    asked: list[Any] = [model, TOKENS, VOCAB]
    require_trained(*asked, who="it", steps=4, batch_size=63)
    with pytest.raises(ValueError, match="Many sees later positions"):
        require_trained(*asked, who="it", steps=4, batch_size=64)


@pytest.mark.parametrize("seed", range(4))
def test_after_training_noise_in_evaluation_is_found(seed: int) -> None:
    model = build(f"{spell(Tossing)} mlp").train()
    with torch.no_grad():
        model.get_parameter("head.weight").mul_(50)
    torch.manual_seed(seed)
    asked: list[Any] = [TOKENS, VOCAB]
    with pytest.raises(ValueError, match="Tossing mlp ends its training .* the same rows are asked again"):
        require_trained(model, *asked, who="Tossing mlp", steps=4, batch_size=4)
    assert model.training
    quiet = build(f"{spell(Noisy)} mlp").train()
    require_trained(quiet, *asked, who="it", steps=4, batch_size=4)


LAYERS = ["mh-attention", "mamba", "hyena", "mlp", "lsh-attention[window=4]", "sru", "delta-net", "moe-mlp"]
BLIND = ["encoder-attention", "lsh-attention[causal=false]", "lsh-attention[chunk=4, causal=false]"]
WRAPPERS = ["repeat", "reversible", "hyper-connections", "sequence-altup", "altup[recycled=true]"]


def compose(rng: random.Random, items: list[str], depth: int = 0) -> str:
    """The layers in an order that is drawn, some in wrappers and branches."""
    words, i = [], 0
    while i < len(items):
        size = rng.randint(1, 2)
        inner = " ".join(items[i : i + size])
        i += size
        form = rng.random()
        if form < 0.4:
            inner = f"{rng.choice(WRAPPERS)}{{{inner}}}"
        elif form < 0.6:
            inner = f"({inner} + {rng.choice(LAYERS)})"
        words.append(inner)
    text = " ".join(words)
    return compose(rng, [text], depth + 1) if depth < 2 and rng.random() < 0.5 else text


@pytest.mark.parametrize("seed", range(20))
def test_a_layer_that_looks_ahead_is_found_inside_any_composition(seed: int) -> None:
    rng = random.Random(seed)
    honest = rng.sample(LAYERS, 3)
    assert find_fault(build(compose(rng, honest)), TOKENS, VOCAB) is None
    guilty = rng.choice([*BLIND, spell(Peek), spell(Gated)])
    items = [*honest, guilty]
    rng.shuffle(items)
    model = build(compose(rng, items))
    fault = find_fault(model, TOKENS, VOCAB)
    assert fault is not None and fault.who == guilty, str(model.spec)
    assert guilty in BLIND and guilty in not_causal(model) or not not_causal(model)
