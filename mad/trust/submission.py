"""Results for a folder that people share: whole batteries in one file, which says what it holds.

Its first line is the head, of kind "submission"; the others are runs as `mad export` writes them, sorted by
id. Its name ends with a hash of those lines, so that none can be changed in silence, nor overwrite another.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from architectures.files import whole_file
from architectures.grammar import index
from mad.data.bounds import Content, Positive, Word, reason
from mad.data.protocol import SUITES, Data, Protocol, Suite, get_protocol, get_suite
from mad.data.records import DONE, Record, setting_key
from mad.messages import counted, near
from mad.score import score
from mad.store import Store
from mad.store.exchange import SUBMISSION, lines_of, read_records
from mad.trust.verifying import companion, foreign

LABEL = re.compile("[a-z0-9][a-z0-9.+_-]{0,79}")
NAME = re.compile(rf"({LABEL.pattern})-([0-9a-f]{{12}})\.jsonl")
# A head is a line among lines of records.
LONGEST_HEAD = 2**20


class Head(Data):
    """What a submission says of itself, each of it checked against its runs.

    environments  of its runs, each once: versions, device, threads
    complete      whether no setting and no seed of the suite is missing
    sha256        of the lines of its runs
    """

    kind: Literal["submission"] = "submission"
    label: Annotated[str, Field(pattern=f"^{LABEL.pattern}$")]
    suite: Word
    protocol: Word
    architectures: tuple[str, ...]
    environments: tuple[Content, ...]
    runs: Positive
    complete: bool
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    schema_version: Literal[1] = 1


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A file, its head, what lacks in it, and the code of its makers that it names."""

    path: Path
    head: Head
    lacks: tuple[str, ...]
    code: tuple[str, ...]


def submit(
    specs: str | Sequence[str] = (),
    *,
    folder: str | Path,
    suite: str = "quick",
    protocol: str = "sound",
    store: str | Path | None = None,
    label: str | None = None,
    partial: bool = False,
) -> Submission:
    """Write the runs of architectures on a suite into one file of a folder, `<label>-<hash>.jsonl`.

    specs    as `mad bench` takes them, or labels of the leaderboard; none: every complete row made here
    folder   of results; it must be there
    label    how the file's name begins; None: the suite and the architecture, or how many there are
    partial  also rows that lack settings or seeds of the suite, or are stale

    ValueError where a row lacks something, or nothing matches. Runs that came out of a file are left out:
    they are not yours. The same runs give the same file, which may be there already.
    """
    if label is not None and not LABEL.fullmatch(label):
        raise ValueError(
            f"label {label!r} cannot begin a file's name; take up to 80 of a-z, 0-9, '.', '+', '_' and '-'"
        )
    exam, referee = get_suite(suite), get_protocol(protocol)
    if not Path(folder).expanduser().is_dir():
        raise ValueError(f"{folder} is not a folder; create it, or give the folder of results that you share")
    with Store(store, read_only=True) as opened:
        own = [run for run in opened.records() if not run.imported and belongs(run, exam, referee)]
        where = opened.path
    names = [specs] if isinstance(specs, str) else list(specs)
    chosen = _chosen(own, names, f"{exam.label}, protocol {referee.name}, in {where}")
    now = {entry["name"]: entry["version"] for entry in index.read()}
    lacks = {key: list(_lacks(runs, exam, referee, versions=now)) for key, runs in chosen.items()}
    if not names and not partial:
        chosen = {key: runs for key, runs in chosen.items() if not lacks[key]}
    missing = [sentence for key in chosen for sentence in lacks[key]]
    if missing and not partial:
        raise ValueError(
            f"{missing[0]}; `mad bench` runs what is missing, or take it as it is with --partial"
        )
    if not chosen:
        raise ValueError(
            f"no row of {exam.label} in {where} is complete; run `mad bench SPEC --suite {suite}` first, or "
            "take what is there with --partial"
        )
    records = sorted((run for runs in chosen.values() for run in runs), key=lambda run: run.id)
    lines = lines_of(records)
    digest = _digest(lines)
    head = Head(
        label=label or _label(exam, chosen),
        complete=not missing,
        sha256=digest,
        **_described(records, exam, referee),
    )
    path = Path(folder).expanduser() / f"{head.label}-{digest[:12]}.jsonl"
    if not path.exists():  # Its name is its content.
        with whole_file(path) as part:
            part.write_text(f"{head.model_dump_json()}\n{lines}", "utf-8")
    return check_submission(path)


def check_submission(file: str | Path) -> Submission:
    """Look through a submission without running anything: its name, head and hash, every record as an import
    does, whether it holds whole batteries. ValueError where it is not what it says.
    """
    path = Path(file).expanduser()
    named = NAME.fullmatch(path.name)
    if named is None:
        raise ValueError(
            f"{path.name} is not the name of a submission, LABEL-HASH.jsonl; make it with `mad submit`"
        )
    from mad.trust.rerun import misnamed  # Loads torch.

    found = read_records(path)
    head, lines = _read(path)
    again = f"{path.name} was changed; make it again with `mad submit`"
    if head.label != named[1]:
        raise ValueError(f"its head calls it {head.label!r}; {again}")
    digest = _digest(lines)
    if digest != head.sha256 or not digest.startswith(named[2]):
        raise ValueError(f"its runs have the hash {digest[:12]}, and it says {head.sha256[:12]}; {again}")
    records = [run for run in found if isinstance(run, Record) and run.status in DONE]
    ids = [run.id for run in found]
    if len(records) < len(found) or ids != sorted(set(ids)):
        raise ValueError(f"it holds more than finished runs of the battery, each once, sorted by id; {again}")
    exam, referee = _asked(head)
    if stranger := next((run for run in records if not belongs(run, exam, referee)), None):
        raise ValueError(f"run {stranger.id} is not of {head.suite}, protocol {head.protocol}; {again}")
    for name, value in _described(records, exam, referee).items():
        if getattr(head, name) != value:
            raise ValueError(f"its head says {name} {getattr(head, name)!r}, and its runs {value!r}; {again}")
    for run in records:
        if run.status == "stopped" and companion(run, records) is None:
            raise ValueError(f"run {run.id} was stopped, and none of its grid solved the task; {again}")
        if not foreign(run) and (why := misnamed(run)) is not None:
            raise ValueError(f"run {run.id}: {why}; {again}")
    lacks = [s for runs in _by_architecture(records).values() for s in _lacks(runs, exam, referee)]
    if head.complete and lacks:
        raise ValueError(f"it says that it is complete, and {lacks[0]}; {again}")
    code = sorted({name for run in records for name in foreign(run)})
    return Submission(path=path, head=head, lacks=tuple(lacks), code=tuple(code))


def belongs(run: Record, suite: Suite, protocol: Protocol) -> bool:
    """Whether a finished run is one of a suite under a protocol, by its content."""
    grids = {setting_key(setting, protocol): setting.grid for setting in suite.settings}
    point = (run.config.lr, run.config.weight_decay)
    width = run.config.architecture.dim in (None, suite.dim)
    return run.status in DONE and width and point in grids.get(run.config.setting_key, ())


def _by_architecture(runs: Iterable[Record]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for run in runs:
        found.setdefault(run.config.architecture_key, []).append(run)
    return found


def _chosen(own: Sequence[Record], names: Sequence[str], where: str) -> dict[str, list[Record]]:
    """The runs of the architectures that are asked for, all where none is."""
    rows = _by_architecture(own)
    if not names:
        return rows
    known: dict[str, set[str]] = {}
    for key, runs in rows.items():
        for word in {word for run in runs for word in run.known()["architecture"] if word}:
            known.setdefault(word, set()).add(key)
    chosen: dict[str, list[Record]] = {}
    for name in names:
        keys = known.get(name) or known.get(_canonical(name), set())
        if not keys:
            raise ValueError(
                f"no run of {name!r} was made here for {where}{near(name, known)}; `mad bench` it first"
            )
        chosen |= {key: rows[key] for key in sorted(keys)}
    return chosen


def _canonical(name: str) -> str:
    if ":" in name:
        return name
    from architectures.grammar.stripe import parse  # Loads torch.
    from mad.data.labels import read

    return str(parse(read(name)[1]))


def _lacks(
    runs: Sequence[Record], suite: Suite, protocol: Protocol, *, versions: Mapping[str, int] | None = None
) -> Iterator[str]:
    """What these runs of one architecture lack of a row that ranks; `versions` of layers make it stale."""
    (row,) = score(runs, suite, protocol, versions=versions).architectures
    yield from (f"{row.label} lacks {what}" for what in row.missing)
    if row.complete and row.seeds < suite.seeds:
        yield f"{row.label} has {row.seeds} of {counted(suite.seeds, 'seed')}"
    yield from (f"{row.label} is {note}" for note in row.notes if row.stale and note.startswith("stale"))


def _described(records: Sequence[Record], suite: Suite, protocol: Protocol) -> dict[str, Any]:
    """What a head says of these runs that can be read off them."""
    places = {json.dumps(place, sort_keys=True): place for place in map(_place, records)}
    return {
        "suite": suite.label,
        "protocol": f"{protocol.name}@{protocol.version}",
        "architectures": tuple(sorted({run.config.architecture.label for run in records})),
        "environments": tuple(place for _, place in sorted(places.items())),
        "runs": len(records),
    }


def _place(run: Record) -> Mapping[str, Any]:
    """Where a run was made; a note is of the run."""
    return {name: value for name, value in run.environment.items() if name != "note"}


def _label(suite: Suite, chosen: Mapping[str, Sequence[Record]]) -> str:
    """The suite and who answered, in the letters of a file's name."""
    (first, *_), *others = chosen.values()
    who = f"{1 + len(others)}-architectures" if others else first.given
    return re.sub("[^a-z0-9.+_]+", "-", f"{suite.name}-{suite.version}-{who.lower()}").strip("-.")[:60]


def _digest(lines: str) -> str:
    return hashlib.sha256(lines.encode()).hexdigest()


def _read(path: Path) -> tuple[Head, str]:
    """The head and the lines after it."""
    with open(path, encoding="utf-8", newline="") as file:
        first, lines = file.readline().rstrip("\n"), file.read()
    if not first.startswith(SUBMISSION) or len(first) > LONGEST_HEAD:
        raise ValueError(f"{path.name} has no head; make it with `mad submit`")
    try:
        return Head.model_validate_json(first), lines
    except ValidationError as error:
        raise ValueError(f"{path.name}: {reason(error, 'its head')}; make it with `mad submit`") from None


def _asked(head: Head) -> tuple[Suite, Protocol]:
    """The suite and protocol of a head, of this release: nothing that a file names is imported."""
    if head.suite not in SUITES:
        raise ValueError(f"its suite {head.suite!r} is none of {', '.join(SUITES)}, which alone are shared")
    suite, (named, _, version) = get_suite(head.suite), head.protocol.partition("@")
    protocol = get_protocol(named)
    if version != str(protocol.version):
        raise ValueError(f"its protocol {head.protocol!r} is now {named}@{protocol.version}; run it again")
    return suite, protocol
