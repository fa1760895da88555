"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

StoreOption = Annotated[
    Path | None,
    typer.Option("--store", help="Path of the store; default $MAD_STORE or the user's data directory."),
]
SuiteOption = Annotated[str, typer.Option("--suite", help="smoke, quick, baseline or mad-2024.")]
ProtocolOption = Annotated[
    str, typer.Option("--protocol", help="sound, or public-code to compare with published scores.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
PrecisionOption = Annotated[
    str, typer.Option("--precision", help="32-true or bf16-mixed; part of a run's identity.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace a file that exists.")]
CompileOption = Annotated[
    bool, typer.Option("--compile", help="Train with torch.compile; part of a run's identity.")
]


def listed(text: str | None) -> list[str] | None:
    """The names of a comma-separated option; None where it is not given."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]
