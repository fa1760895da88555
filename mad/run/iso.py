"""Equal sizes for a comparison: `--iso state=4096` and what it makes of an architecture."""

from collections.abc import Mapping

import architectures
from architectures.registry import unknown
from architectures.sizes.solving import GOALS
from mad.data.protocol import Protocol, Suite

Goals = dict[str, float]


def read_goals(iso: str | Mapping[str, float] | None) -> Goals:
    """Goals from "state=4096" or "state=4096,params=200000", or from a mapping; none for none."""
    if iso is None:
        return {}
    if not isinstance(iso, str):
        pairs = {str(name): str(value) for name, value in iso.items()}
    else:
        parts = [part.partition("=") for part in iso.split(",") if part.strip()]
        pairs = {name.strip(): value.strip() for name, _, value in parts}
    if not pairs:
        raise ValueError(f"iso {iso!r} names no goal; give one such as state=4096")
    goals = {}
    for name, text in pairs.items():
        if name not in GOALS:
            raise ValueError(f"iso goal {unknown(name, GOALS)}")
        try:
            goals[name] = float(text.replace("_", ""))
        except ValueError:
            raise ValueError(
                f"iso goal {name}={text!r} is not a number; give one such as {name}=4096"
            ) from None
    return goals


def equalise(spec: architectures.Spec, goals: Goals, suite: Suite, protocol: Protocol) -> architectures.Spec:
    """The spec with options that reach the goals at the suite's width and its longest sequence."""
    tasks = [setting.resolve(protocol) for setting in suite.settings]
    turned = {name.replace("-", "_"): goal for name, goal in goals.items()}
    return architectures.solve(
        spec,
        dim=suite.dim,
        seq_len=max(task.seq_len for task in tasks),
        vocab_size=max(task.vocab_size for task in tasks),
        **turned,  # type: ignore[arg-type]
    ).spec
