"""Speculative decoding is greedy decoding, for every layer that has a step, wherever a draft is rejected."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import architectures
from architectures import registry
from architectures.elastic import speculate
from architectures.growth import add_heads, widen_hidden, widen_keys, widen_mlp
from architectures.primitive import Context, Primitive
from tests.architectures.helpers import model_of

VOCAB, PROMPT, COUNT, DRAFTS = 7, 5, 24, 4


def can_step(name: str) -> bool:
    cls = registry.get(name).cls
    return cls.mixes != "time" or cls.step is not Primitive.step


EVERY = [registry.get(name).example for name in architectures.names() if can_step(name)]
# Options that change what the state is made of.
OPTIONS = [
    "attention[heads=2, conv=3]",
    "sliding-attention[window=3]",
    "sliding-attention[window=64]",
    "fox[heads=2, rope=true, gate=true]",
    "path-attention[w_conv=0]",
    "lsh-attention[conv=3]",
    "lsh-attention[window=3, hashes=3, rope=false]",
    "mla[conv=3]",
    "sparse-mlp[sru=8]",
    "matformer-attention[conv=3]",
    "repeat[times=3]{mh-attention mlp}",
    "sequence-altup[stride=3]{mh-attention mlp}",
    "reversible{lsh-attention mlp}",
    "(lsh-attention + path-attention[w_conv=0] mlp)",
]
CUT = ("mh-attention", "fox", "mla", "lsh-attention", "moe-mlp", "repeat{mh-attention mlp}")
RECOMPUTED = (
    "path-attention[w_conv=0]",
    "lsh-attention[conv=3]",
    "mamba",
    "sequence-altup[stride=3]{mh-attention mlp}",
)


def make(layer: str) -> Any:
    return model_of(f"{layer} matformer-mlp", max_len=PROMPT + COUNT)


@torch.no_grad()
def greedy(model: Any, prompt: Tensor) -> Tensor:
    """Token by token."""
    state, found = model.init_state(prompt.shape[0]), []
    for token in prompt.unbind(1):
        logits, state = model.step(token, state)
    for _ in range(COUNT):
        found.append(logits.argmax(-1))
        logits, state = model.step(found[-1], state)
    return torch.stack(found, dim=1)


def test_a_grown_model_drafts_and_verifies_as_what_it_was() -> None:
    spec = "matformer-attention[conv=2] matformer-mlp"
    model = architectures.build(spec, vocab_size=VOCAB, dim=32, max_len=40, seed=0).double()
    prompt = torch.randint(VOCAB, (2, PROMPT), generator=torch.Generator().manual_seed(2))
    grown: Any = model
    for operation, to in ((widen_keys, 12), (widen_hidden, 48), (widen_mlp, 256), (add_heads, 8)):
        grown, _ = operation(grown, to=to)
    expected = greedy(model, prompt)
    for size in range(4):
        assert torch.equal(speculate(grown, prompt, COUNT, granularity=size).tokens, expected)


def scripted(expected: Tensor) -> tuple[list[Tensor], int, int, int]:
    """What is drafted, draft by draft; how many drafts are right; the rounds, and those with a wrong draft.

    Round by round the first wrong draft is one later, up to none; the row in which it is wrong changes too.
    """
    drafts, found, turn, right, broken = [], 1, 0, 0, 0
    while found < COUNT:
        count, wrong = min(DRAFTS, COUNT - found - 1), turn % (DRAFTS + 1)
        for i in range(count):
            draft = expected[:, found + i].clone()
            if i == wrong:
                draft[turn % 2] = (draft[turn % 2] + 1) % VOCAB
            drafts.append(draft)
        kept = min(count, wrong)
        found, turn, right, broken = found + kept + 1, turn + 1, right + kept, broken + (kept < count)
    return drafts, right, turn, broken


@pytest.mark.parametrize("layer", [*EVERY, *OPTIONS])
def test_drafts_rejected_at_any_position_change_nothing(layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(layer)
    prompt = torch.randint(VOCAB, (2, PROMPT), generator=torch.Generator().manual_seed(2))
    expected = greedy(model, prompt)
    drafts, right, rounds, broken = scripted(expected)
    step = model.step

    def draft(tokens: Tensor, state: Any, ctx: Context | None = None) -> Any:
        _, state = step(tokens, state, ctx)
        return F.one_hot(drafts.pop(0), VOCAB).double(), state

    monkeypatch.setattr(model, "step", draft)
    found = speculate(model, prompt, COUNT, drafts=DRAFTS)
    assert torch.equal(found.tokens, expected) and found.accepted == right and not drafts
    # A cache whose entries stay as they were written is cut; anything else is computed once more.
    again = 0 if layer in CUT else broken
    assert layer not in (*CUT, *RECOMPUTED) or found.passes == 1 + rounds + again


@pytest.mark.parametrize("layer", ["selective-attention", "rosa{mlp mh-attention}"])
@pytest.mark.parametrize("seed", range(12))
def test_what_a_rejected_draft_wrote_about_kept_tokens_goes_with_it(
    layer: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first entries of a growing state may stay as they were while a draft rewrites later ones."""
    model = model_of(f"{layer} matformer-mlp", max_len=1 + COUNT, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    prompt = torch.randint(VOCAB, (1, 1), generator=generator)
    expected, step = greedy(model, prompt), model.step

    def draft(tokens: Tensor, state: Any, ctx: Context | None = None) -> Any:
        logits, state = step(tokens, state)
        right = float(torch.rand((), generator=generator)) < 0.7
        return (logits if right else -logits), state

    monkeypatch.setattr(model, "step", draft)
    found = speculate(model, prompt, COUNT, drafts=DRAFTS)
    assert 0 < found.accepted < found.drafted
    assert torch.equal(found.tokens, expected)
