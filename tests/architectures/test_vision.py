"""The vision transformer: its patches, and that its submodels are cut out like a language model's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import architectures
from architectures.elastic import count_params, extract, mix_and_match, nested_layers
from architectures.primitive import Context
from architectures.vision import ImageModel, cut

MATVIT = "2*(matformer-encoder-attention[rope=false] matformer-mlp)"


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def build(spec: str = MATVIT, seed: int = 0) -> ImageModel:
    return ImageModel(spec, classes=10, size=8, patch=2, dim=32, seed=seed).double()


def test_patches_are_the_squares_of_the_image_by_rows() -> None:
    x = images(2, 3, 6, 6)
    found = cut(x, 2)
    assert found.shape == (2, 9, 12)
    for i in range(3):
        for j in range(3):
            square = x[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten(1)
            assert torch.equal(found[:, 3 * i + j], square)


@pytest.mark.parametrize("mix", [0, 1, 2, 3, (0, 1, 2, 3)])
def test_an_extracted_vision_model_computes_what_the_submodel_does(mix: int | tuple[int, ...]) -> None:
    from architectures.elastic import by_layer

    model, x = build(), images(3, 1, 8, 8)
    small = extract(model, mix)
    expected = model(x, Context(granularity=by_layer(model, mix)))
    torch.testing.assert_close(small(x), expected, rtol=0, atol=1e-12)
    assert sum(p.numel() for p in small.parameters()) == count_params(model, mix)
    assert not nested_layers(small) and "encoder-attention" in str(small.spec)
    assert mix_and_match(model, count_params(model, 1)) == (1, 1, 1, 1)


def test_every_position_sees_every_other_and_the_order_only_by_its_code() -> None:
    model = build("encoder-attention[rope=false]")
    x = images(1, 1, 8, 8)
    y = model(x)
    with torch.no_grad():
        order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
        layer = model.get_submodule("blocks.0.layer")
        z = images(1, 16, 32)
    torch.testing.assert_close(layer(z[:, order]), layer(z)[:, order], rtol=0, atol=1e-12)
    z.requires_grad_()
    (gradient,) = torch.autograd.grad(layer(z)[:, 0].sum(), z)
    assert bool((gradient.abs().amax(-1) > 0).all()) and y.shape == (1, 10)


def test_an_encoder_has_no_state_and_cannot_decode() -> None:
    model = architectures.build("encoder-attention mlp", vocab_size=5, dim=32, max_len=9, seed=0)
    assert architectures.account(model.spec, vocab_size=5, dim=32, seq_len=9).state is None
    with pytest.raises(NotImplementedError, match="can be trained but not decoded"):
        model.step(torch.zeros(1, dtype=torch.long), model.init_state(1))


def test_the_seed_decides_and_a_wrong_patch_is_refused() -> None:
    assert all(torch.equal(a, b) for a, b in zip(build().parameters(), build().parameters(), strict=True))
    assert not torch.equal(build(seed=1).head.weight, build().head.weight)
    with pytest.raises(ValueError, match="size 8 are not divisible into patches of 3; change patch"):
        ImageModel(MATVIT, classes=10, size=8, patch=3, seed=0)
