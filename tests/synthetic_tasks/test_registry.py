from dataclasses import dataclass, fields, replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import synthetic_tasks
from synthetic_tasks import Batch, Task, get, names, parse, registry, task


@dataclass(frozen=True, kw_only=True)
class Echo(Task):
    """The smallest task: say the token that stands there."""

    vocab_size: int = 4
    seq_len: int = 8
    chance = 0.25

    def sample(self, rng: np.random.Generator, n: int, *, split: str = "test") -> Batch:
        inputs = rng.integers(self.vocab_size, size=(n, self.seq_len))
        return Batch(inputs, inputs)

    def solve(self, inputs: np.ndarray) -> np.ndarray:
        return inputs


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> dict[str, type[Task]]:
    """A copy of the registry that the test may spoil."""
    names()
    copy = dict(registry._tasks)
    monkeypatch.setattr(registry, "_tasks", copy)
    return copy


@st.composite
def tasks(draw: st.DrawFn) -> Task:
    """Any task with some options changed, one at a time, where the change is allowed."""
    chosen = get(draw(st.sampled_from(names())))
    hints = get_type_hints(type(chosen))
    for field in draw(st.lists(st.sampled_from(fields(chosen)), max_size=4)):
        hint = hints[field.name]
        if get_origin(hint) is Literal:
            values = st.sampled_from(get_args(hint))
        else:
            values = {
                int: st.integers(1, 300),
                bool: st.booleans(),
                float: st.floats(0, 1, exclude_max=True),
            }[hint]
        try:
            chosen = replace(chosen, **{field.name: draw(values)})
        except ValueError as refusal:
            assert "is refused" in str(refusal)
    return chosen


def test_the_six_tasks_of_the_battery_are_listed_in_order() -> None:
    recalls = {"in-context-recall", "noisy-in-context-recall", "fuzzy-in-context-recall"}
    assert {*recalls, "selective-copying", "compression", "memorization"} <= set(names())
    assert list(names()) == sorted(names())
    assert all(get(name).name == name for name in names())


@given(tasks())
def test_parse_reads_what_str_writes(chosen: Task) -> None:
    assert parse(str(chosen)) == chosen
    assert str(parse(str(chosen))) == str(chosen)
    assert parse(str(chosen)).content_hash == chosen.content_hash


def test_the_canonical_spelling_names_only_what_differs() -> None:
    assert str(get("in-context-recall")) == "in-context-recall"
    assert str(get("in-context-recall", seq_len=64, vocab_size=16)) == "in-context-recall[seq_len=64]"
    chosen = parse(
        " noisy-in-context-recall [ multi_query = false , frac_noise=4e-1,train_targets=answers ] "
    )
    assert str(chosen) == "noisy-in-context-recall[train_targets=answers,frac_noise=0.4,multi_query=false]"


@pytest.mark.parametrize(
    ("text", "caret", "message"),
    [
        ("", 0, "expected the name of a task"),
        ("[seq_len=4]", 0, "expected the name of a task"),
        ("in-context-recal", 0, "unknown task 'in-context-recal'; did you mean 'in-context-recall'?"),
        ("in-context-recall(seq_len=4)", 17, "expected '[' or the end"),
        ("in-context-recall[]", 18, "expected the name of an option"),
        (
            "in-context-recall[seqlen=4]",
            18,
            "unknown option of in-context-recall 'seqlen'; did you mean 'seq_len'?",
        ),
        ("in-context-recall[seq_len]", 25, "expected '='"),
        ("in-context-recall[seq_len=]", 26, "expected a value"),
        ("in-context-recall[seq_len=4x]", 26, "expected a number, true, false or a word"),
        ("in-context-recall[seq_len=64", 28, "expected ',' or ']'"),
        ("in-context-recall[seq_len=64,]", 29, "expected the name of an option"),
        ("in-context-recall[seq_len=64] x", 30, "expected the end"),
        ("in-context-recall[seq_len=64, seq_len=32]", 30, "seq_len is given twice"),
    ],
)
def test_a_malformed_spelling_is_shown_with_a_caret(text: str, caret: int, message: str) -> None:
    with pytest.raises(ValueError) as refusal:
        parse(text)
    first, shown, mark = str(refusal.value).split("\n")
    assert first.startswith(message)
    assert shown == f"  {text}" and mark == "  " + " " * caret + "^"


@pytest.mark.parametrize("value", ["64.0", "true", "sixty-four", "-64", "1e400"])
def test_a_spelled_value_is_checked_like_any_other(value: str) -> None:
    with pytest.raises(ValueError, match="in-context-recall: seq_len=.* is refused"):
        parse(f"in-context-recall[seq_len={value}]")


def test_unknown_names_and_options_are_answered_with_the_nearest() -> None:
    with pytest.raises(
        ValueError, match="unknown task 'memorisation'; did you mean 'memorization'. Available: compr"
    ):
        get("memorisation")
    with pytest.raises(ValueError, match="unknown task 'zzz'; Available: "):
        get("zzz")
    with pytest.raises(
        ValueError, match="option of compression 'vocabsize'; did you mean 'vocab_size'. Available: "
    ):
        get("compression", vocabsize=16)


def test_a_task_of_ones_own_is_registered_by_the_decorator(scratch: dict[str, type[Task]]) -> None:
    assert task("echo", version=3)(Echo) is Echo
    assert "echo" in names()
    echo = parse("echo[seq_len=5]")
    assert (echo.name, echo.version, str(echo)) == ("echo", 3, "echo[seq_len=5]")
    assert echo.draw(0, "train", 2).inputs.shape == (2, 5)
    assert echo.content()["version"] == 3
    task("echo", version=4)(Echo)  # the same class again, as when its module is reloaded


def test_a_version_changes_the_stream(scratch: dict[str, type[Task]]) -> None:
    task("echo", version=1)(Echo)
    old = get("echo")
    before, drawn = old.content_hash, old.draw(0, "test", 3).inputs
    task("echo", version=2)(Echo)
    assert get("echo").content_hash != before
    assert not np.array_equal(get("echo").draw(0, "test", 3).inputs, drawn)


def test_what_cannot_be_a_task_is_refused(scratch: dict[str, type[Task]]) -> None:
    class Bare(Echo):
        pass

    @dataclass(frozen=True, kw_only=True)
    class Needy(Echo):
        depth: int

    @dataclass(frozen=True, kw_only=True)
    class Lengthy(Echo):
        lengths: tuple[int, ...] = ()

    before = set(scratch)
    with pytest.raises(
        ValueError, match="'compression': the name is taken by synthetic_tasks.compression.Compression"
    ):
        task("compression", version=1)(Echo)
    with pytest.raises(ValueError, match="is not a Task; derive it from Task"):
        task("number", version=1)(int)  # type: ignore[type-var]
    with pytest.raises(ValueError, match="is not a dataclass"):
        task("bare", version=1)(Bare)
    with pytest.raises(ValueError, match="give depth a default"):
        task("needy", version=1)(Needy)
    with pytest.raises(ValueError, match="annotate lengths as"):
        task("lengthy", version=1)(Lengthy)
    with pytest.raises(ValueError, match="lower-case words"):
        task("Echo_Task", version=1)(Echo)
    with pytest.raises(ValueError, match="version 0"):
        task("echo", version=0)(Echo)
    assert set(scratch) == before == set(synthetic_tasks.names())


def announce(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    entry = EntryPoint(name="theirs", value=value, group="mad.tasks")
    monkeypatch.setattr(registry, "entry_points", lambda *, group: [entry] if group == "mad.tasks" else [])
    registry._discover.cache_clear()


def test_entry_points_are_loaded_when_names_are_needed(
    scratch: dict[str, type[Task]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = """
from dataclasses import dataclass
from synthetic_tasks import task
from synthetic_tasks.compression import Compression

@task("their-task", version=1)
@dataclass(frozen=True, kw_only=True)
class Theirs(Compression):
    seq_len: int = 16
"""
    (tmp_path / "their_tasks.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    announce(monkeypatch, "their_tasks:Theirs")
    assert "their-task" in names()
    assert get("their-task").seq_len == 16
    assert get("compression").name == "compression"


def test_an_entry_point_that_fails_is_named(
    scratch: dict[str, type[Task]], monkeypatch: pytest.MonkeyPatch
) -> None:
    announce(monkeypatch, "no_such_module:nothing")
    for look_up in (names, lambda: get("compression"), lambda: parse("compression")):
        with pytest.raises(
            ValueError, match="entry point 'theirs' = 'no_such_module:nothing' .* ModuleNotFoundError"
        ):
            look_up()
