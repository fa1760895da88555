"""A checkpoint is read back as it was written; whatever else a file may hold is refused in one line."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import architectures
from architectures.checkpoint import load, save
from architectures.elastic import nested_layers, set_granularity
from architectures.vision import ImageModel
from tests.architectures.helpers import layer_at


def make(spec: str = "mh-attention[heads=2] moe-mlp", **more: Any) -> Any:
    return architectures.build(spec, vocab_size=5, dim=16, max_len=8, seed=0, **more)


@pytest.mark.parametrize("readout", ["every", "last"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_comes_back_as_it_was(tmp_path: Path, readout: str, tied: bool) -> None:
    model = make(readout=readout, options=architectures.ModelOptions(tied=tied))
    model.blocks[0].layer.scale = 0.123
    save(model, tmp_path / "m.pt")
    loaded, optimizer = load(tmp_path / "m.pt")
    tokens = torch.randint(5, (2, 8))
    assert optimizer is None and torch.equal(loaded(tokens), model(tokens))
    assert loaded.spec == model.spec and loaded.options == model.options
    assert layer_at(loaded, 0).scale == 0.123
    assert (loaded.head.weight is loaded.embedding.weight) == tied
    assert [p.name for p in tmp_path.iterdir()] == ["m.pt"]


def test_the_size_of_a_nested_model_is_kept(tmp_path: Path) -> None:
    model, tokens = make("matformer-attention[heads=4] matformer-mlp"), torch.randint(5, (2, 8))
    set_granularity(model, (1, 2))
    save(model, tmp_path / "m.pt")
    loaded, _ = load(tmp_path / "m.pt")
    assert torch.equal(loaded(tokens), model(tokens))
    content = torch.load(tmp_path / "m.pt", weights_only=True)
    torch.save({k: v for k, v in content.items() if k != "granularity"}, tmp_path / "older.pt")
    whole, _ = load(tmp_path / "older.pt")
    assert [layer.granularity for layer in nested_layers(whole).values()] == [3, 3]
    for wrong in ([1], [1, 9], [1, "2"], [1, 1.5], {"a": 1}, 7):
        torch.save({**content, "granularity": wrong}, tmp_path / "wrong.pt")
        with pytest.raises(ValueError, match="cannot be loaded: .*granularit"):
            load(tmp_path / "wrong.pt")


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD])
def test_an_optimiser_goes_on_where_it_stood(tmp_path: Path, kind: Any) -> None:
    model = make()
    optimizer = kind(model.parameters(), lr=0.1, **({"momentum": 0.9} if kind is torch.optim.SGD else {}))
    tokens = torch.randint(5, (2, 8))
    for m, o in ((model, optimizer),):
        m(tokens).square().sum().backward()
        o.step()
    save(model, tmp_path / "m.pt", optimizer)
    loaded, again = load(tmp_path / "m.pt")
    for m, o in ((model, optimizer), (loaded, again)):
        assert o is not None
        o.zero_grad()
        m(tokens).square().sum().backward()
        o.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))


class Evil:
    def __reduce__(self) -> Any:
        return print, ("code of the file ran",)


def edited(**changes: Any) -> Callable[[Any], Any]:
    return lambda content: {**content, **changes}


def without(name: str) -> Callable[[Any], Any]:
    return lambda content: {k: v for k, v in content.items() if k != name}


def reshaped(content: Any) -> Any:
    return {**content, "state": {**content["state"], "norm.weight": torch.ones(3)}}


def with_tensors(change: Callable[[torch.Tensor], Any]) -> Callable[[Any], Any]:
    return lambda content: {**content, "state": {n: change(t) for n, t in content["state"].items()}}


def with_moment(moment: torch.Tensor) -> Callable[[Any], Any]:
    packed = {
        "kind": "AdamW",
        "held": [["embedding.weight"]],
        "options": [{}],
        "state": {0: {"exp_avg": moment}},
    }
    return lambda content: {**content, "optimizer": packed}


def one_storage(content: Any) -> Any:
    """Every tensor a view of the beginning of the largest."""
    largest = max(content["state"].values(), key=torch.Tensor.numel).flatten().clone()
    return with_tensors(lambda t: largest[: t.numel()].view(t.shape))(content)


def nested(depth: int) -> Any:
    return [nested(depth - 1)] * 2 if depth else 0


HOSTILE: list[tuple[Callable[[Any], Any], str]] = [
    (lambda content: Evil(), "is not a checkpoint of a model"),
    (lambda content: content["state"], "it is not a checkpoint of a model"),
    (lambda content: [1, 2], "it is not a checkpoint of a model"),
    (edited(version=99), "its format is 99"),
    (edited(spec="mh-attention swiglu"), "its version|is of version None"),
    (edited(spec="nonsense"), "unknown layer 'nonsense'"),
    (edited(spec="os:path"), "layers outside this package"),
    (edited(spec=3), "its 'spec' is missing or no str"),
    (without("stored"), "its 'stored' is missing"),
    (edited(dim=10**9), "dim=1000000000 must be at most 262,144"),
    (edited(vocab_size=10**12), "vocab_size=1000000000000 must be at most"),
    (edited(dim=10**5), "is not of shape"),
    (edited(readout="last"), "tensors are not those"),
    (edited(dim=-4), "must be at least 1"),
    (edited(layers={"mh-attention": 7, "moe-mlp": 1}), "of version 7"),
    (edited(options={"wings": 2}), "wings"),
    (edited(state={}), "its tensors are not those"),
    (reshaped, "its tensor norm.weight is not of shape"),
    (edited(stored={}), "stored numbers"),
    (lambda c: {**c, "stored": {**c["stored"], "norm": {"divisor": float("nan"), "eps": 0}}}, "finite"),
    (lambda c: {**c, "stored": {**c["stored"], "norm": {"divisor": "x", "eps": 0}}}, "finite"),
    (with_tensors(lambda t: torch.zeros(1).expand(t.shape)), "weight claims 80 numbers and holds 4 bytes"),
    (with_tensors(lambda t: torch.zeros(1).as_strided(t.shape, [0] * t.dim())), "claims 80 numbers"),
    (one_storage, "its tensors take [0-9,]+ bytes and it holds [0-9,]+"),
    (with_tensors(lambda t: t.to(torch.complex64)), "is of torch.complex64"),
    (with_tensors(lambda t: t.to(torch.int64)), "is of torch.int64"),
    (with_tensors(lambda t: t.to(torch.complex64) if t.dim() == 1 else t), "is of torch.complex64; save it"),
    (with_tensors(lambda t: t.to_sparse()), "is not a plain tensor"),
    (with_tensors(lambda t: t.to("meta")), "is not a plain tensor"),
    (with_tensors(lambda t: [1.0]), "is not a plain tensor"),
    (with_moment(torch.zeros(1).expand(10**9)), "exp_avg of the optimiser claims 1,000,000,000 numbers"),
    (with_moment(torch.zeros(7)), "exp_avg has shape"),
    (edited(version=nested(40)), "its format is"),
    (edited(layers={"mh-attention": nested(40), "moe-mlp": 1}), "is of version"),
    (
        edited(optimizer={"kind": "AdamW", "held": [], "options": [], "state": {0: 1}}),
        "not one that `save` wrote",
    ),
    (edited(optimizer={"kind": "Evil", "held": []}), "cannot be loaded"),
    (edited(optimizer={"kind": "AdamW", "held": [["nothing"]], "options": [], "state": {}}), "nothing"),
]


@pytest.mark.parametrize("change, message", HOSTILE)
def test_hostile_files_are_refused_in_one_line(
    tmp_path: Path, change: Callable[[Any], Any], message: str, capsys: Any
) -> None:
    path = tmp_path / "m.pt"
    save(make(), path)
    torch.save(change(torch.load(path, weights_only=True)), path)
    with pytest.raises(ValueError, match=message) as error:
        load(path)
    assert "\n" not in str(error.value) and "ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "content", [b"", b"root:x:0:0:root:/root:/bin/sh\n", b"PK\x03\x04 cut short", b"\x80\x02]."]
)
def test_foreign_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a checkpoint of a model"):
        load(path)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load(tmp_path / "absent.pt")


def test_a_changed_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    model = architectures.build("mlp", vocab_size=3, dim=4, max_len=4, seed=0)
    save(model, path)
    whole, wanted, refused = path.read_bytes(), model.state_dict(), 0
    random = torch.Generator().manual_seed(0)
    for at in torch.randint(len(whole), (150,), generator=random).tolist():
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            loaded, _ = load(path)
        except ValueError as error:
            refused += 1
            assert "\n" not in str(error)
        else:  # a byte that fills a gap
            assert all(torch.equal(t, wanted[n]) for n, t in loaded.state_dict().items())
    assert refused > 20
    weights = model.embedding.weight.detach().numpy().tobytes()
    at = whole.index(weights)
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(ValueError, match="the checksum of .* is wrong"):
        load(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "m.pt"
    save(make(), path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match="is not a checkpoint of a model: .*cut short"):
        load(path)


def test_a_compressed_file_is_not_unpacked(tmp_path: Path) -> None:
    torch.save(torch.zeros(1000, 1000), tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain:
        with zipfile.ZipFile(tmp_path / "m.pt", "w", zipfile.ZIP_DEFLATED) as packed:
            for part in plain.infolist():
                packed.writestr(part.filename, plain.read(part))
    with pytest.raises(ValueError, match="is compressed; write it with torch.save"):
        load(tmp_path / "m.pt")


def test_what_is_not_a_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    for path in (tmp_path, tmp_path / "pipe.pt", Path("/dev/zero")):
        with pytest.raises(ValueError, match="is not a regular file"):
            load(path)
    save(make(), tmp_path / "m.pt")
    (tmp_path / "link.pt").symlink_to(tmp_path / "m.pt")
    assert load(tmp_path / "link.pt")[0].dim == 16


def test_each_tensor_comes_back_in_its_precision(tmp_path: Path) -> None:
    model = make()
    model.blocks[0].double(), model.head.bfloat16()
    save(model, tmp_path / "mixed.pt")
    again = load(tmp_path / "mixed.pt")[0].state_dict()
    assert len({tensor.dtype for tensor in again.values()}) == 3
    for name, tensor in model.state_dict().items():
        assert again[name].dtype == tensor.dtype and torch.equal(again[name], tensor)


def test_a_model_of_bfloat16_comes_back_with_its_numbers(tmp_path: Path) -> None:
    model = make().to(torch.bfloat16)
    model.embedding.weight.data[0, 0] = float("nan")  # A model that diverged is a model.
    save(model, tmp_path / "m.pt")
    for name, tensor in load(tmp_path / "m.pt")[0].state_dict().items():
        assert torch.equal(tensor.view(torch.int16), model.state_dict()[name].view(torch.int16))


def test_a_file_cannot_ask_for_memory_that_it_does_not_hold(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    save(make(readout="last"), path)
    torch.save({**torch.load(path, weights_only=True), "max_len": 10**9}, path)
    with pytest.raises(ValueError, match="max_len=1000000000 must be at most"):
        load(path)


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    image = ImageModel("mlp", classes=2, size=4, patch=2, dim=16, seed=0)
    for other in (nn.Linear(2, 2), image, make().blocks[0].layer, make().state_dict()):
        with pytest.raises(ValueError, match=f"save takes a SequenceModel.* of type {type(other).__name__}$"):
            save(other, tmp_path / "m.pt")  # type: ignore[arg-type]
    model = make()
    with pytest.raises(ValueError, match="save without it"):
        save(model, tmp_path / "m.pt", torch.optim.RMSprop(model.parameters()))
    assert not list(tmp_path.iterdir())
