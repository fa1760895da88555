"""What stands under a board, in sentences: what its numbers are, and what to know of single rows."""

from collections.abc import Collection, Iterator

from mad.board.columns import EQUAL, columns, name_of, percent
from mad.messages import counted
from mad.score import ArchitectureScore, Scores
from mad.score.signal import LEAST_SIGNAL

INTERVALS = {"seeds": "bootstrap over seeds", "rows": "binomial over test rows of one seed"}


def caption(scores: Scores, iso: Collection[str] = ()) -> Iterator[str]:
    """What the numbers are: metric, intervals, ranks, noise and signal, and where reference rows are from."""
    rows = scores.architectures
    seeds = sorted({row.seeds for row in rows if row.tasks})
    count = (
        f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else counted(seeds[0] if seeds else 0, "seed")
    )
    kinds = dict.fromkeys(row.interval_kind for row in rows if row.tasks)
    yield (
        f"{scores.suite}, protocol {scores.protocol}: {scores.metric} accuracy in %, {count}. "
        f"+- is half of the 95 % interval ({', or '.join(INTERVALS[kind] for kind in kinds) or 'none yet'})."
    )
    if scores.left_out:
        asked, whole = len(scores.tasks), len(scores.tasks) + len(scores.left_out)
        yield f"The mean is over {_and(scores.tasks)}, {asked} of the suite's {whole} tasks: no MAD score."
    unranked = any(row.rank is None for row in rows)
    yield (
        "Rank (#): 1 + the number of ranked rows whose interval lies wholly above"
        f"{'; a row that lacks a task or is stale has none' * unranked}."
    )
    yield from _noise(scores)
    if any(value is not None for value in scores.signal.values()):
        weak = [task for task, value in scores.signal.items() if value is not None and value < LEAST_SIGNAL]
        told = f"; below {LEAST_SIGNAL:g} a task separates little: {_and(weak)}" if weak else ""
        yield f"Signal: the spread between architectures over that between seeds{told}."
    if iso:
        sizes = {column.name: f"{column.heading}, {column.about}" for column in columns(())}
        shown = (sizes[column] for name, column in EQUAL.items() if name in iso)
        yield f"Sizes shown: {'; '.join(shown)}."
    if scores.reference:
        made = "; ".join(scores.reference)
        yield f"(ref): a reference result, which comes with the package (made by {made})."


def _noise(scores: Scores) -> Iterator[str]:
    """How far a row moves with its seeds, and from which difference on two rows are told apart."""
    noise = scores.noise
    if noise is not None:
        yield (
            f"Noise: the {scores.mean} of a row varies by {percent(noise.sd)} between seeds (standard "
            f"deviation, {counted(noise.rows, 'row')}); two rows of {noise.seeds} seeds are apart (95 %) "
            f"where they differ by {percent(noise.apart)} or more."
        )
    elif any(row.mad for row in scores.architectures):
        yield "Noise: unknown, as each row has one seed; `mad bench` with --seeds 3 measures it."


def remarks(scores: Scores) -> Iterator[str]:
    """What to know of single rows, and what to do next."""
    rows = scores.architectures
    for row in rows:
        said = [f"missing {_missing(row, scores)}"] if row.missing else []
        said += [f"{row.reference} of {row.runs} runs are reference results"] if row.mixed else []
        said += row.notes
        if said:
            yield f"{name_of(row, scores)}: {'; '.join(said)}."
    if any(row.missing for row in rows):
        yield "`mad bench ARCHITECTURE`, with --suite as here, runs what is missing and nothing else."
    if scores.reference and not scores.own:
        yield "No run is your own yet: `mad bench ARCHITECTURE`, with --suite as here, adds a row."
    elif len(rows) == 1:
        yield "One row has nothing to be compared with: `mad bench` another, or see `mad leaderboard`."


def _missing(row: ArchitectureScore, scores: Scores) -> str:
    """The runs that are missing, or where they are many, the settings by task."""
    if len(row.missing) <= 3:
        return ", ".join(row.missing)
    wanted = {task: len(settings) for task, settings in scores.settings.items()}
    found = {task: len(row.tasks[task].settings) if task in row.tasks else 0 for task in wanted}
    lacking = [
        f"{task} (has {found[task]} of {wanted[task]})" for task in wanted if found[task] < wanted[task]
    ]
    return ", ".join(lacking) or f"{counted(len(row.missing), 'group')} of further seeds"


def _and(names: Collection[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
