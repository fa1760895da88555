"""Draws the README's figure: the scores of `results/quick.jsonl` by task, with chance. The records come from

mad bench transformer++ striped-hyena mamba "2*(gated-delta-net swiglu)" --suite quick --store quick.sqlite
mad export results/quick.jsonl --store quick.sqlite --force

and `python benchmarks/quick_scores.py` draws them.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import harness

from mad.api import scores_of
from mad.board.look.figures import finish, legend, looks, panels, save


def draw(store: Path, path: Path) -> None:
    """One panel: scores with their 95 % intervals by task, chance as a grey line under each."""
    scores = scores_of(suite="quick", store=store, reference=False)
    tasks = scores.tasks
    names = [row.label for row in scores.architectures]
    look = looks(names)
    figure, (axis,) = panels(1, 1, width=7.6, height=2.7)
    for place, name in enumerate(tasks):
        axis.plot([place - 0.4, place + 0.4], [100 * scores.chance[name]] * 2, color="#888888", linewidth=1)
    for i, row in enumerate(scores.architectures):
        shown = look[row.label]
        for place, name in enumerate(tasks):
            if (found := row.tasks.get(name)) is None:
                continue
            x, ends = place + 0.16 * (i - (len(names) - 1) / 2), [100 * found.low, 100 * found.high]
            axis.plot([x] * 2, ends, color=shown.colour, linewidth=1)
            label = f"{row.label}: {100 * row.mad.value:.0f}" if place == 0 and row.mad else None
            axis.plot(x, 100 * found.value, shown.marker, color=shown.colour, markersize=5, label=label)
    axis.set_xticks(range(len(tasks)), [name.removesuffix("-in-context-recall") for name in tasks])
    axis.set_ylim(0, 103)
    axis.set_ylabel("accuracy (%)")
    legend(figure, axis)
    save(finish(figure, f"{scores.suite}: score by task, chance in grey, MAD score in the legend"), path)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        store = harness.filled(Path(folder), harness.ROOT / "results" / "quick.jsonl")
        draw(store, harness.FIGURES / "quick.svg")
