"""What the workers of the pool's tests do; apart, so that a process can import it with little else."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any


def act(shared: Any, task: Any) -> Any:
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "raise":
        raise RuntimeError("out of memory")
    if task == "sleep":
        time.sleep(3600)
    if task == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        Path(shared).touch()
        time.sleep(3600)
    while task == "wait for the deaf" and not Path(shared).exists():
        time.sleep(0.01)
    return shared, task, os.getpid()
