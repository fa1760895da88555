"""The law of loss against size and data, and what follows from it by algebra.

L(N, D) = E + A N^-alpha + B D^-beta, in nats per token, with N parameters, D tokens and C = 6 N D FLOPs of
training (Hoffmann et al., arXiv 2203.15556, approach 3); other forms are in `scaling.laws.forms`. All methods
take numbers or numpy arrays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq

Array = npt.NDArray[np.float64]
Numbers = float | Array

COEFFICIENTS = ("E", "A", "B", "alpha", "beta")
# Training costs 6 FLOPs per parameter and token, inference 2.
TRAINING, INFERENCE = 6.0, 2.0
# Repetitions after which a repeated token is worth 1/e of a new one (arXiv 2305.16264).
REPEAT_DECAY = 15.39


@dataclass(frozen=True)
class Interval:
    """From `low` to `high`, with the given probability of covering the true value."""

    low: float
    high: float
    level: float = 0.95


@dataclass(frozen=True, kw_only=True)
class Law:
    """L(N, D) = E + (A N^-alpha + B D^-beta)^gamma; E is not negative, the others are positive.

    The least loss at given compute lies where the sum in brackets is least, so gamma moves no optimum.
    """

    E: float
    A: float
    B: float
    alpha: float
    beta: float
    gamma: float = 1.0

    def __post_init__(self) -> None:
        for name in (*COEFFICIENTS, "gamma"):
            value = getattr(self, name)
            if not math.isfinite(value) or value < 0 or (value == 0 and name != "E"):
                rule = "not negative" if name == "E" else "above 0"
                raise ValueError(
                    f"{name} = {value} must be finite and {rule}; check the fit or the sign of the exponent"
                )

    @property
    def n_exponent(self) -> float:
        """a = beta / (alpha + beta), the exponent of C in N*."""
        return self.beta / (self.alpha + self.beta)

    @property
    def d_exponent(self) -> float:
        """b = alpha / (alpha + beta) = 1 - a, the exponent of C in D*."""
        return self.alpha / (self.alpha + self.beta)

    @property
    def G(self) -> float:
        """(alpha A / (beta B))^(1 / (alpha + beta))."""
        log = math.log(self.alpha) + math.log(self.A) - math.log(self.beta) - math.log(self.B)
        return math.exp(log / (self.alpha + self.beta))

    def loss(self, n: Numbers, d: Numbers) -> Numbers:
        """E + (A n^-alpha + B d^-beta)^gamma, in nats per token."""
        n, d = _positive("n", n), _positive("d", d)
        return _plain(joined(self.E, self.A * n**-self.alpha, self.B * d**-self.beta, self.gamma))

    def n_opt(self, c: Numbers) -> Numbers:
        """N* = G (c / 6)^a, the parameters with the lowest loss at c FLOPs."""
        return _plain(self.G * (_positive("c", c) / TRAINING) ** self.n_exponent)

    def d_opt(self, c: Numbers) -> Numbers:
        """D* = c / (6 N*), the tokens with the lowest loss at c FLOPs."""
        return _plain((_positive("c", c) / TRAINING) ** self.d_exponent / self.G)

    def tokens_per_param(self, c: Numbers) -> Numbers:
        """D* / N*, at c FLOPs."""
        return _plain(self.d_opt(c) / self.n_opt(c))

    def loss_opt(self, c: Numbers) -> Numbers:
        """L(N*, D*), the lowest loss at c FLOPs."""
        return self.loss(self.n_opt(c), self.d_opt(c))

    def overtraining_penalty(self, c: Numbers, ratio: Numbers) -> Numbers:
        """The extra loss, at equal compute, of `ratio` times the optimal tokens per parameter.

        L(N* / sqrt(ratio), D* sqrt(ratio)) - L(N*, D*), in nats per token; 0 at a ratio of 1.
        """
        root = np.sqrt(_positive("ratio", ratio))
        return _plain(self.loss(self.n_opt(c) / root, self.d_opt(c) * root) - self.loss_opt(c))

    def tokens_for(self, n: Numbers, loss: Numbers) -> Numbers:
        """The tokens that bring n parameters to this loss; inf where no amount of data does."""
        n, loss = _positive("n", n), _positive("loss", loss)
        gap = np.maximum(loss - self.E, 0.0) ** (1 / self.gamma)
        rest = np.maximum(gap - self.A * n**-self.alpha, 0.0)
        with np.errstate(divide="ignore"):
            return _plain((self.B / rest) ** (1 / self.beta))

    def inference_optimum(self, loss: float, inference_tokens: float) -> tuple[float, float]:
        """(N, D) that reach `loss` at the least FLOPs of training and of serving `inference_tokens` T.

        Minimises 6 N D + 2 N T subject to L(N, D) = loss (Sardana et al., arXiv 2401.00448). With
        s the share of A N^-alpha in (loss - E)^(1 / gamma), the cost is stationary where

            alpha s = beta (1 - s) (1 + T / (3 D(s)))

        The left side rises in s and the right side falls, so there is one root. ValueError if loss <= E.
        """
        gap = float(loss) - self.E
        if not gap > 0:
            raise ValueError(f"a loss of {loss:g} is not above E = {self.E:g}; no model reaches it")
        gap **= 1 / self.gamma
        if not (math.isfinite(inference_tokens) and inference_tokens >= 0):
            raise ValueError(f"inference_tokens = {inference_tokens} must be finite and not negative")

        def tokens(log_rest: float) -> float:
            return math.exp((math.log(self.B / gap) - log_rest) / self.beta)

        def slope(log_rest: float) -> float:
            rest = math.exp(log_rest)
            served = 1 + inference_tokens / (TRAINING / INFERENCE * tokens(log_rest))
            return self.alpha * (1 - rest) - self.beta * rest * served

        # The logarithm of 1 - s: without serving it is that of d_exponent, and serving only lowers it, least
        # where as few tokens were trained on as there may be (1 - s = 1).
        log_rest = math.log(self.d_exponent)
        if slope(log_rest) < 0:
            served = 1 + inference_tokens / (TRAINING / INFERENCE * tokens(0.0))
            least = math.log(self.alpha / (self.alpha + self.beta * served)) - 1e-6
            log_rest = brentq(slope, least, log_rest, xtol=1e-14, rtol=1e-14)
        share = -math.expm1(log_rest)
        return math.exp(math.log(self.A / (share * gap)) / self.alpha), tokens(log_rest)


def joined(floor: Numbers, by_size: Numbers, by_data: Numbers, gamma: Numbers | None = None) -> Numbers:
    """floor + (by_size + by_data)^gamma; without gamma it is 1."""
    if gamma is None or np.all(gamma == 1.0):
        return floor + by_size + by_data
    return floor + (by_size + by_data) ** gamma


def effective_tokens(tokens: Numbers, unique: Numbers, decay: float = REPEAT_DECAY) -> Numbers:
    """D' = U + U R* (1 - exp(-R / R*)), R = max(D / U - 1, 0): what repeated tokens are worth in new ones.

    tokens D count repetitions, unique U do not; decay R* is 15.39 in Muennighoff et al. (arXiv 2305.16264).
    Where D < U nothing repeats and D' = D.
    """
    tokens, unique = _positive("tokens", tokens), _positive("unique", unique)
    if not decay > 0:
        raise ValueError(f"decay = {decay} must be above 0; the published value is {REPEAT_DECAY}")
    repeats = np.maximum(tokens / unique - 1, 0.0)
    return _plain(np.minimum(tokens, unique) - unique * decay * np.expm1(-repeats / decay))


def _positive(name: str, value: Numbers) -> Array:
    found = np.asarray(value, float)
    if not (np.isfinite(found) & (found > 0)).all():
        raise ValueError(f"{name} must be finite and above 0, in counts; got {value}")
    return found


def _plain(value: Numbers) -> Numbers:
    return float(value) if np.ndim(value) == 0 else value
