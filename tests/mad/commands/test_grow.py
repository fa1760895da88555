"""`mad train --save` and `mad grow`, and the trainer's optimiser carried through growth."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import architectures
import mad
from architectures.checkpoint import load
from architectures.growth import widen_mlp
from mad.commands.grow import grow_file
from mad.data.protocol import get_protocol
from mad.run.optim import Optimizer, hints_of
from mad.store import Store

TASK = "in-context-recall[seq_len=16]"
FEW: dict[str, Any] = {"train_examples": 128, "epochs": 1, "batch_size": 32, "dim": 16, "device": "cpu"}


def test_a_trained_model_is_saved_and_grown(tmp_path: Path) -> None:
    small, big, store = tmp_path / "small.pt", tmp_path / "big.pt", tmp_path / "store.sqlite"
    record = mad.train("mh-attention swiglu", TASK, store=store, save=small, **FEW)
    small.unlink()
    # The store holds the run; it is repeated for the file, and its record is the same.
    again = mad.train("mh-attention swiglu", TASK, store=store, save=small, **FEW)
    assert again.id == record.id and again.metrics == record.metrics
    model, _ = load(small)
    before = model(torch.zeros(1, 16, dtype=torch.long))
    text = grow_file(small, to="2*(mh-attention swiglu)", dim=32, out=big)
    assert "widen_hidden to 32" in text and "add_layer at 2, 3" in text and str(big) in text
    with pytest.raises(ValueError, match="exists; choose another name"):
        grow_file(small, to="2*(mh-attention swiglu)", dim=32, out=big)
    grown, _ = load(big)
    assert str(grown.spec) == "2*(mh-attention swiglu)" and grown.dim == 32
    torch.testing.assert_close(grown(torch.zeros(1, 16, dtype=torch.long)), before, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="is read by this command"):
        grow_file(small, to="2*(mh-attention swiglu)", dim=32, out=small, force=True)
    with pytest.raises(ValueError, match="is in no folder"):
        grow_file(small, to="2*(mh-attention swiglu)", dim=32, out=tmp_path / "no" / "big.pt")


def test_a_model_that_cannot_be_saved_costs_the_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    store = tmp_path / "store.sqlite"
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        mad.train("mh-attention swiglu", TASK, store=store, save=tmp_path / "m.pt", **FEW)
    with Store(store, read_only=True) as opened:
        assert [record.status for record in opened.records()] == ["ok"]
    assert not list(tmp_path.glob("*.pt"))


def test_a_factorys_model_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leave save out"):
        mad.train(lambda task: torch.nn.Linear(1, 1), TASK, save=tmp_path / "m.pt", **FEW)


def test_the_trainers_optimiser_goes_on_after_growth() -> None:
    protocol = get_protocol("sound")
    model: Any = architectures.build("mh-attention swiglu", vocab_size=7, dim=16, max_len=8, seed=0)
    how: Any = {"betas": protocol.betas, "eps": protocol.eps}
    optimizer = Optimizer(
        model.named_parameters(), hints_of(model, protocol), **how, lr=1e-2, weight_decay=0.1
    )
    tokens = torch.randint(7, (4, 8), generator=torch.Generator().manual_seed(0))

    def update() -> float:
        loss = F.cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        optimizer.step(1.0)
        model.zero_grad(set_to_none=True)
        return float(loss.detach())

    losses = [update() for _ in range(5)]
    model, optimizer.adamw = widen_mlp(model, optimizer.adamw, to=96)  # type: ignore[assignment]
    assert model.blocks[1].layer.down.weight.shape == (16, 96)
    losses += [update() for _ in range(5)]
    assert all(b < a for a, b in zip(losses, losses[1:], strict=False))
