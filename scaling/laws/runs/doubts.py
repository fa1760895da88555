"""What a table as a whole gives away: counts in millions, steps as tokens, perplexities as losses, two models
in one, training curves as runs.

Each function takes the rows that count under our names and returns sentences; what is beyond doubt is
refused. A sentence that begins with "serious" stands above all results.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pandas as pd

from scaling.laws.runs.columns import KNOWN, folded, is_blank, rows_text

SERIOUS = "serious: "
# Published runs have between .05 and some ten thousand tokens per parameter; counts in thousands or more,
# and steps for tokens, are off by a factor of a thousand at least.
RATIOS = (1e-2, 1e5)
# A row so far from the median of a table in D/N, and outside of that range, is counted in another unit.
MIXED = 1e4
# Language models are trained on more tokens than this: steps, and millions of tokens, are fewer.
FEWEST_TOKENS = 1e6
# In nats per token. A uniform guess over 50,000 tokens has 10.8. A model that has learned to any use is below
# 6 (a perplexity of 400), and where the best of all runs is above 7.5 (1,800), none has learned.
UNIFORM, POOR, NO_MODEL = float(np.log(5e4)), 6.0, 7.5
# Losses that are rounded, or perplexities with two digits, agree to this.
AGREE = 0.05
# A run so many times off the FLOPs of its group, and a column budget so far from the FLOPs of its runs.
OFF_GROUP, OTHER_UNIT = 2.0, 1.5
# Of a column budget with more values than this share of the runs, the groups say nothing.
SINGLES = 0.8
# Columns by which rows differ that are still of one architecture.
REPLICAS = {"seed", "replica", "replicate", "trial", "rep", "id", "step", "name", "date", "source"}
MODELS = {"model", "model_name", "model_type", "model_family", "family", "kind", "variant"}
LABELS = ("name", "run_name", "run_id", "display_name", "runid", "id")
# A number of parameters or tokens in a name.
SIZE = re.compile(r"\d+(?:[.p_]\d+)?\s*[kmbt]n?(?![a-z])")
STEPS = ("step", "global_step", "iteration", "iter")


def of_units(frame: pd.DataFrame) -> list[str]:
    """Whether params and tokens are counts. FLOPs of the table's own confirm them, so then it is a note."""
    if "params" not in frame or not {"tokens", "flops"} & set(frame):
        return []
    n = _numbers(frame, "params")
    d = _numbers(frame, "tokens") if "tokens" in frame else _numbers(frame, "flops") / (6.0 * n)
    ratio = (d / n).dropna()
    if ratio.empty or not (words := _odd_units(d, ratio, "flops" in frame)):
        return []
    if {"tokens", "flops"} <= set(frame):
        return [f"{SERIOUS}{words}, though the FLOPs say so too; check all three"]
    raise ValueError(
        f"{words}; give counts in every row, not millions or billions, nor steps. If these are counts, a "
        "column flops with the training FLOPs will say so"
    )


def _odd_units(d: pd.Series, ratio: pd.Series, flops: bool) -> str:
    """What shows that some of the tokens d, or of the params, are not counts; "" where nothing does."""
    low, high, middle = ratio.min(), ratio.max(), ratio.median()
    if high < RATIOS[0] or low > RATIOS[1]:
        return (
            f"tokens per parameter are {low:.3g} to {high:.3g} in all {len(ratio)} runs, and language models "
            f"have {RATIOS[0]:g} to {RATIOS[1]:g}: column {'params' if low > RATIOS[1] else 'tokens'!r} is "
            "not a count"
        )
    if not flops and d.max() < FEWEST_TOKENS:
        return f"no run has {FEWEST_TOKENS:g} tokens, the largest {d.max():g}: column 'tokens' is not a count"
    outside = (ratio < RATIOS[0]) | (ratio > RATIOS[1])
    far = list(ratio.index[outside & ((ratio / middle > MIXED) | (middle / ratio > MIXED))])
    if far:
        return (
            f"{rows_text(far)}: {ratio[far[0]]:.3g} tokens per parameter, where the median is {middle:.3g}: "
            "units are mixed"
        )
    off = list(d.index[np.abs(np.log10(d / d.median())) > 7])
    if off:
        return (
            f"{rows_text(off)}, column 'tokens': {d[off[0]]:g} is more than 1e7 times from the median "
            f"{d.median():g}: units are mixed"
        )
    return ""


def of_losses(frame: pd.DataFrame, *, chosen: bool) -> list[str]:
    """Whether losses are nats per token; chosen: the user has said which column is the loss."""
    if "loss" not in frame:
        return []
    loss = _numbers(frame, "loss").dropna()
    if "ppl" in frame and not chosen:
        log_ppl = np.log(_numbers(frame, "ppl"))
        rows = list(loss.index[(loss - log_ppl[loss.index]).abs() > AGREE])
        if rows:
            share = (loss / log_ppl)[rows].median()
            bits = " (loss looks like bits: divide it by 1.4427)" if abs(share - 1 / np.log(2)) < 0.01 else ""
            raise ValueError(
                f"{rows_text(rows)}: column 'loss' is {loss[rows[0]]:.4g} and ln of column 'ppl' "
                f"{log_ppl[rows[0]]:.4g}{bits}; leave one out, or choose with --columns loss=loss or ppl=ppl"
            )
        if np.isfinite(log_ppl).any():
            return []
    if loss.empty:
        return []
    least = loss.min()
    if least > NO_MODEL:
        raise ValueError(
            f"the least value of column 'loss' is {least:.4g}, and no fitted model is above {NO_MODEL} "
            f"nats per token (a perplexity of {np.exp(NO_MODEL):,.0f}); if these are perplexities, call the "
            "column ppl, or say --columns ppl=loss; if they are sums, divide them by their tokens"
        )
    found = []
    if least > POOR:
        found.append(f"the least loss is {least:.4g} nats per token, a perplexity of {np.exp(least):,.0f}")
    if high := list(loss.index[loss > UNIFORM]):
        found.append(f"{rows_text(high)}: the loss is above ln 50,000 = {UNIFORM:.1f}, a uniform guess")
    return [f"{SERIOUS}{words}; if these are perplexities, say --columns ppl=loss" for words in found]


def of_budgets(frame: pd.DataFrame) -> list[str]:
    """Runs far from the FLOPs of their group, and what a column budget is, if not FLOPs."""
    if "budget" not in frame or (blank := is_blank(frame["budget"])).all():
        return []
    if blank.any():
        where = rows_text(list(frame.index[blank]))
        return [f"{where}: no budget, so groups are found from the FLOPs of all runs instead"]
    if "flops" in frame:
        flops = _numbers(frame, "flops")
    elif {"params", "tokens"} <= set(frame):
        flops = 6.0 * _numbers(frame, "params") * _numbers(frame, "tokens")
    else:
        return []
    if not names_groups(frame["budget"]):
        return ["nearly every run has a budget of its own, so groups are found from the FLOPs instead"]
    names = frame["budget"].astype(str).str.strip()
    groups = flops.groupby([names, frame["arch"]])
    middle = groups.transform("median")
    apart = np.exp(np.abs(np.log(flops / middle)))
    notes = []
    if rows := list(frame.index[(apart > OFF_GROUP) & (groups.transform("count") > 2)]):
        notes.append(
            f"{rows_text(rows)}: {flops[rows[0]]:.3g} FLOPs in the budget {names[rows[0]]}, whose runs have "
            f"{middle[rows[0]]:.3g} in the median; check its budget, params and tokens"
        )
    units = pd.to_numeric(frame["budget"], errors="coerce") / middle
    unit = float(units.median())
    if not 1 / OTHER_UNIT < unit < OTHER_UNIT:
        says = f"{unit:.3g} times" if units.max() < OTHER_UNIT * units.min() else "not"
        notes.append(
            f"column 'budget' is {says} the FLOPs of the runs, so it names their groups and is not compared"
        )
    return notes


def names_groups(budgets: pd.Series) -> bool:
    """Whether a column budget groups runs; where nearly each has its own value, it is the FLOPs of each."""
    return bool(budgets.notna().all()) and budgets.nunique() <= SINGLES * len(budgets)


def of_shape(frame: pd.DataFrame) -> list[str]:
    """Training curves without a column run; and, in a table of one architecture, columns that part it."""
    notes = list(_history(frame)) if "run" not in frame else []
    archs = pd.Series(frame["arch"].unique())
    plain = archs.astype(str).str.casefold().str.replace(r"[\s_-]+", "", regex=True)
    notes += [
        f"{' and '.join(map(repr, alike))} are architectures of their own, alike but for case and hyphens"
        for _, alike in archs.groupby(plain)
        if len(alike) > 1
    ]
    return notes + (_crossed(frame) or (_mingled(frame) if len(archs) == 1 else []))


def _history(frame: pd.DataFrame) -> Iterator[str]:
    step = next((name for name in frame if folded(name) in STEPS), None)
    forms = {folded(name): name for name in frame}
    label = next((forms[form] for form in LABELS if form in forms), None)
    if step is None or label is None or not frame[label].duplicated().any():
        return
    steps = pd.to_numeric(frame[step], errors="coerce")
    runs = steps.groupby(frame[label])
    if (runs.size() > 1).mean() < 0.5 or not (runs.nunique() == runs.count()).all():
        return
    if "params" in frame and (frame["params"].groupby(frame[label]).nunique() > 1).any():
        return
    words = (
        f"{len(frame)} rows have {runs.ngroups} values of {label!r} and go on in {step!r}: these are "
        f"training curves, and a run is its last row; say --columns run={label}"
    )
    # W&B's own name of the step leaves no doubt.
    if str(step) == "_step":
        raise ValueError(words)
    yield SERIOUS + words.replace("these are", "if these are").replace(", and a run", ", a run")


def _crossed(frame: pd.DataFrame) -> list[str]:
    """The column, of words or of settings such as rates, by which each point has several runs."""
    if not {"params", "tokens"} <= set(frame):
        return []
    size, data = (np.log(_numbers(frame, name)).round(2) for name in ("params", "tokens"))
    last = frame.loc[data.sort_values().index]
    if "run" in frame:
        last = last.drop_duplicates(["arch", "run"], keep="last")
    point = [last["arch"], size[last.index], data[last.index]]
    for name in _labels(last, "string", "categorical", "floating", "integer", "mixed-integer-float"):
        values = last[name].groupby(point).agg(frozenset)
        several = values[values.map(len) > 1]
        # What is measured differs from point to point; what is set does not.
        alike = len(several) if name in _labels(last) else several.value_counts().max()
        if len(several) and alike >= len(values) / 2:
            remedy = f"say --by {name}" if frame["arch"].nunique() == 1 else "choose one value with --where"
            return [
                f"{SERIOUS}the runs come in groups of equal params and tokens, told apart by column "
                f"{name!r}, and are fitted as one architecture; {remedy}"
            ]
    return []


def _labels(frame: pd.DataFrame, *kinds: str) -> list[str]:
    """Columns of a few values, words unless other kinds are named, that may tell rows apart."""
    return [
        name
        for name in frame
        if name not in KNOWN
        and folded(name) not in REPLICAS
        and pd.api.types.infer_dtype(frame[name], skipna=True) in (kinds or ("string", "categorical"))
        and 1 < frame[name].nunique() <= 20
    ]


def _mingled(frame: pd.DataFrame) -> list[str]:
    """Columns of words that name models, in a table of one architecture."""
    for name in frame:
        if folded(name) in {*MODELS, *LABELS} and name not in KNOWN:
            kinds = frame[name].dropna().astype(str).map(_kind).value_counts()
            if 1 < len(kinds) < frame[name].nunique() and kinds.min() >= 4:
                return [
                    f"{SERIOUS * (folded(name) in MODELS)}column {name!r} names {len(kinds)} models by their "
                    f"sizes ({', '.join(kinds.index[:5])}), which are fitted as one architecture; a column "
                    "arch tells them apart"
                ]
    for name in _labels(frame):
        if folded(name) in MODELS and frame[name].value_counts().min() >= 4:
            return [
                f"column {name!r} has {frame[name].nunique()} values, which are fitted as one architecture; "
                f"--by {name} fits each by itself"
            ]
    return []


def _kind(name: str) -> str:
    """What a name says besides its numbers: 'tf' of 'tf-30M' and 'TF_1.3b', 'gpt2 d' of 'gpt2-124M-d512'."""
    first, *others = re.findall(r"[^\W_]+", SIZE.sub(" ", name.lower())) or [""]
    return " ".join([first, *(re.sub(r"\d.*", "", word) for word in others)]).strip()


def _numbers(frame: pd.DataFrame, name: str) -> pd.Series:
    """The values of a column that are finite and above 0; what is not, `clean` refuses by row."""
    values = pd.to_numeric(frame[name], errors="coerce").astype(float)
    return values.where(np.isfinite(values) & (values > 0))
