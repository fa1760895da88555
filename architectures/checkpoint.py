"""A model in a file: what rebuilds it, its weights, the numbers it stores beside them, its optimiser.

The file is read with `weights_only=True`, which runs no code; its checksums are verified, and everything in
it is checked against a model of its spec on the meta device before memory is taken.
"""

from __future__ import annotations

import dataclasses
import reprlib
from pathlib import Path
from typing import Any

import torch
from torch.optim import SGD, Adam, AdamW, Optimizer

from architectures import registry
from architectures.elastic import nested_layers, set_granularity
from architectures.files import whole_file
from architectures.grammar.presets import ModelOptions
from architectures.grammar.stripe import parse
from architectures.model import SequenceModel, build, check_model, sketch
from architectures.outside.archive import check_tensors, read_archive
from architectures.stored import restore_numbers, stored_numbers

FORMAT, VERSION = "mad-suite model", 1
OPTIMIZERS: dict[str, type[Optimizer]] = {"AdamW": AdamW, "Adam": Adam, "SGD": SGD}
# What a model may compute at its construction beside the tensors of the file, in numbers: so many, or one for
# each byte of the file.
CONSTANTS = 2**25
# The reals that a model may be of.
REALS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
KINDS = {"spec": str, "vocab_size": int, "dim": int, "max_len": int, "readout": str, "options": dict}
KINDS |= {"layers": dict, "state": dict, "stored": dict}


def save(
    model: SequenceModel, path: str | Path, optimizer: Optimizer | None = None, *, force: bool = True
) -> None:
    """Write a model, and the state of its AdamW, Adam or SGD, to a file.

    `force=False` refuses a file that exists; else it is replaced.
    """
    check_model(model, "save")
    content = {
        "format": FORMAT,
        "version": VERSION,
        "spec": str(model.spec),
        "layers": {layer.name: registry.get(layer.name).version for layer in model.spec.walk()},
        **model.settings,
        "options": dataclasses.asdict(model.options),
        "state": model.state_dict(),
        "stored": stored_numbers(model),
        "granularity": [layer.granularity for layer in nested_layers(model).values()],
        "optimizer": None if optimizer is None else _pack(optimizer, model),
    }
    # An open file: of a path, torch would not say what the system's error was.
    with whole_file(path, force=force) as part, open(part, "wb") as file:
        torch.save(content, file)


def load(path: str | Path, *, foreign: bool = False) -> tuple[SequenceModel, Optimizer | None]:
    """The model of a file that `save` wrote and its optimiser, if one was saved; anything else is refused.

    `foreign`: whether layers given as package.module:Class may be imported, which runs their code.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file; give a checkpoint that `save` wrote")
    try:
        content = read_archive(path)
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is not a checkpoint of a model: {reason}; write one with `save`") from error
    try:
        return _unpack(content, foreign)
    except (ValueError, TypeError, KeyError, AttributeError, IndexError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} cannot be loaded: {reason}") from error


def _unpack(content: Any, foreign: bool) -> tuple[SequenceModel, Optimizer | None]:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError("it is not a checkpoint of a model; write one with `save`")
    version = content.get("version")
    if type(version) is not int or version != VERSION:
        raise ValueError(f"its format is {reprlib.repr(version)}, not {VERSION}; save it again")
    for key, kind in KINDS.items():
        if type(content.get(key)) is not kind and not (kind is dict and isinstance(content.get(key), dict)):
            raise ValueError(f"its {key!r} is missing or no {kind.__name__}; save it again")
    if ":" in content["spec"] and not foreign:
        raise ValueError(
            "it names layers outside this package, whose code would run; if you trust it, load(foreign=True)"
        )
    spec = parse(content["spec"])
    for layer in spec.walk():
        ours, theirs = registry.get(layer.name).version, content["layers"].get(layer.name)
        if ours != theirs:
            raise ValueError(
                f"its {layer.name} is of version {reprlib.repr(theirs)}, this one of {ours}; train it again"
            )
    arguments: dict[str, Any] = {k: content[k] for k in ("vocab_size", "dim", "max_len", "readout")}
    arguments["options"] = ModelOptions(**content["options"])
    # First without memory: a file may claim any size.
    drawn = sketch(spec, **arguments)
    wanted, state = drawn.state_dict(), content["state"]
    if set(state) != set(wanted):
        odd = min(set(state) ^ set(wanted), key=str)
        raise ValueError(f"its tensors are not those of {spec}: {odd} is in one of them only")
    moments = [] if content.get("optimizer") is None else _moments(content["optimizer"])
    held = check_tensors([*state.items(), *moments])
    for name, like in wanted.items():
        if state[name].shape != like.shape:
            raise ValueError(f"its tensor {name} is not of shape {tuple(like.shape)}, which {spec} has")
        if state[name].dtype not in (REALS if like.is_floating_point() else (like.dtype,)):
            raise ValueError(f"its tensor {name} is of {state[name].dtype}; save it again")
    # Names that share a storage would be given memory each.
    own = {id(t): state[n] for n, t in drawn.state_dict(keep_vars=True).items()}
    claimed = sum(t.numel() * t.element_size() for t in (*own.values(), *(t for _, t in moments)))
    if claimed > held:
        raise ValueError(f"its tensors take {claimed:,} bytes and it holds {held:,}; save it again")
    constants = sum(b.numel() for n, b in drawn.named_buffers() if n not in wanted)
    if constants > max(CONSTANTS, held):
        raise ValueError(
            f"it asks for constants of {constants} numbers; make it again with a smaller max_len"
        )
    model = build(spec, seed=0, **arguments).to(state["embedding.weight"].dtype)
    for name, tensor in model.state_dict(keep_vars=True).items():
        tensor.data = tensor.data.to(state[name].dtype)
    model.load_state_dict(state)
    restore_numbers(model, content["stored"])
    if content.get("granularity"):  # older files have none: whole
        set_granularity(model, content["granularity"])
    packed = content.get("optimizer")
    return model, None if packed is None else _unpack_optimizer(packed, model)


def _pack(optimizer: Optimizer, model: SequenceModel) -> dict[str, Any]:
    kind = type(optimizer).__name__
    names = {id(p): name for name, p in model.named_parameters()}
    held = [[names.get(id(p)) for p in group["params"]] for group in optimizer.param_groups]
    if OPTIMIZERS.get(kind) is not type(optimizer) or any(name is None for group in held for name in group):
        raise ValueError(f"{kind} is not AdamW, Adam or SGD of this model's parameters; save without it")
    state = optimizer.state_dict()
    options = [{k: v for k, v in group.items() if k != "params"} for group in state["param_groups"]]
    return {"kind": kind, "held": held, "options": options, "state": state["state"]}


def _moments(packed: Any) -> list[tuple[str, torch.Tensor]]:
    """The tensors of a packed optimiser with what to call them."""
    states = packed.get("state") if isinstance(packed, dict) else None
    if not isinstance(states, dict) or not all(isinstance(held, dict) for held in states.values()):
        raise ValueError("its optimiser is not one that `save` wrote; save it again, or without one")
    found = ((key, value) for held in states.values() for key, value in held.items())
    return [(f"{key} of the optimiser", value) for key, value in found if isinstance(value, torch.Tensor)]


def _unpack_optimizer(packed: dict[str, Any], model: SequenceModel) -> Optimizer:
    parameters = dict(model.named_parameters())
    groups = [{"params": [parameters[name] for name in held]} for held in packed["held"]]
    order = [p for group in groups for p in group["params"]]
    for number, state in packed["state"].items():
        for key, value in state.items():
            if isinstance(value, torch.Tensor) and value.dim() and value.shape != order[number].shape:
                raise ValueError(
                    f"the optimiser's {key} has shape {tuple(value.shape)}, its tensor "
                    f"{tuple(order[number].shape)}"
                )
    optimizer = OPTIMIZERS[packed["kind"]](groups, lr=1e-3)  # type: ignore[call-arg]
    numbered = optimizer.state_dict()["param_groups"]
    options = [
        {**group, "params": own["params"]} for group, own in zip(packed["options"], numbered, strict=True)
    ]
    optimizer.load_state_dict({"state": packed["state"], "param_groups": options})
    return optimizer
