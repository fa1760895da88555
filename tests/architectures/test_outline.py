import sys

import pytest

import architectures
from architectures.grammar.outline import SpecError, depth, outline
from architectures.grammar.presets import PRESETS

SPECS = [preset.spec for preset in PRESETS.values()] + [
    "2*(hyena swiglu) mh-attention[heads=4, rope=false] swiglu",
    "2*repeat[times=2]{2*(mamba swiglu) (hyena + 2*mamba)} swiglu",
    "(mamba + (hyena + mh-attention) swiglu)",
    "2*(2*(mamba 3*swiglu))",
]


@pytest.mark.parametrize("spec", SPECS)
def test_the_outline_has_the_layers_that_parsing_finds(spec: str) -> None:
    parsed = architectures.parse(spec)
    assert depth(outline(spec)) == depth(outline(str(parsed))) == sum(1 for _ in parsed.walk())
    assert len(outline(str(parsed))) == len(parsed)
    assert outline(spec) == outline(f"1*({spec})")


def test_layers_of_anybody_are_told_apart_by_their_text_alone() -> None:
    assert outline("2*(this:Layer[a=1] swiglu)") == (("this:Layer[a=1]", ()), ("swiglu", ())) * 2
    assert depth(outline("1*antigravity:Wrap{no-such-layer swiglu}")) == 3
    assert not {"this", "antigravity"} & set(sys.modules)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "=cmd", "mamba)", "(mamba", "mamba{", "mamba[", "2*", "2mamba", "0*mamba", "*"),
        *(
            "1.5*mamba",
            "mamba + mamba",
            "(mamba +)",
            "mamba{}",
            "4097*mamba",
            "9999999999999*mamba",
            "\x1b[31m",
        ),
        *("64*(64*(mamba mamba))", "(" * 65 + "mamba" + ")" * 65, "(" * 30_000),
    ],
)
def test_what_is_not_a_spec_is_refused_at_once(text: str) -> None:
    with pytest.raises(SpecError, match="expected"):
        outline(text)
