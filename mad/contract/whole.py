"""What is asked of a factory of whole models, `(task) -> nn.Module`, on the tasks of the smoke suite."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn

from architectures.builder import seeded
from architectures.contract.causality import Fault, Kind, find_fault
from mad.contract.finding import Finding
from mad.contract.subject import Violation, describe, name_of
from mad.data.protocol import get_protocol, get_suite
from mad.run.sweep import Factory
from synthetic_tasks import Task

Ask = Callable[[Factory, Task], str]


def examine_factory(
    factory: Factory, *, only: Collection[str] | None, report: Callable[[str], None]
) -> list[Finding]:
    """Put every question, or `only` some, to the models that a factory makes."""
    protocol = get_protocol("sound")
    tasks = [setting.resolve(protocol) for setting in get_suite("smoke").settings]
    findings: list[Finding] = []
    for name, ask in QUESTIONS.items():
        if only is not None and name not in only:
            continue
        report(name)
        findings.append(_ask(name, ask, factory, tasks))
        if name in ("builds", "shape") and findings[-1].result == "failed":
            asked = [other for other in QUESTIONS if only is None or other in only]
            rest = asked[asked.index(name) + 1 :]
            return findings + [Finding(other, "not run", f"needs the check {name!r}") for other in rest]
    return findings


def _ask(name: str, ask: Ask, factory: Factory, tasks: list[Task]) -> Finding:
    seen = ""
    for task in tasks:
        try:
            seen = ask(factory, task) or seen
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # A user's model may raise anything; that is a finding.
            file = inspect.getfile(factory)
            text = str(error) if isinstance(error, Violation) else describe(error, file)
            return Finding(name, "failed", f"{text}, on {task}")
    return Finding(name, "passed", f"{seen}, on the {len(tasks)} tasks of the smoke suite")


def _build(factory: Factory, task: Task) -> nn.Module:
    with seeded(0, "model"):
        return factory(task)


def _tokens(task: Task, rows: int = 32) -> Tensor:
    return torch.from_numpy(task.draw(0, "train", rows).inputs)


def builds(factory: Factory, task: Task) -> str:
    """The factory returns a module, and from the same random state the same weights."""
    made = [_build(factory, task) for _ in range(2)]
    for model in made:
        if not isinstance(model, nn.Module):
            raise Violation(f"the factory returns {name_of(model)}; it returns an nn.Module")
    for (name, one), (_, other) in zip(*(model.named_parameters() for model in made), strict=True):
        if not torch.equal(one, other):
            raise Violation(f"{name} differs between two models of one seed; draw from torch")
    return "an nn.Module, with the same weights from the same seed"


def shape(factory: Factory, task: Task) -> str:
    """Tokens (B, T) -> logits (B, T, vocabulary), finite or -inf, of training and evaluation."""
    tokens = _tokens(task, 3)
    model, expected = _build(factory, task), (*tokens.shape, task.vocab_size)
    for training in (True, False):
        logits = model.train(training)(tokens)
        if not isinstance(logits, Tensor) or tuple(logits.shape) != expected:
            raise Violation(f"tokens {tuple(tokens.shape)} give {name_of(logits)}; expected {expected}")
        if bool(logits.isnan().any()):
            raise Violation(f"{int(logits.isnan().sum())} of {logits.numel()} logits are not numbers")
    return "logits (B, T, vocabulary)"


def gradients(factory: Factory, task: Task) -> str:
    """Every parameter that is trained has a finite gradient."""
    model = _build(factory, task).train()
    model(_tokens(task)).log_softmax(-1).nan_to_num(neginf=0.0).square().mean().backward()
    for name, p in model.named_parameters():
        if p.requires_grad and (p.grad is None or not bool(p.grad.isfinite().all())):
            raise Violation(f"{'no' if p.grad is None else 'no finite'} gradient: {name}")
    return "every parameter has a finite gradient"


def _fault(factory: Factory, task: Task, *, causal: bool) -> Fault | None:
    return find_fault(_build(factory, task), _tokens(task), task.vocab_size, causal=causal)


def _without(kind: Kind, fault: Fault | None, otherwise: str) -> str:
    if fault is not None and fault.kind == kind:
        raise Violation(str(fault))
    return otherwise


def repeatable(factory: Factory, task: Task) -> str:
    """The same tokens give the same logits, in training with the same random state of torch."""
    return _without("repeat", _fault(factory, task, causal=False), "two calls are equal")


def causality(factory: Factory, task: Task) -> str:
    """No logit moves when a later token does, where the answers stand at every position."""
    if task.readout != "every":
        return ""
    return _without("later", _fault(factory, task, causal=True), "no logit moves when a later token does")


def rows(factory: Factory, task: Task) -> str:
    """No logit moves when another row does."""
    return _without("rows", _fault(factory, task, causal=False), "no logit moves when another row does")


QUESTIONS: dict[str, Ask] = {
    "builds": builds,
    "shape": shape,
    "repeatable": repeatable,
    "causality": causality,
    "rows": rows,
    "gradients": gradients,
}
