"""The striping grammar: what it reads, what it refuses, and that its spelling is canonical."""

from __future__ import annotations

import doctest
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import architectures
from architectures import registry
from architectures.blocks import Block, state_size
from architectures.grammar import stripe
from architectures.grammar.presets import PRESETS
from architectures.grammar.spec import Layer, Parallel, Spec
from architectures.grammar.stripe import SpecError, parse, scale
from architectures.model import build
from architectures.primitive import Context, Primitive, State, option
from architectures.registry import primitive
from architectures.sizes.accounting import account

# Only what ships: a user's package may have added layers.
NAMES = [n for n in architectures.names() if registry.get(n).mixes != "stream"]

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "heads": st.sampled_from([None, 1, 2, 3, 8]),
    "key_dim": st.sampled_from([None, 2, 10]),
    "value_dim": st.sampled_from([None, 1, 7]),
    "window": st.sampled_from([None, 1, 32, 77]),
    "rope": st.booleans(),
    "expand": st.integers(1, 9),
    "order": st.integers(1, 9),
    "feature_map": st.sampled_from(["elu", "relu", "identity"]),
    "inner": st.sampled_from([None, 1, 100]),
    "d_state": st.integers(1, 64),
}


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    entry = registry.get(draw(st.sampled_from(NAMES)))
    known = [key for key in VALUES if key in registry._hints(entry.cls.Config)]
    options = {key: draw(VALUES[key]) for key in draw(st.sets(st.sampled_from(known)))} if known else {}
    return Layer(entry.name, entry.changed({k: v for k, v in options.items() if accepts(entry, k, v)}))


def accepts(entry: registry.Entry, key: str, value: Any) -> bool:
    """Options of one name need not allow the same values everywhere."""
    try:
        entry.config({key: value})
    except ValueError:
        return False
    return True


def specs_of(items: st.SearchStrategy[Layer | Parallel]) -> st.SearchStrategy[Spec]:
    group = st.tuples(st.lists(items, min_size=1, max_size=2), st.integers(1, 3))
    repeated = st.lists(group, min_size=1, max_size=3)
    return repeated.map(lambda parts: Spec(tuple(x for group, n in parts for x in n * group)))


def parallels(items: st.SearchStrategy[Layer | Parallel]) -> st.SearchStrategy[Parallel]:
    return st.lists(specs_of(items), min_size=2, max_size=3).map(lambda branches: Parallel(tuple(branches)))


SPECS = specs_of(st.recursive(layers(), lambda inner: st.one_of(inner, parallels(inner)), max_leaves=4))


@primitive("test-twice", mixes="stream", version=1, example="test-twice{mlp}")
class Twice(Primitive):
    """y = the stream after the body was added to it, `times` times over with the same weights."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        times: int = option(2, "how often the body is run")
        gain: float = option(0.5, "factor of what the body adds")
        mode: Literal["plain", "fancy"] = option("plain", "a word")

    config: Config
    body: Any

    def __init__(
        self, config: Config, *, body: list[Block], dim: int, max_len: int, index: int = 0, depth: int = 1
    ) -> None:
        super().__init__(config, dim=dim, max_len=max_len, index=index, depth=depth)
        self.body = torch.nn.ModuleList(body)

    @property
    def state_kinds(self) -> tuple[str, ...]:
        return self.config.times * tuple(kind for block in self.body for kind in block.state_kinds)

    def forward(self, x: Tensor, ctx: Context | None = None) -> Tensor:
        for _ in range(self.config.times):
            for block in self.body:
                x = x + self.config.gain * block(x, ctx)
        return x

    def init_state(self, batch: int, length: int | None = None) -> State:
        return self.config.times * tuple(t for block in self.body for t in block.init_state(batch, length))

    def step(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        states, at = [], 0
        for _ in range(self.config.times):
            for block in self.body:
                size = state_size(block)
                change, new = block.step(x, state[at : at + size], ctx)
                x = x + self.config.gain * change
                states += new
                at += size
        return x, tuple(states)

    def flops(self, length: int) -> int:
        return self.config.times * sum(block.flops(length) for block in self.body)


TWICE = registry._entries.pop("test-twice")  # only the tests that ask for it see it


@pytest.fixture
def twice() -> Iterator[None]:
    registry._entries["test-twice"] = TWICE
    yield
    del registry._entries["test-twice"]


@settings(max_examples=150, deadline=None)
@given(SPECS)
def test_parse_reads_what_str_writes(spec: Spec) -> None:
    text = str(spec)
    again = parse(text)
    assert again == spec and hash(again) == hash(spec)
    assert str(again) == text
    assert parse(spec) is spec and len(again) == len(spec)


@settings(max_examples=50, deadline=None)
@given(SPECS, st.integers(1, 4))
def test_repeats_unroll(spec: Spec, times: int) -> None:
    assert parse(f"{times}*({spec})") == Spec(times * spec.layers)
    assert parse(f" ( {spec}  ) ") == spec or str(spec) in PRESETS
    assert str(parse(f"{times}*({spec})")) == str(parse(" ".join([str(spec)] * times)))


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=40), st.text("mlpab2*()[]{}+,=- .:_", max_size=40)))
def test_any_string_is_a_spec_or_a_value_error_with_a_caret(text: str) -> None:
    try:
        parse(text)
    except SpecError as error:
        *_, shown, caret = str(error).split("\n")
        assert shown == "  " + "".join(c if c.isprintable() else " " for c in text)
        assert caret.strip() == "^" and 2 <= len(caret.rstrip()) - 1 <= len(text) + 2


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("mlp", "mlp"),
        ("  mlp\n", "mlp"),
        ("mlp mlp mlp", "3*mlp"),
        ("hyena swiglu hyena swiglu mh-attention swiglu", "2*(hyena swiglu) mh-attention swiglu"),
        ("3 * ( hyena   swiglu )", "3*(hyena swiglu)"),
        ("2*(3*mlp)", "6*mlp"),
        ("2*(mlp 2*swiglu)", "2*(mlp swiglu swiglu)"),
        ("((mlp))", "mlp"),
        ("1*mamba", "1*mamba"),
        ("(mamba)", "1*mamba"),
        ("mamba", "4*mamba"),
        ("mamba mamba", "2*mamba"),
        ("hyena", "2*(hyena swiglu)"),
        ("hyena mlp", "hyena mlp"),
        ("transformer++", "2*(mh-attention swiglu)"),
        ("2*transformer++ mamba", "4*(mh-attention swiglu) mamba"),
        ("(mamba+attention)swiglu", "(mamba + attention) swiglu"),
        ("(mamba +2*swiglu)", "(mamba + 2*swiglu)"),
        ("2*(mamba + attention)", "2*(mamba + attention)"),
        ("((mamba + mlp) swiglu + hyena)", "((mamba + mlp) swiglu + hyena)"),
        ("(1*mamba + hyena)", "(mamba + hyena)"),
        ("mamba[d_state=16]", "mamba[d_state=16]"),
        ("mamba[d_state=4]", "1*mamba"),
        ("mamba[ conv=3 , d_state = 8 ]", "mamba[d_state=8, conv=3]"),
        ("attention[heads=none]", "attention[heads=none]"),
        ("mh-attention[heads=none]", "mh-attention"),
        ("attention[rope=false, window=32]", "attention[window=32, rope=false]"),
        ("linear-attention[feature_map=elu]", "linear-attention"),
        ("linear-attention[feature_map=relu]", "linear-attention[feature_map=relu]"),
        ("007*mlp", "7*mlp"),
    ],
)
def test_the_canonical_spelling(text: str, canonical: str) -> None:
    assert str(parse(text)) == canonical
    assert str(parse(canonical)) == canonical
    assert parse(canonical) == parse(text) and hash(parse(canonical)) == hash(parse(text))


def test_different_architectures_are_different() -> None:
    texts = ["mlp", "2*mlp", "mlp swiglu", "swiglu mlp", "(mlp + swiglu)", "(swiglu + mlp)", "mlp[inner=3]"]
    assert len({parse(t) for t in texts}) == len(texts)


def test_walk_reads_branches_and_bodies(twice: None) -> None:
    spec = parse("mlp (mamba swiglu + hyena) test-twice{attention mlp}")
    assert [x.name for x in spec.walk()] == "mlp mamba swiglu hyena test-twice attention mlp".split()
    assert len(spec) == 3


CARETS = [
    # text, the caret as a column, what the message says
    ("", 0, "expected layers"),
    ("  \t", 0, "expected layers"),
    ("(", 1, "expected a layer, a number of repeats or '(', found the end"),
    ("()", 1, "expected a layer, a number of repeats or '(', found ')'"),
    ("(mlp", 4, "expected ')' to close the group, found the end"),
    ("mlp)", 3, "unexpected ')'; expected a layer"),
    ("mlp + mamba", 4, "unexpected '+'; expected parentheses"),
    ("(mlp +)", 6, "expected a layer, a number of repeats or '(', found ')'"),
    ("(+ mlp)", 1, "expected a layer"),
    ("(mlp + + mlp)", 7, "expected a layer"),
    ("0*mlp", 0, "expected a whole number of at least 1"),
    ("mlp 0*mlp", 4, "expected a whole number of at least 1"),
    ("-1*mlp", 0, "expected a whole number of at least 1"),
    ("2.5*mlp", 0, "expected a whole number of at least 1"),
    ("1e3*mlp", 0, "expected a whole number of at least 1"),
    ("3", 1, "expected '*' after a number of repeats, found the end"),
    ("3 mlp", 2, "expected '*' after a number of repeats, found 'mlp'"),
    ("3*", 2, "expected a layer or '(', found the end"),
    ("2*3*mlp", 2, "expected a layer or '(', found '3'"),
    ("2mlp", 0, "'2' is not part of the grammar; expected a layer"),
    ("*mlp", 0, "expected a layer"),
    ("99999999*mamba", 0, "expected at most 4096 layers"),
    ("mlp 4097*mlp", 4, "expected at most 4096 layers"),
    ("2*(3000*mlp)", 0, "more than 4096 layers"),
    ("4000*mlp 97*mlp", 9, "more than 4096 layers"),
    ("2048*(mamba + mlp swiglu)", 0, "more than 4096 layers"),
    ("4096*(4096*(4096*mlp))", 6, "more than 4096 layers"),
    ("4096*(4096*(4096*mlp + mlp) + mlp)", 6, "more than 4096 layers"),
    ("mlp mumba", 4, "unknown layer 'mumba'; did you mean 'mamba'?"),
    ("transformer+", 0, "did you mean 'transformer++'?"),
    ("Mlp", 0, "did you mean 'mlp'?"),
    ("mlp xyzzy", 4, "unknown layer 'xyzzy'; available: altup, "),
    (
        "mamba[d_stat=4]",
        6,
        "mamba has no option 'd_stat'; did you mean 'd_state'?; available: conv, d_state, ",
    ),
    ("mamba[conv=4, d_stat=4]", 14, "did you mean 'd_state'?"),
    ("mamba[d_state=2.5]", 14, "mamba[d_state]=2.5 is refused; expected an integer"),
    ("mamba[d_state=many]", 14, "expected an integer"),
    ("mamba[d_state=true]", 14, "expected an integer"),
    ("attention[heads=two]", 16, "expected an integer or none"),
    ("attention[rope=1]", 15, "expected true or false"),
    ("attention[rope=True]", 15, "expected true or false"),
    (
        "linear-attention[feature_map=gelu]",
        29,
        "expected elu or relu or hedgehog or elementwise-product or identity",
    ),
    ("mlp mamba[d_state=0]", 4, "d_state=0 must be at least 1"),
    ("mamba[d_state=4, d_state=5]", 17, "option 'd_state' is given twice; expected another option"),
    ("mamba[d_state=]", 14, "expected a value for 'd_state'"),
    ("mamba[d_state=+4]", 14, "expected a value for 'd_state'"),
    ("mamba[d_state 4]", 14, "expected '=' after option 'd_state', found '4'"),
    ("mamba[]", 6, "expected an option of mamba; available: conv, "),
    ("mamba[4]", 6, "expected an option of mamba"),
    ("mamba[d_state=4", 15, "expected ']' to close the options, found the end"),
    ("mamba[d_state=4,]", 16, "expected an option of mamba"),
    ("mamba[d_state=4 conv=2]", 16, "expected ']' to close the options, found 'conv'"),
    ("mamba]", 5, "unexpected ']'"),
    ("mamba{mlp}", 5, "mamba takes no body"),
    ("{mlp}", 0, "expected a layer"),
    ("transformer++[heads=2]", 13, "expected its layers instead: 2*(mh-attention swiglu)"),
    ("mlp; mamba", 3, "';' is not part of the grammar"),
    ("mlp \x00\x01\xff", 4, "is not part of the grammar"),
    ("mlp\nmumba", 4, "unknown layer 'mumba'"),
    ("\u03bb", 0, "is not part of the grammar"),
    ("m\u00e4mba", 0, "did you mean 'mamba'?"),
    ("mlp \U0001f600", 4, "is not part of the grammar"),
    ("mlp \ud800", 4, "is not part of the grammar"),
    ("(" * 65 + "mlp" + ")" * 65, 64, "nested too deeply; expected at most 64"),
    ("no_such_module_here:Layer", 0, "there is no module no_such_module_here"),
]


@pytest.mark.parametrize(("text", "column", "message"), CARETS, ids=[repr(t)[:40] for t, _, _ in CARETS])
def test_a_malformed_string_is_refused_with_a_caret_where_it_goes_wrong(
    text: str, column: int, message: str
) -> None:
    with pytest.raises(ValueError) as caught:
        parse(text)
    assert isinstance(caught.value, SpecError)
    *said, shown, caret = str(caught.value).split("\n")
    assert message in "\n".join(said)
    if len(text) <= 120:
        assert shown == "  " + "".join(c if c.isprintable() else " " for c in text)
        assert caret == "  " + " " * column + "^"
    assert shown[len(caret) - 1 :][:1] == (text[column : column + 1] if text[column:].isprintable() else " ")


@pytest.mark.parametrize(
    "text",
    [
        "(" * 100_000,
        "2*(" * 100_000 + "mlp",
        "9" * 100_000 + "*mlp",
        f"mamba[d_state={'9' * 100_000}]",
        "mamba[d_state=" * 20_000,
        "x" * 100_000,
        "\x00" * 100_000,
        "mlp " * 20_000,
        "4096*(4096*(4096*(4096*(mlp + mlp) + mlp) + mlp) + mlp)",
        "64*(64*(64*(64*(64*(64*(64*mlp))))))",
    ],
    ids=lambda text: text[:20],
)
def test_an_absurd_string_is_refused_at_once(text: str) -> None:
    start = time.perf_counter()
    with pytest.raises(SpecError) as caught:
        parse(text)
    assert time.perf_counter() - start < 2
    assert "expected" in str(caught.value) or "available: " in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert len(str(caught.value).split("\n")[-2]) < 130, "only what surrounds the caret is shown"


def test_the_caret_of_a_long_string_points_at_its_place() -> None:
    text = "mlp " * 100 + "mumba" + " swiglu" * 100
    with pytest.raises(SpecError) as caught:
        parse(text)
    _, shown, caret = str(caught.value).split("\n")
    assert (
        shown[caret.index("^") :].startswith("mumba swiglu") and "..." in shown[:6] and shown.endswith("...")
    )


def test_a_big_spec_is_spelled_quickly() -> None:
    distinct = " ".join(f"mlp[inner={i}]" for i in range(1, 2049))
    for text in (distinct, "mlp " * 4096, "2048*(mlp swiglu)", "mlp " + "swiglu " * 4000):
        start = time.perf_counter()
        spec = parse(text)
        assert parse(str(spec)) == spec
        assert time.perf_counter() - start < 3


def test_nesting_up_to_the_limit_is_read() -> None:
    assert str(parse("(" * 64 + "mlp" + ")" * 64)) == "mlp"
    deep = "mlp"
    for _ in range(63):
        deep = f"({deep} + swiglu)"
    assert str(parse(deep)) == deep
    assert parse(" ".join(["(mlp)"] * 100)) == parse("100*mlp"), "brackets beside each other are not nested"


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_the_spec_of_a_preset_is_canonical(name: str) -> None:
    preset = PRESETS[name]
    assert str(parse(preset.spec)) == preset.spec
    assert parse(name) == parse(f"  {name} ") == parse(preset.spec)
    assert preset.about


def test_a_name_that_is_preset_and_layer_is_the_preset_only_when_alone() -> None:
    both = sorted(set(PRESETS) & set(architectures.names()))
    assert {"hyena", "mamba"} <= set(both)
    for name in both:
        assert parse(name) == parse(PRESETS[name].spec)
        assert str(parse(f"1*{name}")) == f"1*{name}"
        assert parse(f"1*{name}").layers == (Layer(name),) == parse(f"({name})").layers
        assert parse(f"{name} mlp").layers == (Layer(name), Layer("mlp"))
        assert str(parse(f"({name} + mlp)")) == f"({name} + mlp)"


def test_a_preset_beside_layers_is_its_layers() -> None:
    assert str(parse("mlp transformer++")) == "mlp 2*(mh-attention swiglu)"
    assert str(parse("(transformer++ + mlp)")) == "(2*(mh-attention swiglu) + mlp)"


@pytest.mark.parametrize(
    ("spec", "depth", "expected"),
    [
        ("hyena swiglu", 6, "3*(hyena swiglu)"),
        ("hyena swiglu", 5, "2*(hyena swiglu) hyena"),
        ("4*mamba", 1, "1*mamba"),
        ("mlp swiglu mamba", 2, "mlp swiglu"),
        ("mamba", 9, "9*mamba"),
        ("(mamba + mlp) swiglu", 4, "2*((mamba + mlp) swiglu)"),
    ],
)
def test_scale_repeats_or_cuts_to_a_depth(spec: str, depth: int, expected: str) -> None:
    assert scale(spec, depth=depth) == parse(expected)
    assert len(scale(spec, depth=depth)) == depth


@pytest.mark.parametrize(
    ("spec", "dim", "expected"),
    [
        ("mh-attention swiglu", 512, "mh-attention swiglu"),
        ("attention[heads=8, window=32]", 256, "attention[heads=16, window=32]"),
        ("attention[heads=8, key_dim=4]", 64, "attention[heads=4, key_dim=4]"),
        ("attention[heads=2]", 192, "attention[heads=3]"),
        ("attention[heads=none]", 256, "attention[heads=none]"),
        ("mlp[inner=100]", 384, "mlp[inner=300]"),
        ("mamba[d_state=16, dt_rank=8]", 256, "mamba[d_state=16, dt_rank=16]"),
        ("(mlp[inner=10] + 2*swiglu[inner=20]) hyena", 256, "(mlp[inner=20] + 2*swiglu[inner=40]) hyena"),
        ("mlp[inner=7]", 128, "mlp[inner=7]"),
    ],
)
def test_scale_carries_widths_and_heads_and_leaves_absolute_sizes(spec: str, dim: int, expected: str) -> None:
    assert scale(spec, dim=dim) == parse(expected)


def test_scale_from_another_width_and_of_a_body(twice: None) -> None:
    assert str(scale("mlp[inner=30]", dim=32, from_dim=48)) == "mlp[inner=20]"
    assert str(scale("test-twice[times=3]{mlp[inner=8]}", dim=256)) == "test-twice[times=3]{mlp[inner=16]}"
    assert str(scale("transformer++", depth=6, dim=256)) == "3*(mh-attention swiglu)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 0}, "depth=0 is not between 1 and 4096"),
        ({"depth": 10**9}, "depth=1000000000 is not between"),
        ({"dim": 0}, "dim=0"),
        ({"dim": -16}, "dim=-16"),
        ({"dim": 64, "from_dim": 0}, "from_dim=0"),
        ({"dim": 48}, "heads=6.* at width 128 .* at width 48; choose a width that is a multiple of 64"),
    ],
)
def test_scale_refuses_what_cannot_be_built(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scale("attention[heads=6] mlp", **arguments)


def test_a_wrapper_is_read_with_its_body_and_refused_without(twice: None) -> None:
    for text, canonical in [
        ("test-twice{mlp}", "test-twice{mlp}"),
        ("test-twice { mlp  mlp }", "test-twice{2*mlp}"),
        ("test-twice{mamba}", "test-twice{mamba}"),
        ("test-twice[times=2]{mlp}", "test-twice{mlp}"),
        ("2*test-twice[times=3]{hyena swiglu} mlp", "2*test-twice[times=3]{hyena swiglu} mlp"),
        ("test-twice{test-twice{(mlp + mamba)}}", "test-twice{test-twice{(mlp + mamba)}}"),
        ("test-twice[gain=1]{mlp}", "test-twice[gain=1.0]{mlp}"),
        ("test-twice[gain=1e0]{mlp}", "test-twice[gain=1.0]{mlp}"),
        ("test-twice[gain=.5]{mlp}", "test-twice{mlp}"),
        ("test-twice[gain=-0.0]{mlp}", "test-twice[gain=0.0]{mlp}"),
        ("test-twice[gain=1e-7]{mlp}", "test-twice[gain=1e-07]{mlp}"),
        ("test-twice[gain=1e22]{mlp}", "test-twice[gain=1e+22]{mlp}"),
        ("test-twice[gain=-2]{mlp}", "test-twice[gain=-2.0]{mlp}"),
        ("test-twice[mode=fancy]{mlp}", "test-twice[mode=fancy]{mlp}"),
    ]:
        assert str(parse(text)) == canonical == str(parse(canonical))
        assert parse(text) == parse(canonical)
    for text, column, message in [
        ("mlp test-twice", 4, "wraps layers; expected a body, such as test-twice{mlp}"),
        ("test-twice{}", 11, "expected a layer"),
        ("test-twice{mlp", 14, "expected '}' to close the body of test-twice"),
        ("test-twice[gain=nan]{mlp}", 16, "expected a number"),
        ("test-twice[gain=1e999]{mlp}", 16, "expected a finite number"),
        ("test-twice[mode=plane]{mlp}", 16, "expected plain or fancy"),
        ("test-twice{" * 65 + "mlp" + "}" * 65, None, "nested too deeply"),
        ("4096*test-twice{mlp}", 0, "more than 4096 layers"),
    ]:
        with pytest.raises(SpecError, match=message) as caught:
            parse(text)
        assert column is None or str(caught.value).endswith("\n  " + " " * column + "^")


def test_a_wrapper_builds_runs_and_decodes(twice: None) -> None:
    text = "mh-attention test-twice{mamba (mlp + test-twice[times=1]{swiglu})} (hyena test-twice{mlp} + mlp)"
    model = build(text, vocab_size=7, dim=32, max_len=21, seed=3).double()
    tokens = torch.randint(7, (3, 21), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(tokens)
        state = model.init_state(3)
        first, state = model.prefill(tokens[:, :9], state)
        steps = [first]
        for t in range(9, 21):
            y, state = model.step(tokens[:, t], state)
            steps.append(y[:, None])
    torch.testing.assert_close(torch.cat(steps, dim=1), logits, rtol=0, atol=1e-11)


def test_the_account_of_a_wrapper_sums_its_runs(twice: None) -> None:
    body = "mamba (mh-attention mlp + test-twice[times=1]{hyena})"
    once, thrice = (
        account(text, vocab_size=7, dim=32, seq_len=9)
        for text in (body.replace("test-twice[times=1]{hyena}", "hyena"), f"test-twice[times=3]{{{body}}}")
    )
    assert once.state and thrice.state
    assert thrice.state == {kind: 3 * n for kind, n in once.state.items()}
    (wrapper,) = thrice.layers
    assert wrapper.flops == pytest.approx(3 * sum(layer.flops for layer in once.layers))


def test_a_wrapper_inside_a_wrapper_adds_to_the_stream_once(twice: None) -> None:
    one = "test-twice[times=1, gain=1]"
    plain, nested = (
        build(text, vocab_size=7, dim=32, max_len=9, seed=0).double()
        for text in ("mlp", f"{one}{{{one}{{mlp}}}}")
    )
    for a, b in zip(nested.parameters(), plain.parameters(), strict=True):
        a.data.copy_(b.data)
    tokens = torch.arange(14).view(2, 7) % 7
    torch.testing.assert_close(nested(tokens), plain(tokens), rtol=0, atol=1e-12)


def test_the_test_wrapper_is_seen_by_no_other_test() -> None:
    assert "test-twice" not in architectures.names()


def test_the_examples_in_the_docstrings_are_true() -> None:
    result = doctest.testmod(stripe)
    assert result.attempted >= 2 and result.failed == 0
