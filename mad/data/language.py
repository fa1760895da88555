"""Language-model runs as they are identified and kept: `LanguageConfig` and `LanguageRecord`.

They follow `mad.data.records`: a run's id is the hash of everything that decides its numbers; names, places
and times stand beside it. The store keeps them beside the runs of the battery.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from mad.data.bounds import (
    EXACT,
    Above,
    Amount,
    Content,
    Fraction,
    Id,
    Positive,
    Signed,
    State,
    Text,
    Time,
    Whole,
    Word,
)
from mad.data.protocol import PROTOCOLS, Data
from mad.data.records import ArchitectureConfig, content_hash

if TYPE_CHECKING:
    import architectures

LanguageStatus = Literal["ok", "diverged", "failed", "interrupted"]
Role = Literal["grid", "tuning", "single"]
Precision = Literal["32-true", "bf16-mixed"]
# Results that a second call does not repeat.
FINAL: tuple[LanguageStatus, ...] = ("ok", "diverged")
# Nats a token; above it a model knows less than nothing of any vocabulary, and the run counts as diverged.
LARGEST_LOSS = 25.0
# How N and C are counted, stated beside every number: N has the readout and not the input table (the
# "standard" count of arXiv:2406.19146), C is exact and not 6 N D.
# As few windows tell the spread of a loss among windows.
WINDOWS = 30
CONVENTION = "N without the input embedding; C = 3 x forward, exact"


class CorpusConfig(Data):
    """A text as it is hashed: its bytes, how they became tokens, how it was split.

    name             label for people, no part of the identity
    sha256           of the text, or of the rules of a generated one
    validation       fraction of the documents that is held out; 0 where the tokens are generated
    train_tokens     None: unlimited, as a generator has them
    bytes_per_token  of the held-out text; None where tokens are no text
    entropy          nats per token that no model can go below, where it is known
    """

    name: Text
    sha256: Word
    tokenizer: Literal["bytes", "bpe", "none"]
    vocab_size: int = Field(ge=2, le=EXACT)
    tokenizer_sha256: Word | None = None
    validation: float = Field(ge=0, lt=1)
    train_tokens: Positive | None = None
    validation_tokens: Positive
    bytes_per_token: Above | None = None
    entropy: Amount | None = None
    version: Whole = 1


class LanguageConfig(Data):
    """One language-model run, fully resolved: everything that decides its numbers and nothing else.

    batch_size         sequences a step, over all devices
    lr                 at the top of the schedule: `warmup` steps up to it, then a cosine
    final_lr           where the cosine ends, as a fraction of `lr`
    clip               largest norm of the gradient; None: not clipped
    evaluations        how many times the held-out text is evaluated, the last time at the end
    evaluation_tokens  of the held-out text that each evaluation reads, at most
    """

    architecture: ArchitectureConfig
    corpus: CorpusConfig
    seq_len: Positive
    batch_size: Positive
    steps: Positive
    lr: Above
    warmup: Whole
    final_lr: Fraction
    weight_decay: Amount
    betas: tuple[Fraction, Fraction]
    eps: Above
    clip: Above | None
    evaluations: Positive
    evaluation_tokens: Positive
    seed: Whole
    precision: Precision = "32-true"
    backend: Word = "reference"
    compile: bool = False
    version: Whole = 1

    @model_validator(mode="after")
    def _warm_up_ends(self) -> LanguageConfig:
        if self.warmup > self.steps:
            raise ValueError(f"warmup={self.warmup} must be at most steps={self.steps}; shorten it")
        return self

    @property
    def id(self) -> str:
        content = self.model_dump(mode="json", exclude={"corpus": {"name"}})
        return content_hash({"kind": "language", "config": content})

    @property
    def tokens(self) -> int:
        """Training tokens D, repetitions included."""
        return self.steps * self.batch_size * self.seq_len


def language_config(
    spec: str | architectures.Spec,
    *,
    dim: int,
    corpus: CorpusConfig,
    seq_len: int,
    batch_size: int,
    steps: int,
    lr: float,
    warmup: int | None = None,
    final_lr: float = 0.1,
    weight_decay: float = 0.1,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    clip: float | None = 1.0,
    evaluations: int = 10,
    evaluation_tokens: int = 2**17,
    seed: int = 0,
    precision: Precision | Literal["auto"] = "auto",
    device: str = "auto",
    compile: bool = False,
) -> LanguageConfig:
    """The configuration of a spec or a preset's name at a width, on a corpus; see `LanguageConfig`.

    `warmup=None` is a twentieth of the steps. `precision="auto"` is what suits `device`: bf16-mixed on CUDA
    with bfloat16, else 32-true. What a run is made with is part of what it is.
    """
    from mad.run.sweep import resolve

    architecture = resolve(spec, dim=dim, protocol=PROTOCOLS["sound"])
    if architecture.config.dim is None:
        raise ValueError(
            f"{architecture.given} makes whole models for a task; a language model is built from a spec or a "
            "preset's name"
        )
    return LanguageConfig(
        architecture=architecture.config,
        corpus=corpus,
        seq_len=seq_len,
        batch_size=batch_size,
        steps=steps,
        lr=lr,
        warmup=-(-steps // 20) if warmup is None else warmup,
        final_lr=final_lr,
        weight_decay=weight_decay,
        betas=betas,
        eps=eps,
        clip=clip,
        evaluations=evaluations,
        evaluation_tokens=evaluation_tokens,
        seed=seed,
        precision=resolve_precision(device) if precision == "auto" else precision,
        compile=compile,
    )


def resolve_precision(device: str = "auto") -> Precision:
    """The precision that a run on this device is made with, unless another one is asked for."""
    import torch

    on_cuda = device.startswith(("auto", "cuda", "gpu")) and torch.cuda.is_available()
    return "bf16-mixed" if on_cuda and torch.cuda.is_bf16_supported() else "32-true"


class LanguagePoint(Data):
    """The curve at one evaluation: held-out loss, mean training loss since the last point, the last rate."""

    step: Positive
    tokens: Positive
    loss: Amount | None
    train_loss: Signed | None
    lr: Amount


class LanguageMetrics(Data):
    """What was measured on the final weights; a run that diverged has a curve and no loss.

    loss           nats per token on held-out text, and `loss_error`: its standard error over windows
    train_loss     mean since the evaluation before the last
    initial_loss   of the first step, before any update
    evaluated      held-out tokens that were read
    unique_tokens  training tokens without repetitions, and `epochs` = tokens / unique_tokens
    clipped_steps  steps whose gradient was longer than `clip`
    """

    loss: Annotated[float, Field(ge=0, le=LARGEST_LOSS)] | None = None
    loss_error: Amount | None = None
    bits_per_byte: Amount | None = None
    train_loss: Signed | None = None
    initial_loss: Signed | None = None
    evaluated: Whole = 0
    curve: tuple[LanguagePoint, ...] = ()
    unique_tokens: Whole
    epochs: Amount
    clipped_steps: Whole = 0


def below_entropy(config: LanguageConfig, metrics: LanguageMetrics) -> str | None:
    """What is wrong with a loss that no model of this text can have; None where it is possible.

    The evaluation's own error is allowed for: `slack`.
    """
    entropy = config.corpus.entropy
    if entropy is None or metrics.loss is None or metrics.loss >= entropy - slack(config, metrics):
        return None
    return (
        f"has a loss of {metrics.loss:.4g} nats per token, below the entropy of its text, {entropy:.4g}, by "
        f"more than the error of its evaluation, {slack(config, metrics):.2g}: it saw what it was to predict"
    )


def slack(config: LanguageConfig, metrics: LanguageMetrics) -> float:
    """Nats by which an evaluation may fall below the entropy by chance: five standard errors.

    The measured error where there are enough windows for it, else that of tokens as uneven as they can be,
    about ln(vocabulary) / sqrt(tokens).
    """
    if metrics.loss_error is not None and metrics.evaluated >= WINDOWS * config.seq_len:
        return 5 * metrics.loss_error
    return 5 * math.log(config.corpus.vocab_size) / math.sqrt(max(metrics.evaluated, 1))


class LanguageCost(Data):
    """What the run took, counted and measured.

    params           all parameters; `embedding`: those of the input table, `core`: without table and readout
    params_counted   the N of the fits: all but the input table (a tied table is the readout, and counts)
    active           of `core`, those that one token uses
    flops_per_token  of training: 3 x the exact forward, of a nested model under its draw; `flops` is that
                     times the training tokens, the C
    state            elements of one row's state after `seq_len` tokens, by kind; None where unknown
    """

    params: Whole
    params_counted: Positive
    embedding: Whole
    core: Whole
    active: Whole
    flops_per_token: Above
    flops: Above
    state: State | None = None
    nominal_state: Whole | None = None
    seconds: Amount = 0.0
    peak_memory: Whole | None = None
    convention: Text = CONVENTION


class LanguageRecord(Data):
    """One language-model run as it is stored, exported and imported: one line of JSON.

    given   what the user typed, which `config` resolves; `label`: the family that the run counts to in a fit
    study   the runs that were planned together, `role` what for, `budget` the nominal FLOPs of its group
    """

    kind: Literal["language"] = "language"
    id: Id
    study: Word | None = None
    role: Role = "single"
    budget: Above | None = None
    status: LanguageStatus
    config: LanguageConfig
    given: Text
    label: Annotated[Text, Field(min_length=1)]
    metrics: LanguageMetrics | None = None
    cost: LanguageCost | None = None
    environment: Content = Field(default_factory=dict)
    error: str | None = None
    attempts: Positive = 1
    created: Time
    imported: bool = False  # as in `Record`
    schema_version: Literal[1] = 1
