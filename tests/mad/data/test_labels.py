"""Labels: what is one, what is refused with which remedy, and that what was typed can be typed again."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from architectures.grammar.presets import PRESETS
from mad.data.labels import label_of, may_be_label, meanings, read
from mad.data.protocol import PROTOCOLS, SUITES
from mad.run.iso import equalise
from mad.run.sweep import Architecture, plan, resolve
from scaling.study.layout import plan as scaling_plan

SOUND = PROTOCOLS["sound"]


@pytest.mark.parametrize(
    ("text", "label", "spec"),
    [
        ("mine=2*(mamba swiglu)", "mine", "2*(mamba swiglu)"),
        (" mine = mlp ", "mine", "mlp"),
        ("My.own_2+x-y=mamba[d_state=4] swiglu", "My.own_2+x-y", "mamba[d_state=4] swiglu"),
        ("größe=mlp", "größe", "mlp"),
        ("a=module:Class", "a", "module:Class"),
        ("a=b=c", "a", "b=c"),
        ("mamba[d_state=4] swiglu", "", "mamba[d_state=4] swiglu"),
        ("(mamba[d_state=4] + mlp) swiglu", "", "(mamba[d_state=4] + mlp) swiglu"),
        ("altup[k=2]{mamba[d_state=4]}", "", "altup[k=2]{mamba[d_state=4]}"),
        ("reversible{mlp[inner=8]}", "", "reversible{mlp[inner=8]}"),
        ("mlp", "", "mlp"),
        ("", "", ""),
        ("x" * 60 + "=mlp", "x" * 60, "mlp"),
    ],
)
def test_a_label_stands_before_the_first_equals_sign_outside_of_brackets(
    text: str, label: str, spec: str
) -> None:
    assert read(text) == (label, spec)
    assert label_of(text) == label and meanings(text)[-1] == spec


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("=mlp", "label '' is not a word"),
        ("mamba d_state=4", "label 'mamba d_state' .* write mamba-d_state=.*brackets: mamba.d_state=8"),
        ("my layer=mlp", "write my-layer=..."),
        ("2x=mlp", "begins with a letter.*; write x=..."),
        ("-x=mlp", "write x=..."),
        ("_=mlp", "write mine=..."),
        ("a:b=mlp", "write a-b=..."),
        ("a\x1b[2Jb=mlp", "unexpected|not part of the grammar"),
        ("a\x1bb=mlp", r"label 'a\?b' is not a word"),
        ("a\u200bb=mlp", r"label 'a\?b'"),
        ("a\u3164=mlp", r"label 'a\?'"),
        ("a\u202eb=mlp", r"label 'a\?b'"),
        ("x" * 61 + "=mlp", "at most 60"),
        ("mamba=2*mlp", "label 'mamba' is taken: mamba is a .*; choose one such as 'my-mamba'"),
        ("SwiGLU=2*mlp", "label 'SwiGLU' is taken: swiglu is a layer; choose one such as 'my-SwiGLU'"),
        ("Terraformer=2*mlp", "terraformer is a preset"),
        ("decade=mlp", "reads as the id of a run; choose one such as 'my-decade'"),
        ("mine=", "label 'mine' has no architecture .*; write mine=SPEC"),
        ("mine=  ", "label 'mine' has no architecture"),
        ("mine=mambo", "mamba"),
        ("a=b=mlp", "unexpected '='|unknown layer"),
    ],
)
def test_a_wrong_label_is_refused_with_what_to_write(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        resolve(text, dim=32, protocol=SOUND)
    assert "\x1b" not in str(caught.value)


def test_labels_are_the_same_in_a_scaling_study() -> None:
    from scaling.lm.corpus import load

    corpus = load("grammar[vocab_size=32]").config
    for text in ("mamba=2*mlp", "my layer=mlp", "x="):
        with pytest.raises(ValueError, match="label '"):
            scaling_plan([text], budgets=[1e10, 3e10, 1e11], corpus=corpus, seq_len=32, lr=1e-3)


def test_what_a_record_of_others_calls_a_label_is_none() -> None:
    for given in ("a\x1bb=mlp", "a b=mlp", "=mlp", "x" * 99 + "=mlp", "a\u3164=mlp"):
        assert label_of(given) == ""


def test_a_label_by_itself_is_a_word_that_is_no_name() -> None:
    assert [text for text in ("mine", " a.b ", "größe") if may_be_label(text)] == ["mine", " a.b ", "größe"]
    assert not any(
        map(may_be_label, ["mamba", "Mamba", "terraformer", "2*mlp", "a b", "", "abcdef12", "m:C"])
    )


def same(one: Architecture, other: Architecture) -> bool:
    return one.config == other.config and one.given == other.given and one.label == other.label


TYPED = [
    "mlp",
    "2*( mamba   swiglu )",
    "mamba[d_state=16] swiglu",
    "altup[k=2]{hyena swiglu}",
    "(mamba[d_state=4] + attention) swiglu",
    "labels_mod:Layer mlp",
    "labels_mod:make",
    *PRESETS,
]


@pytest.mark.parametrize("label", ["", "mine="])
@pytest.mark.parametrize("text", TYPED)
def test_what_was_typed_can_be_typed_again(text: str, label: str, own: Path) -> None:
    first = resolve(label + text, dim=32, protocol=SOUND)
    assert first.given == label + text
    assert first.label == label.rstrip("=")
    assert same(resolve(first.given, dim=32, protocol=SOUND), first)
    assert first.config == resolve(text, dim=32, protocol=SOUND).config, "a label is no identity"


CODE = """
from torch import nn

class Layer(nn.Linear):
    def __init__(self, dim):
        super().__init__(dim, dim)

def make(task):
    return nn.Embedding(task.vocab_size, task.vocab_size)

class Models:
    @staticmethod
    def make(task):
        return make(task)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "labels_mod.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "labels_mod", raising=False)
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [
        "mine=2*(mamba swiglu)",
        "2*(hyena swiglu)",
        "mine=terraformer",
        "llama",
        "[tied=true, norm=layer] 2*(mh-attention swiglu)",
        "striped-mamba-50",
    ],
)
def test_what_was_resized_can_be_typed_again_without_the_sizes(text: str) -> None:
    smoke = SUITES["smoke"]
    goals = {"params": 200_000.0}
    resized = resolve(
        text,
        dim=smoke.dim,
        protocol=SOUND,
        equalise=lambda spec: equalise(spec, goals, suite=smoke, protocol=SOUND),
    )
    assert resized.config.spec != resolve(text, dim=smoke.dim, protocol=SOUND).config.spec
    assert same(resolve(resized.given, dim=smoke.dim, protocol=SOUND), resized)


def test_a_factory_that_is_handed_over_can_be_typed_next_time(own: Path) -> None:
    module = importlib.import_module("labels_mod")
    for factory in (module.make, module.Models.make):
        first = resolve(factory, dim=32, protocol=SOUND)
        assert first.stored and same(resolve(first.given, dim=32, protocol=SOUND), first)


def test_a_label_names_one_architecture_in_a_call_and_the_last_one_counts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def given(*specs: str) -> list[str]:
        cells = plan(list(specs), SUITES["smoke"], SOUND, tasks=["compression"])
        return [cell.architecture.given for cell in cells]

    assert given("a=mlp", "swiglu", "b=mlp mlp") == ["a=mlp", "swiglu", "b=mlp mlp"]
    assert given("mlp", "a=1*mlp", "mlp", "a=mlp") == ["a=mlp"] and not caplog.messages
    assert given("a=mlp", "b=1*mlp") == ["b=1*mlp"]
    assert caplog.messages == ["mad: 'a=mlp' and 'b=1*mlp' are one architecture: it runs once, as 'b'"]
    with pytest.raises(
        ValueError, match="label 'a' is given to two architectures, mlp and swiglu; give each"
    ):
        given("a=mlp", "mlp mlp", "a=swiglu")
