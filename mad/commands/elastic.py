"""The command `mad elastic`: the sizes of one nested model beside models that were trained alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from architectures.files import check_target, whole_file
from mad.commands.flags import DeviceOption, ForceOption, SuiteOption
from mad.messages import printable


def elastic(
    spec: Annotated[
        str, typer.Argument(metavar="SPEC", help="With nested layers: '2*(mh-attention matformer-swiglu)'.")
    ],
    suite: SuiteOption = "quick",
    tasks: Annotated[str | None, typer.Option(help="Only these tasks, comma-separated.")] = None,
    times: Annotated[
        int | None, typer.Option(help="Steps of the nested model over a plain one's; default its sizes.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of data, order and weights.")] = 0,
    device: DeviceOption = "auto",
    plot: Annotated[
        Path | None, typer.Option(help="Where to draw accuracy against parameters: .svg, .png.")
    ] = None,
    json_to: Annotated[Path | None, typer.Option("--json", help="Where to write the points.")] = None,
    force: ForceOption = False,
) -> None:
    """Train one nested model (MatFormer) and compare its sizes with models trained alone."""
    for target in (plot, json_to):
        if target is not None:
            check_target(target, force=force)
    from mad.run.elastic import compare, draw, show

    console = Console(stderr=True, highlight=False, markup=False)
    chosen = [name.strip() for name in tasks.split(",") if name.strip()] if tasks is not None else None

    def report(line: str) -> None:
        console.print(printable(line), soft_wrap=True)

    points = compare(spec, suite=suite, tasks=chosen, times=times, seed=seed, device=device, report=report)
    show(points, Console(highlight=False))
    if json_to is not None:
        rows = [dataclasses.asdict(point) for point in points]
        with whole_file(json_to, force=force) as part:
            part.write_text(json.dumps({"spec": spec, "points": rows}, indent=1) + "\n", encoding="utf-8")
    if plot is not None:
        draw(points, plot, force=force)
