"""Objects of an annotation file that cover no pixel of their class: one record for every reader.

In: what a reader could not paint. Out: :class:`LeftOut`, which notes, training and the doctor print.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

NO_OUTLINE = "they have no outline"
NO_AREA = "they have no area"
NO_LABEL = "they have no label"
OUTSIDE = "they lie outside the image"
FRACTIONS = "their coordinates are fractions 0..1 and not pixels"
TOO_SMALL = "they are too small or thin to hold the centre of a pixel"
COVERED = "others are painted over them"
NO_SPLIT = "they lie in no folder of a split"
NO_IMAGE = "there is no image of their name"


@dataclass(frozen=True)
class LeftOut:
    """Objects that cover no pixel of their class, all for one reason.

    Args:
        kind: What they are, in the plural: ``polygons``, ``key points``.
        reason: Why, to go on after "because".
        first: The first of them: its file and its number or name.
        count: How many.

    Example:
        >>> print(LeftOut("annotations", NO_OUTLINE, "annotation 7 on 2.png", 3))
        3 annotations cover no pixel, because they have no outline (the first: annotation 7 on 2.png)
    """

    kind: str
    reason: str
    first: str
    count: int = 1

    def __str__(self) -> str:
        return f"{self.count} {self.kind} cover no pixel, because {self.reason} (the first: {self.first})"


def summed(records: Iterable[LeftOut]) -> tuple[LeftOut, ...]:
    """One record for each kind and reason, in the order of their first objects."""
    found: dict[tuple[str, str], LeftOut] = {}
    for record in records:
        key = record.kind, record.reason
        found[key] = replace(found[key], count=found[key].count + record.count) if key in found else record
    return tuple(found.values())


@runtime_checkable
class LeavesOut(Protocol):
    """A data set, or the source of one, that can tell which objects cover no pixel."""

    def left_out(self) -> tuple[LeftOut, ...]:
        """Of all samples."""


def left_out(dataset: object) -> tuple[LeftOut, ...]:
    """The objects of a data set that cover no pixel; none where it has no objects."""
    return dataset.left_out() if isinstance(dataset, LeavesOut) else ()
