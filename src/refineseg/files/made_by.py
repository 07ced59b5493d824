"""How own results are known again, so that they take the place of no other file.

In: a path. Out: whether `refineseg predict` or `refineseg evaluate` wrote it.
"""

from __future__ import annotations

import re
from pathlib import Path

from refineseg.files.special import refuse_special

MADE_BY = "refineseg predict"
"""Stands in the header of masks (PNG), GeoJSON and videos; GeoTIFF name the version: ``refineseg 1.0``."""

MADE_BY_EVALUATE = "refineseg evaluate"
"""Stands in the header of its pictures and drawings, and in that of the learning curves."""

RECORD = ".refineseg.json"
"""Name of the record of who makes the results, in their folder."""

_MARK = re.compile(rb"refineseg (?:predict|\d)")
_MARK_OF_EVALUATE = re.compile(MADE_BY_EVALUATE.encode())
_HEAD = 4 * 2**20  # bytes that hold it; the index of a long video comes before it


def is_made_by_predict(path: Path) -> bool:
    """Whether a file is a result of a prediction, by its header, or empty; False where it cannot be read."""
    return _has_mark(path, _MARK)


def is_made_by_evaluate(path: Path) -> bool:
    """Whether a file is a picture that an evaluation drew, by its header, or empty; False where it cannot be read."""
    return _has_mark(path, _MARK_OF_EVALUATE)


def _has_mark(path: Path, mark: re.Pattern[bytes]) -> bool:
    try:
        refuse_special(path)
        with path.open("rb") as file:
            head = file.read(_HEAD)
            return not head or mark.search(head) is not None
    except OSError:
        return False
