"""The page's plots as files for papers: the same data, drawn by matplotlib in the house's look."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mad.board.look import HEAT
from mad.board.look.figures import (
    GREY,
    Look,
    band,
    finish,
    label_bottom,
    looks,
    name_points,
    panels,
    plain,
    save,
)
from mad.board.page.gather import gathered

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# A row or a board as `mad.board.page.payload` has it.
Row = dict[str, Any]
Board = dict[str, Any]

COSTS = {"state": "state elements", "params": "parameters", "flops": "forward FLOPs per token"}
# As on the page.
FAMILIES = {
    "attention": Look("#c8551b", "o", "-"),
    "recurrence": Look("#1f6fb2", "s", "-"),
    "convolution": Look("#1a8a6b", "^", "-"),
    "hybrid": Look("#7a4bb5", "D", "-"),
    "none": Look("#5d6670", "P", "-"),
    "own": Look("#171b21", "X", "-"),
}
ENDINGS = (".svg", ".pdf")
# Rows of the heat map and lines of a panel that can be told apart on paper.
MOST_ROWS, MOST_LINES = 40, 5


def leaderboard_figures(folder: str | Path, **asked: Any) -> list[Path]:
    """Write every plot of the board that was asked for, as SVG and PDF; equal boards make equal files.

    folder  is made where it is missing; files that are there are replaced
    asked   suite, protocol, store, reference and tasks, as in `leaderboard`

    Returns the SVG files. A ValueError says so where the board has no row.
    """
    content, _ = gathered(**asked, others=False)
    suite, protocol = content["asked"]
    board = next((b for b in content["boards"] if [b["suite"], b["protocol"]] == [suite, protocol]), None)
    if board is None:
        raise ValueError(f"no run of {suite} under {protocol} is stored, so there is nothing to draw")
    made = []
    for name, figure in drawn(board, content["steps"]):
        paths = [save(figure, Path(folder).expanduser() / f"{name}{ending}") for ending in ENDINGS]
        made.append(paths[0])
    return made


def drawn(board: Board, steps: Sequence[Sequence[int]]) -> Iterator[tuple[str, Figure]]:
    """The figures by name; `steps` are those of the payload's curves."""
    rows = [row for row in board["rows"] if row["mad"]]
    yield "board", heat_map(board)
    for cost, words in COSTS.items():
        if any(row["complete"] and row[cost] for row in rows):
            yield f"score-{cost}", tradeoff(board, cost, words)
    yield "learning", learning(board, steps)
    if any(len(task["settings"]) > 1 for task in board["tasks"]):
        yield from difficulty(board)


def heat_map(board: Board) -> Figure:
    """Scores by row and task as shares of what lies between chance and ceiling, with their values."""
    from matplotlib.colors import LinearSegmentedColormap

    rows, tasks = board["rows"][:MOST_ROWS], board["tasks"]
    figure, (axis,) = panels(1, 1, width=6.4, height=0.23 * len(rows) + 0.5, share_x="none", share_y="none")
    shares = [[_share(row["tasks"][i], task) for i, task in enumerate(tasks)] for row in rows]
    shown = LinearSegmentedColormap.from_list("heat", HEAT)
    axis.imshow(shares, aspect="auto", cmap=shown, vmin=0, vmax=1)
    for y, row in enumerate(rows):
        for x in range(len(tasks)):
            score = row["tasks"][x]
            text = "-" if score is None else f"{100 * score[0]:.1f}"
            axis.text(x, y, text, ha="center", va="center", fontsize=7.5)
    axis.set_xticks(range(len(tasks)), [task["heading"] for task in tasks])
    axis.set_yticks(range(len(rows)), [_named(row) for row in rows])
    axis.tick_params(length=0, labeltop=True, labelbottom=False)
    axis.grid(False)
    axis.spines[:].set_visible(False)
    return finish(figure, f"{board['suite']}: accuracy in %, coloured from chance to ceiling")


def tradeoff(board: Board, cost: str, words: str) -> Figure:
    """Score against one cost, with intervals and the Pareto front."""
    figure, (axis,) = panels(1, 1, width=5.6, height=3.6, log="x")
    rows = [row for row in board["rows"] if row["complete"] and row["mad"] and row[cost]]
    for family, look in FAMILIES.items():
        mine = [row for row in rows if row["family"] == family]
        if not mine:
            continue
        values = [100 * row["mad"][0] for row in mine]
        ends = [
            [100 * (row["mad"][0] - row["mad"][1]) for row in mine],
            [100 * (row["mad"][2] - row["mad"][0]) for row in mine],
        ]
        axis.errorbar(
            [row[cost] for row in mine],
            values,
            yerr=ends,
            fmt=look.marker,
            color=look.colour,
            markersize=5,
            linewidth=0.8,
            label=family,
        )
    front = pareto_front([(row[cost], row["mad"][0], row) for row in rows])
    axis.step(
        [at for at, *_ in front],
        [100 * value for _, value, _ in front],
        where="post",
        color=GREY,
        linestyle="--",
        linewidth=0.9,
    )
    axis.set(xlabel=words, ylabel="MAD score, %")
    axis.legend(frameon=False)
    name_points(
        axis, [(_named(row), at, 100 * value, FAMILIES[row["family"]].colour) for at, value, row in front]
    )
    return finish(figure, f"{board['suite']}: score against {words}; dashed: the Pareto front")


def pareto_front(points: Sequence[tuple[float, float, Row]]) -> list[tuple[float, float, Row]]:
    """The (cost, score, row) that no other has both less cost and more score than, by cost."""
    best, front = -1.0, []
    for cost, score, row in sorted(points, key=lambda point: (point[0], -point[1])):
        if score > best:
            best = score
            front.append((cost, score, row))
    return front


def learning(board: Board, steps: Sequence[Sequence[int]]) -> Figure:
    """Validation accuracy by training step of the first rows: the mean over seeds, and their range."""
    rows = [row for row in board["rows"] if row["mad"]][:MOST_LINES]
    shown = looks(row["key"] for row in rows)
    tasks = board["tasks"]
    columns = min(3, len(tasks))
    figure, axes = panels(-(-len(tasks) // columns), columns, width=2.4, height=1.9, share_x="none")
    for axis, task in zip(axes, tasks, strict=False):
        for row in rows:
            setting = row["settings"][task["first"]]
            if setting is None:
                continue
            curves = [dict(zip(steps[at], values, strict=True)) for *_, (at, values) in setting["groups"]]
            common = sorted(set.intersection(*map(set, curves)))
            parts = [[curve[step] / 100 for curve in curves] for step in common]
            look = shown[row["key"]]
            means = [sum(values) / len(values) for values in parts]
            band(
                axis,
                look,
                common,
                means,
                [min(values) for values in parts],
                [max(values) for values in parts],
            )
            axis.lines[-1].set_label(_named(row))
        axis.set_title(task["heading"], loc="left", fontsize=9)
        axis.set_ylim(0, 102)
    for axis in axes[len(tasks) :]:
        axis.set_visible(False)
    label_bottom(axes[: len(tasks)], columns, "training step")
    axes[0].set_ylabel("validation accuracy, %")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return finish(figure, f"{board['suite']}: learning curves, mean and range of seeds")


def difficulty(board: Board) -> Iterator[tuple[str, Figure]]:
    """Score against each thing that a task is asked at several values of, of the first rows."""
    rows = [row for row in board["rows"] if row["mad"]][:MOST_LINES]
    shown = looks(row["key"] for row in rows)
    for task in board["tasks"]:
        fields = list(dict.fromkeys(name for part in task["settings"] for name in part["changes"]))
        if not fields:
            continue
        figure, axes = panels(1, len(fields), width=2.6, height=2.2, share_x="none")
        for axis, field in zip(axes, fields, strict=True):
            at = sorted(
                (part["changes"].get(field, task["base"][field]), task["first"] + i)
                for i, part in enumerate(task["settings"])
                if set(part["changes"]) <= {field}
            )
            for row in rows:
                found = [(x, row["settings"][i]["score"]) for x, i in at if row["settings"][i]]
                if not found:
                    continue
                look = shown[row["key"]]
                xs, scores = [x for x, _ in found], [[100 * value for value in score] for _, score in found]
                band(axis, look, xs, *zip(*scores, strict=True))
                axis.lines[-1].set(label=_named(row), marker=look.marker, markersize=3.5)
            axis.set(xlabel=field.replace("_", " "), ylim=(0, 102))
        axes[0].set_ylabel("score, %")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
        yield f"difficulty-{task['name']}", finish(figure, f"{board['suite']}, {task['heading']}: difficulty")


def _share(score: Sequence[float] | None, task: dict[str, Any]) -> float:
    if score is None or task["chance"] is None:
        return 0.0
    room = task["ceiling"] - task["chance"]
    return min(1.0, max(0.0, (score[0] - task["chance"]) / room)) if room > 0 else 1.0


def _named(row: Row) -> str:
    return plain(row["label"])
