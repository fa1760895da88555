"""`mad show SPEC TASK`: whose curve is drawn, and what is said where there is none to draw."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from mad.board.curve import HEIGHT, Line, draw
from mad.data.protocol import SUITES, Setting
from mad.data.records import Point, Record
from mad.store import Store
from mad.store.asked import answer
from tests.commands import Command
from tests.mad.records import architecture, group

SMOKE = SUITES["smoke"]
COMPRESSION = next(setting for setting in SMOKE.settings if setting.task.startswith("compression"))
RECALL = SMOKE.settings[0]


def curved(at: Setting, *accuracies: float, **changes: Any) -> list[Record]:
    """A group whose runs rise to what they score."""
    made = []
    for run in group(at, *accuracies, **changes):
        assert run.metrics is not None
        end = run.config.steps
        curve = [
            Point(
                step=step,
                accuracy=run.metrics.test.micro * step / end if run.metrics.test else 0.5,
                loss=1.0,
                train_loss=1.0,
                lr=1e-3,
            )
            for step in (end // 2, end)
        ]
        made.append(
            run.model_copy(update={"metrics": run.metrics.model_copy(update={"curve": tuple(curve)})})
        )
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with Store(tmp_path / "store.sqlite") as store:
        store.commit(curved(COMPRESSION, 0.5, 0.75, given="mine=hyena swiglu"))
        store.commit(curved(COMPRESSION, 0.25, 0.125, seed=1))
        store.commit(curved(COMPRESSION, 0.5, 0.625, spec="2*(mamba swiglu)")[:1])
        evil = architecture("\x1b[2Jevil\u202e[red]x[/red] swiglu")
        store.commit(curved(COMPRESSION, 0.5, 0.25, who=evil, given="evil"))
        store.commit(group(RECALL, 0.5, 0.5))
    return tmp_path / "store.sqlite"


@pytest.fixture
def show(path: Path, cli: Command) -> Any:
    return lambda *words: cli("show", *words, "--store", path)


@pytest.mark.parametrize("name", ["mine", "hyena swiglu", "1*(hyena swiglu)", "mine=hyena swiglu"])
def test_the_curve_of_the_run_that_counts_is_drawn_with_those_of_its_grid(name: str, show: Any) -> None:
    status, out, err = show(name, "compression")
    assert status == 0, err
    assert out.splitlines()[0] == "mine = hyena swiglu, seed 0: validation accuracy in %"
    assert "of smoke@1" in out and ". chance 12.5   - ceiling 100.0" in out
    assert out.isascii() and max(map(len, out.splitlines())) <= 120
    plot = out.partition("chance")[0]
    assert "#" in plot and "a" in plot.partition("%")[2].partition("\n\n")[2]
    chosen, other = (line for line in out.splitlines() if line.endswith(" ok"))
    assert chosen[0] == "#" and " 0.002 " in chosen and " 75.0 " in chosen
    assert other[0] == "a" and " 50.0 " in other
    assert "# counts; seeds 0, 1 are there: --seed" in out


def test_another_seed_is_shown_where_it_is_asked_for(path: Path, show: Any) -> None:
    assert " 25.0 " in show("mine", "compression", "--seed", "1").out
    assert "seed 7 has no run there; choose from 0, 1" in show("mine", "compression", "--seed", "7").err
    assert answer("mine", COMPRESSION.task, suite="smoke", seed=1, store=path).seed == 1


def test_a_group_that_lacks_runs_has_none_that_counts(show: Any) -> None:
    status, out, _ = show("2*(mamba swiglu)", "compression")
    assert status == 0 and "runs of its grid are missing, so that none counts yet" in out
    assert "#" not in out


def test_runs_without_evaluations_have_no_curve(show: Any) -> None:
    status, out, _ = show("hyena swiglu", "in-context-recall")
    assert status == 0 and "there is no curve" in out and "# counts" in out


def test_text_of_records_is_shown_as_text(show: Any) -> None:
    status, out, _ = show("evil", "compression")
    assert status == 0 and out.isascii() and "\x1b" not in out and "?[2Jevil?[red]x[/red] swiglu" in out


def test_what_comes_with_the_package_counts_where_the_store_lacks_it(
    path: Path, show: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cli: Command
) -> None:
    from mad.store import reference
    from mad.store.exchange import export_records

    (tmp_path / "packaged").mkdir()
    with Store(tmp_path / "theirs.sqlite") as theirs:
        theirs.commit(curved(COMPRESSION, 0.5, 0.625, spec="2*(mamba swiglu)"))
        export_records(theirs, tmp_path / "packaged" / "smoke.jsonl")
    monkeypatch.setattr(reference, "FOLDER", tmp_path / "packaged")
    out = show("2*(mamba swiglu)", "compression").out
    assert " 62.5 " in out and " 50.0 " in out and "# counts" in out
    monkeypatch.setenv("MAD_STORE", str(tmp_path / "none.sqlite"))
    assert "# counts" in cli("show", "2*(mamba swiglu)", "compression").out
    assert not (tmp_path / "none.sqlite").exists()


def test_several_suites_are_asked_about(path: Path, show: Any) -> None:
    quick = next(at for at in SUITES["quick@1"].settings if at.task.startswith("compression"))
    with Store(path) as store:
        store.commit(curved(quick, 0.5, who=architecture(dim=64)))
    status, _, err = show("hyena swiglu", "compression")
    assert status == 2 and "has runs of compression in" in err and "choose one with --suite" in err
    assert "quick@1" in err and "smoke@1" in err
    assert "of smoke@1" in show("hyena swiglu", "compression", "--suite", "smoke").out
    assert "of quick@1" in show("hyena swiglu", "compression", "--suite", "quick@1").out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mamba it's", "compression"], "make it: mad bench 'mamba it'\"'\"'s' --suite quick"),
        (["mamba", "compression", "--suite", "smoke"], "make it: mad bench mamba --suite smoke --tasks"),
        (["mamba", "compression", "--protocol", "public-code"], "--protocol public-code"),
        (["mamba", "compresion"], "no suite has the task 'compresion'; did you mean 'compression'?"),
        (["mamba", "compression[seq_len=77]"], "give its name alone, or the options as they are"),
        (["mamba", "compression", "--suite", "smok"], "unknown suite 'smok'"),
        (["mamba", "compression", "--protocol", "loud"], "unknown protocol 'loud'"),
        (["mamba", "--suite", "smoke"], "--suite and --seed are those of a task; say which"),
    ],
)
def test_what_cannot_be_shown_is_one_line(words: list[str], message: str, show: Any) -> None:
    status, out, err = show(*words)
    assert (status, out) == (2, "") and message in err and len(err.splitlines()) == 1


def test_the_command_that_is_suggested_makes_what_lacks(show: Any, cli: Command) -> None:
    words = ["mlp", "compression", "--suite", "smoke"]
    command = shlex.split(show(*words).err.partition("make it: ")[2])
    assert command[0] == "mad" and cli(*command[1:], "--dry-run").status == 0


def test_an_id_has_its_task(path: Path, show: Any) -> None:
    with Store(path, read_only=True) as store:
        id = store.records()[0].id
    assert "is a run, which has its task; leave 'compression' out" in show(id, "compression").err


def plot(*lines: Line, steps: int = 10, width: int = 40) -> list[str]:
    return [row.plain for row in draw(lines, steps=steps, chance=0.0, ceiling=1.0, width=width)]


def test_a_curve_goes_from_its_first_point_to_its_last() -> None:
    rows = plot(Line("#", "red", [(1, 0.25), (10, 0.75)]))
    columns = [row.find("#") for row in rows if "#" in row]
    assert columns == sorted(columns, reverse=True), "it rises"
    assert rows[HEIGHT // 4].rstrip().endswith("#") and len(rows[HEIGHT // 4]) == 39
    assert rows[0].startswith(" 100 |---") and set(rows[HEIGHT][6:]) == {"."}


@pytest.mark.parametrize("points", [[], [(10, 1.0)], [(2**53, 0.0)], [(1, 0.0), (2, 1.0), (3, 0.0)]])
@pytest.mark.parametrize("width", [1, 40, 300])
def test_odd_curves_stay_inside(points: list[tuple[int, float]], width: int) -> None:
    steps = max((step for step, _ in points), default=1)
    rows = plot(Line("#", "red", points), steps=steps, width=width)
    assert len(rows) == HEIGHT + 3 and max(map(len, rows)) <= max(width, 40)
