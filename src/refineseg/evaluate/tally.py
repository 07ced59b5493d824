"""Everything that is counted in one pass over labelled images: pixels, contours, and the parts of a data set apart.

In: samples with their predictions. Out: :class:`TallyCounts`, which add up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from refineseg.class_info import ClassInfo
from refineseg.data.samples.sample import Sample
from refineseg.evaluate.boundary import BoundaryIoU
from refineseg.evaluate.metrics import ConfusionMatrix
from refineseg.prediction import Prediction


@dataclass(frozen=True)
class TallyCounts:
    """What was counted over some images.

    Args:
        num_images: How many.
        matrix: Pixels.
        boundary: Pixels along contours; None: not asked for.
    """

    num_images: int
    matrix: ConfusionMatrix
    boundary: BoundaryIoU | None = None

    def __add__(self, other: TallyCounts) -> TallyCounts:
        """Of two disjoint parts together."""
        boundary = None if self.boundary is None or other.boundary is None else self.boundary + other.boundary
        return TallyCounts(self.num_images + other.num_images, self.matrix + other.matrix, boundary)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        boundary = {} if self.boundary is None else {"boundary": self.boundary.to_json()}
        return {"num_images": self.num_images, **self.matrix.to_json(), **boundary}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], class_info: ClassInfo) -> TallyCounts:
        """The counts whose :meth:`to_json` this is."""
        boundary = BoundaryIoU.from_json(value["boundary"], class_info) if "boundary" in value else None
        return cls(int(value["num_images"]), ConfusionMatrix.from_json(value, class_info), boundary)


class Tally:
    """Counts images one by one, the parts of a data set apart.

    Args:
        class_info: The classes.
        boundary: Whether to count contours, too.
        part_of: Name of a sample -> name of its part; None: there are no parts.
    """

    def __init__(
        self, class_info: ClassInfo, *, boundary: bool = False, part_of: Callable[[str], str] | None = None
    ) -> None:
        self._class_info, self._boundary, self._part_of = class_info, boundary, part_of
        self.parts: dict[str, TallyCounts] = {}

    def add(self, sample: Sample, prediction: Prediction) -> None:
        """Count one labelled sample."""
        assert sample.mask is not None
        part = self._part_of(sample.name) if self._part_of is not None else ""
        so_far = self.parts.get(part) or self._empty()
        so_far.matrix.update(prediction.mask, sample.mask)
        if so_far.boundary is not None:
            so_far.boundary.update(prediction.mask, sample.mask)
        self.parts[part] = TallyCounts(so_far.num_images + 1, so_far.matrix, so_far.boundary)

    def _empty(self) -> TallyCounts:
        boundary = BoundaryIoU(self._class_info) if self._boundary else None
        return TallyCounts(0, ConfusionMatrix(self._class_info), boundary)

    @property
    def total(self) -> TallyCounts:
        """All parts together."""
        return sum(self.parts.values(), self._empty())
