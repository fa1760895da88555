"""Processes that are started here: how many at a time, what they find in their environment, and how they
should hold memory.
"""

import contextlib
import os
import sys

# Processes that train make and free the same tensors at every step. By default glibc gives freed memory
# back to the system and asks for it again, page by page: 10 to 20 % of a training step, up to 40 % of an
# evaluation (benchmarks/battery.py). Read when a process starts; other C libraries pass it over. 32 MiB is
# the most that older versions take for what is mapped by itself.
_TUNABLES = {"hugetlb": 1, "mmap_threshold": 2**25, "trim_threshold": 2**32, "top_pad": 2**26}
GLIBC = {"GLIBC_TUNABLES": ":".join(f"glibc.malloc.{name}={value}" for name, value in _TUNABLES.items())}


def environment(threads: int | None = None) -> dict[str, str]:
    """That of this process, with its path for imports, and so many threads for libraries of arithmetic."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    limits = {} if threads is None else dict.fromkeys(names, str(threads))
    return os.environ | {"PYTHONPATH": path} | limits


def prepare_children() -> None:
    """Say it to the processes that this one will start; what the user has set stands."""
    for name, value in GLIBC.items():
        os.environ.setdefault(name, value)


def cores() -> int:
    """How many cores this process may use: those of its affinity, within the quota of its control group."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
        count = min(count, max(1, int(quota) // int(period)))  # "max" is no number: no quota
    return count
