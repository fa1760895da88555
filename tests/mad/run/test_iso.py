"""`--iso`: architectures brought to equal sizes before they are trained."""

import pytest

import architectures
from architectures.sizes.solving import TOLERANCE
from mad.data.protocol import get_protocol, get_suite
from mad.run.iso import equalise, read_goals
from mad.run.sweep import plan

SUITE, PROTOCOL = get_suite("smoke"), get_protocol("sound")


def test_goals_are_read_from_words_and_mappings() -> None:
    assert read_goals("state=4096") == {"state": 4096.0}
    assert read_goals("state=4_096, params=2e5") == {"state": 4096.0, "params": 200_000.0}
    assert read_goals({"total-state": 100}) == {"total-state": 100.0}
    assert read_goals(None) == {}


@pytest.mark.parametrize(
    "iso, message",
    [
        ("stat=1", "'stat'; did you mean 'state'"),
        ("state", "is not a number; give one such as state=4096"),
        ("", "names no goal"),
        ("params=many", "params='many' is not a number"),
    ],
)
def test_what_is_no_goal_is_refused(iso: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_goals(iso)


def test_every_architecture_of_a_sweep_is_brought_to_the_goals() -> None:
    cells = plan(["mamba", "2*(delta-net swiglu)"], SUITE, PROTOCOL, iso={"state": 2048.0})
    specs = {cell.architecture.given: cell.architecture.config.spec for cell in cells}
    assert len(specs) == 2
    for given, spec in specs.items():
        assert given == spec != "mamba", "what was resized is not shown under the name that was typed"
        counted = architectures.account(spec, vocab_size=16, dim=SUITE.dim, seq_len=16)
        assert counted.nominal == 2048


def test_an_architecture_that_is_there_already_keeps_its_name_and_identity() -> None:
    nominal = architectures.account("mamba", vocab_size=8, dim=SUITE.dim, seq_len=16).nominal
    assert nominal is not None
    plain = plan(["mamba"], SUITE, PROTOCOL)
    same = plan(["mamba"], SUITE, PROTOCOL, iso={"state": float(nominal)})
    assert [c.groups()[0].id for c in same] == [c.groups()[0].id for c in plain]
    assert same[0].architecture.given == "mamba"


def test_params_are_solved_at_the_width_of_the_suite() -> None:
    spec = equalise(architectures.parse("transformer++"), {"params": 30_000.0}, SUITE, PROTOCOL)
    counted = architectures.account(spec, vocab_size=8, dim=SUITE.dim, seq_len=16)
    assert abs(counted.core / 30_000 - 1) <= TOLERANCE


def factory(task: object) -> object:
    raise AssertionError("never built")


def test_a_factory_has_sizes_of_its_own() -> None:
    with pytest.raises(ValueError, match="whole models, whose sizes cannot be turned"):
        plan([factory], SUITE, PROTOCOL, iso={"state": 2048.0})
    with pytest.raises(ValueError, match="grows with the sequence"):
        plan(["transformer++"], SUITE, PROTOCOL, iso={"state": 2048.0})
