"""Rows of a board by what people call them."""

from __future__ import annotations

import re

from mad.data.labels import meanings
from mad.messages import brief, counted, near
from mad.score.rows import ArchitectureScore, Scores

KEY = re.compile("[0-9a-f]{6,20}")


def row_of(scores: Scores, name: str) -> ArchitectureScore:
    """The row that is called so: by its label, by what was typed, by a spec or preset in any spelling, or by
    the first digits of its key; a ValueError says what is near it, or how it is run.
    """
    wanted = " ".join(name.split())
    # "mine=2*mlp" is the row of that label, or else the row of that spec, whatever it is called.
    spec = meanings(wanted)[-1]
    found = _called(scores, wanted) or _called(scores, spec)
    if not found and KEY.fullmatch(wanted):
        found = [row for row in scores.architectures if row.architecture_key.startswith(wanted)]
    if not found and (canonical := _canonical(spec)) is not None:
        found = [row for row in scores.architectures if row.spec == canonical]
    if len(found) == 1:
        return found[0]
    if found:
        rows = ", ".join(f"{row.architecture_key[:8]} ({_how(row)})" for row in found)
        raise ValueError(
            f"{brief(wanted)!r} is {counted(len(found), 'row')} of {scores.suite}; give one of {rows}"
        )
    labels = [row.label for row in scores.architectures]
    known = [*labels, *(row.given for row in scores.architectures)]
    raise ValueError(
        f"{brief(wanted)!r} has no runs of {scores.suite} here{near(wanted, known)}; make them: "
        f"{_run(wanted, scores)}"
    )


def _called(scores: Scores, name: str) -> list[ArchitectureScore]:
    return [row for row in scores.architectures if name in (row.label, row.given, row.spec)]


def _run(spec: str, scores: Scores) -> str:
    """The command that would make the runs; a suite of one's own is not known by its name."""
    suite = "..." if "+" in scores.suite else scores.suite
    return f'mad bench "{brief(spec)}" --suite {suite}'


def neighbour(scores: Scores, row: ArchitectureScore) -> ArchitectureScore:
    """The row nearest above, or below the first one; of those that have a rank."""
    whole = [other for other in scores.architectures if other.rank is not None]
    if len(scores.architectures) == 1:
        raise ValueError(
            f"{brief(row.label)} is the only architecture with runs of {scores.suite}, and there is none to "
            f"compare it with; run another: {_run('2*(hyena swiglu)', scores)}"
        )
    if row not in whole:
        raise ValueError(
            f"{brief(row.label)} has no rank in {scores.suite}, and so no neighbour, because "
            f"{'it is stale' if row.stale else 'results are missing'}; name the one to compare it with"
        )
    if len(whole) == 1:
        raise ValueError(
            f"{brief(row.label)} is the only architecture with a rank in {scores.suite}; name the one to "
            "compare it with"
        )
    at = whole.index(row)
    return whole[at - 1] if at else whole[1]


def _canonical(text: str) -> str | None:
    """The spec in its canonical spelling, of a preset too; None where it is none, or names the user's code,
    which is not imported to look something up.
    """
    if ":" in text:
        return None
    import architectures  # Late: it loads torch, and few names need it.

    try:
        return str(architectures.parse(text))
    except ValueError:
        return None


def _how(row: ArchitectureScore) -> str:
    return ", ".join([row.precision, row.backend, *(["compiled"] if row.compile else [])])
