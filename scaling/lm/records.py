"""Language-model runs as they are kept: `LanguageRecord`, beside the runs of the battery in one store."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from mad.data.bounds import Above, Amount, Content, Id, Positive, Signed, State, Text, Time, Whole, Word
from mad.data.protocol import Data
from mad.data.stored import Sheet, StoredRecord, decimals, not_rising
from mad.messages import counted
from scaling.lm.config import LanguageConfig

if TYPE_CHECKING:
    from mad.data.trails import Trail

LanguageStatus = Literal["ok", "diverged", "failed", "interrupted"]
Role = Literal["grid", "tuning", "single"]
# Results that a second call does not repeat.
FINAL: tuple[LanguageStatus, ...] = ("ok", "diverged")
# Nats per token; above it a model knows less than nothing of any vocabulary, and the run counts as diverged.
LARGEST_LOSS = 25.0
# As few windows tell the spread of a loss among windows.
WINDOWS = 30
# How N and C are counted, stated beside every number: N has the readout and not the input table (the
# "standard" count of arXiv:2406.19146), C is exact and not 6 N D.
CONVENTION = "N without the input embedding; C = 3 x forward, exact"
# Of numbers that are computed from one another.
NEAR = 1e-6


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


class LanguageRecord(StoredRecord):
    """One language-model run as it is stored, exported and imported: one line of JSON.

    given   what the user typed, which `config` resolves; `label`: the family that the run counts to in a fit
    study   the runs that were planned together, `role` what for, `budget` the nominal FLOPs of its group
    """

    table: ClassVar[str] = "language"
    column: ClassVar[str] = "study TEXT"
    since: ClassVar[int] = 2

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

    @property
    def grouped(self) -> str | None:
        return self.study

    def wrong(self) -> Iterator[str]:
        config, metrics, cost, status = self.config, self.metrics, self.cost, self.status
        if status not in FINAL:
            return
        if metrics is None or cost is None or (status == "ok" and metrics.loss is None):
            yield f"is {status!r} but lacks its metrics or cost"
            return
        if not _near(cost.flops, cost.flops_per_token * config.tokens):
            rate = f"{cost.flops_per_token:g} a token for {config.tokens:,} tokens"
            yield f"has {cost.flops:g} FLOPs, and {rate}"
        if cost.params_counted not in (cost.params, cost.params - cost.embedding):
            yield f"counts {cost.params_counted:,} of {cost.params:,} parameters, {cost.embedding:,} embedded"
        if metrics.epochs * metrics.unique_tokens > config.tokens * (1 + NEAR):
            read = f"{metrics.unique_tokens:,} tokens {metrics.epochs:g} times"
            yield f"read {read}, more than {config.tokens:,}"
        yield from not_rising([point.step for point in metrics.curve], config.steps)
        if metrics.loss is None:
            return
        if impossible := below_entropy(config, metrics):
            yield impossible
        if status == "diverged":
            yield f"diverged, and yet has a loss of {metrics.loss:g}"
        size, bits = config.corpus.bytes_per_token, metrics.bits_per_byte
        if size is not None and bits is not None and not _near(bits * math.log(2) * size, metrics.loss):
            yield f"has a loss of {metrics.loss:g}, and {bits:g} bits a byte"
        last = metrics.curve[-1] if metrics.curve else None
        if last is not None and (last.tokens != config.tokens or not _near(last.loss or 0.0, metrics.loss)):
            end = f"{last.tokens:,} tokens and a loss of {last.loss}"
            yield f"ends its curve at {end}, and has {metrics.loss:g}"

    def known(self) -> dict[str, set[str | None]]:
        known = super().known()
        return known | {"architecture": {*known["architecture"], self.label}, "study": {self.study}}

    @property
    def subject(self) -> str:
        return self.config.corpus.name

    @property
    def outcome(self) -> tuple[float | None, float | None]:
        return None, None if self.metrics is None else self.metrics.loss

    def sheet(self) -> Sheet:
        config, corpus, metrics, cost = self.config, self.config.corpus, self.metrics, self.cost
        facts = [("run", f"{self.id}  ({self.status})   {self.role}")]
        if self.study is not None:
            budget = "" if self.budget is None else f", budget {self.budget:.3g} FLOPs"
            facts.append(("study", f"{self.study}: {self.label}{budget}"))
        facts += [
            ("architecture", f"{config.architecture.label}   width {config.architecture.dim}"),
            ("corpus", f"{corpus.name}   {corpus.tokenizer}, vocabulary {corpus.vocab_size:,}"),
            (
                "training",
                f"{config.tokens:,} tokens in {counted(config.steps, 'step')} of "
                f"{config.batch_size} x {config.seq_len}",
            ),
            ("point", f"lr {config.lr:g}, weight decay {config.weight_decay:g}, seed {config.seed}"),
        ]
        if cost is not None:
            took = f"{cost.params:,} parameters, {cost.flops:.4g} FLOPs, {cost.seconds:.1f} s"
            facts += [("cost", took), ("", cost.convention)]
        facts.append(("made", self.origin))
        if metrics is None:
            return Sheet(facts)
        result = None
        if metrics.loss is not None:
            bits = "" if metrics.bits_per_byte is None else f", {metrics.bits_per_byte:.4f} bits per byte"
            result = (
                f"validation loss {metrics.loss:.4f} +- {metrics.loss_error or 0:.4f} nats per token{bits}, "
                f"over {metrics.evaluated:,} tokens; {metrics.epochs:.2f} epochs"
            )
        return Sheet(
            facts,
            ("step", "tokens", "lr", "train loss", "validation loss"),
            [
                (f"{p.step:,}", f"{p.tokens:,}", f"{p.lr:.2e}", *decimals(p.train_loss, p.loss))
                for p in metrics.curve
            ],
            result,
        )

    def trail(self) -> Trail:
        from scaling.lm.trails import trail_of  # It takes records.

        return trail_of(self)


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= NEAR * max(abs(one), abs(other))
