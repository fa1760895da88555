"""What the registry holds, written down, so that it can be listed without loading torch.

`python -m architectures.index` writes `index.json` anew; a test compares the two.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_name("index.json")
DIM = LENGTH = 128


def read() -> list[dict[str, Any]]:
    """Every layer of this package, sorted by name, as `describe` found it."""
    return json.loads(PATH.read_text(encoding="utf-8"))


def describe() -> list[dict[str, Any]]:
    """The same from the registry itself.

    name, mixes, version, paper, summary (the first line of the docstring), options (default, doc, scales),
    and at width 128: params, state (after 128 tokens, by kind), nominal, flops (forward, a token, over 128
    tokens). A wrapper is described with the body of its example.
    """
    from architectures import registry

    entries = [registry.get(name) for name in registry.names()]
    return [_row(entry) for entry in entries if entry.cls.__module__.startswith("architectures.")]


def write() -> None:
    PATH.write_text(render(describe()), encoding="utf-8")


def render(rows: list[dict[str, Any]]) -> str:
    return json.dumps(rows, indent=1) + "\n"


def _row(entry: Any) -> dict[str, Any]:
    import dataclasses
    import inspect

    from architectures.accounting import account

    default = entry.config({})
    options = {
        f.name: {"default": getattr(default, f.name), **{k: f.metadata.get(k) for k in ("doc", "scales")}}
        for f in dataclasses.fields(default)
    }
    (layer,) = account(f"1*{entry.example}", vocab_size=1, dim=DIM, seq_len=LENGTH).layers
    return {
        "name": entry.name,
        "mixes": entry.mixes,
        "version": entry.version,
        "paper": entry.paper,
        "summary": (inspect.getdoc(entry.cls) or "").partition("\n")[0],
        "options": options,
        "params": layer.params,
        "state": layer.state,
        "nominal": layer.nominal,
        "flops": layer.flops,
    }


if __name__ == "__main__":
    write()
