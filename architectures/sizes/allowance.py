"""Building within an allowance: what is small is made, what is not is stopped before it takes memory."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

# Elements, of 4 or 8 bytes, that take no time to make.
SMALL = 2**23


class Exceeded(Exception):
    """More elements were asked for than were allowed."""


class Allowance(TorchFunctionMode):
    """Raise `Exceeded` once the tensors that operations return have more elements than this.

    A tensor is refused before it is made where an operation is told its size; one that comes of others may be
    made first.
    """

    def __init__(self, elements: int = SMALL) -> None:
        super().__init__()
        self.left = elements

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._ask(math.prod(n for n in args if isinstance(n, int)))
        for size in args:
            if isinstance(size, list | tuple) and all(isinstance(n, int) for n in size):
                self._ask(math.prod(size))
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self._ask(made.numel())
            self.left -= made.numel()
        return made

    def _ask(self, elements: int) -> None:
        if elements > self.left:
            raise Exceeded
