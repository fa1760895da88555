"""What the registry holds, written down, so that it can be listed without loading torch.

`python -m architectures.grammar.index` writes `index.json` anew; a test compares the two.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

from architectures.files import whole_file

PATH = Path(__file__).with_name("index.json")
DIM = LENGTH = 128
# What a layer is at a glance: "mlp" maps channels, "experts" choose or look up the weights that they use.
KINDS = ("attention", "recurrence", "convolution", "mlp", "experts", "wrapper")
NAMED = ("name", "mixes", "version", "paper", "known_as", "hypothesis")


def read() -> list[dict[str, Any]]:
    """Every layer of this package, sorted by name, as `describe` found it."""
    return json.loads(PATH.read_text(encoding="utf-8"))


def describe() -> list[dict[str, Any]]:
    """The same from the registry itself.

    name, mixes, version, paper, known_as, hypothesis, kind, summary (the first line of the docstring),
    options (default, doc, scales), and at width 128: params, state (after 128 tokens, by kind), reads (how
    much of it a step reads), nominal, flops (forward, per token, over 128 tokens), formula (the state by kind
    as a function of width D and tokens T, fitted to what was measured). A wrapper is described with the body
    of its example.
    """
    from architectures import registry

    entries = [registry.get(name) for name in registry.names()]
    return [_row(entry) for entry in entries if entry.cls.__module__.startswith("architectures.")]


def write() -> None:
    with whole_file(PATH, force=True) as part:
        part.write_text(render(describe()), encoding="utf-8")


def render(rows: list[dict[str, Any]]) -> str:
    return json.dumps(rows, indent=1) + "\n"


def _row(entry: Any) -> dict[str, Any]:
    import dataclasses
    import inspect

    from architectures.sizes.accounting import account

    def measure(dim: int, length: int) -> Any:
        (layer,) = account(f"1*{entry.example}", vocab_size=1, dim=dim, seq_len=length).layers
        return layer

    default, layer = entry.config({}), measure(DIM, LENGTH)
    options = {
        f.name: {
            "default": getattr(default, f.name),
            "doc": f.metadata.get("doc"),
            "scales": f.metadata.get("per"),
        }
        for f in dataclasses.fields(default)
    }
    return {
        **{key: getattr(entry, key) for key in NAMED},
        "kind": entry.cls.kind,
        "summary": entry.equation or (inspect.getdoc(entry.cls) or "").partition("\n")[0],
        "options": options,
        **{key: getattr(layer, key) for key in ("params", "state", "reads", "nominal", "flops")},
        "formula": {} if layer.state is None else _formula(lambda *size: measure(*size).state),
    }


def _formula(state: Callable[[int, int], dict[str, int]]) -> dict[str, str]:
    """The state by kind as a + b D + g D^2 + (e + c D) T, exact at every measured size, or ""."""
    sizes = [(dim, length) for length in (64, 128) for dim in (64, 128, 192)] + [(256, 64), (64, 256)]
    measured = {size: state(*size) for size in sizes}
    formulas = {}
    for kind in ("recurrent", "conv", "growing"):
        y = {size: by_kind[kind] for size, by_kind in measured.items()}
        if any(y.values()):
            slope = {d: Fraction(y[d, 128] - y[d, 64], 64) for d in (64, 128, 192)}
            c = (slope[128] - slope[64]) / 64
            e = slope[64] - 64 * c
            rest = {d: y[d, 64] - 64 * slope[d] for d in slope}
            g = (rest[192] - 2 * rest[128] + rest[64]) / (2 * 64**2)
            b = (rest[128] - rest[64]) / 64 - 192 * g
            a = rest[64] - 64 * b - 64**2 * g
            exact = all(a + b * d + g * d * d + (e + c * d) * t == y[d, t] for d, t in sizes)
            terms = ((c, "D T"), (g, "D^2"), (b, "D"), (e, "T"), (a, ""))
            formulas[kind] = " + ".join(_term(*term) for term in terms if term[0]) if exact else ""
    return formulas


def _term(factor: Fraction, of: str) -> str:
    number = str(factor.numerator) if factor.denominator == 1 else f"{float(factor):g}"
    return of if of and factor == 1 else f"{number} {of}".strip()


if __name__ == "__main__":
    write()
