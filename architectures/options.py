"""What can be set about a layer: the fields of its `Config`, and what each says of itself."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, cast, dataclass_transform

# What a number in an option counts, when the model is made wider (`architectures.scale`).
PER = ("absolute", "head", "width")
# What `architectures.solve` may turn an option for.
SIZES = ("", "params", "state")


def option(
    default: Any,
    doc: str = "",
    *,
    per: str = "absolute",
    sizes: str = "",
    least: float | None = None,
    most: float | None = None,
    scales: str | None = None,
    sets: str | None = None,
) -> Any:
    """A field of a `Config`: its default, one line about it, how it follows the width, what it is sized for.

    `per`: "absolute" (a window, a kernel length: unchanged in a wider model), "head" (a size of one head:
    unchanged, the number of heads grows instead) or "width" (an inner width, a number of heads: grows with
    the width). `sizes`: "params" (an inner width) or "state" (a size of the state) marks the integer that
    `solve` turns to reach a number of parameters or of state elements; "" for none. Where such an option is
    none, the layer keeps what it resolved to under that name; 0 and none are off, and stay off. `least`: the
    smallest number, checked where the config derives from `Options`. `most`: the largest number that a spec
    may say, where the layer's work grows with it; None: `bounds.MOST`, a guard against slips. `scales` and
    `sets`: the old names of `per` and `sizes`.
    """
    per, sizes = per if scales is None else scales, sizes if sets is None else sets
    if per not in PER:
        raise ValueError(f"per={per!r} is not one of {', '.join(PER)}")
    if sizes not in SIZES:
        raise ValueError(f"sizes={sizes!r} is not one of params, state, or empty")
    metadata = {"doc": doc, "per": per, "sizes": sizes, "least": least, "most": most}
    return field(default=default, metadata=metadata)


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Options:
    """The base of a `Config`: subclasses are frozen, keyword-only dataclasses that check their minima."""

    def __init_subclass__(cls) -> None:
        dataclass(frozen=True, kw_only=True)(cls)

    def __post_init__(self) -> None:
        """Refuse an option below its minimum; none is allowed."""
        for f in dataclasses.fields(cast(Any, self)):
            value, least = getattr(self, f.name), f.metadata.get("least")
            if value is not None and least is not None and value < least:
                raise ValueError(f"{f.name}={value} must be at least {least}")


def config_options(config: Any) -> dict[str, Any]:
    """The options of a config as a plain dictionary, in the order of its fields."""
    return {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
