"""The command line: few verbs, each a thin layer over `mad.api`. Heavy imports stay inside the verbs that
need them.
"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mad.commands.check import check
from mad.commands.elastic import elastic
from mad.commands.flags import (
    CompileOption,
    DeviceOption,
    ForceOption,
    PrecisionOption,
    ProtocolOption,
    StoreOption,
    SuiteOption,
)
from mad.commands.records import export_, import_, rm
from mad.commands.train import train
from mad.entry import run
from mad.messages import counted, last_words, one_line, printable, say

app = typer.Typer(
    name="mad",
    help="Benchmark sequence-model architectures on synthetic tasks that predict how they scale.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
tasks_app = typer.Typer(help="List the tasks, or show one.", rich_markup_mode=None)
app.add_typer(tasks_app, name="tasks")


@app.command()
def bench(
    specs: Annotated[
        list[str],
        typer.Argument(metavar="SPEC...", help="Architectures: '2*(hyena swiglu)', a preset, module:Class."),
    ],
    suite: SuiteOption = "quick",
    protocol: ProtocolOption = "sound",
    seeds: Annotated[int | None, typer.Option(help="Number of seeds; default the suite's.")] = None,
    tasks: Annotated[str | None, typer.Option(help="Only these tasks of the suite, comma-separated.")] = None,
    store: StoreOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "32-true",
    compile: CompileOption = False,
    replicas: Annotated[
        str, typer.Option(help="auto, batched or turns: how a grid's runs share the device.")
    ] = "auto",
    iso: Annotated[
        str | None,
        typer.Option(help="Equal sizes for all: state=4096, total-state=, params= or flops=, by commas."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would run and how long it takes; train nothing.")
    ] = False,
) -> None:
    """Run the battery on architectures and print their scores. What is stored is not repeated."""
    from mad import api

    if replicas not in ("auto", "batched", "turns"):
        raise ValueError(f"replicas {replicas!r} is not one of auto, batched, turns")
    chosen = [name.strip() for name in tasks.split(",") if name.strip()] if tasks is not None else None
    prepared = api.prepare(
        specs,
        suite=suite,
        protocol=protocol,
        seeds=seeds,
        tasks=chosen,
        device=device,
        precision=precision,
        compile=compile,
        iso=iso,
        dry=dry_run,
    )
    if dry_run:
        from mad.run.plan import show_plan

        show_plan(prepared, store, _console())
        return
    from mad.board import render
    from mad.progress import Display
    from mad.run.iso import read_goals
    from mad.run.plan import headline, work

    console = Console(stderr=True)
    console.print(printable(headline(prepared, store)), highlight=False, markup=False, soft_wrap=True)
    with Display(
        prepared.groups, lambda group: work(group.cell) * len(group.cell.setting.grid), console
    ) as display:
        finished = api.execute(
            prepared,
            store=store,
            replicas=replicas,  # type: ignore[arg-type]
            report=display.report,
            ended=display.ended,
        )
    equal = tuple(read_goals(iso))
    sys.stdout.write(render(finished.scores, "table", width=_width(), color=sys.stdout.isatty(), iso=equal))
    if finished.failures:
        first = finished.failures[0]
        own = sorted({name for record in finished.failures for name in record.config.architecture.sources})
        tests = "".join(f"; `mad check {name}` tests it by itself" for name in own)
        console.print(
            one_line(
                f"{counted(len(finished.failures), 'run')} failed; the first, {first.id} of {first.given}: "
                f"{last_words(first.error)} (`mad show {first.id}` prints all of it{tests}). "
                "Run the same command again to repeat them."
            ),
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        raise typer.Exit(1)


app.command()(train)


app.command()(elastic)


@app.command()
def leaderboard(
    suite: SuiteOption = "quick",
    protocol: ProtocolOption = "sound",
    store: StoreOption = None,
    format: Annotated[str, typer.Option("--format", help="table, md, csv or json.")] = "table",
    iso: Annotated[
        str,
        typer.Option(help="Show the sizes that bench --iso made equal, comma-separated: state, params."),
    ] = "",
) -> None:
    """Compare every architecture in the store."""
    from mad.api import scores_of
    from mad.board import render

    scores = scores_of(suite=suite, protocol=protocol, store=store)
    equal = [name.strip() for name in iso.split(",") if name.strip()]
    sys.stdout.write(render(scores, format, width=_width(), color=sys.stdout.isatty(), iso=equal))


@app.command()
def show(
    what: Annotated[
        str, typer.Argument(metavar="SPEC|RUN", help="An architecture, or the id of a stored run.")
    ],
    dim: Annotated[int, typer.Option(help="Width of the model.")] = 128,
    seq_len: Annotated[int, typer.Option(help="Length at which FLOPs and state are counted.")] = 128,
    vocab_size: Annotated[int, typer.Option(help="Size of the vocabulary.")] = 16,
    store: StoreOption = None,
) -> None:
    """Show an architecture layer by layer (parameters, FLOPs, state), or a stored run."""
    from mad.commands.show import find_run, show_architecture, show_record

    record = find_run(what, store)
    if record is not None:
        show_record(record, _console())
    else:
        show_architecture(what, _console(), dim=dim, seq_len=seq_len, vocab_size=vocab_size)


app.command()(check)


@tasks_app.callback(invoke_without_command=True)
def tasks(ctx: typer.Context) -> None:
    """List the tasks, or show one."""
    if ctx.invoked_subcommand is not None:
        return
    from mad.commands.listings import list_tasks

    list_tasks(_console())


@tasks_app.command("show")
def show_task(
    name: Annotated[str, typer.Argument(help="A task, with options if you like: 'compression[seq_len=8]'.")],
    seed: Annotated[int, typer.Option(help="Seed of the example.")] = 0,
) -> None:
    """Draw an example of a task and explain it."""
    import synthetic_tasks
    from mad.commands.show import draw_example

    draw_example(synthetic_tasks.parse(name), seed, _console())


@app.command()
def primitives() -> None:
    """List the layers that a spec can name, and the presets."""
    from mad.commands.listings import list_primitives

    list_primitives(_console())


@app.command()
def grow(
    checkpoint: Annotated[Path, typer.Argument(help="A model that `mad train --save` wrote.")],
    to: Annotated[str, typer.Option(help="The larger architecture.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where to write it.")],
    dim: Annotated[int | None, typer.Option(help="Its width; default that of the model.")] = None,
    force: ForceOption = False,
) -> None:
    """Enlarge a trained model without changing what it computes."""
    from mad.commands.grow import grow_file

    say(grow_file(checkpoint, to=to, dim=dim, out=out, force=force))


app.command("export")(export_)
app.command("import")(import_)
app.command()(rm)


def main() -> None:
    """Entry point: `mad.entry` says how a command ends."""
    words = sys.argv[1:] or ["--help"]
    run(lambda: _with_commands(words), words)


def _with_commands(words: list[str]) -> typer.Typer:
    """The app, with the commands of other packages from the entry-point group mad.commands where one may be
    meant.
    """
    ours = {
        command.name or command.callback.__name__ for command in app.registered_commands if command.callback
    }
    if words[0] in ours | {"tasks"}:
        return app
    for point in importlib.metadata.entry_points(group="mad.commands"):
        try:
            app.add_typer(point.load(), name=point.name)
        except Exception as error:
            raise ValueError(
                f"command {point.name!r} ({point.value}) cannot be loaded: {error}; repair its package"
            ) from error
    return app


def _width() -> int:
    return max(100, Console().width) if sys.stdout.isatty() else 100


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 120, highlight=False)


if __name__ == "__main__":
    main()
