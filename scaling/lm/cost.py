"""What a language-model run costs, counted before it is run: parameters, training FLOPs, state."""

from __future__ import annotations

from contextlib import nullcontext

import torch

import architectures
from architectures.model import SequenceModel
from architectures.sizes.accounting import account_model
from scaling.lm.config import LanguageConfig
from scaling.lm.records import LanguageCost


def build_model(config: LanguageConfig, seed: int | None = None) -> SequenceModel:
    """The model of a run at its initial weights."""
    architecture = config.architecture
    assert architecture.dim is not None, "a factory of whole models has no configuration"
    return architectures.build(
        architecture.spec,
        vocab_size=config.corpus.vocab_size,
        dim=architecture.dim,
        max_len=config.seq_len,
        seed=config.seed if seed is None else seed,
        options=architectures.ModelOptions(**architecture.options),
    )


def counted_params(model: SequenceModel) -> int:
    """N: all parameters but the input table; a table that is also the readout counts (arXiv:2406.19146)."""
    table = 0 if model.options.tied else model.embedding.weight.numel()
    return sum(p.numel() for p in model.parameters()) - table


def cost_of(config: LanguageConfig) -> LanguageCost:
    """Parameters by every convention, training FLOPs = 3 x the exact forward, state after `seq_len` tokens.

    A nested model's forward passes are those that a step makes under its draw, on average.
    """
    # A layer of the user's own need not run on the meta device.
    with nullcontext() if ":" in config.architecture.spec else torch.device("meta"):
        model = build_model(config, seed=0)
    found = account_model(model, config.seq_len)
    flops = found.require_training_flops()
    return LanguageCost(
        params=found.params,
        params_counted=counted_params(model),
        embedding=model.embedding.weight.numel(),
        core=found.core,
        active=found.active,
        flops_per_token=flops,
        flops=flops * config.tokens,
        state=found.state,
        nominal_state=found.nominal,
    )
