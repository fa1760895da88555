"""The command `mad track push`: what a store holds, told to trackers later."""

from pathlib import Path
from typing import Annotated

import typer

from mad.commands.flags import TrackByOption, TrackDirOption, argument, option
from mad.messages import counted, say

track = typer.Typer(
    help="Tell trackers of runs that are stored.", no_args_is_help=True, rich_markup_mode=None
)


@track.callback()
def about() -> None:
    """Tell trackers of runs that are stored."""


@track.command("push")
def push_stores(
    stores: Annotated[
        list[Path] | None, argument("Stores; default $MAD_STORE or the user's.", "[STORE]...")
    ] = None,
    track: Annotated[
        str, option("Trackers: wandb, tensorboard, csv or package.module:Class, comma-separated.")
    ] = "wandb",
    suite: Annotated[str | None, option("Only runs that were made for this suite.")] = None,
    track_by: TrackByOption = None,
    track_dir: TrackDirOption = None,
) -> None:
    """Tell trackers of every run of the stores. What they have already stays as it is."""
    from mad.store import Store, default_path
    from mad.tracking import read_tracking
    from mad.tracking.push import push

    paths = stores or [default_path()]
    asked = [read_tracking(track, by=track_by, folder=track_dir, store=path) for path in paths]
    for path, tracking in zip(paths, asked, strict=True):
        if tracking is None:
            raise ValueError("--track names no tracker; leave it out for wandb")
        with Store(path, read_only=True) as opened:
            count = push(opened, tracking, suite=suite)
        say(f"{counted(count, 'run')} of {path} told to {', '.join(tracking.names)}")
