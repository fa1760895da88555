"""The command `mad bench`: train architectures on the tasks of a suite, and print their scores."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from mad import terminal
from mad.commands.flags import (
    CompileOption,
    DeviceOption,
    PrecisionOption,
    ProtocolOption,
    StoreOption,
    SuiteOption,
    TrackByOption,
    TrackDirOption,
    TrackOption,
    argument,
    listed,
    option,
)
from mad.messages import brief, counted, last_words, one_line, printable, say

if TYPE_CHECKING:
    from rich.console import Console

    from mad.api import Prepared


def bench(
    specs: Annotated[
        list[str],
        argument("Architectures: '2*(hyena swiglu)', a preset, module:Class; label=SPEC.", "SPEC..."),
    ],
    suite: SuiteOption = "quick",
    protocol: ProtocolOption = "sound",
    seeds: Annotated[int | None, option("Number of seeds; default the suite's.")] = None,
    tasks: Annotated[str | None, option("Only these tasks of the suite, comma-separated.")] = None,
    store: StoreOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "32-true",
    compile: CompileOption = False,
    replicas: Annotated[str, option("auto, batched or turns: how a grid's runs share the device.")] = "auto",
    iso: Annotated[
        str | None,
        option("Equal sizes for all: state=4096, total-state=, params= or flops=, comma-separated."),
    ] = None,
    engine: Annotated[
        str, option("process, inline or ray; auto: process where there is more than one core or device.")
    ] = "auto",
    workers: Annotated[
        int | None,
        option("Groups that run at a time; default one per core or device. More share devices evenly."),
    ] = None,
    cell_timeout: Annotated[
        float | None,
        option("Seconds after which a group is given up; default 30 times its estimate."),
    ] = None,
    ray_address: Annotated[str | None, option("Of the cluster that engine ray connects to.")] = None,
    shard: Annotated[
        str | None,
        option("One part of the groups, for machines that share nothing: 3/8 is the third of eight."),
    ] = None,
    track: TrackOption = None,
    track_by: TrackByOption = None,
    track_dir: TrackDirOption = None,
    dry_run: Annotated[
        bool, option("Print what would run and how long it takes; train nothing.", "--dry-run")
    ] = False,
) -> None:
    """Run the battery on architectures and print their scores. What is stored is not repeated."""
    from mad import api
    from mad.run.engines import check_engine
    from mad.tracking import read_tracking

    if replicas not in ("auto", "batched", "turns"):
        raise ValueError(f"replicas {replicas!r} is not one of auto, batched, turns")
    check_engine(engine, workers=workers, cell_timeout=cell_timeout, ray_address=ray_address)
    tracking = read_tracking(track, by=track_by, folder=track_dir, store=store)
    prepared = api.prepare(
        specs,
        suite=suite,
        protocol=protocol,
        seeds=seeds,
        tasks=listed(tasks),
        device=device,
        precision=precision,
        compile=compile,
        iso=iso,
        shard=shard,
        store=store,
    )
    if dry_run:
        show_plan(prepared, store, terminal.console())
        return
    from mad.board import render
    from mad.run.battery import watching
    from mad.run.iso import read_goals
    from mad.run.reasons import lacking

    if not prepared.groups:
        say(f"Nothing to run: {part_of(prepared)}, which are fewer than the shards.")
        return
    console = terminal.errors()
    console.print(printable(headline(prepared, store)), soft_wrap=True)
    say_why(lacking(prepared.groups, store)[1], console)
    with watching(
        prepared.groups, prepared.place, suite=prepared.suite, progress=True, tracking=tracking
    ) as watcher:
        records, scores = api.execute(
            prepared,
            store=store,
            replicas=cast(Any, replicas),
            engine=engine,
            workers=workers,
            cell_timeout=cell_timeout,
            ray_address=ray_address,
            watcher=watcher,
        )
    color, equal = sys.stdout.isatty(), tuple(read_goals(iso))
    sys.stdout.write(render(scores, "table", width=terminal.width(), color=color, iso=equal))
    if shard is not None:
        say(
            f"This is a part of the board: {part_of(prepared)}. For the whole, `mad export` the store of "
            f"each shard, `mad import` the files into one, and see `mad leaderboard --suite {suite}`."
        )
    failures = [record for record in records if record.status == "failed"]
    if failures:
        first = failures[0]
        own = sorted({name for record in failures for name in record.config.architecture.sources})
        tests = "".join(f"; `mad check {name}` tests it by itself" for name in own)
        text = (
            f"{counted(len(failures), 'run')} failed; the first, {first.id} of {first.given}: "
            f"{last_words(first.error)} (`mad show {first.id}` prints all of it{tests}). "
            "Run the same command again to repeat them."
        )
        console.print(one_line(text), soft_wrap=True)
        raise typer.Exit(1)


def part_of(prepared: Prepared) -> str:
    """How much of the sweep is run here."""
    whole = counted(sum(len(cell.seeds) for cell in prepared.cells), "group")
    return (
        whole if prepared.shard is None else f"shard {prepared.shard} with {len(prepared.groups)} of {whole}"
    )


def headline(prepared: Prepared, store: Path | None) -> str:
    """One line: what is about to run, and where its results go."""
    from mad.store import default_path

    suite, protocol = prepared.cells[0].suite, prepared.cells[0].protocol
    names = len({cell.architecture.given for cell in prepared.cells})
    runs = sum(len(group.cell.setting.grid) for group in prepared.groups)
    return (
        f"{suite}, protocol {protocol.name}@{protocol.version}: {counted(names, 'architecture')}, "
        f"{part_of(prepared)}, {counted(runs, 'run')}; store {store or default_path()}"
    )


def show_plan(prepared: Prepared, store: Path | None, console: Console) -> None:
    """Print the cells, what is stored already, and how long the rest takes."""
    from mad.progress import clock
    from mad.run.cost import estimate
    from mad.run.reasons import lacking

    groups, why = lacking(prepared.groups, store)
    table = terminal.new_table("architecture", "task", "examples", "grid", "seeds", "steps per run")
    seeds = Counter(id(group.cell) for group in prepared.groups)
    for cell in (cell for cell in prepared.cells if seeds[id(cell)]):
        setting = cell.setting
        names, counts = (cell.architecture.given, str(cell.task)), (len(setting.grid), seeds[id(cell)])
        cells = (*names, f"{setting.train_examples:,}", *map(str, counts), f"{setting.steps:,}")
        table.add_row(*map(printable, cells))
    console.print(table, markup=False)
    found = estimate(groups, prepared.place)
    cached = len(prepared.groups) - len(groups)
    console.print(
        f"{f'{part_of(prepared)}: ' if prepared.shard else ''}"
        f"{counted(len(seeds), 'cell')}, {counted(found.groups, 'group')} to run "
        f"({cached} stored already), {counted(found.runs, 'run')}, {counted(found.steps, 'step')}\n"
        f"about {clock(found.seconds)} here, give or take a factor of two; less where a task is solved early"
    )
    say_why(why, console)
    for name in found.unknown:
        console.print(printable(f"without the time of {name}"), markup=False, soft_wrap=True)


def say_why(lines: list[str], console: Console) -> None:
    """Why something runs though the store knows it."""
    for line in lines:
        console.print(brief(line), markup=False, highlight=False, soft_wrap=True)
