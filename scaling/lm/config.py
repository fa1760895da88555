"""What decides the numbers of a language-model run, fully resolved: `LanguageConfig`.

As in `mad.data.records`, a run's id is the hash of this and of nothing else; names, places and times stand
beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from mad.data.bounds import LARGEST_WHOLE, Above, Amount, Fraction, Positive, Text, Whole, Word
from mad.data.protocol import PROTOCOLS, Data
from mad.data.records import ArchitectureConfig, content_hash

if TYPE_CHECKING:
    import architectures

Precision = Literal["32-true", "bf16-mixed"]


class CorpusConfig(Data):
    """A text as it is hashed: its bytes, how they became tokens, how it was split.

    name             label for people, not part of the identity
    sha256           of the text, or of the rules of a generated one
    validation       fraction of the documents that is held out; 0 where the tokens are generated
    train_tokens     None: unlimited, as a generator has them
    bytes_per_token  of the held-out text; None where tokens are not text
    entropy          nats per token that no model can go below, where it is known
    """

    name: Text
    sha256: Word
    tokenizer: Literal["bytes", "bpe", "none"]
    vocab_size: int = Field(ge=2, le=LARGEST_WHOLE)
    tokenizer_sha256: Word | None = None
    validation: float = Field(ge=0, lt=1)
    train_tokens: Positive | None = None
    validation_tokens: Positive
    bytes_per_token: Above | None = None
    entropy: Amount | None = None
    version: Whole = 1


class LanguageConfig(Data):
    """One language-model run, fully resolved: everything that decides its numbers and nothing else.

    batch_size         sequences per step, over all devices
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
    size: str | None = None,
) -> LanguageConfig:
    """The configuration of a spec or a preset's name at a width, on a corpus; see `LanguageConfig`.

    `warmup=None` is a twentieth of the steps. `precision="auto"` is what suits `device`: bf16-mixed on CUDA
    with bfloat16, else 32-true. What a run is made with is part of what it is. `size` is the spec at another
    size, which takes its place: the model options are those of the given one.
    """
    return LanguageConfig(
        architecture=resolve_architecture(spec, dim, size),
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


def resolve_architecture(
    spec: str | architectures.Spec, dim: int, size: str | None = None
) -> ArchitectureConfig:
    """What a spec or a preset's name is, with the versions and sources of its layers."""
    import architectures
    from mad.run.sweep import resolve

    equalise = None if size is None else lambda asked: architectures.parse(size)
    found = resolve(spec, dim=dim, protocol=PROTOCOLS["sound"], equalise=equalise)
    if found.config.dim is None:
        raise ValueError(
            f"{found.given} makes whole models for a task; a language model is built from a spec or a "
            "preset's name"
        )
    return found.config


def resolve_precision(device: str = "auto") -> Precision:
    """The precision that a run on this device is made with, unless another one is asked for."""
    import torch

    on_cuda = device.startswith(("auto", "cuda", "gpu")) and torch.cuda.is_available()
    return "bf16-mixed" if on_cuda and torch.cuda.is_bf16_supported() else "32-true"
