"""Files of torch.save read with care: whole, as large as they claim, and without running code."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def read_archive(path: Path) -> Any:
    """What torch.save wrote to a file; ValueError where a byte of it has changed since.

    A file without compression holds what it claims: it takes no more memory than disk.
    """
    check_archive(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # The unpickler answers a foreign file with whatever it stumbles over.
        reason = "it is not written by torch.save, or names objects that are not plain data"
        raise ValueError(reason) from error


def check_archive(path: Path) -> None:
    """Refuse a file that is not an archive of torch.save, is compressed, or has a wrong checksum.

    torch itself unpacks compressed files to any size, and does not look at the checksums.
    """
    with open(path, "rb") as file:
        size = path.stat().st_size
        try:
            held = zipfile.ZipFile(file)
            parts = held.infolist()
            packed = [part.filename for part in parts if part.compress_type != zipfile.ZIP_STORED]
            fits = not packed and sum(part.file_size for part in parts) <= size
            odd = held.testzip() if fits else None
        except Exception as error:  # So does zipfile: a place before the beginning is an OSError.
            raise ValueError(f"it is cut short, damaged or not written by torch.save ({error})") from error
    if not fits:
        raise ValueError(f"{[*packed, 'its content'][0]!r} is compressed; write it with torch.save")
    if odd is not None:
        raise ValueError(f"the checksum of {odd!r} is wrong: the file has changed since it was written")


def check_tensors(named: Iterable[tuple[str, Any]]) -> int:
    """Refuse what is not a plain tensor with a number in memory for each that it claims.

    Returns the bytes that they hold together: a storage that several share counts once.
    """
    held: dict[int, int] = {}
    for name, tensor in named:
        plain = isinstance(tensor, Tensor) and tensor.layout is torch.strided
        if not plain or tensor.device.type != "cpu":
            raise ValueError(f"{name} is not a plain tensor")
        storage = tensor.untyped_storage()
        if storage.nbytes() < tensor.numel() * tensor.element_size():
            raise ValueError(
                f"{name} claims {tensor.numel():,} numbers and holds {storage.nbytes():,} bytes; "
                "save it again from a tensor that is not expanded"
            )
        held[storage.data_ptr()] = max(storage.nbytes(), held.get(storage.data_ptr(), 0))
    return sum(held.values())
