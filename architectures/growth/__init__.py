"""Grow a trained model without changing its function (arXiv:2308.06103).

    model, optimizer = widen_mlp(model, optimizer, to=512)

Each function takes the new total, leaves the model it was given untouched, and returns one that computes the
same, with new parameters of which half are zero and the other half free: what a new channel writes is zero,
so that nothing changes at first; what it reads is not, so that it learns.
"""

from architectures.growth.depth import add_layer
from architectures.growth.plan import Step, grow, plan
from architectures.growth.widths import add_heads, widen_hidden, widen_keys, widen_mlp, widen_values

__all__ = [
    "Step",
    "add_heads",
    "add_layer",
    "grow",
    "plan",
    "widen_hidden",
    "widen_keys",
    "widen_mlp",
    "widen_values",
]
