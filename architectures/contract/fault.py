"""What may be wrong with the logits of a built model, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["later", "rows", "repeat", "nan"]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What is wrong with a model's logits: the log-probabilities at `position` move by `moved` nats.

    later   when the tokens from `token` on change, in the same row
    rows    when other rows change
    repeat  when the very same call is made again
    nan     they are not numbers

    `hidden`: not at the initial weights, but at others near them.
    """

    kind: Kind
    who: str
    position: int
    token: int
    moved: float
    training: bool
    hidden: bool = False

    def __str__(self) -> str:
        mode = " in training mode" if self.training else ""
        mode += ", once its weights leave their initial values," if self.hidden else ""
        at = f"the log-probabilities at position {self.position}"
        moved = f"{at} move by {self.moved:.2g}{mode}"
        return {
            "later": f"{self.who} sees later positions: {moved} when the tokens from {self.token} on change",
            "rows": f"{self.who} sees other rows of the batch: {moved} when only other rows change",
            "repeat": f"{self.who} is not repeatable: {moved} when the same tokens are given again with the "
            "same random state of torch",
            "nan": f"{self.who}: {at} are not numbers{mode} before any training",
        }[self.kind]


# What weights that nobody chose make of a model without bounds does not count against it.
UNASKED = Fault(kind="nan", who="", position=0, token=0, moved=0.0, training=False)

REMEDIES: dict[Kind, str] = {
    "rows": "use a layer that treats each row alone, such as a layer norm instead of a batch norm",
    "repeat": "draw noise from torch alone, and keep in buffers what outlasts a call",
    "nan": "repair its initial values",
}
