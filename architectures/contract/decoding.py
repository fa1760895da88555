"""What is asked of `step`, `prefill` and the state between them."""

from __future__ import annotations

import torch
from torch import Tensor

from architectures.contract.subject import (
    NotApplicable,
    Size,
    Subject,
    Violation,
    advance,
    gap,
    run,
    told,
    unroll,
    where,
)
from architectures.primitive import Primitive, State, count_state

KINDS = ("recurrent", "conv", "growing")


def recurrence(subject: Subject, size: Size) -> str:
    """`step`, token by token, is the same function as `forward`."""
    layer, x = subject.stepped(size.dim), subject.noise(*size)
    with torch.no_grad():
        found = _same(unroll(layer, x)[0], run(layer, x), subject, "step and forward", size.length)
    return f"step unrolled is forward within {found:.1g} (up to length {size.length})"


def prefill(subject: Subject, size: Size) -> str:
    """`prefill` continues from any state as `step` does, and steps continue from its state."""
    layer, x = subject.stepped(size.dim), subject.noise(*size)
    with torch.no_grad():
        expected, _ = unroll(layer, x)
        state, outputs = layer.init_state(size.batch), []
        last = max(1, size.length - 1)
        cuts = sorted({0, max(1, last // 2), last})
        for start, end in zip(cuts, cuts[1:], strict=False):
            piece = x[:, start:end].clone()
            y, state = layer.prefill(piece, state, told(piece))
            outputs.append(y)
        if last < size.length:
            y, state = advance(layer, x[:, last], state)
            outputs.append(y[:, None])
        pieces = f"prefill in pieces at {', '.join(str(c) for c in cuts[1:])} and step"
        found = _same(torch.cat(outputs, dim=1), expected, subject, pieces, size.length)
    return f"prefill in two pieces and a step are the steps within {found:.1g}"


def _same(found: Tensor, expected: Tensor, subject: Subject, what: str, length: int) -> float:
    difference = gap(found, expected)
    if difference > subject.near(1e-11):
        raise Violation(
            f"T={length}: {what} differ by {float((found - expected).abs().max()):.2g} at position "
            f"{where(found, expected)} (largest output {float(expected.abs().max()):.2g})"
        )
    return difference


def step(subject: Subject, size: Size) -> str:
    """`step` and `prefill` leave the state they are given as it was."""
    layer, x = subject.stepped(size.dim), subject.noise(*size)
    with torch.no_grad():
        if not layer.init_state(size.batch):
            raise NotApplicable("the layer has no state")
        _, state = unroll(layer, x)
        before = [s.clone() for s in state]
        advance(layer, x[:, 0], state)
        _untouched(state, before, "step")
        layer.prefill(x.clone(), state, told(x))
        _untouched(state, before, "prefill")
    return "step and prefill leave the given state as it was"


def _untouched(state: State, before: list[Tensor], verb: str) -> None:
    for i, (a, b) in enumerate(zip(state, before, strict=True)):
        if not torch.equal(a, b):
            raise Violation(
                f"{verb} edits tensor {i} of the given state in place, by {float((a - b).abs().max()):.2g}"
            )


def state(subject: Subject, size: Size) -> str:
    """The state is what `state_kinds` names and `measure_state` says, for each row the same."""
    layer, x = subject.stepped(size.dim), subject.noise(*size)
    with torch.no_grad():
        _, after = unroll(layer, x)
    kinds, one, many = layer.state_kinds, layer.init_state(1), layer.init_state(size.batch)
    if count_state(many, kinds)["total"] != size.batch * count_state(one, kinds)["total"]:
        raise Violation(f"init_state({size.batch}) does not hold {size.batch} times what init_state(1) holds")
    found, measured = count_state(after, kinds), layer.measure_state(size.length)
    for kind in (*KINDS, "total"):
        if found[kind] != size.batch * measured[kind]:
            raise Violation(
                f"T={size.length}: {size.batch} rows hold {found[kind]} {kind} elements after as many steps, "
                f"and measure_state says {measured[kind]} a row"
            )
    _appended(layer, x, after)
    nominal = layer.nominal_state(size.length)
    if not isinstance(nominal, int) or nominal < 0:
        raise Violation(f"nominal_state({size.length}) is {nominal!r}; expected a number of elements")
    sizes = ", ".join(f"{kind} {measured[kind]:,}" for kind in KINDS)
    return f"{sizes} elements per row after {size.length} tokens, nominal {nominal:,}"


def _appended(layer: Primitive, x: Tensor, before: State) -> None:
    """What grows is only added to, unless the layer says otherwise."""
    if any(m.rewrites for m in layer.modules() if isinstance(m, Primitive)):
        return
    with torch.no_grad():
        _, after = advance(layer, x[:, 0], before)
    for i, (kind, a, b) in enumerate(zip(layer.state_kinds, before, after, strict=True)):
        if kind == "growing" and not torch.equal(b[:, : a.shape[1]], a):
            raise Violation(
                f"a step changes what earlier tokens left in tensor {i} of the state, which is declared "
                "growing; declare rewrites = True"
            )


def growth(subject: Subject, size: Size) -> str:
    """What is declared growing grows with the tokens, and the rest stops at some length."""
    subject.stepped(size.dim)
    layer = subject.build(size.dim, max_len=max(subject.max_len, size.length))
    kinds = zip(layer.state_kinds, layer.init_state(1), strict=True)
    # Where some tokens have an entry together, twice as many may have one more than twice the entries.
    entry = sum(t.shape[2:].numel() for kind, t in kinds if kind == "growing" and t.is_floating_point())
    # A window fills up before its state is constant, so a longer sequence is asked where a shorter one grew.
    for share in (16, 8, 4, 2):
        half = max(1, size.length // share)
        first, second = layer.measure_state(half), layer.measure_state(2 * half)
        if not 0 <= second["growing"] - 2 * first["growing"] <= entry:
            raise Violation(
                f"the growing state goes from {first['growing']:,} to {second['growing']:,} elements between "
                f"{half} and {2 * half} tokens; what is declared growing does so in proportion"
            )
        still = [kind for kind in ("recurrent", "conv") if first[kind] != second[kind]]
        if not still:
            growing, constant = "grows in proportion to the tokens", "constant in the number of tokens"
            return growing if entry else constant
    kind = still[0]
    raise Violation(
        f"the {kind} state goes from {first[kind]:,} to {second[kind]:,} elements between {half} and "
        f"{2 * half} tokens; declare what grows as 'growing'"
    )


def refusal(subject: Subject, size: Size) -> str:
    """More tokens than max_len are refused."""
    if subject.plain:
        raise NotApplicable("a plain nn.Module has no init_state")
    layer = subject.build(size.dim, max_len=16)
    try:
        layer.init_state(2, 17)
    except ValueError as error:
        if "max_len" in str(error):
            return "17 tokens are refused where max_len is 16"
        raise
    raise Violation("init_state(2, 17) takes more tokens than max_len 16; call self.check_length(length)")
