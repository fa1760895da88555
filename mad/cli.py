"""The command line: few verbs, each in a file of `mad.commands` and a thin layer over `mad.api`. Heavy
imports stay inside the verbs that need them.
"""

import importlib.metadata
import sys
from typing import Annotated

import typer

from mad.commands.bench import bench
from mad.commands.check import check
from mad.commands.compare import compare
from mad.commands.doctor import doctor
from mad.commands.elastic import elastic
from mad.commands.export import export
from mad.commands.grow import grow
from mad.commands.import_ import import_
from mad.commands.leaderboard import leaderboard
from mad.commands.primitives import primitives
from mad.commands.rm import rm
from mad.commands.runs import runs
from mad.commands.show import show
from mad.commands.sparsify import sparsify
from mad.commands.submit import submit
from mad.commands.suites import suites
from mad.commands.tasks import tasks
from mad.commands.track import track
from mad.commands.train import train
from mad.commands.verify import verify
from mad.entry import run
from mad.messages import say

app = typer.Typer(
    name="mad",
    help="Benchmark sequence-model architectures on synthetic tasks that predict how they scale.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
TRAINING = (bench, train, elastic, sparsify)
STORED = (leaderboard, compare, runs, show, check, primitives, grow)
TRUST = (verify, submit, doctor)
for command in (*TRAINING, *STORED, suites, export, import_, rm, *TRUST):
    app.command(command.__name__.rstrip("_"))(command)
GROUPS = {"tasks": tasks, "track": track}
for name, group in GROUPS.items():
    app.add_typer(group, name=name)


def _tell_version(asked: bool) -> None:
    if asked:
        import mad

        say(f"mad {mad.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Before the command."""


def main() -> None:
    """Entry point: `mad.entry` says how a command ends."""
    words = sys.argv[1:] or ["--help"]
    run(lambda: _with_commands(words), words)


def _with_commands(words: list[str]) -> typer.Typer:
    """The app, with the commands of other packages from the entry-point group mad.commands where one may be
    meant.
    """
    if words[0] in (*GROUPS, *(command.name for command in app.registered_commands)):
        return app
    for point in importlib.metadata.entry_points(group="mad.commands"):
        try:
            app.add_typer(point.load(), name=point.name)
        except Exception as error:
            raise ValueError(
                f"command {point.name!r} ({point.value}) cannot be loaded: {error}; repair its package"
            ) from error
    return app


if __name__ == "__main__":
    main()
