"""What a scaling study is on paper: its runs, their cost, and the file that keeps them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import Field, ValidationError, model_validator

from architectures.files import whole_file
from architectures.sizes.bounds import check_sizes
from mad.data.bounds import Above, Amount, Positive, Text, Whole, reason
from mad.data.protocol import Data
from mad.data.records import content_hash
from mad.messages import counted
from mad.progress import clock
from scaling.lm.config import CorpusConfig
from scaling.study.sizes import Size

KIND, VERSION = "mad scaling plan", 1
# That a step or an evaluation reads at most: they are in memory at once.
MOST_TOKENS = 2**28


class PlannedRun(Data):
    """One run: `size` for `steps` steps of `batch_size` sequences. lr None: by the rule that tuning gives."""

    arch: Text
    role: Literal["grid", "tuning"]
    size: Size
    budget: Above
    seq_len: Positive
    batch_size: Positive
    steps: Positive
    lr: Above | None = None
    seconds: Amount | None = None

    @model_validator(mode="after")
    def _step_fits(self) -> PlannedRun:
        check_sizes(dim=self.size.dim, seq_len=self.seq_len)
        if self.step_tokens > MOST_TOKENS:
            raise ValueError(f"a step of {self.batch_size} x {self.seq_len} tokens; at most {MOST_TOKENS:,}")
        return self

    @property
    def step_tokens(self) -> int:
        return self.batch_size * self.seq_len

    @property
    def tokens(self) -> int:
        return self.steps * self.step_tokens

    @property
    def flops(self) -> float:
        """Training FLOPs in all, within 1 % of the budget."""
        return self.size.flops * self.tokens

    @property
    def work(self) -> float:
        """How long it takes, in predicted seconds where the plan has them."""
        return self.flops if self.seconds is None else self.seconds

    def __str__(self) -> str:
        role = "tuning " if self.role == "tuning" else ""
        return f"{role}{self.arch}, {self.size.params:,} parameters at {self.budget:.3g} FLOPs"


class Plan(Data):
    """A study, fully resolved: `runs` is the isoFLOP grid, `tuning` the runs that set learning rates.

    archs     spec or preset as it was given, by label
    lrs       the learning rates of the tuning grid; None where the rate was given
    hours     predicted time on `workers` processes, without the runs that an extended grid would add
    notes     what a reader of the results should know of the design
    """

    archs: dict[str, str]
    budgets: tuple[float, ...]
    corpus: CorpusConfig
    seq_len: Positive
    span: Above
    tokens_per_param: Above
    lrs: tuple[Above, ...] | None
    evaluations: Positive
    evaluation_tokens: int = Field(ge=1, le=MOST_TOKENS)
    seed: Whole
    workers: Positive
    repeats_allowed: bool
    runs: tuple[PlannedRun, ...] = Field(min_length=1)
    tuning: tuple[PlannedRun, ...]
    hours: Amount | None = None
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _runs_are_its_own(self) -> Plan:
        check_sizes(vocab_size=self.corpus.vocab_size)
        for run in (*self.tuning, *self.runs):
            if run.arch not in self.archs:
                raise ValueError(f"a run is of {run.arch!r}, which is none of its architectures")
            if run.lr is None and (self.lrs is None or run.role == "tuning"):
                raise ValueError(f"a run of {run.arch!r} has no learning rate")
        return self

    @property
    def id(self) -> str:
        """Of everything but the label of the corpus."""
        content = self.model_dump(mode="json", exclude={"corpus": {"name"}})
        return content_hash({"kind": KIND, "version": VERSION, "plan": content})

    @property
    def code(self) -> list[str]:
        """The specs that name layers outside this project."""
        specs = [*self.archs.values(), *(run.size.spec for run in (*self.runs, *self.tuning))]
        return [spec for spec in specs if ":" in spec]

    def epochs(self, run: PlannedRun) -> float:
        """How often the run reads its training text; 0 for a generated one, which does not end."""
        return run.tokens / self.corpus.train_tokens if self.corpus.train_tokens else 0.0

    def frame(self) -> pd.DataFrame:
        """One row per run of the grid, with the columns of `scaling.laws.runs`."""
        return pd.DataFrame(
            {
                "arch": run.arch,
                "params": float(run.size.params),
                "tokens": float(run.tokens),
                "flops": run.flops,
                "budget": run.budget,
            }
            for run in self.runs
        )

    def summary(self) -> str:
        """Some lines of plain text: what runs, on how much text, for how long."""
        most = max(map(self.epochs, self.runs))
        read = f"read up to {most:.2g} times" if most else "generated, so nothing is read twice"
        lines = [
            f"plan {self.id}: {', '.join(self.archs)}",
            f"{counted(len(self.runs), 'run')} at {', '.join(f'{c:.3g}' for c in self.budgets)} FLOPs, "
            f"{len(self.tuning)} to tune the learning rate; {self.corpus.name}, {read}",
            *(f"note: {note}" for note in self.notes),
        ]
        if self.hours is not None:
            lines.append(f"about {clock(3600 * self.hours)} on {counted(self.workers, 'worker')}")
        return "\n".join(lines)

    def save(self, path: str | Path, *, force: bool = True) -> None:
        """Write it as JSON with its id, which `read` checks; `force=False` refuses a file that exists."""
        content = {"kind": KIND, "version": VERSION, "id": self.id, "plan": self.model_dump(mode="json")}
        with whole_file(path, force=force) as part:
            part.write_text(json.dumps(content, indent=1), encoding="utf-8")


def read(path: str | Path, *, allow_code: bool = False) -> Plan:
    """A saved plan; ValueError where it is not one, of another version, or edited.

    allow_code  whether it may name layers as package.module:Class, whose code runs where they are trained
    """
    path = Path(os.path.expanduser(path))
    if not path.is_file():
        raise ValueError(f"{path} is not a file; give a plan that `mad scaling plan` wrote")

    def refused(why: str) -> ValueError:
        return ValueError(f"{path}{why}; make a new one with `mad scaling plan`")

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise refused(f" is no JSON that can be read ({error})") from None
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise refused(" is not a plan of a scaling study")
    version, id = content.get("version"), content.get("id")
    if version != VERSION:
        raise refused(f" is a plan of version {version}, this release reads {VERSION}")
    try:
        found = Plan.model_validate_json(json.dumps(content.get("plan")))
    except ValidationError as error:
        raise refused(f": {reason(error, 'the plan')}") from None
    if found.id != id:
        raise refused(f" has the id {id}, but its content has {found.id}: it was edited")
    if found.code and not allow_code:
        raise ValueError(
            f"{path} names {found.code[0]!r}, whose code would run here; if you trust it, add --allow-code "
            "(in Python allow_code=True)"
        )
    return found
