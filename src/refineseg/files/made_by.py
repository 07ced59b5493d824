"""How results of predictions are known again, so that they take the place of no other file.

In: a path. Out: whether `refineseg predict` wrote it.
"""

from __future__ import annotations

import re
from pathlib import Path

from refineseg.files.special import refuse_special

MADE_BY = "refineseg predict"
"""Stands in the header of masks (PNG), GeoJSON and videos; GeoTIFF name the version: ``refineseg 1.0``."""

RECORD = ".refineseg.json"
"""Name of the record of who makes the results, in their folder."""

_MARK = re.compile(rb"refineseg (?:predict|\d)")
_HEAD = 4 * 2**20  # bytes that hold it; the index of a long video comes before it


def is_made_by_predict(path: Path) -> bool:
    """Whether a file is a result of a prediction, by its header, or empty; False where it cannot be read."""
    try:
        refuse_special(path)
        with path.open("rb") as file:
            head = file.read(_HEAD)
            return not head or _MARK.search(head) is not None
    except OSError:
        return False
