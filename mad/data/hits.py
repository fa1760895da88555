"""Hits of each test row, packed into some hundred characters, so that two runs can be paired by row.

The counts stand in the order of the test rows, as whole numbers of 1, 2 or 4 bytes (the least that holds the
largest; little-endian), compressed by zlib, as base64. How many bytes a count takes follows from the number
of rows. Which text zlib makes of the same counts may differ between its versions: compare what is unpacked.
"""

import base64
import binascii
import zlib
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

Counts = npt.NDArray[np.int64]  # (rows,)

# Test rows up to which hits are kept, and the characters that they can take: 4 bytes a row and a little.
MOST_ROWS = 2**17
MOST_CHARACTERS = 6 * MOST_ROWS
WIDTHS: dict[int, npt.DTypeLike] = {1: "<u1", 2: "<u2", 4: "<u4"}

Packed = Annotated[str, Field(max_length=MOST_CHARACTERS, pattern="^[A-Za-z0-9+/]+={0,2}$")]


def pack(counts: npt.NDArray[Any]) -> str | None:
    """The text of the hits (rows,) of test rows; None of more rows than are kept."""
    if len(counts) > MOST_ROWS:
        return None
    width = next(width for width in WIDTHS if counts.max() < 256**width)
    return base64.b64encode(zlib.compress(counts.astype(WIDTHS[width]).tobytes(), 9)).decode()


def unpack(text: str, rows: int) -> Counts:
    """The hits (rows,) of a text; a ValueError says why it is not one of so many rows."""
    if rows > MOST_ROWS:
        raise ValueError(f"more than {MOST_ROWS:,} rows, of which none are kept")
    stream = zlib.decompressobj()
    try:
        # One byte more than there can be: a small text cannot unpack to a large one.
        found = stream.decompress(base64.b64decode(text, validate=True), max(WIDTHS) * rows + 1)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"a text that cannot be unpacked ({error})") from None
    width, rest = divmod(len(found), rows)
    if rest or width not in WIDTHS or not stream.eof or stream.unused_data:
        raise ValueError(f"a text that is not one count for each of {rows:,} rows")
    return np.frombuffer(found, WIDTHS[width]).astype(np.int64)
