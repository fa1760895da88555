"""Long sequences, whose state is known from shorter ones."""

from __future__ import annotations

from collections.abc import Callable

# Tokens from which on a state is taken to go on as it does, if it has been regular up to there.
SETTLED = 4096


def state_after(length: int, measure: Callable[[int], dict[str, int]]) -> dict[str, int]:
    """The state by kind after `length` tokens, as `measure` has it or by the contract of a layer: what grows
    does so in proportion to the tokens, and the rest only fills a window.
    """
    if length <= SETTLED:
        return measure(length)
    whole = measure(SETTLED)
    for n in (SETTLED // 2, SETTLED - 1):
        if measure(n) != _at(n, whole):
            return measure(length)  # a window that is not full, or more than one token for each that it keeps
    return _at(length, whole)


def _at(length: int, whole: dict[str, int]) -> dict[str, int]:
    grown, rest = divmod(whole["growing"] * length, SETTLED)
    found = {**whole, "growing": grown if not rest else -1}
    return {**found, "total": sum(found[kind] for kind in ("recurrent", "conv", "growing"))}
