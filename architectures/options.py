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
    readout_sparsity  parts S of a multiplicative readout (arXiv:2111.12763), with dim S + dim vocabulary / S
                   parameters, the division rounded up; 0: a dense one
    """

    tied: bool = False
    embedding_std: float = 1.0
    readout_sparsity: int = 0

    def __post_init__(self) -> None:
        if self.embedding_std <= 0:
            raise ValueError(f"embedding_std={self.embedding_std} must be positive")
        if self.readout_sparsity < 0:
            raise ValueError(
                f"readout_sparsity={self.readout_sparsity} must be at least 0; 0 is a dense readout"
            )
        if self.tied and self.readout_sparsity:
            raise ValueError(
                f"readout_sparsity={self.readout_sparsity} has weights of its own and cannot be tied; "
                "choose tied=False or readout_sparsity=0"
            )
