"""A corpus as a source of windows of tokens: real text, ready-made tokens, or a grammar of known entropy.

    >>> corpus = load("grammar[vocab_size=16, order=2]")
    >>> corpus.batch(0, batch_size=4, seq_len=32, seed=0).shape
    (4, 33)

Documents go to training or validation by the hash of their text, once for all: two copies are on one side,
and neither the order nor the number of the others moves one.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol, cast

from architectures.files import resolved
from mad.messages import near
from scaling.lm import documents as sources
from scaling.lm import grammar, shards
from scaling.lm.config import CorpusConfig
from scaling.lm.documents import Bytes, Encoder, Given, check_bpe, train_bpe
from scaling.lm.windows import Tokens, held_out_windows, train_windows

# Raise it whenever the same text would give other tokens, or another split, than before.
VERSION = 1
TOKENIZERS = ("bytes", "bpe")
VALIDATION_FRACTION = 0.05
CONFIG, TRAIN, VALIDATION, TOKENIZER = "config.json", "train.bin", "validation.bin", "tokenizer.json"


class Corpus(Protocol):
    """What language models are trained and evaluated on; `config` says what it is."""

    @property
    def config(self) -> CorpusConfig: ...

    def batch(self, step: int, *, batch_size: int, seq_len: int, seed: int) -> Tokens:
        """Windows (batch_size, seq_len + 1) of a training step, a pure function of its arguments.

        Columns :-1 are inputs and 1: their targets. Of several workers each takes its rows.
        """

    def validation(self, seq_len: int, tokens: int | None = None) -> Tokens:
        """Fixed windows (n, seq_len + 1) that training never reads, with about `tokens` targets."""


class Text:
    """A corpus of tokens in two mapped files; `folder` holds them, and the tokenizer if one was trained."""

    def __init__(self, config: CorpusConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self._train = shards.read(folder / TRAIN, config.vocab_size, cast(int, config.train_tokens))
        self._held_out = shards.read(folder / VALIDATION, config.vocab_size, config.validation_tokens)

    def __reduce__(self) -> tuple[type[Text], tuple[CorpusConfig, Path]]:
        """Another process maps the files itself; a mapped array would be pickled with all its tokens."""
        return Text, (self.config, self.folder)

    def batch(self, step: int, *, batch_size: int, seq_len: int, seed: int) -> Tokens:
        return train_windows(self._train, step=step, batch_size=batch_size, seq_len=seq_len, seed=seed)

    def validation(self, seq_len: int, tokens: int | None = None) -> Tokens:
        return held_out_windows(self._held_out, seq_len, tokens)


def load(
    source: str | Path,
    *,
    tokenizer: str = "bytes",
    vocab_size: int | None = None,
    cache: str | Path | None = None,
    validation: float | None = None,
) -> Corpus:
    """The corpus of a source: "sotu", a .txt, .jsonl or .bin file, or "grammar[...]".

    tokenizer   of text: "bytes" (256 tokens), or "bpe" with a `vocab_size`, trained on the training split.
                Tokens of a .bin file or a grammar are taken as they are
    cache       folder of the tokens; None: $MAD_CACHE or the platform's
    validation  the fraction of the documents that is held out, by the hash of their text; None: a twentieth

    `scaling.lm.documents` says what a document is in each source, `scaling.lm.grammar` which options it has.
    ValueError: unknown source or tokenizer, bad text (named by line), too few documents for two splits.
    """
    kind = _kind(source)
    _check(kind, tokenizer, vocab_size, validation)
    if kind == "grammar":
        return grammar.parse(str(source))
    name, documents, given = _documents(kind, source)
    validation = VALIDATION_FRACTION if validation is None else validation
    train, held_out, digest = _split(name, documents, validation)
    label = "none" if given else tokenizer
    size = given.vocab_size if given else vocab_size or Bytes.vocab_size
    content = f"{VERSION} {digest} {label} {size} {given and given.separator} {validation!r}"
    key = hashlib.sha256(content.encode()).hexdigest()[:32]

    def fill(folder: Path) -> None:
        encoder: Encoder = given or (train_bpe(train, size) if tokenizer == "bpe" else Bytes())
        held_out_tokens = shards.write(folder / VALIDATION, map(encoder.encode, held_out), size)
        if encoder.json is not None:
            (folder / TOKENIZER).write_text(encoder.json, encoding="utf-8")
        config = CorpusConfig(
            name=name,
            sha256=digest,
            tokenizer=cast(Literal["bytes", "bpe", "none"], label),
            vocab_size=size,
            tokenizer_sha256=encoder.json and hashlib.sha256(encoder.json.encode()).hexdigest(),
            validation=validation,
            train_tokens=shards.write(folder / TRAIN, map(encoder.encode, train), size),
            validation_tokens=held_out_tokens,
            bytes_per_token=None if given else sum(map(len, held_out)) / held_out_tokens,
            version=VERSION,
        )
        (folder / CONFIG).write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")

    folder = shards.folder(resolved(cache) if cache else shards.default_cache(), key, fill)
    try:
        config = CorpusConfig.model_validate_json((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{folder} is damaged ({reason}); delete the folder and it is built again") from None
    return Text(config.model_copy(update={"name": name}), folder)


def _documents(kind: str, source: str | Path) -> tuple[str, list[bytes], Given | None]:
    """The name of a source, its documents, and what is known of tokens that are given."""
    if kind == "sotu":
        return kind, sources.sotu_documents(), None
    path = Path(os.path.expanduser(source))
    if not path.is_file():
        raise ValueError(f"{path} is not a file; give the path of a .txt, .jsonl or .bin")
    if kind == ".bin":
        return path.name, *sources.bin_documents(path)
    return path.name, (sources.txt_documents if kind == ".txt" else sources.jsonl_documents)(path), None


def _split(name: str, documents: Sequence[bytes], validation: float) -> tuple[list[bytes], list[bytes], str]:
    """Training documents, held-out documents, and the hash of all, each in the order of their hashes."""
    hashed = sorted((hashlib.sha256(document).digest(), document) for document in documents)
    # The first 53 bits as a fraction, exact in a float.
    held = [int.from_bytes(digest[:8], "big") >> 11 < validation * 2**53 for digest, _ in hashed]
    train, held_out = (
        [document for (_, document), out in zip(hashed, held, strict=True) if out is side]
        for side in (False, True)
    )
    if not train or not held_out:
        copies = len(documents) - len(set(documents))
        raise ValueError(
            f"{name} has {len(documents)} documents{f' ({copies} copies)' if copies else ''}, and "
            f"validation={validation} leaves {len(train)} for training and {len(held_out)} for validation; "
            "give more documents (two at the least; docs/scaling.md says where they end), or another "
            "fraction (--validation)"
        )
    return train, held_out, hashlib.sha256(b"".join(digest for digest, _ in hashed)).hexdigest()


def _kind(source: str | Path) -> str:
    word = str(source).strip()
    head = word.partition("[")[0].strip()
    if word == "sotu" or head == "grammar":
        return head
    suffix = Path(word).suffix.lower()
    if suffix in sources.SUFFIXES:
        return suffix
    hint = near(head, ("sotu", "grammar"), cutoff=0.5) or ";"
    raise ValueError(
        f"unknown corpus {word!r}{hint} Give sotu, grammar[...], or the path of a .txt, .jsonl or .bin"
    )


def _check(kind: str, tokenizer: str, vocab_size: int | None, validation: float | None) -> None:
    if tokenizer not in TOKENIZERS:
        hint = near(tokenizer, TOKENIZERS, cutoff=0.4) or ";"
        raise ValueError(f"unknown tokenizer {tokenizer!r}{hint} Available: {', '.join(TOKENIZERS)}")
    if validation is not None and kind == "grammar":
        raise ValueError(f"validation={validation}: a grammar has no documents to hold out; leave it out")
    if validation is not None and not 0 < validation < 1:
        raise ValueError(f"validation={validation} is not a fraction; take 0.05, for example")
    if kind in (".bin", "grammar"):
        if tokenizer != "bytes" or vocab_size is not None:
            raise ValueError(
                f"{kind} has tokens and a vocabulary of its own; leave tokenizer and vocab_size out"
            )
    elif tokenizer == "bpe":
        check_bpe(vocab_size)
    elif vocab_size not in (None, Bytes.vocab_size):
        raise ValueError(f'vocab_size={vocab_size}: bytes have 256; say tokenizer="bpe" for another size')
