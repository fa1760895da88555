"""Labels: in "mine=2*(my_layers:Ema swiglu)" mine is what results call the architecture.

    text   := [label '='] spec
    label  := a letter, then letters, digits and . _ + -, at most 60 in all

A label is presentation, never identity: it is kept as a part of what was typed, so that this can be given
again as it stands. The equals signs of a layer's options are in brackets, and none of these make a label.
"""

from __future__ import annotations

import re

from architectures.grammar.presets import PRESETS
from mad.messages import printable

LONGEST = 60
LABEL = re.compile(r"[^\W\d_][\w.+\-]*")
RUN = re.compile("[0-9a-f]{6,20}")


def label_of(given: str) -> str:
    """The label in what was typed once, "" for none. Records come from other people: a wrong one is none."""
    label = (_parts(given) or ("", ""))[0]
    return label if _fits(label) else ""


def meanings(text: str) -> tuple[str, ...]:
    """What a filter for "mine=2*mlp" finds: that text, and the spec that it labels."""
    parts = _parts(text)
    return (text.strip(),) if parts is None else (text.strip(), parts[1])


def read(text: str) -> tuple[str, str]:
    """The label and the spec of "label=spec"; "" and the spec where it has no label.

    Refused: a label that is no word, that is the name of a layer or a preset or reads as the id of a run, and
    one without a spec.
    """
    if (parts := _parts(text)) is None:
        return "", text.strip()
    label, spec = parts
    said = f"label {printable(label[:LONGEST])!r}"
    if not _fits(label):
        word = re.sub(r"[^\w.+\-]+", "-", label)[:LONGEST].strip("-+._0123456789")
        options = "; options of a layer stand in brackets: mamba[d_state=8]" if " " in label else ""
        raise ValueError(
            f"{said} is not a word of letters, digits and . _ + - that begins with a letter and has at most "
            f"{LONGEST} characters; write {word if _fits(word) else 'mine'}=...{options}"
        )
    if RUN.fullmatch(label):
        raise ValueError(f"{said} reads as the id of a run; choose one such as 'my-{label}'")
    if (name := _names().get(label.casefold())) is not None:
        kind = "preset" if name in PRESETS else "layer"
        raise ValueError(f"{said} is taken: {name} is a {kind}; choose one such as 'my-{label}'")
    if not spec:
        raise ValueError(f"{said} has no architecture behind it; write {label}=SPEC, as in {label}=2*mlp")
    return label, spec


def may_be_label(text: str) -> bool:
    """Whether a text can be a label by itself: a word that names no layer, preset or run."""
    word = text.strip()
    return _fits(word) and not RUN.fullmatch(word) and word.casefold() not in _names()


def _parts(text: str) -> tuple[str, str] | None:
    """What is before the equals sign and after it, where there is one outside of brackets."""
    label, equals, spec = text.partition("=")
    return (label.strip(), spec.strip()) if equals and not any(mark in label for mark in "[({") else None


def _names() -> dict[str, str]:
    """Layers and presets, by their names in small letters."""
    from architectures.registry import names  # Late: it loads torch, as whoever takes a spec does.

    return {name.casefold(): name for name in (*names(), *PRESETS)}


def _fits(label: str) -> bool:
    return len(label) <= LONGEST and label == printable(label) and LABEL.fullmatch(label) is not None
