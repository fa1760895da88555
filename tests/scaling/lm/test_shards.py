"""The cache of tokens: a folder with its final name is whole, whoever is killed or builds meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scaling.lm import shards

ROOT = Path(__file__).parents[3]
BUILD = """
import pathlib, sys, time
from scaling.lm import shards
def fill(folder):
    (folder / "whole").write_text("who")
    (folder.parent / "started").write_text("")
    time.sleep(float(sys.argv[2]))
    (folder / "whole").write_text("whole")
shards.folder(pathlib.Path(sys.argv[1]), "key", fill)
"""


def builder(cache: Path, seconds: float) -> subprocess.Popen[bytes]:
    """A process that builds `cache/key` and takes its time in the middle of it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", BUILD, str(cache), str(seconds)], env=environment)


def quick(folder: Path) -> None:
    (folder / "whole").write_text("whole")


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MAD_CACHE", str(tmp_path))
    assert shards.default_cache() == tmp_path
    monkeypatch.delenv("MAD_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert shards.default_cache() == tmp_path / "x" / "mad-suite" / "corpora"


def test_a_builder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        shards.folder(tmp_path, "key", fill)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_builder_leaves_no_folder_that_is_half_written(tmp_path: Path) -> None:
    process = builder(tmp_path, 60)
    deadline = time.monotonic() + 30
    while not (tmp_path / "started").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "key").exists()
    left = next(tmp_path.glob(".building-*"))
    assert (shards.folder(tmp_path, "key", quick) / "whole").read_text() == "whole"
    # What it left is removed once it is old enough to belong to nobody.
    os.utime(left, (0, 0))
    shards.folder(tmp_path, "other", quick)
    assert not left.exists()


def test_two_builders_at_once_end_with_one_whole_folder(tmp_path: Path) -> None:
    processes = [builder(tmp_path, 0.5), builder(tmp_path, 0.5)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key", "started"]
    assert (tmp_path / "key" / "whole").read_text() == "whole"


def test_a_builder_that_comes_second_takes_what_the_first_built(tmp_path: Path) -> None:
    def late(folder: Path) -> None:
        shards.folder(tmp_path, "key", quick)
        (folder / "whole").write_text("mine")

    assert (shards.folder(tmp_path, "key", late) / "whole").read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
