import numpy as np
import pytest

from synthetic_tasks import IGNORE, get


def test_a_row_is_uniform_data_and_the_compress_token() -> None:
    batch = get("compression").draw(0, "train", 4000)
    assert (batch.inputs[:, -1] == 15).all()
    np.testing.assert_allclose(np.bincount(batch.inputs[:, :-1].ravel()) / 124_000, 1 / 15, atol=0.004)
    np.testing.assert_array_equal(batch.targets[:, :-1], batch.inputs[:, :-1])


def test_only_the_public_variant_scores_the_compress_token() -> None:
    repaired, public = get("compression"), get("compression", variant="public")
    assert (repaired.draw(0, "test", 9).targets[:, -1] == IGNORE).all()
    assert (public.draw(0, "test", 9).targets[:, -1] == 15).all()
    assert (repaired.chance, public.chance) == (1 / 15, 1 / 16)
    assert repaired.readout == "last"


def test_next_token_training_is_refused() -> None:
    with pytest.raises(ValueError, match="train_targets='next-token' is refused: choose answers"):
        get("compression", train_targets="next-token")
