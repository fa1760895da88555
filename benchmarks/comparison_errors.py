"""How often `mad compare` is wrong: architectures that are equal, and some that are not, drawn from a model
of seeds and rows.

    python benchmarks/comparison_errors.py [--trials 1000]

Hits of a row are binomial over its targets. On the scale of logits a row has a difficulty that all share and
one for each architecture, and a seed moves all rows of its model; how far, differs between architectures
(log-normal). Beside the test of `mad.score.pairing` stand two that were not chosen, and this is why.
"""

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import expit, logit, stdtr

from mad.score.pairing import LEVEL, Pool, Side, difference, pool_of, seeds_to_separate, side

ROWS, OTHERS, OTHER_SEEDS, TRIALS_PER_BOARD = 1280, 10, 3, 4
# Seeds that are run to see whether the number that was foretold is enough.
MOST = 60


@dataclass(frozen=True)
class Noise:
    """`seed`: the typical standard deviation between seeds at a score of `level`, `uneven` that of its
    logarithm between architectures; `row` and `own` are those of the rows' difficulty, in logits.
    """

    level: float = 0.6
    seed: float = 0.016
    uneven: float = 1.4
    row: float = 0.5
    own: float = 0.3
    targets: tuple[int, int] = (2, 11)

    def spreads(self, rng: np.random.Generator, count: int) -> Any:
        """Between the seeds of each of some architectures, in logits (count,)."""
        slope = self.level * (1 - self.level)
        return self.seed / slope * np.exp(self.uneven * rng.standard_normal(count))


NOISES = {
    "seeds as measured": Noise(),
    "seeds alike": Noise(uneven=0.3),
    "quiet seeds": Noise(seed=0.003),
    "loud seeds": Noise(seed=0.04),
    "no luck": Noise(seed=0.0),
    "near the ceiling": Noise(level=0.99, seed=0.003),
}


def drawn(
    noise: Noise, rng: np.random.Generator, seeds: int, levels: Any, spreads: Any
) -> tuple[list[Any], Any]:
    """Hits (seeds, rows) of architectures on the same rows, and the targets (rows,) of these."""
    targets = rng.integers(*noise.targets, ROWS)
    shared = noise.row * rng.standard_normal(ROWS)
    hits = []
    for level, spread in zip(levels, spreads, strict=True):
        odds = logit(level) + shared + noise.own * rng.standard_normal(ROWS)
        hits.append(rng.binomial(targets, expit(odds + spread * rng.standard_normal((seeds, 1)))))
    return hits, targets


def sides_of(hits: list[Any], targets: Any) -> list[Side]:
    return [side(scores_of(one, targets), ROWS, one, targets) for one in hits]


def scores_of(hits: Any, targets: Any) -> list[float]:
    return [float(score) for score in hits.sum(1) / targets.sum()]


def pool_for(noise: Noise, rng: np.random.Generator) -> Pool:
    """Of the other rows of a board."""
    spreads = noise.spreads(rng, OTHERS)
    hits, targets = drawn(noise, rng, OTHER_SEEDS, [noise.level] * OTHERS, spreads)
    return pool_of(scores_of(one, targets) for one in hits)


def paired_by_seed(a: Side, b: Side, hits: list[Any], targets: Any) -> float:
    """p of the difference whose variance is that of the seed means over the seeds and that of the row means
    over the rows, with Satterthwaite's degrees of freedom: seeds paired, no pool.
    """
    assert a.rows is not None and b.rows is not None
    apart = np.subtract(scores_of(hits[0], targets), scores_of(hits[1], targets))
    parts = [((a.rows - b.rows).var(ddof=1) / ROWS, ROWS - 1)]
    if len(apart) > 1:
        parts.append((apart.var(ddof=1) / len(apart), len(apart) - 1))
    variance = sum(part for part, _ in parts)
    df = variance**2 / sum(part**2 / freedom for part, freedom in parts)
    return float(2 * stdtr(df, -abs(a.value - b.value) / np.sqrt(variance)))


def errors(noise: Noise, seeds: int, trials: int, rng: np.random.Generator) -> dict[str, float]:
    """The share of pairs of equal architectures that each test calls different."""
    wrong = {"mad compare": 0, "without other rows": 0, "paired by seed": 0}
    pool = Pool()
    for trial in range(trials):
        if trial % TRIALS_PER_BOARD == 0:
            pool = pool_for(noise, rng)
        hits, targets = drawn(noise, rng, seeds, [noise.level] * 2, noise.spreads(rng, 2))
        a, b = sides_of(hits, targets)
        wrong["mad compare"] += difference(a, b, pool).p < LEVEL
        wrong["without other rows"] += difference(a, b).p < LEVEL
        wrong["paired by seed"] += paired_by_seed(a, b, hits, targets) < LEVEL
    return {name: count / trials for name, count in wrong.items()}


def foretold(noise: Noise, seeds: int, trials: int, rng: np.random.Generator) -> tuple[float, int]:
    """Where the observed difference is the true one, how often it shows with the number of seeds that is
    foretold from fewer; and of how many pairs.
    """
    shown = told = 0
    while told < trials:
        pool, spreads = pool_for(noise, rng), noise.spreads(rng, 2)
        apart = rng.uniform(0.01, 0.08) * np.array([0.5, -0.5])
        a, b = sides_of(*drawn(noise, rng, seeds, noise.level + apart, spreads))
        needed = seeds_to_separate(a, b, pool, LEVEL)
        if difference(a, b, pool).p < LEVEL or needed is None or needed > MOST:
            continue
        told += 1
        true = noise.level + (a.value - b.value) * np.array([0.5, -0.5])
        a, b = sides_of(*drawn(noise, rng, needed, true, spreads))
        shown += difference(a, b, pool).p < LEVEL
    return shown / told, told


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--trials", type=int, default=1000)
    trials = words.parse_args().trials
    rng = np.random.default_rng(0)
    print(f"equal architectures that are called different, in % of {trials} pairs (5 is right)")
    for name, noise in NOISES.items():
        for seeds in (1, 2, 3, 5):
            found = errors(noise, seeds, trials, rng)
            cells = "   ".join(f"{test} {100 * share:4.1f}" for test, share in found.items())
            print(f"{name:18} {seeds} seeds   {cells}", flush=True)
    print("differences that show with the seeds that were foretold, in % (80 is right)")
    for name in ("seeds as measured", "seeds alike", "quiet seeds"):
        for seeds in (1, 2, 3):
            share, told = foretold(NOISES[name], seeds, max(trials // 4, 1), rng)
            print(f"{name:18} from {seeds} seeds   {100 * share:3.0f}   ({told} pairs)", flush=True)


if __name__ == "__main__":
    main()
