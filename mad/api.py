"""The Python interface: `bench`, `train`, `leaderboard`, `compare`. The command line is a layer over it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from architectures.files import check_target
from mad.board import frame
from mad.board.page.gather import leaderboard_page as leaderboard_page
from mad.data.outline import Outline
from mad.data.protocol import Setting as Setting
from mad.data.protocol import Suite as Suite
from mad.data.protocol import get_protocol, get_suite
from mad.data.records import Record, setting_key
from mad.memory import uncollected
from mad.messages import Failed, last_words
from mad.run.battery import Prepared as Prepared
from mad.run.battery import Report, store_for, watching
from mad.run.battery import execute as execute
from mad.run.battery import prepare as prepare
from mad.run.checkup import check as check
from mad.score import Scores, score
from mad.store import Store, default_path
from mad.store.labels import call, spelled
from mad.store.listing import runs as runs
from mad.store.reference import reference_outlines
from mad.tracking import By, read_tracking
from mad.trust.submission import check_submission as check_submission
from mad.trust.submission import submit as submit
from mad.trust.verifying import verify as verify

if TYPE_CHECKING:
    import pandas

    from mad.score.comparison import Comparison


def bench(
    specs: Any,
    *,
    suite: str | Path | Suite = "quick",
    protocol: str = "sound",
    seeds: int | None = None,
    tasks: str | Sequence[str] | None = None,
    store: str | Path | None = None,
    device: str = "auto",
    precision: str = "32-true",
    compile: bool = False,
    replicas: Literal["auto", "batched", "turns"] = "auto",
    iso: str | Mapping[str, float] | None = None,
    engine: str = "auto",
    workers: int | None = None,
    cell_timeout: float | None = None,
    ray_address: str | None = None,
    shard: str | None = None,
    progress: bool | None = None,
    report: Report | None = None,
    track: str | Sequence[str] | None = None,
    track_by: By | None = None,
    track_dir: str | Path | None = None,
) -> pandas.DataFrame:
    """Run the battery on one architecture or several and return their rows of the leaderboard.

    specs      a spec, a preset's name, package.module:name, each as "label=spec" if you like, a label that
    the store knows, a factory `(task) -> nn.Module`, or a list of these
    suite      a suite's name, "quick" for its newest version or "quick@1"; a TOML file, "mine.toml";
    package.module:NAME of a `mad.Suite`; or the `mad.Suite` itself
    protocol   "sound" or "public-code"
    seeds      how many seeds; None: the suite's own number
    tasks      names of the suite's tasks to run, a list or comma-separated; None: all
    store      path of the store; None: $MAD_STORE, else the user's data directory
    device     "auto", "cpu", "cuda", "cuda:N", "mps"; without a number, several groups use all CUDA devices
    precision  "32-true" or "bf16-mixed"; part of a run's identity, as is `compile`
    replicas   "batched" trains a group's grid as one model, "turns" one after another, "auto" what is faster
    iso        sizes that every spec is brought to at the suite's width, within 2 %: "state=4096" (nominal
    elements of the whole model), "total-state=", "params=" (without embedding and readout), "flops=" (per
    token); several, comma-separated, or a mapping
    engine     "process" runs several groups at a time, each in a process of one thread; "inline" one after
    another, here; "ray" as tasks of Ray; "auto": "process" where more than one core or device is there, and
    work for it
    workers    how many groups at a time; None: one per core or device; more share the devices evenly
    cell_timeout  seconds after which a group is given up by "process" and "ray"; None: 30 times its estimate,
    at least 15 minutes
    ray_address  of the cluster that "ray" connects to; None: $RAY_ADDRESS, else Ray starts on this machine
    shard      "3/8": of eight parts of about the same work the third, the same on every machine; the rows are
    those of the part, and the table says so in its `attrs`
    progress   whether to say on standard error how far it is; None: in a terminal or a notebook
    report     called after each evaluation of a group with the `Group` and its `Progress`: `step` of `steps`,
    best `accuracy` so far, and `points`, one for each run of its grid; engine "ray" tells nothing
    track      trackers that are told of it: "wandb", "tensorboard", "csv", package.module:Class, a list of
    these; none can fail or hold up a run
    track_by   what one run of a tracker shows: a "run" or all of an "architecture"; None: what suits the
    tracker
    track_dir  folder of what trackers write; None: beside the store, its name and ".tracks"

    The columns are those of `leaderboard`. Runs that the store holds are not repeated; one that fails is
    recorded, and missing in its row. What cannot work is refused with a ValueError before any training.
    """
    tracking = read_tracking(track, by=track_by, folder=track_dir, store=store)
    prepared = prepare(
        specs,
        suite=suite,
        protocol=protocol,
        seeds=seeds,
        tasks=tasks,
        device=device,
        precision=precision,
        compile=compile,
        iso=iso,
        shard=shard,
        store=store,
    )
    with watching(
        prepared.groups,
        prepared.place,
        suite=prepared.suite,
        progress=progress,
        report=report,
        tracking=tracking,
    ) as watcher:
        ran = execute(
            prepared,
            store=store,
            engine=engine,
            replicas=replicas,
            workers=workers,
            cell_timeout=cell_timeout,
            ray_address=ray_address,
            watcher=watcher,
        )
    table = frame(ran[1])
    if shard is not None:
        table.attrs["shard"] = shard
    return table


def train(
    spec: Any,
    task: str,
    *,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    train_examples: int = 12_800,
    epochs: int = 10,
    batch_size: int = 128,
    evaluations: int = 10,
    dim: int = 128,
    seed: int = 0,
    protocol: str = "sound",
    store: str | Path | None = None,
    device: str = "auto",
    precision: str = "32-true",
    compile: bool = False,
    save: str | Path | None = None,
    force: bool = True,
    progress: bool | None = None,
    report: Report | None = None,
    track: str | Sequence[str] | None = None,
    track_dir: str | Path | None = None,
) -> Record:
    """Train one architecture on one setting with one configuration, and return its record.

    spec            as in `bench`, one
    task            a task with its options, such as "in-context-recall[vocab_size=32]"
    lr              learning rate at the start of the protocol's schedule
    weight_decay    of the parameters that decay, as AdamW applies it
    train_examples  number of sequences that are trained on
    epochs          passes over them, each in a new order
    batch_size      sequences per step
    evaluations     points of the curve, evenly spread over the steps
    dim             the model's width; a factory has its own
    seed            of data, order and initial weights
    protocol, store, device, precision, compile   as in `bench`
    save            file for the trained model, which `architectures.checkpoint.load` reads; for that a run is
                    repeated that the store holds
    force           replace a file that exists; else it is refused, before the training
    progress, report, track, track_dir   as in `bench`

    The run is stored like those of `bench`, and not repeated where the store holds it. One that fails raises
    `mad.messages.Failed`, after its record is stored.
    """
    from architectures.checkpoint import save as save_model
    from mad.run.engines import Options, get_engine
    from mad.run.place import find_place
    from mad.run.runner import check_sketch
    from mad.run.sweep import Cell, resolve

    tracking = read_tracking(track, folder=track_dir, store=store)
    referee = get_protocol(protocol)
    setting = Setting(
        task=task,
        train_examples=train_examples,
        epochs=epochs,
        batch_size=batch_size,
        lrs=(lr,),
        weight_decays=(weight_decay,),
        evaluations=evaluations,
    )
    given = spelled(spec, store) if isinstance(spec, str) else spec
    architecture = resolve(given, dim=dim, protocol=referee)
    if save is not None:
        if architecture.spec is None:
            raise ValueError(f"{architecture.given} makes whole models, which no spec spells; leave save out")
        check_target(save, force=force, sources=[store or default_path()])
    cell = Cell(
        architecture=architecture,
        setting=setting,
        protocol=referee,
        seeds=(seed,),
        precision=precision,
        compile=compile,
    )
    kept: list[Any] = []
    place, groups = find_place(device, precision), check_sketch(cell).groups()
    with watching(groups, place, progress=progress, report=report, tracking=tracking) as watcher:
        options = Options(place=place, report=watcher.report, keep=None if save is None else kept.append)
        with store_for(groups, store) as opened:
            ((_, found),) = get_engine("inline")(groups, opened, options)
            (record,) = call(found, architecture.given, opened if architecture.stored else None)
        watcher.ended(groups[0], [record])
    if record.status == "failed":
        shown = f"; `mad show {record.id}` prints all of it" if architecture.stored else ""
        raise Failed(f"training {record.given} on {task} failed: {last_words(record.error)}{shown}")
    if save is not None:  # The record is stored by now: a full disk costs the file alone.
        save_model(kept[0], save, force=force)
    return record


def scores_of(
    *,
    suite: str | Path | Suite = "quick",
    protocol: str = "sound",
    store: str | Path | None = None,
    reference: bool = True,
    tasks: Sequence[str] | None = None,
) -> Scores:
    """Score everything in the store that belongs to a suite, as `leaderboard` does; needs no torch."""
    from architectures.grammar.index import read

    versions = {entry["name"]: entry["version"] for entry in read()}
    exam, referee = get_suite(suite), get_protocol(protocol)
    asked = {setting_key(setting, referee) for setting in exam.settings}
    own: list[Outline] = []
    with uncollected():
        packaged, makers = reference_outlines(exam.name) if reference else ([], {})
        # Reference results are there before the first run is made; a store that was named must be.
        if store is not None or not packaged or default_path().exists():
            with Store(store, read_only=True) as opened:
                own = list(opened.outlines(asked))
        return score(own, exam, referee, versions=versions, reference=packaged, makers=makers, tasks=tasks)


def leaderboard(
    *,
    suite: str | Path | Suite = "quick",
    protocol: str = "sound",
    store: str | Path | None = None,
    reference: bool = True,
    tasks: Sequence[str] | None = None,
) -> pandas.DataFrame:
    """The leaderboard of a suite: one row per architecture, best first; scores from 0 to 1 with 95 %
    intervals. An empty table where there is no run of the suite. Rows that lack a task or are stale come
    last, without a rank.

    suite, protocol  as in `bench`: a run counts by its content, whatever it was made for
    store            path of the store; None: $MAD_STORE, else the user's data directory; a named one that is
                     missing is refused with a ValueError
    reference        whether the results that come with the package stand beside those of the store; where
                     both have a run, that of the store counts
    tasks            names of the tasks that count; None: all. Of some there is `mean`, and no `mad`

    The columns are described in `mad.board.columns` and in docs/protocol.md.
    """
    return frame(scores_of(suite=suite, protocol=protocol, store=store, reference=reference, tasks=tasks))


def compare(
    a: str,
    b: str | None = None,
    *,
    suite: str | Path | Suite = "quick",
    protocol: str = "sound",
    store: str | Path | None = None,
    reference: bool = True,
    tasks: Sequence[str] | None = None,
) -> Comparison:
    """Compare two architectures that have runs of a suite: paired by test row, with the luck of seeds.

    a, b   specs, presets, labels or `Class@ab12`, as the leaderboard has them, or the first digits of an
           architecture key; without `b`, the row nearest above `a`, or the one below where `a` is first
    suite, protocol, store, reference, tasks   as in `leaderboard`

    `.settings` has the differences, `.frame()` as a table, `.verdict` is the conclusion in a sentence. What
    has no runs is refused with a ValueError that says how to make them.
    """
    from mad.score.comparison import compare_rows
    from mad.score.finding import neighbour, row_of
    from mad.store.reference import reference_records

    scores = scores_of(suite=suite, protocol=protocol, store=store, reference=reference, tasks=tasks)
    one = row_of(scores, a)
    other = neighbour(scores, one) if b is None else row_of(scores, b)
    exam, referee = get_suite(suite), get_protocol(protocol)
    packaged = {run.id: run for run in reference_records(exam.name)} if reference else {}
    with contextlib.ExitStack() as opened:
        own = None
        if one.reference < one.runs or other.reference < other.runs:
            own = opened.enter_context(Store(store, read_only=True))

        def fetch(id: str) -> Record | None:
            return (own and own.get(id)) or packaged.get(id)

        return compare_rows(scores, one, other, exam, referee, fetch)
