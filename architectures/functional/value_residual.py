"""Values of the first mixer, mixed into those of later ones (arXiv:2410.17897).

The wrapper `value-residual` leaves the weights of the mix in the context; a mixer that shares its values
passes them through `share_value` and needs to know nothing else.
"""

from __future__ import annotations

from torch import Tensor

from architectures.context import Context

FIRST = "value-residual/first"


def mix_key(index: int) -> str:
    """Where the wrapper leaves the two weights of the time mixer `index`; an empty tensor for the first."""
    return f"value-residual/{index}"


def share_value(v: Tensor, ctx: Context | None, index: int) -> Tensor:
    """v (B, T, H, V), or w_0 v + w_1 v_first inside the wrapper; the first mixer's values are left there."""
    weights = None if ctx is None else ctx.shared.get(mix_key(index))
    if ctx is None or weights is None:
        return v
    first = ctx.shared.setdefault(FIRST, v)
    if not weights.numel():
        return v
    if first.shape[2:].numel() != v.shape[2:].numel():
        raise unequal_values(index, (v.shape[2:].numel(),), (first.shape[2:].numel(),))
    weights = weights.to(v.dtype)
    return weights[0] * v + weights[1] * first.reshape(v.shape).to(v.dtype)


def unequal_values(index: int, own: tuple[int, ...], first: tuple[int, ...]) -> ValueError:
    """What to say of the time mixer `index`; a nested layer has a width for each of its sizes."""
    here, there = (" / ".join(map(str, widths)) for widths in (own, first))
    return ValueError(
        f"the values of time mixer {index} are {here} wide, those of the first {there}; value-residual needs "
        "equal widths, so change heads or value_dim"
    )
