"""What every kind of record that a store keeps has in common.

The battery's runs are one kind, `mad.data.records.Record`. A package that adds commands (entry-point group
mad.commands) may add others: it names their classes in `RECORDS`, "package.module:Class" each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

from mad.data.protocol import Data

if TYPE_CHECKING:
    from mad.data.trails import Trail


class Sheet(NamedTuple):
    """A record for a person: named facts, its curve as a table, where it has one, and a closing sentence."""

    facts: Sequence[tuple[str, str]]
    columns: Sequence[str] = ()
    curve: Sequence[Sequence[str]] = ()
    result: str | None = None


class StoredRecord(Data):
    """One run as it is stored, exported and imported: one line of JSON.

    table   of the store, and what a line of an export says of itself: "kind"
    column  of that table, beside id, status, time and text: what `grouped` gives
    since   the version of the store from which on it has the table
    """

    table: ClassVar[str]
    column: ClassVar[str]
    since: ClassVar[int]

    if TYPE_CHECKING:  # The fields stand in each kind, in the order of its lines.
        id: str
        status: str
        config: Any
        given: str
        metrics: Any
        cost: Any
        environment: dict[str, Any]
        error: str | None
        attempts: int
        created: str
        imported: bool

    @property
    def grouped(self) -> str | None:
        """The runs that were made together."""
        raise NotImplementedError

    def wrong(self) -> Iterator[str]:
        """What arithmetic finds wrong, the worst first."""
        raise NotImplementedError

    def gives_way_to(self, new: Self) -> bool:
        """Whether another result of the same run replaces this one, which is final otherwise."""
        return False

    def known(self) -> dict[str, set[str | None]]:
        """What `mad rm` and `mad runs` can ask for, by the name of their option."""
        architecture = self.config.architecture
        names: set[str | None] = {self.given, architecture.spec, architecture.label}
        return {"status": {self.status}, "architecture": names, "task": {self.subject}}

    @property
    def subject(self) -> str:
        """What the architecture was trained on."""
        raise NotImplementedError

    @property
    def outcome(self) -> tuple[float | None, float | None]:
        """Accuracy and loss, as far as they were measured."""
        raise NotImplementedError

    def sheet(self) -> Sheet:
        """What `mad show` prints."""
        raise NotImplementedError

    def trail(self) -> Trail:
        """What trackers show."""
        raise NotImplementedError

    @property
    def origin(self) -> str:
        """When and where it was made."""
        mark = "  imported: not made here" if self.imported else ""
        return f"{self.created}  {self.environment.get('device_name', '')}{mark}"


def not_rising(steps: list[int], end: int) -> Iterator[str]:
    """What is wrong with the steps of a curve."""
    if steps != sorted(set(steps)) or (steps and steps[-1] > end):
        yield f"has a curve whose steps do not rise to {end}"


def decimals(*values: float | None) -> list[str]:
    """Four decimals, or a dash."""
    return ["-" if value is None else f"{value:.4f}" for value in values]
