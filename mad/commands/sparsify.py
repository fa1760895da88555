"""The command `mad sparsify`: what thresholds on the inputs of its maps do to a trained model."""

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
    from mad.run.sparsify import Point


def sparsify(
    spec: Annotated[str, argument("A spec or a preset: '2*(mh-attention swiglu)'.", "SPEC")],
    suite: SuiteOption = "quick",
    tasks: Annotated[str | None, option("Only these tasks, comma-separated.")] = None,
    shares: Annotated[
        str, option("Parts of their inputs that maps leave out, comma-separated.")
    ] = "0.25,0.4,0.5,0.65,0.8",
    seed: Annotated[int, option("Seed of data, order and weights.")] = 0,
    device: DeviceOption = "auto",
    json_to: Annotated[Path | None, option("Where to write the points.", "--json")] = None,
    force: ForceOption = False,
) -> None:
    """Train a model, and test it while its maps leave out small inputs (TEAL)."""
    if json_to is not None:
        check_target(json_to, force=force)
    try:
        parts = [float(word) for word in listed(shares) or []]
    except ValueError as error:
        raise ValueError(f"--shares {shares} is not a list of numbers, such as 0.25,0.5") from error
    from mad.run.sparsify import compare

    console = terminal.errors()

    def report(line: str) -> None:
        console.print(printable(line), soft_wrap=True)

    points = compare(
        spec, suite=suite, tasks=listed(tasks), shares=parts, seed=seed, device=device, report=report
    )
    _show(points)
    if json_to is not None:
        rows = [dataclasses.asdict(point) for point in points]
        with whole_file(json_to, force=force) as part:
            part.write_text(json.dumps({"spec": spec, "points": rows}, indent=1) + "\n", encoding="utf-8")


def _show(points: list[Point]) -> None:
    """The table of all shares, and what the kinds are."""
    from mad.run.sparsify import KINDS, summarise

    table = terminal.new_table("", "share", "left out", "accuracy", "loss", "agrees", "KL")
    for row in summarise(points):
        numbers = [f"{row[n]:.3f}" for n in ("left_out", "accuracy", "loss", "agreement", "kl")]
        table.add_row(row["kind"], f"{row['share']:g}", *numbers)
    console = Console(highlight=False)
    console.print(table)
    for kind, about in KINDS.items():
        console.print(f"{kind}: {about}")
    console.print("agrees, KL: beside the whole model; left out: of the weights of the layers' maps")
