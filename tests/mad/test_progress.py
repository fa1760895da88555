"""What a person sees while a sweep runs."""

import io

import pytest
from rich.console import Console

import mad.progress
from mad.data.protocol import get_protocol, get_suite
from mad.progress import Display, clock
from mad.run.cost import estimate, work
from mad.run.place import find_place
from mad.run.sweep import Group, plan
from mad.run.trainer import Progress
from mad.score.selection import choose
from tests.mad.records import record, setting


def groups() -> list[Group]:
    cells = plan(["swiglu"], get_suite("smoke"), get_protocol("sound"), tasks=["compression", "memorization"])
    return [group for cell in cells for group in cell.groups()]


def test_plain_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(mad.progress.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    first, second = groups()
    with Display(2, lambda group: 1.0, Console(file=out, width=40)) as display:
        display.planned([first, second])
        display.report(first, Progress(1, 8, 0, 2))
        assert out.getvalue() == "", "nothing in the first minute"
        now[0] = 61.0
        display.report(first, Progress(4, 8, 0, 2, 0.25))
        display.report(first, Progress(5, 8, 0, 2, 0.25))
        display.ended(first, [])
        display.ended(second, [])
    lines = out.getvalue().splitlines()
    assert len(lines) == 3 and "\x1b" not in out.getvalue()
    assert "step 4/8, best 0.250" in lines[0]
    assert lines[1].startswith("[1/2] swiglu on compression") and "61 s left" in lines[1]
    assert lines[2].startswith("[2/2]") and "left" not in lines[2]


def test_a_line_names_the_run_that_the_board_chooses() -> None:
    at = setting("compression[vocab_size=8, seq_len=8]")
    # Equal on validation rows: the lower validation loss decides, on the board and here.
    runs = [record(at, 1e-3, test=0.25, validation=0.5, loss=2.0)]
    runs.append(record(at, 2e-3, test=0.75, validation=0.5, loss=1.0))
    chosen = choose({(run.config.lr, 0.0): run for run in runs}, at, get_protocol("sound"))
    out = io.StringIO()
    first, second = groups()
    with Display(2, lambda group: 1.0, Console(file=out, width=120)) as display:
        display.planned([first, second])
        display.ended(first, runs)
    assert chosen is not None and chosen.value == 0.75 and "0.750 on test (lr 0.002)" in out.getvalue()


def test_a_bar_with_time_left_on_a_terminal() -> None:
    out = io.StringIO()
    first, second = groups()
    console = Console(file=out, width=120, force_terminal=True)
    with Display(2, lambda group: 1.0, console) as display:
        display.planned([first, second])
        display.last = -1.0
        display.report(first, Progress(8, 8, 0, 2, 0.5))
        assert display.bar is not None and display.bar.tasks[0].completed == 1.0
        assert "step 8/8, best 0.500" in display.bar.tasks[0].description
        display.last = -1.0
        display.report(first, Progress(2, 8, 1, 2, 0.5))
        assert display.bar.tasks[0].completed == 1.0, "the bar never goes back"
        display.ended(first, [])
    assert "left" in out.getvalue() and "[1/2]" in out.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0 s"), (45, "45 s"), (300, "5 min"), (9000, "2.5 h"), (22_500_720, "6,250 h")]
)
def test_time_as_people_say_it(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_the_estimate_counts_runs_and_steps_and_scales_with_the_work() -> None:
    few = groups()
    found = estimate(few, find_place("cpu"))
    assert (found.groups, found.runs, found.steps) == (2, 4, 32) and found.seconds > 0
    by_name = {group.cell.task.name: work(group.cell) for group in few}
    assert by_name["memorization"] != by_name["compression"] and min(by_name.values()) > 0
