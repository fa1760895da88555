"""What sparse attention chooses, by its definition."""

from __future__ import annotations

import pytest
import torch

from architectures.functional.selection import block_means, divergence, index_scores, largest
from tests.architectures.helpers import close, noise


@pytest.mark.parametrize("count", [1, 2, 5, 8, 9])
def test_the_largest_are_taken_and_of_equal_ones_the_last(count: int) -> None:
    scores = torch.randint(3, (40, 8), generator=torch.Generator().manual_seed(0)).double()
    scores[:10, 5:] = float("-inf")
    for row, found in zip(scores.tolist(), largest(scores, count).tolist(), strict=True):
        order = sorted(range(8), key=lambda i: (row[i], i))[-count:]
        assert [i for i in range(8) if found[i]] == sorted(order)


def test_what_stands_behind_changes_no_choice_before() -> None:
    scores = torch.tensor([[1.0, 0.0, 0.0, 0.0, float("-inf"), float("-inf")]])
    assert torch.equal(largest(scores, 2)[:, :4], largest(scores[:, :4], 2))


def test_index_scores_and_block_means() -> None:
    q, k, w = noise(2, 3, 4, 5), noise(2, 7, 5, seed=2), noise(2, 3, 4, seed=3)
    found = index_scores(q, k, w)
    pair = sum(w[1, 2, j] * max(0.0, float(q[1, 2, j] @ k[1, 6])) for j in range(4))
    close(found[1, 2, 6], torch.as_tensor(pair), 1e-12)
    means = block_means(noise(2, 7, 3, 5), 3)
    assert means.shape == (2, 2, 3, 5)
    close(means[:, 1], noise(2, 7, 3, 5)[:, 3:6].mean(1), 1e-12)


def test_the_divergence_is_that_of_the_rows_that_see_something() -> None:
    scores, visible = noise(1, 3, 4), torch.tensor([[[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]]]).bool()
    target = torch.tensor([[[0, 0, 0, 0], [1, 0, 0, 0], [0.5, 0.5, 0, 0]]]).double()
    own = scores[0, 2, :3].softmax(0)
    expected = (0 + (0.5 * torch.log(0.5 / own[:2])).sum()) / 2
    close(divergence(target, scores, visible), expected, 1e-12)
    same = torch.where(visible, scores, float("-inf")).softmax(-1).nan_to_num()
    assert abs(float(divergence(same, scores, visible))) < 1e-12
    leaf = scores.requires_grad_()
    (slope,) = torch.autograd.grad(divergence(target, leaf, visible), leaf)
    assert bool(slope.isfinite().all()) and not slope[0, :2].any() and bool(slope[0, 2, :3].all())
