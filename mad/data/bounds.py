"""What a field of a record may hold: numbers that every command can count with, texts that people write.

Records come from other machines and other hands; one value that a table cannot hold would stop every command
that reads the store.
"""

import datetime
import math
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError

# The largest whole number up to which floats are exact, the largest float, and the limits of nested values.
LARGEST_WHOLE, LARGEST_FLOAT = 2**53, 1e40
DEEPEST_NESTING, MOST_ENTRIES = 8, 1000

Whole = Annotated[int, Field(ge=0, le=LARGEST_WHOLE)]
Positive = Annotated[int, Field(ge=1, le=LARGEST_WHOLE)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0, le=LARGEST_FLOAT)]
Above = Annotated[float, Field(gt=0, le=LARGEST_FLOAT)]
Signed = Annotated[float, Field(ge=-LARGEST_FLOAT, le=LARGEST_FLOAT)]
Word = Annotated[str, Field(min_length=1, max_length=256)]
Text = Annotated[str, Field(max_length=2**16)]
Id = Annotated[str, Field(pattern="^[0-9a-f]{20}$")]


def _total(state: dict[str, int]) -> dict[str, int]:
    if "total" not in state:
        raise ValueError("the state has no 'total'")
    return state


def _time(text: str) -> str:
    datetime.datetime.fromisoformat(text)
    return text


def _plain(value: Any, depth: int = 0) -> Any:
    """Refuse what JSON cannot hold, or no configuration has."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError("a whole number in it is beyond 64 bits")
    if value is None or isinstance(value, int | float) or (isinstance(value, str) and len(value) <= 2**16):
        return value
    if not isinstance(value, dict | list | tuple):
        raise ValueError(f"a {type(value).__name__} in it is not what JSON holds, or too long")
    if isinstance(value, dict) and not all(isinstance(key, str) and len(key) <= 256 for key in value):
        raise ValueError("a name in it is longer than 256 characters")
    inner = list(value.values() if isinstance(value, dict) else value)
    if depth > DEEPEST_NESTING or len(inner) > MOST_ENTRIES:
        raise ValueError(
            f"it holds more than {MOST_ENTRIES} values, or values more than {DEEPEST_NESTING} levels deep"
        )
    for part in inner:
        _plain(part, depth + 1)
    return value


def _task(content: dict[str, Any]) -> dict[str, Any]:
    name, version = content.get("name"), content.get("version")
    if not isinstance(name, str) or not 0 < len(name) <= 256 or type(version) is not int:
        raise ValueError("a task has a name and a version, which is a whole number")
    return content


DATE = "^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9:.]{5,15}(Z|[+-][0-9:]{4,8})?)?$"
Time = Annotated[str, Field(pattern=DATE), AfterValidator(_time)]
State = Annotated[dict[Word, Whole], Field(max_length=16), AfterValidator(_total)]
Content = Annotated[dict[str, Any], AfterValidator(_plain)]
Task = Annotated[Content, AfterValidator(_task)]


def reason(error: ValidationError, whole: str) -> str:
    """The first field that is wrong, or the `whole`, and why."""
    first = error.errors(include_url=False, include_context=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or whole}: {first['msg']}{_not(first['input'])}"


def _not(value: Any) -> str:
    """The value that was refused, where it can be shown in a few characters."""
    if isinstance(value, str):
        return f", not {value[:40]!r}"
    few = isinstance(value, float) or (isinstance(value, int) and abs(value) < 1e30)
    return f", not {value!r}" if few else ""
