"""Thresholds at decoding (TEAL, arXiv:2408.14690): a trained model whose maps read no small inputs.

Nothing is trained. An input x of an `nn.Linear` counts as zero where |x| is at most the map's threshold, and
a column of the weight that meets a zero need not be read, which is what a decoding step spends its time on.
The thresholds are quantiles of what the maps were given on some rows. What is left out is set to zero here,
and not skipped: this tells what a share costs in quality; the time is that of a kernel. Maps that a layer
applies otherwise than by calling an `nn.Linear`, such as those of experts, stay as they are.

    shares = balance(model, tokens, 0.5)            # or one share for every map
    thresholds = calibrate(model, tokens, shares)
    with thresholded(model, thresholds) as tally:
        model(tokens)
    tally.share
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from architectures.blocks import add
from architectures.model import SequenceModel, check_model
from architectures.primitive import Context
from architectures.registry import unknown

Thresholds = Mapping[str, float]


def maps(model: SequenceModel) -> dict[str, nn.Linear]:
    """The maps inside of the layers, by their dotted names."""
    check_model(model, "thresholds")
    named = model.blocks.named_modules(prefix="blocks")
    return {name: module for name, module in named if isinstance(module, nn.Linear)}


@torch.no_grad()
def calibrate(
    model: SequenceModel, tokens: Tensor, sparsity: float | Mapping[str, float]
) -> dict[str, float]:
    """The thresholds that leave out a share of the inputs on tokens (B, T): one for all maps, or for each.

    A map that this call does not reach has none.
    """
    shares = sparsity if isinstance(sparsity, Mapping) else dict.fromkeys(maps(model), sparsity)
    _check_names(model, shares)
    for share in shares.values():
        _check_share(share)
    sizes = _inputs(model, lambda: model(tokens))
    return {name: _threshold(sizes[name], share) for name, share in shares.items() if name in sizes}


@torch.no_grad()
def balance(model: SequenceModel, tokens: Tensor, sparsity: float, *, step: float = 0.05) -> dict[str, float]:
    """A share for each map by which every layer leaves out `sparsity` of its weights, and errs least.

    Greedily and layer by layer, as in the paper: the share goes up for the map that then changes the layer's
    output least, by `step` of an average map at a time. A layer is an item of the spec, there attention and
    MLP together; it is given what the whole model gives it.
    """
    _check_share(sparsity)
    if not 0 < step <= 1:
        raise ValueError(f"step={step:g} must be above 0 and at most 1")
    known = maps(model)
    x, shares = model.embedding(tokens), dict.fromkeys(known, 0.0)
    for block in model._parts():

        def run(x: Tensor = x, block: Any = block) -> Tensor:
            return add(block, x, Context(tokens=tokens))

        sizes = _inputs(model, run)
        after = run()
        weight = {name: known[name].weight.numel() for name in sizes}
        total = sum(weight.values())
        left = sparsity * total
        while left > 1e-9 * total:
            trials = {}
            for name, numel in weight.items():
                more = min(step * total / len(weight), left, (1 - shares[name]) * numel)
                if more > 0:
                    own = {n: _threshold(sizes[n], shares[n]) for n in sizes}
                    own[name] = _threshold(sizes[name], shares[name] + more / numel)
                    with thresholded(model, own):
                        trials[name] = float((run() - after).norm(dim=-1).mean()), more
            best = min(trials, key=lambda name: trials[name][0])
            shares[best] = min(1.0, shares[best] + trials[best][1] / weight[best])
            left -= trials[best][1]
        x = after
    return shares


@dataclass
class Tally:
    """Weights that calls have met so far, and those that they need not have read."""

    met: Tensor | int = 0
    spared: Tensor | int = 0

    @property
    def share(self) -> float:
        return float(self.spared) / max(1.0, float(self.met))


@contextlib.contextmanager
def thresholded(model: SequenceModel, thresholds: Thresholds) -> Iterator[Tally]:
    """The model with thresholds for a while, in all of its calls, and afterwards as it was."""
    known, tally = maps(model), Tally()
    _check_names(model, thresholds)

    def leaves_out(threshold: float) -> Callable[[nn.Module, Any], Any]:
        def hook(linear: Any, given: Any) -> Any:
            x, *rest = given
            kept = x.abs() > threshold
            tally.met += x.numel() * linear.out_features
            tally.spared += (x.numel() - kept.sum()) * linear.out_features
            return torch.where(kept, x, torch.zeros_like(x)), *rest

        return hook

    with contextlib.ExitStack() as hooks:
        for name, threshold in thresholds.items():
            handle = known[name].register_forward_pre_hook(leaves_out(threshold))
            hooks.callback(handle.remove)
        yield tally


@torch.no_grad()
def decode(model: SequenceModel, prompt: Tensor, count: int, thresholds: Thresholds | None = None) -> Tensor:
    """Greedy decoding of `count` tokens after `prompt` (B, T) -> (B, count); the prompt is read whole."""
    if count < 1:
        raise ValueError(f"count={count} must be at least 1")
    state = model.init_state(prompt.shape[0], prompt.shape[1] + count)
    logits, state = model.prefill(prompt, state)
    found = [logits[:, -1].argmax(-1)]
    with thresholded(model, thresholds or {}):
        while len(found) < count:
            logits, state = model.step(found[-1], state)
            found.append(logits.argmax(-1))
    return torch.stack(found, dim=1)


def _inputs(model: SequenceModel, call: Callable[[], object]) -> dict[str, Tensor]:
    """The sizes of all inputs of each map in a call, smallest first."""
    found: dict[str, list[Tensor]] = {}

    def records(name: str) -> Callable[[nn.Module, Any], None]:
        return lambda _, given: found.setdefault(name, []).append(given[0].detach().abs().flatten())

    with contextlib.ExitStack() as hooks:
        for name, linear in maps(model).items():
            hooks.callback(linear.register_forward_pre_hook(records(name)).remove)
        call()
    return {name: torch.cat(sizes).sort().values for name, sizes in found.items()}


def _threshold(sizes: Tensor, share: float) -> float:
    """What a share of sorted sizes is at most."""
    count = round(share * len(sizes))
    return float(sizes[count - 1]) if count else 0.0


def _check_share(share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"a share of {share:g} is not between 0, every input is read, and 1, none is")


def _check_names(model: SequenceModel, given: Mapping[str, object]) -> None:
    known = maps(model)
    if not known:
        raise ValueError(f"{model.spec} has no map to set a threshold for; use layers with nn.Linear")
    for name in given:
        if name not in known:
            raise ValueError(f"unknown map {unknown(name, known)}")
