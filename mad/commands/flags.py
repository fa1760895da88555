"""How commands declare their options, and those that several share."""

from pathlib import Path
from typing import Annotated, Any

import typer

from mad.data.suites import NAMES


def option(help: str, *names: str) -> Any:
    """An option, called as its parameter where no name is given."""
    return typer.Option(*names, help=help)


def argument(help: str, metavar: str | None = None) -> Any:
    return typer.Argument(help=help, metavar=metavar)


StoreOption = Annotated[
    Path | None, option("Path of the store; default $MAD_STORE or the user's data directory.")
]
SuiteOption = Annotated[
    str, option(f"{', '.join(NAMES)}, a file of your own (mine.toml) or module:NAME; see `mad suites`.")
]
ProtocolOption = Annotated[str, option("sound, or public-code to compare with published scores.")]
DeviceOption = Annotated[str, option("auto, cpu, cuda, cuda:N or mps.")]
PrecisionOption = Annotated[str, option("32-true or bf16-mixed; part of a run's identity.")]
ForceOption = Annotated[bool, option("Replace a file that exists.", "--force")]
CompileOption = Annotated[bool, option("Train with torch.compile; part of a run's identity.", "--compile")]
TrackOption = Annotated[
    str | None,
    option("Trackers to tell: wandb, tensorboard, csv or package.module:Class, comma-separated."),
]
TrackDirOption = Annotated[
    Path | None, option("Folder of what trackers write; default beside the store, its name and .tracks.")
]
TrackByOption = Annotated[
    str | None,
    option("What a tracker's run shows: run, or architecture (the default of wandb)."),
]


def listed(text: str | None) -> list[str] | None:
    """The names of a comma-separated option; None where it is not given."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]
