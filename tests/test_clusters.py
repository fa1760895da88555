"""The page on clusters is executed: its scripts run as they are printed, with Slurm's commands played."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mad.run.battery import prepare
from mad.store import Store

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "clusters.md").read_text()
FILES = dict(re.findall(r"<!-- file: (\S+) -->\n```bash\n(.*?)```", PAGE, flags=re.S))
BY_HAND, MERGE = (block for block in re.findall(r"```bash\n(.*?)```", PAGE, flags=re.S) if "#!" not in block)
SPECS = ["mamba", "2*(hyena swiglu)"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What a user has there: the scripts, `mad`, and a `scontrol` that writes down what it is told."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    commands = {
        "mad": f'exec {sys.executable} -m mad.cli "$@"',
        "ray": f'exec {Path(sys.executable).parent / "ray"} "$@"',
        "scontrol": f'echo "$@" >> {tmp_path / "scontrol.log"}',
    }
    (tmp_path / "bin").mkdir()
    for name, line in commands.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def environment(folder: Path, **more: str) -> dict[str, str]:
    (folder / "disk").mkdir(exist_ok=True)
    known = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "MAD"))}
    own = {
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(folder / "disk"),
    }
    return known | own | more


def shell(folder: Path, script: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environment(folder, **more),
        capture_output=True,
        text=True,
        timeout=600,
    )


@contextlib.contextmanager
def started(folder: Path, script: str, **more: str) -> Iterator[subprocess.Popen[str]]:
    """A script in a process group of its own, which is ended as a whole."""
    words = ["bash", script, *SPECS, "--suite", "smoke"]
    with subprocess.Popen(
        words,
        cwd=folder,
        env=environment(folder, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def stored(path: Path) -> int:
    with contextlib.suppress(ValueError), Store(path, read_only=True) as store:
        return len(store.records())
    return 0


def exported(path: Path) -> dict[str, dict[str, Any]]:
    lines = path.read_text().splitlines() if path.exists() else []
    return {run["id"]: run for run in map(json.loads, lines)}


def test_the_scripts_are_sound() -> None:
    assert set(FILES) == {"battery.sh", "ray.sh"}
    for text in (*FILES.values(), BY_HAND, MERGE):
        done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_preempted_task_goes_on_where_it_was_on_another_node(number: signal.Signals, folder: Path) -> None:
    task = {"SLURM_JOB_ID": "8", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1", "SHARDS": "2"}
    kept, disk = folder / "results" / "1.jsonl", folder / "disk" / "mad-8-1"
    with started(folder, "battery.sh", **task) as process:
        while not stored(disk / "store.sqlite"):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0, out
    assert "interrupted; what was finished is stored" in out
    assert (folder / "scontrol.log").read_text() == "requeue 7_1\n"
    before = {id: run for id, run in exported(kept).items() if run["status"] == "ok"}
    groups = prepare(SPECS, suite="smoke", protocol="sound", device="cpu", shard="1/2").groups
    mine = {id for group in groups for id in group.run_ids}
    assert set(before) < mine and before
    assert not disk.exists()
    with started(folder, "battery.sh", **task) as process:
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0, out
    after = exported(kept)
    assert set(after) == mine and {run["status"] for run in after.values()} == {"ok"}
    assert all(after[id] == run for id, run in before.items()), "what was stored is not repeated"


@pytest.mark.slow
def test_shards_by_hand_and_their_merge_are_the_whole_board(folder: Path) -> None:
    done = shell(folder, BY_HAND)
    assert done.returncode == 0, done.stderr
    merged = shell(folder, MERGE, MAD_STORE=str(folder / "merged.sqlite"))
    assert merged.returncode == 0, merged.stderr
    assert merged.stdout.startswith("24 runs added, 0 replaced, 0 known\n")
    assert "missing" not in merged.stdout and "12 of 12 runs imported" in merged.stdout


def test_a_task_that_fails_says_so(folder: Path) -> None:
    done = shell(folder, "bash battery.sh no-such-layer", SLURM_JOB_ID="1", SLURM_ARRAY_TASK_ID="1")
    assert done.returncode == 2 and "no-such-layer" in done.stderr
    assert not (folder / "results" / "1.jsonl").exists()


@pytest.fixture
def short() -> Iterator[str]:
    """A folder for Ray, whose sockets must not have long paths."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield folder


@pytest.mark.slow
def test_a_job_of_several_nodes_runs_on_ray_and_ends_what_it_started(folder: Path, short: str) -> None:
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    node = {
        "SLURM_NNODES": "1",
        "SLURM_CPUS_PER_TASK": "2",
        "PORT": port,
        "RAY_TMPDIR": short,
        "MAD_STORE": str(folder / "s.sqlite"),
    }
    with started(folder, "ray.sh", **node) as process:
        out, _ = process.communicate(timeout=300)
        assert process.returncode == 0, out
    assert stored(folder / "s.sqlite") == 24
    with socket.socket() as head:
        assert head.connect_ex(("127.0.0.1", int(port))) != 0
