"""A comparison in one plain sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mad.messages import counted
from mad.score.pairing import LEVEL

if TYPE_CHECKING:
    from mad.score.comparison import Comparison, SettingComparison

# Characters of a name in the sentence, tasks that it names, seeds that somebody may want to run.
LONGEST_NAME, MOST_NAMED, MOST_WORTH = 32, 3, 30


def names(found: Comparison) -> tuple[str, str]:
    """What the two are called in a sentence: by their labels where those are short."""
    labels = (found.a.label, found.b.label)
    return labels if max(map(len, labels)) <= LONGEST_NAME and labels[0] != labels[1] else ("A", "B")


def verdict(found: Comparison) -> str:
    """Who is better in the mean and on which tasks, and what would settle the rest."""
    parts = [_mean(found)] if found.mean.tasks > 1 else []
    sides = list(zip(names(found), (1, -1), strict=True))
    # Who is ahead in the mean comes first.
    for who, sign in sides if found.mean.difference >= 0 else reversed(sides):
        won = [s for s in found.settings if s.separated and sign * s.difference > 0]
        if won and parts and parts[0].startswith(f"{who} is better"):
            parts[0] += f", and on {_listed(found, won)}"
        elif won:
            parts.append(f"{who} is better on {_listed(found, won)}")
    open_ = [s for s in found.settings if not s.separated]
    if open_:
        parts.append(_rest(found, open_) + _hope(found, open_))
    text = "; ".join(parts)
    if not all(s.luck for s in found.settings):
        return f"As trained with one seed, {text}."
    # The first word may be a name, which keeps its spelling.
    return f"{text[0].upper() if text.startswith(('in the ', 'on ', 'no ')) else text[0]}{text[1:]}."


def _mean(found: Comparison) -> str:
    a, b = names(found)
    mean, ahead = found.mean, a if found.mean.difference > 0 else b
    where = f"in the mean of {counted(mean.tasks, 'task')}"
    size = points(mean.difference, mean.low, mean.high)
    if mean.p < LEVEL:
        return f"{ahead} is better {where} by {size} ({probability(mean.p)})"
    if mean.difference == 0:
        return f"{where} {a} and {b} are equal"
    return f"{where} they are not separated ({ahead} is ahead by {size}, {probability(mean.p)})"


def points(difference: float, low: float, high: float) -> str:
    """In percentage points, without sign: 12.3 +- 2.1 points."""
    return f"{100 * abs(difference):.1f} +- {100 * (high - low) / 2:.1f} points"


def probability(p: float) -> str:
    """p = .002, p = .21, p < .001, as journals print it."""
    if p < 0.001:
        return "p < .001"
    if p > 0.995:
        return "p = 1"
    return f"p = {p:.{3 if p < 0.1 else 2}f}".replace("0.", ".")


def title(found: Comparison, setting: SettingComparison) -> str:
    """The task's name where the task has one setting, else the setting's."""
    alone = sum(other.task == setting.task for other in found.settings) == 1
    return setting.task if alone else setting.setting


def _listed(found: Comparison, won: Sequence[SettingComparison]) -> str:
    most = sorted(won, key=lambda s: -abs(s.difference))[:MOST_NAMED]
    said = [
        f"{title(found, s)} (by {points(s.difference, s.low, s.high)}, {probability(s.adjusted)})"
        for s in most
    ]
    others = len(won) - len(most)
    said += [counted(others, "other")] if others else []
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}"


def _rest(found: Comparison, open_: Sequence[SettingComparison]) -> str:
    kind = "task" if len(found.settings) == found.mean.tasks else "setting"
    if len(open_) == 1:
        one = open_[0]
        size = f"{points(one.difference, one.low, one.high)}, {probability(one.p)}"
        apart = "equal" if one.difference == 0 else f"apart by {size}"
        alone = len(found.settings) == 1
        return f"on {title(found, one)} they are not separated" + (f" ({apart})" if alone else "")
    if len(open_) == len(found.settings):
        return f"no {kind} by itself separates them"
    return f"on the other {len(open_)} {kind}s nothing is separated"


def _hope(found: Comparison, open_: Sequence[SettingComparison]) -> str:
    """What would separate the one that is nearest to it."""
    countable = [s for s in open_ if s.seeds_needed is not None]
    if not countable:
        if any(s.needs == "seed" for s in open_):
            return ", and a second seed would tell how much of it is luck"
        if all(s.needs == "rows" for s in open_):
            return ", which more test rows would change, and more seeds would not"
        return ""
    nearest = min(countable, key=lambda s: s.seeds_needed or 0)
    needed, have = nearest.seeds_needed or 0, (len(nearest.a_seeds), len(nearest.b_seeds))
    what = title(found, nearest)
    if needed > MOST_WORTH:
        return f", and it would take {needed} seeds or more"
    if have[0] == have[1]:
        return f", and {counted(needed - have[0], 'more seed')} of each would settle {what}"
    return f", and {needed} seeds of each would settle {what}, where there are {have[0]} and {have[1]}"
