"""A vision transformer of any layers: patches instead of tokens, one class per image.

With nested layers it is MatViT, and `architectures.elastic` cuts its submodels out as it does a language
model's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from architectures.blocks import Part, add
from architectures.builder import build_blocks, seeded
from architectures.grammar.spec import Spec
from architectures.grammar.stripe import parse
from architectures.parts.norms import RMSNorm
from architectures.primitive import Context


class ImageModel(nn.Module):
    """Images (B, C, S, S) -> logits (B, classes): the mean over the patches, read by one linear map.

    Patches (S / P)^2 of P x P pixels, a linear map and a learned position each; then pre-norm residual layers
    of the spec. Differs from arXiv:2010.11929: the mean instead of a class token, RMSNorm, no biases.
    """

    def __init__(
        self,
        spec: str | Spec,
        *,
        classes: int,
        size: int,
        patch: int,
        channels: int = 1,
        dim: int = 64,
        seed: int,
    ) -> None:
        super().__init__()
        if patch < 1 or size % patch:
            raise ValueError(f"images of size {size} are not divisible into patches of {patch}; change patch")
        self.spec = parse(spec)
        self.settings = {"classes": classes, "size": size, "patch": patch, "channels": channels, "dim": dim}
        self.patch = patch
        count = (size // patch) ** 2
        with seeded(seed, "patches"):
            self.patches = nn.Linear(channels * patch**2, dim, bias=False)
            self.positions = nn.Parameter(0.02 * torch.randn(count, dim))
        self.blocks = build_blocks(self.spec, dim=dim, max_len=count, seed=seed)
        self.norm = RMSNorm(dim)
        with seeded(seed, "head"):
            self.head = nn.Linear(dim, classes, bias=False)

    def forward(self, images: Tensor, ctx: Context | None = None) -> Tensor:
        ctx = Context() if ctx is None else ctx
        x = self.patches(cut(images, self.patch)) + self.positions  # (B, T, D)
        for block in cast("Iterable[Part]", self.blocks):
            x = add(block, x, ctx)
        return self.head(self.norm(x).mean(1))

    def around(self, spec: Spec) -> ImageModel:
        """A fresh model that is like this one but for its layers, at their initial weights."""
        return ImageModel(spec, **self.settings, seed=0)


def cut(images: Tensor, patch: int) -> Tensor:
    """(B, C, S, S) -> (B, T, C P P): the patches by rows, each with its pixels."""
    rows = images.unflatten(2, (-1, patch)).unflatten(4, (-1, patch))  # (B, C, n, P, n, P)
    return rows.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
