"""What a check came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mad.contract.subject import Size

Result = Literal["passed", "failed", "not applicable", "not run"]


@dataclass(frozen=True)
class Finding:
    """What one check came to.

    seen      where it passed, what was measured; where it failed, what the smallest input shows; else why not
    smallest  (batch, length, width) of that input; None where the check has no input or was given one
    """

    check: str
    result: Result
    seen: str
    smallest: Size | None = None
