"""The registry: names, variants, typed options, discovery, and layers of the user's own."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import architectures
from architectures import registry
from architectures.grammar import index
from architectures.outside.identity import code_hash
from architectures.primitive import Primitive, option
from architectures.registry import get, primitive, variant

LAYERS = '''
from dataclasses import dataclass

import torch
from torch import nn

from architectures.primitive import Primitive, option


class Gain(Primitive):
    """y = gain * x."""

    mixes = "channel"
    version = 3

    @dataclass(frozen=True, kw_only=True)
    class Config:
        gain: float = option(2.0, "a factor")
        bias: bool = option(False, "add one")

    def forward(self, x, ctx=None):
        return self.config.gain * x + self.config.bias

    def flops(self, length):
        return length * self.dim


class Loose(Primitive):
    @dataclass
    class Config:
        gain: float = 2.0


class Plain(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.map = nn.Linear(dim, dim, bias=False)

    def forward(self, x):
        return self.map(x)


class Optional(nn.Module):
    def __init__(self, dim, max_len, width: int = 12, scale: "float | None" = None, note=(), known=[1]):
        super().__init__()
        self.seen = (dim, max_len, width, scale, note, known)
        self.up = nn.Linear(dim, width)
        self.down = nn.Linear(width, dim)

    def forward(self, x):
        return self.down(self.up(x))


class Attentive(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.map = nn.Linear(dim, 3 * dim, bias=False)

    def forward(self, x):
        q, k, v = self.map(x)[:, None].chunk(3, dim=-1)
        return nn.functional.scaled_dot_product_attention(q, k, v)[:, 0]


class Bare(nn.Module):
    def forward(self, x):
        return 2 * x


class Demanding(nn.Module):
    def __init__(self, dim, rank):
        super().__init__()


class Odd(nn.Module):
    """Its annotation cannot be resolved when the program runs."""

    def __init__(self, dim, size: "Missing" = 3):
        super().__init__()
        self.size = size

    def forward(self, x):
        return x[:, :, :-1] if self.size == 3 else (x, None)


layer = Bare()


def build(dim):
    return Bare()


class Number(int):
    pass
'''


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> dict[str, registry.Entry]:
    """A copy of the registry that the test may spoil."""
    architectures.names()
    copy = dict(registry._entries)
    monkeypatch.setattr(registry, "_entries", copy)
    return copy


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], Path]]:
    """Writes modules into a folder of the search path; they are forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)

    def write(name: str, text: str) -> Path:
        file = tmp_path.joinpath(*name.split(".")).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    yield write
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def layers(module: Callable[[str, str], Path]) -> Path:
    return module("mine.layers_of_mine", LAYERS)


def one(text: str, dim: int = 16) -> Any:
    (_, layer), *_ = architectures.build(text, vocab_size=5, dim=dim, max_len=9, seed=0).layers()
    return layer


@dataclass(frozen=True, kw_only=True)
class Fine:
    size: int = option(1, "a size")


def make(name: str = "Fresh", config: type = Fine) -> type[Primitive]:
    return type(name, (Primitive,), {"Config": config, "__module__": __name__})


def test_the_shipped_names_are_listed_in_order() -> None:
    names = architectures.names()
    assert names == sorted(set(names))
    assert {"attention", "mh-attention", "hyena", "mamba", "mlp", "swiglu", "linear-attention"} <= set(names)
    for name in names:
        entry = get(name)
        assert entry.name == name and entry.mixes in registry.MIXES and entry.version >= 1
        assert entry.source == "" and entry.cls.__module__.startswith("architectures.primitives.")


@pytest.mark.parametrize(
    ("name", "nearest"), [("mambba", "mamba"), ("mh_attention", "mh-attention"), ("swi-glu", "swiglu")]
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(
        ValueError, match=f"unknown primitive '{name}'; did you mean '{nearest}'.; available: "
    ):
        get(name)


def test_a_name_like_no_other_is_answered_with_all_of_them() -> None:
    with pytest.raises(ValueError) as caught:
        get("xyzzy")
    assert "did you mean" not in str(caught.value)
    # All of them would be a page: the first, how many more, and the command that lists them.
    names = architectures.names()
    assert f"available: {', '.join(names[:12])} and {len(names) - 12} more" in str(caught.value)
    assert "`mad primitives`" in str(caught.value)
    assert registry.unknown("xyzzy", ["b", "a"]) == "'xyzzy'; available: a, b"


def test_a_name_that_is_taken_is_refused(scratch: dict[str, registry.Entry]) -> None:
    before = dict(scratch)
    with pytest.raises(ValueError, match="'mamba' is already registered by architectures.primitives.mamba"):
        primitive("mamba", mixes="time")(make())
    with pytest.raises(ValueError, match="already registered"):
        primitive("mamba", mixes="time")(make("Mamba"))  # the same class name in another module
    with pytest.raises(ValueError, match="already registered"):
        variant("mamba", of="mlp")
    with pytest.raises(ValueError, match="already registered"):
        variant("mh-attention", of="attention", heads=4)
    assert scratch == before


def test_a_refused_class_keeps_its_attributes(scratch: dict[str, registry.Entry]) -> None:
    cls = make()
    with pytest.raises(ValueError):
        primitive("mamba", mixes="channel", version=9)(cls)
    assert (cls.name, cls.mixes, cls.version) == ("", "time", 1)


def test_a_module_that_is_loaded_again_replaces_its_own_entries(scratch: dict[str, registry.Entry]) -> None:
    first, second = make(), make()
    primitive("test-fresh", mixes="time")(first)
    primitive("test-fresh", mixes="time", version=2)(second)
    assert get("test-fresh").cls is second and get("test-fresh").version == 2
    variant("mh-attention", of="attention", heads=None)


def test_only_a_primitive_with_a_frozen_config_is_registered(scratch: dict[str, registry.Entry]) -> None:
    with pytest.raises(TypeError, match="not a subclass of architectures.Primitive"):
        primitive("test-fresh", mixes="time")(torch.nn.Linear)  # type: ignore[type-var]
    with pytest.raises(TypeError, match="not a subclass"):
        primitive("test-fresh", mixes="time")(lambda x: x)  # type: ignore[type-var]

    @dataclass
    class Thawed:
        size: int = 1

    class Bare:
        size: int = 1

    @dataclass(frozen=True, kw_only=True)
    class Twice:
        inner: int = option(1, sizes="params")
        width: int = option(1, sizes="params")

    @dataclass(frozen=True, kw_only=True)
    class Unchecked:
        size: int = option(1, "s", least=1)

    with pytest.raises(TypeError, match="says the least size, which only .*Options checks"):
        primitive("test-fresh", mixes="time")(make(config=Unchecked))
    with pytest.raises(TypeError, match="Fresh.Config has several options with sizes=params; leave one"):
        primitive("test-fresh", mixes="time")(make(config=Twice))
    for config in (Thawed, Bare):
        with pytest.raises(TypeError, match="Fresh.Config must be a frozen dataclass"):
            primitive("test-fresh", mixes="time")(make(config=config))
    with pytest.raises(
        ValueError, match="mixes='space' of primitive 'test-fresh' is not one of time, channel, stream"
    ):
        primitive("test-fresh", mixes="space")
    assert "test-fresh" not in scratch


@pytest.mark.parametrize(
    "name", ["", "Fresh", "test_fresh", "test fresh", "test-", "-test", "2test", "a+b", "a:b"]
)
def test_only_a_name_that_the_grammar_reads_is_registered(
    name: str, scratch: dict[str, registry.Entry]
) -> None:
    with pytest.raises(ValueError, match="is not in kebab-case"):
        primitive(name, mixes="time")(make())
    with pytest.raises(ValueError, match="is not in kebab-case"):
        variant(name, of="mlp")


def test_a_layer_from_elsewhere_carries_the_hash_of_its_file(scratch: dict[str, registry.Entry]) -> None:
    cls = make()
    primitive("test-fresh", mixes="time")(cls)
    assert get("test-fresh").source == code_hash(cls) != ""
    assert cls.name == "test-fresh"


def test_a_variant_changes_defaults_and_nothing_else(scratch: dict[str, registry.Entry]) -> None:
    assert get("attention").config({}).heads == 1 and get("attention").config({}).window is None
    assert get("mh-attention").config({}).heads is None
    both = get("mh-sliding-attention").config({})
    assert (both.heads, both.window) == (None, 32)
    assert get("mh-sliding-attention").config({"window": 5}).window == 5
    assert get("mh-attention").cls is get("attention").cls
    variant("test-wide", of="mlp", version=4, paper="arXiv:1234.56789", inner=7)
    entry, base = get("test-wide"), get("mlp")
    assert (entry.version, entry.paper, entry.example) == (4, "arXiv:1234.56789", "test-wide")
    assert (entry.mixes, entry.cls) == (base.mixes, base.cls) and base.config({}).inner is None
    assert entry.changed({"inner": 7}) == () and entry.changed({"inner": None}) == (("inner", None),)


def test_what_a_layer_should_show_is_said_by_its_name_or_else_its_class(
    scratch: dict[str, registry.Entry],
) -> None:
    class Claimed(Primitive):
        """x.

        Differs from the paper: it is none.

        Hypothesis: recalls
        nothing.
        """

    primitive("test-claimed", mixes="channel", known_as="nothing")(Claimed)
    variant("test-louder", of="test-claimed", hypothesis="Recalls less.", known_as="less")
    variant("test-alike", of="test-claimed")
    said = {name: (get(name).hypothesis, get(name).known_as) for name in ("test-claimed", "test-louder")}
    assert said == {"test-claimed": ("recalls nothing.", "nothing"), "test-louder": ("Recalls less.", "less")}
    assert (get("test-alike").hypothesis, get("test-alike").known_as) == ("recalls nothing.", "")
    assert get("mlp").hypothesis == "" and get("gqa").known_as and not get("mh-attention").known_as


def test_a_variant_of_nothing_or_with_a_wrong_default_is_refused(scratch: dict[str, registry.Entry]) -> None:
    with pytest.raises(
        ValueError, match="variant 'test-wide' is of an unknown primitive 'mpl'; did you mean 'mlp'"
    ):
        variant("test-wide", of="mpl")
    with pytest.raises(ValueError, match="mlp has no option 'iner'; did you mean 'inner'"):
        variant("test-wide", of="mlp", iner=7)
    with pytest.raises(ValueError, match="expected an integer or none"):
        variant("test-wide", of="mlp", inner="seven")
    with pytest.raises(ValueError, match="inner=0 must be at least 1"):
        variant("test-wide", of="mlp", inner=0)


def test_options_are_typed() -> None:
    entry = get("attention")
    assert entry.changed({"rope": False, "heads": 4}) == (("heads", 4), ("rope", False)), (
        "in the order of the fields"
    )
    cases: list[tuple[dict[str, Any], str]] = [
        ({"heads": 2.0}, "attention.heads.=2.0 is refused; expected an integer or none"),
        ({"heads": True}, "=true is refused; expected an integer or none"),
        ({"rope": 1}, "expected true or false"),
        ({"rope": None}, "=none is refused; expected true or false"),
        ({"ropes": True}, "did you mean 'rope'.; available: bias, canon, conv, gate, group, heads"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message):
            entry.config(options)


def test_names_of_before_serve_layers_of_the_users() -> None:
    class Older(Primitive):
        @dataclass(frozen=True, kw_only=True)
        class Config:
            inner: int = option(4, "a width", scales="width", sets="params")

        def flops(self, length: int) -> int:
            return 3

        def executed(self, length: int) -> int:
            return 5

        def unseen(self, length: int) -> int:
            return 2

    layer = Older(Older.Config(), dim=8, max_len=8)
    assert (layer.flops(1), layer.executed_flops(1), layer.uncounted_flops(1)) == (3, 5, 2)
    (field,) = dataclasses.fields(Older.Config)
    assert field.metadata["per"] == "width" and field.metadata["sizes"] == "params"
    twice = {"unseen": Older.unseen, "uncounted_flops": Older.unseen}
    with pytest.raises(TypeError, match="by its old name, unseen; leave unseen out"):
        type("Both", (Older,), twice)


def test_a_layer_without_options_says_so(scratch: dict[str, registry.Entry]) -> None:
    primitive("test-fresh", mixes="time")(make(config=Primitive.Config))
    with pytest.raises(ValueError, match="test-fresh has no option 'size'; it takes no options"):
        get("test-fresh").config({"size": 1})


def test_an_integer_for_a_number_is_the_number(layers: Path) -> None:
    gain = get("mine.layers_of_mine:Gain")
    assert gain.changed({"gain": 2}) == () and gain.changed({"gain": 3}) == (("gain", 3.0),)
    plain = get("mine.layers_of_mine:Optional")
    assert str(plain.changed({"scale": 3})) == "(('scale', 3.0),)"


def test_a_primitive_of_the_users_own(layers: Path) -> None:
    name = "mine.layers_of_mine:Gain"
    entry = get(name)
    assert (entry.mixes, entry.version, entry.name) == ("channel", 3, name)
    spec = architectures.parse(f"2*{name}[gain=3] mlp")
    assert str(spec) == f"2*{name}[gain=3.0] mlp" and architectures.parse(str(spec)) == spec
    x = torch.randn(2, 3, 16)
    assert torch.equal(one(f"{name}[gain=3, bias=true]")(x), 3 * x + 1)
    with pytest.raises(ValueError, match="has no option 'gian'; did you mean 'gain'"):
        architectures.parse(f"{name}[gian=3]")
    with pytest.raises(ValueError, match="expected a number"):
        architectures.parse(f"{name}[gain=big]")
    model = architectures.build(f"{name} mlp", vocab_size=5, dim=16, max_len=9, seed=0)
    tokens = torch.arange(4)[None]
    torch.testing.assert_close(model.prefill(tokens, model.init_state(1))[0], model(tokens))


def test_a_primitive_whose_config_is_not_frozen_is_refused(layers: Path) -> None:
    with pytest.raises(
        ValueError, match="mine.layers_of_mine:Loose: Loose.Config must be a frozen dataclass"
    ):
        get("mine.layers_of_mine:Loose")


def test_a_plain_module_with_a_width(layers: Path) -> None:
    name = "mine.layers_of_mine:Plain"
    assert get(name).mixes == "time" and str(architectures.parse(name)) == name
    model = architectures.build(f"{name} mlp", vocab_size=5, dim=16, max_len=9, seed=0)
    assert model(torch.zeros(2, 7, dtype=torch.int64)).shape == (2, 7, 5)
    layer: Any = model.layers()[0][1]
    assert isinstance(layer.module.map, torch.nn.Linear)
    assert layer.flops(6) == 2 * 6 * 16 * 16
    with pytest.raises(ValueError, match="the state of Plain is unknown.*subclass architectures.Primitive"):
        model.init_state(1)
    with pytest.raises(ValueError, match="has no option 'dim'; it takes no options"):
        architectures.parse(f"{name}[dim=3]")
    assert get(name).cls is get(name).cls
    same = architectures.build(f"{name} mlp", vocab_size=5, dim=16, max_len=9, seed=0)
    assert torch.equal(same.get_parameter("blocks.0.layer.module.map.weight"), layer.module.map.weight), (
        "the seed decides"
    )


def test_a_plain_module_with_options(layers: Path) -> None:
    name = "mine.layers_of_mine:Optional"
    assert one(name).module.seen == (16, 9, 12, None, (), [1])
    assert one(f"{name}[width=3, scale=2]").module.seen == (16, 9, 3, 2.0, (), [1])
    assert str(architectures.parse(f"{name}[width=12]")) == name
    for text, message in [
        ("[width=2.5]", "expected an integer"),
        ("[width=none]", "expected an integer"),
        ("[scale=big]", "expected a number or none"),
        ("[max_len=3]", "has no option 'max_len'"),
        ("[known=3]", "has no option 'known'"),
        ("[widht=3]", "did you mean 'width'"),
    ]:
        with pytest.raises(ValueError, match=message):
            architectures.parse(name + text)


def test_a_plain_module_without_a_constructor(layers: Path) -> None:
    x = torch.randn(2, 3, 16)
    layer = one("mine.layers_of_mine:Bare")
    assert torch.equal(layer(x), 2 * x) and layer.flops(4) == 0


def test_fused_attention_in_a_plain_module_is_not_free(layers: Path) -> None:
    name = "mine.layers_of_mine:Attentive"
    expected = 6 * 9 * 16 * 16 + 4 * 9 * 9 * 16
    assert one(name).flops(9) == expected
    assert architectures.account(name, vocab_size=5, dim=16, seq_len=9).layers[0].flops == expected / 9


def test_a_required_argument_is_spelled_or_refused(layers: Path) -> None:
    with pytest.raises(ValueError, match=r"needs the argument 'rank', .* write .*:Demanding\[rank=\.\.\.\]"):
        architectures.parse("mlp mine.layers_of_mine:Demanding")
    spec = architectures.parse("torch.nn:Linear[out_features=16, in_features=16]")
    assert (
        str(spec) == "torch.nn:Linear[in_features=16, out_features=16]" == str(architectures.parse(str(spec)))
    )
    model = architectures.build(spec, vocab_size=5, dim=16, max_len=9, seed=0)
    assert model(torch.zeros(2, 3, dtype=torch.int64)).shape == (2, 3, 5)


def test_a_wrong_shape_is_refused_with_the_shapes(layers: Path) -> None:
    for text, got in [("", r"\(2, 3, 15\)"), ("[size=4]", "tuple")]:
        model = architectures.build(f"mine.layers_of_mine:Odd{text}", vocab_size=5, dim=16, max_len=9, seed=0)
        with pytest.raises(ValueError, match=rf"Odd returned {got} for an input \(2, 3, 16\); a layer maps"):
            model(torch.zeros(2, 3, dtype=torch.int64))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine.layers_of_mine:layer", "is a Bare, not a class"),
        ("mine.layers_of_mine:build", "is a function, not a class; .*whole models is for `mad bench`"),
        ("mine.layers_of_mine:Number", "is the class Number; name a Primitive or an nn.Module class"),
        ("mine.layers_of_mine:Plane", "module mine.layers_of_mine has no 'Plane'; did you mean 'Plain'"),
        ("mine.layers_of_yours:Plain", "there is no module mine.layers_of_yours; run from the folder"),
        ("mine.layers_of_mine.deeper:Plain", "there is no module mine.layers_of_mine.deeper"),
        ("yours:Plain", "there is no module yours; run from the folder"),
    ],
)
def test_what_is_no_layer_is_named(name: str, message: str, layers: Path) -> None:
    with pytest.raises(ValueError, match=message):
        get(name)
    with pytest.raises(architectures.SpecError, match=message) as caught:
        architectures.parse(f"mlp {name}")
    assert str(caught.value).endswith(f"\n  mlp {name}\n      ^")


def test_a_module_that_cannot_be_imported_is_named(module: Callable[[str, str], Path]) -> None:
    module("needs_more", "import no_such_package_anywhere\n")
    module("needs", "import needs_more_of_it\n")
    module("broken", "def f(:\n")
    module("raises", "1 / 0\n")
    for name, message in [
        ("needs_more:X", "module needs_more needs no_such_package_anywhere, which is not installed"),
        ("needs:X", "module needs needs needs_more_of_it, which is not installed"),
        ("broken:X", "module broken cannot be imported: SyntaxError"),
        ("raises:X", "module raises cannot be imported: ZeroDivisionError: division by zero; repair it"),
    ]:
        with pytest.raises(ValueError, match=message):
            get(name)


def test_the_current_directory_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "layer_in_the_folder.py").write_text(LAYERS)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    assert get("layer_in_the_folder:Gain").version == 3
    del sys.modules["layer_in_the_folder"]


def test_the_hash_of_the_source_follows_the_file(layers: Path) -> None:
    before = {name: get(f"mine.layers_of_mine:{name}").source for name in ("Gain", "Plain")}
    assert set(map(len, before.values())) == {64}
    assert {get("mine.layers_of_mine:Plain").source} == set(before.values()), "one file, one hash"
    layers.write_text(LAYERS + "changed = 1\n")
    importlib.reload(sys.modules["mine.layers_of_mine"])
    after = {name: get(f"mine.layers_of_mine:{name}").source for name in before}
    assert all(after[name] != before[name] for name in before)


def test_a_class_without_a_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    cls = type("Nowhere", (), {"__module__": "no_such_module_anywhere"})
    with pytest.raises(ValueError, match="Nowhere is not defined in a file.*put it in a module"):
        code_hash(cls)


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Pretends that packages with these entry points are installed."""
    architectures.names()

    def install(**values: str) -> None:
        found = [importlib.metadata.EntryPoint(n, v, "mad.primitives") for n, v in values.items()]
        monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: found)
        registry._discover.cache_clear()

    yield install
    monkeypatch.undo()
    registry._discover.cache_clear()


def test_a_broken_entry_point_is_named(
    points: Callable[..., None], scratch: dict[str, registry.Entry]
) -> None:
    points(theirs="no_such_package_anywhere.layers")
    for _ in range(2):
        with pytest.raises(ValueError) as caught:
            architectures.names()
        for word in ("'theirs'", "mad.primitives", "no_such_package_anywhere.layers", "repair or uninstall"):
            assert word in str(caught.value)
    with pytest.raises(ValueError, match="theirs"):
        architectures.parse("mlp")


def test_an_entry_point_adds_its_layers(
    points: Callable[..., None], scratch: dict[str, registry.Entry], module: Callable[[str, str], Path]
) -> None:
    register = "from architectures.registry import primitive\nprimitive('test-gain', mixes='channel')(Gain)\n"
    module("package_of_theirs", LAYERS + register)
    points(theirs="package_of_theirs")
    assert "test-gain" in architectures.names() and len(get("test-gain").source) == 64
    assert str(architectures.parse("2*test-gain[gain=2]")) == "2*test-gain"


def run(code: str) -> str:
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


def test_importing_the_package_loads_no_torch() -> None:
    code = (
        "import sys, architectures; dir(architectures); print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    assert run(code) == "False False"


def test_public_names_are_resolved_and_others_refused() -> None:
    for name in architectures.__all__:
        assert getattr(architectures, name).__name__ == name or name == "State"
    with pytest.raises(AttributeError, match="module 'architectures' has no attribute 'xyzzy'"):
        _ = architectures.xyzzy
    assert sorted(architectures._HOMES) == sorted(architectures.__all__) == sorted(dir(architectures))


@pytest.mark.parametrize("name", architectures.names())
def test_a_variant_of_another_form_states_its_own_equation(name: str) -> None:
    """Sizes leave the equation as it is; anything else that a variant changes must be seen in the tables."""
    entry = registry.get(name)
    changed = set(entry.defaults) - {"heads", "k"}
    assert bool(changed) == bool(entry.equation)
    if entry.equation:
        own = (entry.cls.__doc__ or "").partition("\n")[0]
        (row,) = [row for row in index.read() if row["name"] == name]
        assert row["summary"] == entry.equation and not own.startswith(entry.equation)


def test_every_layer_says_what_kind_it_is() -> None:
    rows = index.read()
    assert {row["kind"] for row in rows} == set(index.KINDS)
    may = {"channel": ("mlp", "experts"), "stream": ("wrapper",), "time": index.KINDS}
    assert all(row["kind"] in may[row["mixes"]] for row in rows)
