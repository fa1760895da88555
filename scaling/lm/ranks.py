"""Several processes on one machine: start one a device, and bring back what the first of them returns."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def launch(work: Callable[..., dict[str, Any]], arguments: tuple[Any, ...], count: int) -> dict[str, Any]:
    """Run `work(*arguments)` in `count` fresh processes that can reach each other over loopback.

    What rank 0 returns, which must be JSON, is returned. Where one of them fails, all are ended and its error
    is raised with its trace. They end with this process, too, however it ends.
    """
    import torch.multiprocessing

    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        answer = Path(folder) / "answer.json"
        torch.multiprocessing.spawn(_rank, (work, arguments, count, port, answer), nprocs=count)
        return json.loads(answer.read_text())


def _rank(
    rank: int,
    work: Callable[..., dict[str, Any]],
    arguments: tuple[Any, ...],
    count: int,
    port: int,
    answer: Path,
) -> None:
    # Lightning's environment reads these, and then starts no processes itself.
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0"}
    os.environ |= {"LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    try:
        found = work(*arguments)
    except SystemExit as end:  # It would look as if the rank had done its work.
        raise RuntimeError(f"a layer ended its process: SystemExit: {end}") from end
    if rank == 0:
        answer.write_text(json.dumps(found))
