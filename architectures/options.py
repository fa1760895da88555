"""What a model has besides its layers; part of its identity."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """What surrounds the layers.

    tied           the readout uses the embedding's weights, scaled by 1 / sqrt(dim)
    embedding_std  standard deviation of the initial embedding. With 1, what a token is outweighs what fresh
                   layers add to the stream, and recall is learned in a few hundred steps; with the 0.02 of
                   the public MAD code it takes thousands at that rate (measured: docs/quick-suite.md)
    """

    tied: bool = False
    embedding_std: float = 1.0

    def __post_init__(self) -> None:
        if self.embedding_std <= 0:
            raise ValueError(f"embedding_std={self.embedding_std} must be positive")
