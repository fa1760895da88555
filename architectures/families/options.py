"""Options that several layers have, and what they refuse."""

from __future__ import annotations

from typing import Any

from architectures.primitive import divisors, option

SILU = "a short convolution and silu on"


def taps(default: int, of: str = f"{SILU} q, k and v") -> Any:
    """The option `conv`."""
    return option(default, f"taps of {of}; 0: none", least=0, most=256)


def canon_taps(of: str = "the joined q, k and v, behind conv") -> Any:
    """The option `canon`."""
    return option(0, f"taps of a short convolution and residual on {of}; 0: none", least=0, most=256)


def output_rank() -> Any:
    """The option `output_rank`."""
    return option(0, "rank of the map to the output gate, which then has a bias; 0: full", least=0)


def count_of_heads(default: int | None = None, of: str = "the width") -> Any:
    """The option `heads`."""
    doc = f"number of heads; none: one for each 16 channels of {of}"
    return option(default, doc, per="width", least=1)


def per_head(what: str, default: int | None = None, sizes: str = "") -> Any:
    """A width of one head."""
    doc = f"{what} per head; none: width / heads"
    return option(default, doc, per="head", sizes=sizes, least=1)


def inner_width(default: str, of: str = "") -> Any:
    """The option `inner` of a channel mixer."""
    return option(None, f"inner width{of}; none: {default}", per="width", sizes="params", least=1)


def divide(what: str, total: int, name: str, part: int) -> int:
    """total / part; refuses an option that does not divide what it has to."""
    if total % part:
        choices = ", ".join(map(str, divisors(total)))
        raise ValueError(f"{what} {total} is not divisible by {name} {part}; choose {name} from {choices}")
    return total // part


def default_heads(dim: int) -> int:
    """One for each 16 channels."""
    if dim % 16:
        raise ValueError(
            f"dim {dim} is not divisible by the default head width 16; state heads= or change dim"
        )
    return dim // 16


def head_widths(dim: int, config: Any) -> tuple[int, int, int]:
    """Heads, key width and value width per head: those stated, or even parts of the model's width."""
    heads, key, value = config.heads or default_heads(dim), config.key_dim, config.value_dim
    if key is None or value is None:
        width = divide("dim", dim, "heads", heads)
        key, value = key or width, value or width
    return heads, key, value
