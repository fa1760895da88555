import numpy as np
import pytest

from synthetic_tasks import IGNORE, get


def data_positions(variant: str, n: int = 4000) -> np.ndarray:
    inputs = get("selective-copying", variant=variant).draw(0, "test", n).inputs
    return np.nonzero(inputs < 14)[1].reshape(n, 16)


@pytest.mark.parametrize("variant", ["repaired", "public"])
def test_the_layout_is_data_among_blanks_then_copy_then_blanks(variant: str) -> None:
    batch = get("selective-copying", variant=variant, seq_len=41).draw(0, "train", 500)
    assert (batch.inputs[:, 24] == 15).all() and (batch.inputs[:, 25:] == 14).all()
    assert ((batch.inputs[:, :24] < 14).sum(axis=1) == 16).all() and not (batch.inputs[:, :24] == 15).any()
    assert (batch.targets[:, :25] == IGNORE).all()
    for inputs, targets in zip(*batch, strict=True):
        assert [token for token in inputs[:24] if token < 14] == targets[25:].tolist()


def test_positions_are_a_uniform_subset_of_the_prefix() -> None:
    positions = data_positions("repaired")
    counts = np.bincount(positions.ravel(), minlength=239)
    assert len(counts) == 239
    np.testing.assert_allclose(counts / 4000, 16 / 239, atol=0.02)
    assert positions.std(axis=0).max() == pytest.approx(27, abs=3)
    assert (positions[:, -1] == 238).mean() == pytest.approx(16 / 239, abs=0.02)


def test_the_public_variant_hardly_moves_its_data() -> None:
    positions = data_positions("public")
    assert (positions[:, -1] == 238).all()
    assert positions.std(axis=0).max() == pytest.approx(7.5, abs=0.5)


def test_data_tokens_are_uniform() -> None:
    targets = get("selective-copying").draw(0, "train", 4000).targets[:, -16:]
    np.testing.assert_allclose(np.bincount(targets.ravel()) / targets.size, 1 / 14, atol=0.005)
