"""From documents to tokens: bytes, a byte-level BPE of the training text, or tokens that come ready-made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SEPARATOR = "<|endoftext|>"
LARGEST = 2**16  # ids are stored as uint16 at most


class Encoder(Protocol):
    """Documents as bytes -> tokens, those that end the document included."""

    vocab_size: int
    # What it has learned, as JSON; None where nothing was learned.
    json: str | None

    def encode(self, document: bytes) -> np.ndarray: ...


class Bytes:
    """UTF-8, one token a byte. A document ends with 255, a byte that UTF-8 never uses."""

    vocab_size = 256
    json: str | None = None

    def encode(self, document: bytes) -> np.ndarray:
        return np.frombuffer(document + b"\xff", np.uint8)


class Given:
    """Tokens that a .bin file holds as little-endian uint16; a document ends with `separator`, if any."""

    json: str | None = None

    def __init__(self, vocab_size: int, separator: int | None) -> None:
        self.vocab_size, self.separator = vocab_size, separator

    def encode(self, document: bytes) -> np.ndarray:
        tokens = np.frombuffer(document, "<u2")
        return tokens if self.separator is None else np.append(tokens, np.uint16(self.separator))


class BPE:
    """Byte-level byte-pair encoding with the `tokenizers` package; any text is encoded without loss.

    Id 0 ends a document; a document that spells "<|endoftext|>" out is text like any other.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.json: str | None = tokenizer.to_str()
        self.vocab_size = tokenizer.get_vocab_size()
        self._end = tokenizer.token_to_id(SEPARATOR)
        self._tokenizer = tokenizer
        # What follows is how it is used, and no part of the JSON.
        self._tokenizer.encode_special_tokens = True

    def encode(self, document: bytes) -> np.ndarray:
        return np.array([*self._tokenizer.encode(document.decode()).ids, self._end], np.uint16)


def train_bpe(documents: Sequence[bytes], vocab_size: int) -> BPE:
    """Merges learned from these documents alone; the same ones in the same order give the same merges."""
    try:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    except ImportError:
        raise ValueError(
            'tokenizer="bpe" needs the package tokenizers; run: pip install "mad-suite[text]"'
        ) from None
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[SEPARATOR],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((document.decode() for document in documents), trainer)
    found = tokenizer.get_vocab_size()
    if found < vocab_size:
        raise ValueError(
            f"vocab_size={vocab_size} is more than this text has pairs for; give more text, or take at most "
            f"{found}"
        )
    return BPE(tokenizer)


def check_bpe(vocab_size: int | None) -> None:
    if vocab_size is None:
        raise ValueError('tokenizer="bpe" has no size of its own; say vocab_size=1024, for example')
    if not 258 <= vocab_size <= LARGEST:
        raise ValueError(
            f"vocab_size={vocab_size} is not a size of a byte-level BPE; take 258 (256 bytes, the end of a "
            f"document and one merge) to {LARGEST}"
        )
