"""What an architecture mixes time with, as its layers declare it."""

import functools
from collections.abc import Iterable

MIXING = ("attention", "recurrence", "convolution")
# In the order of a list to choose from. "own": a layer or model of the user's own does not say.
FAMILIES = (*MIXING, "hybrid", "none", "own")


def family(layers: Iterable[str]) -> str:
    """One of `FAMILIES`, of the names of all layers."""
    kinds = _kinds()
    names = list(layers)
    found = {kinds[name] for name in names if kinds.get(name) in MIXING}
    if not names or any(name not in kinds for name in names):
        return "own"
    return "hybrid" if len(found) > 1 else next(iter(found), "none")


@functools.cache
def _kinds() -> dict[str, str]:
    from architectures.grammar.index import read

    return {row["name"]: row["kind"] for row in read()}
