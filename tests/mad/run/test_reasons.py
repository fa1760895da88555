"""Why a group runs though the store knows its architecture: one line, whatever it is that differs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mad.data.outline import Outline
from mad.data.protocol import PROTOCOLS, SUITES, Setting
from mad.data.records import ArchitectureConfig, Record
from mad.run.reasons import lacking, reasons
from mad.run.sweep import Group, plan
from mad.store import Store, outlines
from tests.commands import Command
from tests.mad.records import record

SMOKE = SUITES["smoke"]
SOUND = PROTOCOLS["sound"]


def groups(text: str = "mine=2*(mamba swiglu)", **changes: Any) -> list[Group]:
    wanted = {"tasks": ["compression", "memorization"], **changes}
    cells = plan([text], wanted.pop("suite", SMOKE), wanted.pop("protocol", SOUND), **wanted)
    return [group for cell in cells for group in cell.groups()]


def made(group: Group, /, **changes: Any) -> list[Record]:
    """Records of a group, or of one that differs from it."""
    cell = group.cell
    settings: Setting = changes.pop("at", cell.setting)
    fixed: dict[str, Any] = {
        "who": cell.architecture.config,
        "given": cell.architecture.given,
        "seed": group.seed,
        "protocol": cell.protocol,
        "group": group.id,
        **changes,
    }
    return [record(settings, lr, weight_decay=wd, **fixed) for lr, wd in settings.grid]


def who(config: ArchitectureConfig, **changes: Any) -> dict[str, Any]:
    return {"who": config.model_copy(update=changes)}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store.sqlite") as opened:
        yield opened


def config() -> ArchitectureConfig:
    return groups()[0].cell.architecture.config


OLD = "2*(mamba swiglu)"
DIFFERS: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "a layer's version": (
        lambda: who(config(), versions={"mamba": 7, "swiglu": config().versions["swiglu"]}),
        f"mamba is version {config().versions['mamba']}, it was 7 (2 groups)",
    ),
    "width": (lambda: who(config(), dim=16), f"width is {SMOKE.dim}, it was 16 (2 groups)"),
    "options": (lambda: who(config(), options={"tied": True}), "tied is the default, it was True (2 groups)"),
    "precision": (
        lambda: {"precision": "bf16-mixed"},
        "precision is 32-true, it was bf16-mixed (2 groups)",
    ),
    "compile": (lambda: {"compile": True}, "compile is False, it was True (2 groups)"),
    "label": (
        lambda: who(config(), spec="mamba", versions={"mamba": 1}),
        "the label stood for mamba (2 groups)",
    ),
    "seed": (lambda: {"seed": 5}, "seed 0 is new (2 groups)"),
    "failed": (lambda: {"status": "failed"}, "2 runs failed (2 groups)"),
    "interrupted": (lambda: {"status": "interrupted"}, "2 runs did not end (2 groups)"),
    "stopped": (
        lambda: {"status": "stopped", "group": "another"},
        "2 runs stopped when a point of another grid was solved (2 groups)",
    ),
}


@pytest.mark.parametrize("what", DIFFERS)
def test_what_differs_is_said_in_one_line(what: str, store: Store) -> None:
    changes, words = DIFFERS[what]
    asked = groups()
    for group in asked:
        store.commit(made(group, **changes()))
    wanted, lines = lacking(asked, store.path)
    assert wanted == asked and lines == [f"mine={OLD} was run before, but {words}"]


CODE = """
from torch import nn

class Layer(nn.Linear):
    def __init__(self, dim):
        super().__init__(dim, dim)
"""


def test_code_that_changed_is_named(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "reasons_mod.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    asked = groups("mine=reasons_mod:Layer swiglu")
    now = asked[0].cell.architecture.config
    other = {"sources": {"reasons_mod:Layer": "beef" * 16}}
    for group in asked:
        store.commit(made(group, **who(now, **other), given="reasons_mod:Layer swiglu"))
    said = (
        f"the code of reasons_mod:Layer changed (beef, now {now.sources['reasons_mod:Layer'][:4]}) (2 groups)"
    )
    assert reasons(asked, store) == [f"mine=reasons_mod:Layer swiglu was run before, but {said}"]
    # The nearest of several is named.
    store.commit(made(asked[0], **who(now, **other, dim=16)))
    assert said in reasons(asked, store)[0]


ASKED: dict[str, tuple[dict[str, Any], str]] = {
    "examples": ({"at": {"train_examples": 128}}, "train_examples is 64, it was 128 (1 group)"),
    "task": ({"at": {"task": "compression[vocab_size=8, seq_len=16]"}}, "seq_len is 8, it was 16 (1 group)"),
    "lr": ({"at": {"lrs": (0.5,)}}, "its grid is new in lr 0.001, 0.002 (1 group)"),
    "decay": ({"at": {"weight_decays": (0.5,)}}, "its grid is new in weight decay 0 (1 group)"),
    "protocol": (
        {"protocol": PROTOCOLS["public-code"]},
        "the protocol is sound@1, it was public-code@1 (1 group)",
    ),
}


@pytest.mark.parametrize("what", ASKED)
def test_what_is_asked_in_another_way_is_said(what: str, store: Store) -> None:
    changes, words = ASKED[what]
    (group,) = asked = groups(tasks=["compression"])
    if "at" in changes:
        changes = {"at": group.cell.setting.model_copy(update=changes["at"])}
    else:
        changes |= {"who": groups(**changes)[0].cell.architecture.config}
    store.commit(made(group, **changes))
    assert reasons(asked, store) == [f"mine={OLD} was run before, but {words}"]


def test_a_version_of_a_task_is_said(store: Store) -> None:
    (group,) = asked = groups(tasks=["compression"])
    for run in made(group):
        older = run.config.model_copy(update={"task": run.config.task | {"version": 0}})
        store.commit([run.model_copy(update={"config": older, "id": older.id})])
    words = f"task compression is version {group.cell.task.version}, it was 0 (1 group)"
    assert reasons(asked, store) == [f"mine={OLD} was run before, but {words}"]


def test_several_reasons_are_counted_and_what_is_new_has_none(store: Store) -> None:
    asked = groups(seeds=3)
    of_seed = {seed: [group for group in asked if group.seed == seed] for seed in range(3)}
    store.commit(made(of_seed[0][0]))
    store.commit(made(of_seed[0][1], status="failed"))
    wanted, lines = lacking(asked, store.path)
    assert wanted == [group for group in asked if group is not of_seed[0][0]]
    assert lines == [f"mine={OLD} was run before, but seeds 1, 2 are new (4 groups); 2 runs failed (1 group)"]
    assert lacking(groups("hyena mlp"), store.path)[1] == []
    assert lacking(of_seed[0][:1], store.path) == ([], [])


def test_no_store_and_an_empty_file_have_no_reasons(tmp_path: Path) -> None:
    asked = groups()
    assert lacking(asked, tmp_path / "none.sqlite") == (asked, [])
    (tmp_path / "empty.sqlite").touch()
    assert lacking(asked, tmp_path / "empty.sqlite") == (asked, [])


def test_other_runs_of_the_store_are_not_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = groups(seeds=2)
    for group in [*asked[:1], *groups("hyena", tasks=["selective-copying"])]:
        store.commit(made(group))
    read: list[str] = []
    whole = outlines.believed

    def believed(line: outlines.Line, *rest: Any) -> Outline | None:
        read.append(line.id)
        return whole(line, *rest)

    monkeypatch.setattr(outlines, "believed", believed)
    assert "seed 1 is new" in reasons(asked[1:], store)[0]
    assert len(read) == len(asked[0].runs)


def test_the_command_says_it_before_a_run_and_in_the_plan(tmp_path: Path, cli: Command) -> None:
    words = ["a=mlp", "--suite", "smoke", "--tasks", "compression", "--device", "cpu"]
    words += ["--store", str(tmp_path / "s.sqlite")]
    (tmp_path / "s.sqlite").touch()
    first = cli("bench", *words)
    assert first.status == 0 and "run before" not in first.err
    again = cli("bench", *words, "--seeds", "2", "--dry-run")
    assert again.out.rstrip().endswith("a=mlp was run before, but seed 1 is new (1 group)")
    assert "a=mlp was run before, but seed 1 is new (1 group)\n" in cli("bench", *words, "--seeds", "2").err
    assert "run before" not in cli("bench", *words, "--seeds", "2").err
