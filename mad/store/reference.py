"""Reference results: records of known architectures that come with the package, to stand beside one's own.

They are files in `mad/reference/`, one for each name of a suite, as `mad export` writes them; `make
reference` makes them anew. What belongs to a version of a suite is decided by content, as everywhere.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mad.data.bounds import reason
from mad.data.outline import Outline, Shared, outlined
from mad.data.records import BUDGET, Record, content_hash
from mad.store.exchange import read_records

FOLDER = Path(__file__).parents[1] / "reference"


def reference_records(suite: str) -> list[Record]:
    """The packaged runs for a suite, by its name without version; none where the package has none."""
    return [run for path in _paths(suite) for run in read_records(path) if isinstance(run, Record)]


def reference_outlines(suite: str) -> tuple[list[Outline], dict[str, str]]:
    """The same as a board needs them, and by their ids what made each: tests check the files as a whole, so
    that not every board has to.
    """
    shared = Shared()
    runs, makers = [], {}
    for path, line in _lines(suite):
        try:
            content = json.loads(line)
            run = outlined(line, *_keys(content["config"]), shared)
        except (ValueError, TypeError, KeyError) as error:
            said = reason(error, "the line") if isinstance(error, ValidationError) else error
            raise ValueError(
                f"the reference results in {path} are damaged ({said}); install mad-suite again, or leave "
                "them out with --no-reference (in Python reference=False)"
            ) from None
        runs.append(run)
        makers[run.id] = maker(content["environment"])
    return runs, makers


def maker(environment: dict[str, Any]) -> str:
    """The versions and the device that made a run: "mad-suite 0.1.0, torch 2.13.0, cpu (EPYC)"."""
    named = {"mad_suite": "mad-suite", "torch": "torch"}
    parts = [f"{name} {environment[key]}" for key, name in named.items() if environment.get(key)]
    device, model = environment.get("device"), environment.get("device_name")
    parts += [f"{device} ({model})" if model else str(device)] if device else []
    return ", ".join(parts) or "an unknown version"


def _paths(suite: str) -> list[Path]:
    # The suite may be somebody else's: its name may be anything, a path too.
    return [path for path in FOLDER.glob("*.jsonl") if path.stem == suite]


def _lines(suite: str) -> Iterator[tuple[Path, bytes]]:
    for path in _paths(suite):
        yield from ((path, line) for line in path.read_bytes().splitlines() if line.strip())


def _keys(config: dict[str, Any]) -> tuple[str, str]:
    """`RunConfig.setting_key` and `.architecture_key` of a configuration that was written whole."""
    asked = {name: config[name] for name in ("task", *BUDGET, "protocol")}
    how = {name: config[name] for name in ("precision", "backend", "compile")}
    return content_hash(asked), content_hash(config["architecture"] | how)
