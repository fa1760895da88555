"""The command `mad train`: one architecture, one task, one configuration."""

from pathlib import Path
from typing import Annotated

from mad import terminal
from mad.commands.flags import (
    CompileOption,
    DeviceOption,
    ForceOption,
    PrecisionOption,
    ProtocolOption,
    StoreOption,
    TrackDirOption,
    TrackOption,
    argument,
    option,
)
from mad.messages import say


def train(
    spec: Annotated[str, argument("One architecture.")],
    task: Annotated[str, argument("A task or module:Task, with its options: 'compression[seq_len=8]'.")],
    lr: Annotated[float, option("Learning rate.")] = 1e-3,
    weight_decay: Annotated[float, option("Weight decay.")] = 0.0,
    examples: Annotated[int, option("Training examples.")] = 12_800,
    epochs: Annotated[int, option("Passes over them.")] = 10,
    batch_size: Annotated[int, option("Examples per step.")] = 128,
    evaluations: Annotated[int, option("Points of the curve.")] = 10,
    dim: Annotated[int, option("Width of the model.")] = 128,
    seed: Annotated[int, option("Seed of data, order and initial weights.")] = 0,
    protocol: ProtocolOption = "sound",
    store: StoreOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = "32-true",
    compile: CompileOption = False,
    track: TrackOption = None,
    track_dir: TrackDirOption = None,
    save: Annotated[Path | None, option("Write the trained model to this file.")] = None,
    force: ForceOption = False,
) -> None:
    """Train one architecture on one task with one configuration, and print its curve."""
    from mad import api
    from mad.commands.show import show_record

    record = api.train(
        spec,
        task,
        lr=lr,
        weight_decay=weight_decay,
        train_examples=examples,
        epochs=epochs,
        batch_size=batch_size,
        evaluations=evaluations,
        dim=dim,
        seed=seed,
        protocol=protocol,
        store=store,
        device=device,
        precision=precision,
        compile=compile,
        save=save,
        force=force,
        progress=True,
        track=track,
        track_dir=track_dir,
    )
    show_record(record, terminal.console())
    if save is not None:
        say(f"\nmodel written to {save}")
