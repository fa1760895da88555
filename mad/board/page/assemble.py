"""One file out of the page's parts: its HTML, style sheets, scripts and data.

The page loads nothing and runs nothing but its own script, whose hash the policy in its head names. The data
are JSON in which no character can end the element that holds them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from architectures.files import whole_file
from mad.board.look import STYLE

HERE = Path(__file__).parent
# In the order in which they are read; each says at its top what it needs of those before it.
SCRIPTS = ("dom", "stats", "board", "table", "detail", "comparison", "plot", "charts", "copying", "main")
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "script-src '{hash}'"
)


def write_page(
    folder: str | Path, payload: Mapping[str, Any], sections: Sequence[Mapping[str, str]] = ()
) -> Path:
    """Write `index.html` into a folder, which is made where it is missing; a page that is there is replaced.

    sections  of other packages, whose `html` is put in as it is: they escape what is in it
    """
    target = Path(folder).expanduser()
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{folder} cannot be a folder ({error.strerror}); choose another path") from None
    with whole_file(target / "index.html", force=True) as part:
        part.write_text(assembled(payload, sections), encoding="utf-8")
    return target / "index.html"


def assembled(payload: Mapping[str, Any], sections: Sequence[Mapping[str, str]] = ()) -> str:
    """The page's text."""
    script = script_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    parts = {
        "policy": POLICY.format(hash=f"sha256-{digest}"),
        "style": STYLE.read_text(encoding="utf-8") + _read("page.css"),
        "sections": "\n".join(part["html"] for part in sections),
        "payload": _embedded(payload),
        "script": script,
    }
    # In one pass: what is put in may hold such marks itself.
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], _read("page.html"))


def script_text() -> str:
    """All scripts as one, in a scope of its own."""
    files = "\n".join(_read(f"{name}.js") for name in SCRIPTS)
    return f'"use strict";\n(() => {{\n{files}\n}})();\n'


def _embedded(payload: Mapping[str, Any]) -> str:
    """JSON that HTML cannot mistake for its own: neither an end of the script nor a comment begins in it."""
    text = json.dumps(payload, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
