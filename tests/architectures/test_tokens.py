"""Layers that read the ids of the tokens beside x: who tells them, and who refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import architectures
from architectures.contract.checkup import examine
from architectures.families.recurrent import Recurrent
from architectures.primitive import Context, State
from tests.architectures.helpers import model_of, noise, random_tokens, stacked


class Before(Recurrent):
    """y_t = E[id_{t-1}] * W x_t, E[V] before the first token."""

    reads_tokens = True
    undecayed = ("table",)
    state_kinds = ("conv",)

    def __init__(self, config: Any, *, vocab_size: int, dim: int, **place: Any) -> None:
        super().__init__(config, dim=dim, **place)
        self.vocab_size = vocab_size
        self.table = nn.Embedding(vocab_size + 1, dim)
        self.out = nn.Linear(dim, dim, bias=False)

    def init_state(self, batch: int, length: int | None = None) -> State:
        self.check_length(length)
        return (torch.full((batch, 1), self.vocab_size, device=self.out.weight.device),)

    def prefill(self, x: Tensor, state: State, ctx: Context | None = None) -> tuple[Tensor, State]:
        ids = torch.cat([state[0], self.token_ids(ctx)], dim=1)
        return self.out(x) * self.table(ids[:, :-1]), (ids[:, -1:],)

    def uncounted_flops(self, length: int) -> int:
        return length * self.dim


BEFORE = f"{__name__}:Before"
BODIES = [BEFORE, f"{BEFORE} mlp {BEFORE}", f"reversible{{{BEFORE} mlp}}", f"sequence-altup{{{BEFORE} mlp}}"]
BODIES += [f"hyper-connections{{{BEFORE} repeat{{{BEFORE}}}}}", f"({BEFORE} + mlp)"]


def test_such_a_layer_keeps_the_contract() -> None:
    results = {found.check: found.result for found in examine(BEFORE, dim=48)}
    assert set(results.values()) <= {"passed", "not run", "not applicable"}, results
    assert results["causality"] == results["recurrence"] == results["vmap"] == "passed"


@pytest.mark.parametrize("spec", BODIES)
def test_a_model_tells_its_layers_the_tokens_wherever_they_stand(spec: str) -> None:
    model, tokens = model_of(spec), random_tokens(3, 20)
    whole = model(tokens)
    state, steps = model.init_state(3), []
    first, state = model.prefill(tokens[:, :7], state)
    for t in range(7, 20):
        logits, state = model.step(tokens[:, t], state)
        steps.append(logits)
    torch.testing.assert_close(
        torch.cat([first, torch.stack(steps, dim=1)], dim=1), whole, rtol=0, atol=1e-11
    )
    other = tokens.clone()
    other[:, 8] = (other[:, 8] + 1) % 5
    changed = (model(other) - whole).abs().amax(dim=(0, 2)) > 1e-9
    assert not changed[:8].any() and changed[8]
    assert changed[9:].any(), "a later position reads the id, too"


def test_a_reversible_stack_trains_a_layer_that_reads_tokens() -> None:
    spec = f"reversible{{{BEFORE} mlp {BEFORE}}}"
    model, again, tokens = model_of(spec), model_of(spec), random_tokens(3, 20)
    model(tokens).square().sum().backward()
    # The same function with its activations kept.
    a = b = again.embedding(tokens)
    for block in again.blocks[0].body:
        a, b = b, a + block(b, Context(tokens=tokens))
    again._read((a + b) / 2).square().sum().backward()
    for (name, p), q in zip(model.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=0, atol=1e-9, msg=name)


@pytest.mark.parametrize("spec", BODIES)
def test_replicas_are_told_each_their_own_tokens(spec: str) -> None:
    models = [model_of(spec, seed=r) for r in range(2)]
    tokens = torch.stack([random_tokens(3, 20, seed=r) for r in range(2)])
    buffers = dict(models[0].named_buffers())

    def run(parameters: dict[str, Tensor], tokens: Tensor) -> Tensor:
        return torch.func.functional_call(models[0], (parameters, buffers), (tokens,))

    found = torch.vmap(run)(stacked(models), tokens)
    loop = torch.stack([model(rows) for model, rows in zip(models, tokens, strict=True)])
    torch.testing.assert_close(found, loop, rtol=0, atol=1e-10)


def test_without_tokens_it_says_what_to_do() -> None:
    layer = model_of(BEFORE).blocks[0].layer
    with pytest.raises(
        ValueError, match=r"reads the ids of the tokens, and this call has none; use it in a "
    ):
        layer(noise(3, 20, 32))
    with pytest.raises(ValueError, match="reads the ids of tokens, and what is built here has none"):
        architectures.model.build_blocks(architectures.parse(BEFORE), dim=32, max_len=8, seed=0)
    assert layer.place["vocab_size"] == 7


def test_ids_in_the_state_are_no_elements_of_it() -> None:
    account = architectures.account(BEFORE, vocab_size=7, dim=32, seq_len=16)
    assert account.state == {"recurrent": 0, "conv": 0, "growing": 0, "total": 0}
