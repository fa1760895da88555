"""What is asked of whole models that are not built from a spec, each on the tokens that it is made for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from architectures.builder import seeded
from architectures.contract.causality import find_fault
from architectures.contract.probe import Kind
from architectures.contract.subject import Finding, Violation, chosen, describe, name_of


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model that `make` returns, and what it is asked with.

    name    of the task, for a finding
    file    that the code of the model is in
    tokens  (B, T), from 0 to below vocab_size
    causal  the answers stand at every position, so that no logit may depend on a later token
    """

    name: str
    file: str
    make: Callable[[], Any]
    tokens: Tensor
    vocab_size: int
    causal: bool

    def build(self) -> Any:
        with seeded(0, "model"):
            return self.make()

    def without(self, kind: Kind, otherwise: str, *, causal: bool = False) -> str:
        fault = find_fault(self.build(), self.tokens, self.vocab_size, causal=causal)
        if fault is not None and fault.kind == kind:
            raise Violation(str(fault))
        return otherwise


def examine_models(
    candidates: Sequence[Candidate],
    *,
    where: str,
    only: Collection[str] | None,
    report: Callable[[str], None],
) -> list[Finding]:
    """Put every question, or `only` some, to all candidates; `where` names what they were asked on."""
    wanted = chosen(only, QUESTIONS)
    asked = [name for name in QUESTIONS if name in wanted]
    findings: list[Finding] = []
    for name in asked:
        report(name)
        findings.append(_ask(name, candidates, where))
        if name in ("builds", "shape") and findings[-1].result == "failed":
            rest = asked[asked.index(name) + 1 :]
            return findings + [Finding(other, "not run", f"needs the check {name!r}") for other in rest]
    return findings


def _ask(name: str, candidates: Sequence[Candidate], where: str) -> Finding:
    seen = ""
    for candidate in candidates:
        try:
            seen = QUESTIONS[name](candidate) or seen
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # A user's model may raise anything; that is a finding.
            text = str(error) if isinstance(error, Violation) else describe(error, candidate.file)
            return Finding(name, "failed", f"{text}, on {candidate.name}")
    return Finding(name, "passed", f"{seen}, on {where}")


def builds(candidate: Candidate) -> str:
    """What is returned is a module, and from the same random state it has the same weights."""
    made = [candidate.build() for _ in range(2)]
    for model in made:
        if not isinstance(model, nn.Module):
            raise Violation(f"the factory returns {name_of(model)}; it returns an nn.Module")
    for (name, one), (_, other) in zip(*(model.named_parameters() for model in made), strict=True):
        if not torch.equal(one, other):
            raise Violation(f"{name} differs between two models of one seed; draw from torch")
    return "an nn.Module, with the same weights from the same seed"


def shape(candidate: Candidate) -> str:
    """Tokens (B, T) -> logits (B, T, vocabulary), finite or -inf, of training and evaluation."""
    tokens = candidate.tokens[:3]
    model, expected = candidate.build(), (*tokens.shape, candidate.vocab_size)
    for training in (True, False):
        logits = model.train(training)(tokens)
        if not isinstance(logits, Tensor) or tuple(logits.shape) != expected:
            raise Violation(f"tokens {tuple(tokens.shape)} give {name_of(logits)}; expected {expected}")
        if bool(logits.isnan().any()):
            raise Violation(f"{int(logits.isnan().sum())} of {logits.numel()} logits are not numbers")
    return "logits (B, T, vocabulary)"


def repeatable(candidate: Candidate) -> str:
    """The same tokens give the same logits, in training with the same random state of torch."""
    return candidate.without("repeat", "two calls are equal")


def causality(candidate: Candidate) -> str:
    """No logit moves when a later token does, where the answers stand at every position."""
    seen = "no logit moves when a later token does"
    return candidate.without("later", seen, causal=True) if candidate.causal else ""


def rows(candidate: Candidate) -> str:
    """No logit moves when another row does."""
    return candidate.without("rows", "no logit moves when another row does")


def gradients(candidate: Candidate) -> str:
    """Every parameter that is trained has a finite gradient."""
    model = candidate.build().train()
    model(candidate.tokens).log_softmax(-1).nan_to_num(neginf=0.0).square().mean().backward()
    for name, p in model.named_parameters():
        if p.requires_grad and (p.grad is None or not bool(p.grad.isfinite().all())):
            raise Violation(f"{'no' if p.grad is None else 'no finite'} gradient: {name}")
    return "every parameter has a finite gradient"


QUESTIONS: dict[str, Callable[[Candidate], str]] = {
    ask.__name__: ask for ask in (builds, shape, repeatable, causality, rows, gradients)
}
