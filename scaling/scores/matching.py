"""Which architecture of one table is which of another: by name, by canonical spec, by pattern of layers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache

from architectures.grammar.outline import outline
from mad.messages import printable


def match(
    names: Mapping[str, Sequence[str]], others: Mapping[str, Sequence[str]] | Sequence[str]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Each architecture of `names` (with all it is called by) to one of `others`, and sentences on the rest.

    others  names, or names with all that each is called by, as a label with the specs of its runs

    Tried in turn: equal text; equal but for case, hyphens and blanks; equal canonical spec; equal pattern of
    layers with another number of repeats, as a small model of the tasks and a deep language model have. A way
    that would give two answers gives none. Raises ValueError if `others` has a name twice.
    """
    if len(set(others)) < len(others):
        twice = next(name for name in others if list(others).count(name) > 1)
        raise ValueError(f"{twice!r} is there twice; keep one row per architecture")
    called = others if isinstance(others, Mapping) else {name: (name,) for name in others}
    matched: dict[str, str] = {}
    for form in (str, _plain, _canonical, _pattern):
        _match_by(form, names, called, matched)
    lost = [arch for arch in names if arch not in matched]
    spare = [name for name in others if name not in matched.values()]
    return matched, (*_sentences(lost, spare, "scores"), *_sentences(spare, lost, "runs"))


def _match_by(
    form: Callable[[str], str],
    names: Mapping[str, Sequence[str]],
    others: Mapping[str, Sequence[str]],
    matched: dict[str, str],
) -> None:
    free: dict[str, set[str]] = {}
    for other, called in others.items():
        if other not in matched.values():
            for name in filter(None, map(form, called)):
                free.setdefault(name, set()).add(other)
    answers = {
        arch: {other for name in called for other in free.get(form(name), ())}
        for arch, called in names.items()
        if arch not in matched
    }
    wanted = [other for found in answers.values() for other in found]
    for arch, found in answers.items():
        if len(found) == 1 and wanted.count(other := next(iter(found))) == 1:
            matched[arch] = other


def _sentences(lost: Sequence[str], spare: Sequence[str], table: str) -> list[str]:
    close = {name: get_close_matches(name, list(spare), n=1, cutoff=0.4) for name in lost}
    said = [f"{name!r} (nearest: {near[0]!r})" if near else repr(name) for name, near in close.items()]
    return [f"Only in the {table}: {', '.join(said)}."] if said else []


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "", printable(name).casefold())  # As tables of runs show it.


@lru_cache(maxsize=1024)
def _layers(name: str) -> tuple[object, ...]:
    """The layers if the name is a spec or a preset of this project, else none.

    Names come from tables and records, so nothing that they name is imported: where there are layers of
    somebody's own, the text alone decides.
    """
    if ":" in name:
        try:
            return outline(name)
        except ValueError:
            return ()
    if name != name.lower():  # Ours have no capitals.
        return ()
    # Late: parsing looks layers up, which imports torch.
    from architectures import SpecError, parse

    try:
        return parse(name).layers
    except SpecError:
        return ()


def _canonical(name: str) -> str:
    """All layers: '2*swiglu' is 'swiglu swiglu'."""
    return repr(_layers(name)) if _layers(name) else ""


def _pattern(name: str) -> str:
    """The layers of one period: '2*(hyena swiglu)' and '8*(hyena swiglu)' are 'hyena swiglu'."""
    layers = _layers(name)
    for period in range(1, len(layers) + 1):
        if layers == layers[:period] * (len(layers) // period):
            return repr(layers[:period])
    return ""
