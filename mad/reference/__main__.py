"""`python -m mad.reference`: make the results that come with the package. `make reference` calls it."""

from pathlib import Path
from typing import Annotated

import typer

from mad import entry
from mad.commands.flags import option


def reference(
    store: Annotated[Path, option("Store of these runs, which goes on where it was left.")],
    suite: Annotated[str, option("Suites, comma-separated.")] = "quick",
    seeds: Annotated[int | None, option("Seeds of each suite; default its own number.")] = None,
    device: Annotated[str, option("auto, cpu, cuda, cuda:N or mps.")] = "cpu",
    workers: Annotated[int | None, option("Groups at a time; default one per core or device.")] = None,
    folder: Annotated[Path | None, option("Where the files go; default in the package.")] = None,
    write_only: Annotated[bool, option("Train nothing; write what is complete.", "--write-only")] = False,
) -> None:
    """Train the reference architectures on suites, but for what is stored, and write their records."""
    from mad.commands.flags import listed
    from mad.reference.making import make
    from mad.store.reference import FOLDER

    made = make(
        listed(suite) or [],
        store,
        seeds=seeds,
        device=device,
        workers=workers,
        train=not write_only,
        folder=folder or FOLDER,
    )
    for file in made:
        lacking = f"; not complete: {', '.join(file.lacking)}" if file.lacking else ""
        print(f"{file.path}: {file.records} runs of {file.architectures} architectures{lacking}")


def app() -> typer.Typer:
    found = typer.Typer(add_completion=False)
    found.command()(reference)
    return found


if __name__ == "__main__":
    import sys

    entry.run(app, sys.argv[1:])
