"""Synthetic tasks that ask a sequence model one question each: recall, copy, compress, memorise.

    import numpy as np
    import synthetic_tasks

    task = synthetic_tasks.get("in-context-recall", seq_len=64)
    batch = task.sample(np.random.default_rng(0), 1280, split="test")

A task is a frozen dataclass whose fields are its difficulty; `names()` lists the tasks. Only numpy is needed.
"""

from synthetic_tasks.registry import get, names, task
from synthetic_tasks.spelling import parse
from synthetic_tasks.task import IGNORE, Batch, Task

__all__ = ["IGNORE", "Batch", "Task", "get", "names", "parse", "task"]
