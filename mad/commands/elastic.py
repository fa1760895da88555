"""The command `mad elastic`: the sizes of one nested model beside models that were trained alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.console import Console

from architectures.files import check_target, whole_file
from mad import terminal
from mad.commands.flags import DeviceOption, ForceOption, SuiteOption, argument, listed, option
from mad.messages import printable

if TYPE_CHECKING:
    from mad.run.elastic import Point


def elastic(
    spec: Annotated[str, argument("With nested layers: '2*(mh-attention matformer-swiglu)'.", "SPEC")],
    suite: SuiteOption = "quick",
    tasks: Annotated[str | None, option("Only these tasks, comma-separated.")] = None,
    times: Annotated[
        int | None, option("Steps of the nested model over a plain one's; default its sizes.")
    ] = None,
    seed: Annotated[int, option("Seed of data, order and weights.")] = 0,
    device: DeviceOption = "auto",
    plot: Annotated[Path | None, option("Where to draw accuracy against parameters: .svg, .png.")] = None,
    json_to: Annotated[Path | None, option("Where to write the points.", "--json")] = None,
    force: ForceOption = False,
) -> None:
    """Train one nested model (MatFormer) and compare its sizes with models trained alone."""
    for target in (plot, json_to):
        if target is not None:
            check_target(target, force=force)
    from mad.run.elastic import compare

    console = terminal.errors()

    def report(line: str) -> None:
        console.print(printable(line), soft_wrap=True)

    points = compare(
        spec, suite=suite, tasks=listed(tasks), times=times, seed=seed, device=device, report=report
    )
    _show(points)
    if json_to is not None:
        rows = [dataclasses.asdict(point) for point in points]
        with whole_file(json_to, force=force) as part:
            part.write_text(json.dumps({"spec": spec, "points": rows}, indent=1) + "\n", encoding="utf-8")
    if plot is not None:
        draw(points, plot, force=force)


def _show(points: list[Point]) -> None:
    """The table of all sizes, and what the kinds are."""
    from mad.run.elastic import KINDS, summarise

    table = terminal.new_table("", "sizes", "parameters", "accuracy", "loss", "agrees", "KL", "steps")
    for row in summarise(points):
        sizes = row["sizes"]
        label = str(sizes[0]) if len(set(sizes)) == 1 else "-".join(map(str, sizes))
        numbers = [f"{row[n]:.3f}" for n in ("accuracy", "loss", "agreement", "kl")]
        table.add_row(row["kind"], label, f"{row['params']:,.0f}", *numbers, f"{row['steps']:,}")
    console = Console(highlight=False)
    console.print(table)
    for kind, about in KINDS.items():
        console.print(f"{kind}: {about}")
    console.print("agrees, KL: beside the whole model of the same training, nested or alone")


def draw(points: list[Point], path: Path, *, force: bool = True) -> None:
    """Accuracy against parameters, one curve per kind."""
    import matplotlib

    from mad.run.elastic import summarise

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "mad"  # the same picture, the same file
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5.2, 3.4))
    styles = {"nested": "o-", "mixed": "D", "alone": "s--", "cut": "x:"}
    for kind, style in styles.items():
        rows = [row for row in summarise(points) if row["kind"] == kind]
        if rows:
            axes.plot([r["params"] for r in rows], [r["accuracy"] for r in rows], style, label=kind)
    axes.set(xlabel="parameters without embedding and readout", ylabel="test accuracy")
    axes.set_xscale("log")
    axes.legend(frameon=False)
    figure.tight_layout()
    with whole_file(path, force=force) as part:
        figure.savefig(part, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)
