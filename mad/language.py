"""Language-model runs as they are identified and kept: `LanguageConfig` and `LanguageRecord`.

They follow `mad.config`: a run's id is the hash of everything that decides its numbers; names, places and
times stand beside it. The store keeps them beside the runs of the battery.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from mad.config import ArchitectureConfig, content_hash
from mad.protocol import PROTOCOLS, Data

if TYPE_CHECKING:
    import architectures

LanguageStatus = Literal["ok", "diverged", "failed", "interrupted"]
Role = Literal["grid", "tuning", "single"]
Precision = Literal["32-true", "bf16-mixed"]
# Results that a second call does not repeat.
FINAL: tuple[LanguageStatus, ...] = ("ok", "diverged")
# How N and C are counted, stated beside every number: N has the readout and not the input table (the
# "standard" count of arXiv:2406.19146), C is exact and not 6 N D.
CONVENTION = "N without the input embedding; C = 3 x forward, exact"


class CorpusConfig(Data):
    """A text as it is hashed: its bytes, how they became tokens, how it was split.

    name             label for people, no part of the identity
    sha256           of the text, or of the rules of a generated one
    validation       fraction of the documents that is held out; 0 where the tokens are generated
    train_tokens     None: unlimited, as a generator has them
    bytes_per_token  of the held-out text; None where tokens are no text
    entropy          nats a token that no model can go below, where it is known
    """

    name: str
    sha256: str
    tokenizer: Literal["bytes", "bpe", "none"]
    vocab_size: int = Field(ge=2)
    tokenizer_sha256: str | None = None
    validation: float = Field(ge=0, lt=1)
    train_tokens: int | None = Field(default=None, ge=1)
    validation_tokens: int = Field(ge=1)
    bytes_per_token: float | None = Field(default=None, gt=0)
    entropy: float | None = Field(default=None, ge=0)
    version: int = 1


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
    seq_len: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    steps: int = Field(ge=1)
    lr: float = Field(gt=0)
    warmup: int = Field(ge=0)
    final_lr: float = Field(ge=0, le=1)
    weight_decay: float = Field(ge=0)
    betas: tuple[float, float]
    eps: float = Field(gt=0)
    clip: float | None = Field(gt=0)
    evaluations: int = Field(ge=1)
    evaluation_tokens: int = Field(ge=1)
    seed: int = Field(ge=0)
    precision: Precision = "32-true"
    backend: str = "reference"
    compile: bool = False
    version: int = 1

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
    from mad.sweep import resolve

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

    step: int
    tokens: int
    loss: float | None
    train_loss: float | None
    lr: float


class LanguageMetrics(Data):
    """What was measured on the final weights; a run that diverged has a curve and no loss.

    loss           nats a token on held-out text, and `loss_error`: its standard error over windows
    train_loss     mean since the evaluation before the last
    initial_loss   of the first step, before any update
    evaluated      held-out tokens that were read
    unique_tokens  training tokens without repetitions, and `epochs` = tokens / unique_tokens
    clipped_steps  steps whose gradient was longer than `clip`
    """

    loss: float | None = None
    loss_error: float | None = None
    bits_per_byte: float | None = None
    train_loss: float | None = None
    initial_loss: float | None = None
    evaluated: int = 0
    curve: tuple[LanguagePoint, ...] = ()
    unique_tokens: int
    epochs: float
    clipped_steps: int = 0


class LanguageCost(Data):
    """What the run took, counted and measured.

    params           all parameters; `embedding`: those of the input table, `core`: without table and readout
    params_counted   the N of the fits: all but the input table (a tied table is the readout, and counts)
    active           of `core`, those that one token uses
    flops_per_token  of training: 3 x the exact forward; `flops` is that times the training tokens, the C
    state            elements of one row's state after `seq_len` tokens, by kind; None where unknown
    """

    params: int
    params_counted: int
    embedding: int
    core: int
    active: int
    flops_per_token: float
    flops: float
    state: dict[str, int] | None = None
    nominal_state: int | None = None
    seconds: float = 0.0
    peak_memory: int | None = None
    convention: str = CONVENTION


class LanguageRecord(Data):
    """One language-model run as it is stored, exported and imported: one line of JSON.

    given   what the user typed, which `config` resolves; `label`: the family that the run counts to in a fit
    study   the runs that were planned together, `role` what for, `budget` the nominal FLOPs of its group
    """

    kind: Literal["language"] = "language"
    id: str
    study: str | None = None
    role: Role = "single"
    budget: float | None = None
    status: LanguageStatus
    config: LanguageConfig
    given: str
    label: str
    metrics: LanguageMetrics | None = None
    cost: LanguageCost | None = None
    environment: dict[str, Any] = Field(default_factory=dict)
    error: str | None = None
    attempts: int = 1
    created: str
    schema_version: Literal[1] = 1


def check_language(record: LanguageRecord) -> None:
    """Refuse a record that is not what its configuration or its status says."""
    if record.id != record.config.id:
        raise ValueError(
            f"id {record.id} does not match its configuration, which has id {record.config.id}; "
            "the record was edited or damaged: take it from its source again"
        )
    metrics = record.metrics
    if record.status not in FINAL:
        return
    if metrics is None or record.cost is None or (record.status == "ok" and metrics.loss is None):
        raise ValueError(f"run {record.id} is {record.status!r} but lacks its metrics or cost; run it again")
    if record.status == "diverged" and metrics.loss is not None:
        raise ValueError(f"run {record.id} diverged, and yet has a loss of {metrics.loss:g}; run it again")
