"""A target is whole or untouched, and nothing that is not ours to replace is replaced."""

from __future__ import annotations

import errno
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import architectures
from architectures.checkpoint import load, save
from architectures.files import check_target, whole_file


def full(*arguments: Any, **options: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_whole_and_alone(tmp_path: Path) -> None:
    target = tmp_path / "a.svg"
    with whole_file(target) as part:
        assert part.suffix == ".svg" and part.parent == tmp_path and part != target
        part.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new" and names(tmp_path) == ["a.svg"]
    assert target.stat().st_mode & 0o777 == 0o666 & ~umask()


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), ValueError("bad"), KeyboardInterrupt()])
def test_what_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(type(error)), whole_file(target, force=True) as part:
        part.write_text("ne")
        raise error
    assert target.read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_an_error_of_the_system_names_the_target(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with pytest.raises(OSError) as caught, whole_file(target) as part:
        part.write_text("ne")
        full()
    assert caught.value.filename == str(target) and caught.value.errno == errno.ENOSPC


def test_a_replaced_file_keeps_its_permissions_and_its_link(tmp_path: Path) -> None:
    target, link = tmp_path / "a.txt", tmp_path / "link.txt"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    with whole_file(link, force=True) as part:
        part.write_text("new")
    assert link.is_symlink() and target.read_text() == "new" and target.stat().st_mode & 0o777 == 0o640


def test_a_link_to_nothing_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "there")
    with whole_file(tmp_path / "link") as part:
        part.write_text("new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "there").read_text() == "new"


def refusal(path: str | Path, **options: Any) -> str:
    with pytest.raises(ValueError) as caught:
        check_target(path, **options)
    with pytest.raises(ValueError, match=re.escape(str(caught.value))), whole_file(path, **options):
        pass
    return str(caught.value)


def test_what_exists_is_replaced_only_if_asked(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for name in ("a", "link"):
        assert f"{tmp_path / name} exists" in refusal(tmp_path / name)
        assert check_target(tmp_path / name, force=True) == tmp_path / "a"
    assert (tmp_path / "a").read_text() == "old"


def test_a_source_is_never_written(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    (tmp_path / "soft").symlink_to("a")
    os.link(tmp_path / "a", tmp_path / "hard")
    for name in ("a", "soft", "hard"):
        assert "is read" in refusal(tmp_path / name, force=True, sources=["no", tmp_path / "a"])
    with whole_file(tmp_path / "b", sources=[tmp_path / "b"]) as part:
        part.touch()


def test_what_is_not_a_regular_file_is_never_written(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "null").symlink_to("/dev/null")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    # A path of a socket must be short.
    with socket.socket(socket.AF_UNIX) as listening:
        where = os.getcwd()
        os.chdir(tmp_path)
        try:
            listening.bind("socket")
        finally:
            os.chdir(where)
        for name in ("fifo", "socket", "null"):
            assert "is not a regular file" in refusal(tmp_path / name, force=True)
    assert "is not a regular file" in refusal("/dev/full", force=True)
    assert "is a folder" in refusal(tmp_path / "folder", force=True)
    assert "cannot be written" in refusal(tmp_path / "loop", force=True)
    assert Path("/dev/null").is_char_device()


def test_a_folder_that_lacks_or_cannot_be_written_is_found_out_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "create" in refusal(tmp_path / "no" / "a.txt")
    (tmp_path / "file").touch()
    assert "cannot be written" in refusal(tmp_path / "file" / "a.txt")
    assert "is in no folder" in refusal("~nobody-of-this-name/a.txt")
    assert "cannot be written" in refusal(tmp_path / ("n" * 300))
    monkeypatch.setattr("tempfile.TemporaryFile", full)
    assert "No space left on device" in refusal(tmp_path / "a.txt")


# torch answers a failed write with a RuntimeError that knows nothing of the system's.
SAVE = """
import resource, signal, sys
import architectures
from architectures.checkpoint import save
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
model = architectures.build("swiglu", vocab_size=8, dim=64, max_len=8, seed=0)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    save(model, sys.argv[1])
except OSError as error:
    print(error)
"""


def test_a_model_that_does_not_fit_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    model: Any = architectures.build("swiglu", vocab_size=8, dim=16, max_len=8, seed=3)
    save(model, path)
    found = subprocess.run(
        [sys.executable, "-c", SAVE, str(path)], capture_output=True, text=True, check=True
    )
    assert found.stdout == f"[Errno 27] File too large: '{path}'\n"
    assert names(tmp_path) == ["m.pt"]
    torch.testing.assert_close(load(path)[0].state_dict(), model.state_dict())


def test_a_model_is_not_saved_over_a_file_without_leave(tmp_path: Path) -> None:
    model: Any = architectures.build("swiglu", vocab_size=8, dim=16, max_len=8, seed=3)
    (tmp_path / "m.pt").write_text("precious")
    with pytest.raises(ValueError, match="exists"):
        save(model, tmp_path / "m.pt", force=False)
    assert (tmp_path / "m.pt").read_text() == "precious"
