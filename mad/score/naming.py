"""What a row is called: the label that was typed with it last, a preset's name, or its spec."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from architectures.grammar.outline import spell_options
from mad.data.labels import label_of
from mad.data.records import Record

if TYPE_CHECKING:
    from mad.score.rows import ArchitectureScore

PRESET = re.compile(r"[a-z][a-z0-9+.-]*")
# A layer of the user's own in a row's spec, with the beginning of its code's hash.
SOURCE = re.compile(r"\w+@[0-9a-f]{4}")


class Spelling(NamedTuple):
    """spec    the canonical one, after the options of the model that differ
    given   what was typed, so that it can be typed again: with the newest label, else a preset's name if any
    label   what the row is called; `others`: labels that it had before
    """

    spec: str
    given: str
    label: str
    others: tuple[str, ...]


def spelling(records: Sequence[Record]) -> Spelling:
    """Of the runs of one architecture."""
    architecture = records[0].config.architecture
    spec = f"{spell_options(dict(sorted(architecture.options.items())))} {architecture.label}".strip()
    typed = sorted({pair for record in records for pair in record.typed}, reverse=True)
    labelled = [text for _, text in typed if label_of(text)]
    if labelled:
        label, *others = dict.fromkeys(map(label_of, labelled))
        return Spelling(spec, labelled[0], label, tuple(others))
    given = min({text for _, text in typed}, key=lambda text: (not PRESET.fullmatch(text), text))
    return Spelling(spec, given, given if PRESET.fullmatch(given) else spec, ())


def distinct(rows: Sequence[ArchitectureScore]) -> list[ArchitectureScore]:
    """Rows that share a name, told apart: by their spec, a label by that or the code of layers beside it."""
    shared: dict[str, list[ArchitectureScore]] = defaultdict(list)
    for row in rows:
        shared[row.label].append(row)
    named = {label: _apart(alike) for label, alike in shared.items()}
    return [replace(row, label=named[row.label].get(row.spec, row.label)) for row in rows]


def _apart(alike: Sequence[ArchitectureScore]) -> dict[str, str]:
    """What rows of one label are called, by their specs."""
    specs = {row.spec: row for row in alike}
    if len(specs) == 1:
        return {}
    code = {spec: " ".join(dict.fromkeys(SOURCE.findall(spec))) for spec in specs}
    same = len({SOURCE.sub("", spec) for spec in specs}) == 1
    return {
        spec: spec
        if row.label != label_of(row.given)
        else f"{row.label} {code[spec]}"
        if same
        else f"{row.label}: {spec}"
        for spec, row in specs.items()
    }
