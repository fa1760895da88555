"""Suites of one's own: files that are read back, mistakes that are found, contents that do not mix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mad
from mad.data.protocol import SUITES, Setting, Suite, get_suite
from mad.data.suite_files import write
from mad.store import Store
from tests.commands import Command
from tests.mad.records import group

MINE = """
name = "mine"
dim = 32

[budget]
train_examples = 32
epochs = 1
batch_size = 16
lrs = [1e-3]
weight_decays = [0.0]
validation_examples = 16
test_examples = 16

[[settings]]
task = "compression[seq_len=8]"

[[settings]]
task = "in-context-recall[vocab_size=8, seq_len=16]"
epochs = 2
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "mine.toml").write_text(MINE)
    return tmp_path / "mine.toml"


def test_a_setting_has_the_budget_and_what_it_says_otherwise(file: Path) -> None:
    suite = Suite.read(file)
    assert (suite.name, suite.version, suite.about, suite.dim, suite.seeds) == ("mine", 1, "", 32, 1)
    assert [setting.epochs for setting in suite.settings] == [1, 2]
    assert {setting.train_examples for setting in suite.settings} == {32}
    assert suite == get_suite(str(file)) == get_suite(file)


@pytest.mark.parametrize("label", SUITES)
def test_every_suite_reads_back_equal(label: str, tmp_path: Path, cli: Command) -> None:
    said = cli("suites", label, "--format", "toml")
    (tmp_path / "again.toml").write_text(said.out)
    again = Suite.read(tmp_path / "again.toml")
    assert said.status == 0 and again == SUITES[label] and again.label == label


AXES = st.lists(st.floats(0, 1e3), min_size=1, max_size=3, unique=True).map(tuple)
COUNTS = st.integers(1, 10**6)


@st.composite
def suites(draw: st.DrawFn) -> Suite:
    rows = []
    for length in draw(st.lists(st.integers(2, 500), min_size=1, max_size=5, unique=True)):
        counts: dict[str, Any] = {
            name: draw(COUNTS) for name in ("train_examples", "epochs", "batch_size", "evaluations")
        }
        axes: dict[str, Any] = {"lrs": draw(AXES), "weight_decays": draw(AXES)}
        rows.append(Setting(task=f"compression[seq_len={length}]", **counts, **axes))
    about = draw(st.text(st.characters(codec="utf-8")))
    return Suite(name="a.B-c_9", version=draw(COUNTS), about=about, dim=8, seeds=2, settings=tuple(rows))


@settings(max_examples=20)
@given(suites())
def test_any_suite_reads_back_equal(suite: Suite) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "any.toml"
        path.write_bytes(write(suite).encode())
        assert Suite.read(path) == suite


WRONG = {
    'name = "mine"': [
        ('name = "mine', "line 2: not TOML: Illegal character '\\n'; mend it"),
        ('name = "a/b"', "line 2: name = 'a/b' is refused; write a name of letters"),
        ("name = 3", "line 2: name = 3 is refused"),
        ("", ': name is missing; write name = "mine"'),
        ('nam = "mine"', "line 2: unknown key 'nam'; did you mean 'name'?"),
        ('name = "mine"\nversion = 0', "line 3: version = 0 is refused; write a whole number from 1"),
        ('name = "mine"\nseeds = true', "line 3: seeds = True is refused"),
        (
            'name = "mine"\nabout = 2026-01-01',
            "line 3: about = datetime.date(2026, 1, 1) is refused; write a text",
        ),
    ],
    "dim = 32": [
        ("dim = 32.0", "line 3: dim = 32.0 is refused"),
        ("dim = 99999999999999999999", "is refused"),
    ],
    "epochs = 1": [
        ("epochs = 0", "line 7: epochs = 0 is refused"),
        ('epochs = "1"', "line 7: epochs = '1' is refused"),
        ("", "line 14, setting 1: epochs is missing; write epochs = 2 there, or under [budget] for all"),
        ('task = "x"', "line 7: unknown key 'task'"),
    ],
    "lrs = [1e-3]": [
        ("lrs = 1e-3", "line 9: lrs = 0.001 is refused; write a list of different numbers"),
        ("lrs = []", "line 9: lrs = [] is refused"),
        ("lrs = [1e-3, 2e-3, 0.001]", "line 9: lrs = [0.001, 0.002, 0.001] is refused"),
        ("lrs = [1, 1.0]", "line 9: lrs = [1, 1.0] is refused"),
        ("lrs = [-1e-3]", "line 9: lrs = [-0.001] is refused"),
        ("lrs = [inf]", "line 9: lrs = [inf] is refused"),
        ("lrs = [nan]", "line 9: lrs = [nan] is refused"),
        ('lrs = ["a"]', "line 9: lrs = ['a'] is refused"),
    ],
    "epochs = 2": [
        ("epochs = 2.5", "line 19, setting 2: epochs = 2.5 is refused"),
        ("epoch = 2", "line 19, setting 2: unknown key 'epoch'; did you mean 'epochs'?"),
        ("'epochs' = -1", "line 19, setting 2: epochs = -1 is refused"),
    ],
    '"compression[seq_len=8]"': [
        ('"compresion"', "line 15, setting 1: unknown task 'compresion'; did you mean 'compression'?"),
        ('"compression[seq_len=1]"', "line 15, setting 1: compression: seq_len=1 is refused"),
        ('""', "line 15, setting 1: task = '' is refused"),
        ('"no_such_module:Task"', "line 15, setting 1: no_such_module:Task: there is no module"),
        ('"__main__:Task"', "setting 1: __main__:Task lies in the program itself, where no other"),
        ('"math:pi"', "setting 1: math:pi is not a task but float; name a class that derives from"),
    ],
    '"in-context-recall[vocab_size=8, seq_len=16]"\nepochs = 2': [
        ('"compression[ seq_len=8 ]"', "line 18, setting 2: it is setting 1 again"),
        ('"compression[seq_len=8, variant=public]"', "line 18, setting 2: it is setting 1 again"),
        ('"compression[seq_len=8]"\nlrs = [3e-3]', "line 18, setting 2: it is setting 1 again"),
    ],
    "[budget]": [("[budgets]", "line 5: unknown key 'budgets'; did you mean 'budget'?")],
}
CASES = [(old, new, answer) for old, many in WRONG.items() for new, answer in many]


@pytest.mark.parametrize(("old", "new", "answer"), CASES, ids=[new or f"no {old}" for old, new, _ in CASES])
def test_what_is_wrong_is_said_with_its_place(
    old: str, new: str, answer: str, file: Path, cli: Command
) -> None:
    assert old in MINE
    file.write_text(MINE.replace(old, new))
    said = cli("suites", file)
    assert said.status == 2 and said.out == "" and len(said.err.splitlines()) == 1
    assert said.err.startswith(f"mad: {file}")
    assert answer in said.err


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('name = "a"\ndim = 2', " has no settings; add a line [[settings]]"),
        (
            'name = "a"\ndim = 2\n[settings]\ntask = "x"',
            ": settings = {'task': 'x'} is refused; write a list",
        ),
        ('name = "a"\ndim = 2\nbudget = 3\nsettings = []', ", line 3: budget = 3 is refused; write a table"),
        ('settings = [{task = "compression"}]', ", setting 1: train_examples is missing"),
        (f"a = {'[' * 9000}", " is not TOML: it is nested too deeply"),
        (f"a = {'9' * 9000}", " is not TOML: Exceeds the limit"),
        ('name = "a"\nname = "b"', ", line 2: not TOML: Cannot overwrite a value"),
        ("", " has no settings"),
    ],
)
def test_what_is_no_suite_at_all_is_said(text: str, answer: str, file: Path) -> None:
    file.write_text(text)
    with pytest.raises(ValueError) as refusal:
        Suite.read(file)
    assert str(refusal.value).startswith(f"{file}{answer}")


def test_no_line_is_told_where_it_could_be_a_wrong_one(file: Path) -> None:
    text = MINE.replace('name = "mine"', 'name = "mine"\nabout = """\n[[settings]]\nepochs = 3\n"""')
    file.write_text(text.replace("epochs = 2", "epochs = 0"))
    with pytest.raises(ValueError, match="toml, setting 2: epochs = 0 is refused"):
        Suite.read(file)


def test_a_suite_in_python_is_refused_alike(file: Path) -> None:
    suite = Suite.read(file)
    once = (suite.settings[0].model_copy(update={"task": "x"}),)
    refused: list[tuple[Any, str]] = [
        (suite.settings * 2, r"suite mine@1, setting 3 \(compression\[seq_len=8\]\): it is setting 1 again"),
        (once, r"suite mine@1, setting 1 \(x\): unknown task 'x'"),
    ]
    for changed, answer in refused:
        with pytest.raises(ValueError, match=answer):
            get_suite(suite.model_copy(update={"settings": changed}))
    fields: dict[str, Any] = dict(suite)
    for name, wrong in {"settings": (), "name": "", "seeds": 0}.items():
        with pytest.raises(ValueError, match=name):
            Suite(**fields | {name: wrong})
    with pytest.raises(ValueError, match="0.001 is given twice; give each point of the grid once"):
        Setting(**dict(suite.settings[0]) | {"lrs": (1e-3, 1e-3)})


def test_a_name_is_a_label_and_the_content_decides(file: Path, tmp_path: Path) -> None:
    suite = Suite.read(file)
    other = suite.model_copy(update={"settings": suite.settings[:1]})
    assert suite.label.startswith("mine@1+") and suite.label != other.label
    assert suite.label == suite.model_copy(update={"about": "the same"}).label
    assert SUITES["quick"].model_copy(update={"dim": 16}).label.startswith("quick@1+")
    store = tmp_path / "store.sqlite"
    with Store(store) as opened:
        for at in suite.settings:
            opened.commit(group(at, 0.5))
    file.write_text(other.toml())  # The file of one name holds another suite by now.
    for asked, tasks in ((suite, 2), (file, 1), (str(file), 1), (suite, 2)):
        assert mad.leaderboard(suite=asked, store=store)["missing"].tolist() == [""]
        assert len(mad.api.scores_of(suite=asked, store=store).tasks) == tasks


@pytest.mark.slow
def test_a_file_is_read_once_and_not_needed_by_workers(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    whole = Suite.read

    def once(path: str | Path) -> Suite:
        read.append(str(path))
        suite = whole(path)
        Path(path).unlink()
        return suite

    monkeypatch.setattr(Suite, "read", once)
    table = mad.bench(
        "mlp", suite=str(file), store=tmp_path / "s.sqlite", device="cpu", engine="process", workers=1
    )
    assert read == [str(file)] and table["missing"].tolist() == [""] and not file.exists()


def test_every_command_that_names_a_suite_takes_a_file(file: Path, tmp_path: Path, cli: Command) -> None:
    store = ("--store", tmp_path / "store.sqlite")
    Store(store[1]).close()
    assert "protocol sound, with --suite as here" in cli("leaderboard", "--suite", file, *store).out
    assert cli("bench", "mlp", "--suite", file, "--device", "cpu", *store).status == 0
    board = cli("leaderboard", "--suite", file, "--format", "csv", *store)
    assert "\n1,mlp," in board.out
    tracks = ("--track", "csv", "--track-dir", tmp_path / "tracks")
    told = cli("track", "push", store[1], "--suite", file, *tracks)
    assert told.status == 0 and told.out.startswith("2 runs of ")
    assert cli("bench", "mlp", "--suite", file, "--dry-run", *store).out.count("compression[seq_len=8]") == 1
    for name in ("mine", "mine@1", Suite.read(file).label):
        assert cli("runs", "--suite", name, "--format", "csv", *store).out.count("\n") == 3
    shown = cli("suites", file)
    assert "mine@1+" in shown.out and "2 runs with 6 steps" in shown.out
    assert cli("sparsify", "mlp", "--shares", "0.5", "--suite", file, "--device", "cpu").status == 0


def test_suites_are_listed_with_their_versions(cli: Command) -> None:
    said = cli("suites")
    assert said.status == 0 and all(f"{label} " in said.out for label in SUITES)
    assert cli("suites", "--format", "toml").err.startswith("mad: --format toml writes one suite; name it")
    assert cli("suites", "quick", "--format", "yaml").err == "mad: format 'yaml' is not one of table, toml\n"
    shown = cli("suites", "baseline").out
    assert "0.0001, 0.0005, 0.001" in shown and "40 evaluations on 1,280 validation rows" in shown


def test_versions_of_a_suite_live_side_by_side(monkeypatch: pytest.MonkeyPatch, cli: Command) -> None:
    from mad.data import protocol

    newer = SUITES["quick"].model_copy(update={"version": 10, "dim": 32})
    older = newer.model_copy(update={"version": 9})
    both = protocol._Suites(SUITES | {"quick@10": newer, "quick@9": older})
    monkeypatch.setattr(protocol, "SUITES", both)
    assert get_suite("quick") is newer and get_suite("quick@10") is newer and get_suite("quick@9") is older
    assert get_suite("quick@1") is SUITES["quick@1"]
    assert newer.label == "quick@10"
    assert "which has quick@1, quick@9, quick@10; choose one" in cli("bench", "mlp", "--suite", "quick@2").err
    for name in ("quick@1.0", "quick@01", "@1", ""):
        with pytest.raises(ValueError, match="unknown suite|is not in this release"):
            get_suite(name)
