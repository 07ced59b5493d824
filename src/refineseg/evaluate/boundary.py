"""Boundary IoU: overlap of the bands along the contours, where thin and small things count as much as large ones.

In: masks. Out: intersection over union of the boundary bands, per class and as a mean, accumulated over images.

A pixel of class c lies in the band of c where a labelled pixel of another class, or the outside of the image, is at
most d pixels away in rows and in columns; d is 2 % of the image's diagonal. On binary masks without void this is the
authors' definition (a mask without its erosion by a 3x3 square, d times, zeros outside), which knows no void: here void
pixels of the truth are left out of both masks, and contours are looked for through them, so that a void strip between
two classes does not hide their contour, and a void pixel alone does not make one.

Source: Cheng, Girshick, Dollar, Berg, Kirillov, "Boundary IoU", CVPR 2021, section 4 and its published code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError, LabelError

DILATION_RATIO = 0.02
"""Distance of the band as a share of the image's diagonal. Source: Cheng et al., section 4."""


def boundary_distance(image_hw: tuple[int, int], *, ratio: float = DILATION_RATIO) -> int:
    """Width of the band in pixels: the rounded share of the diagonal, at least 1.

    Example:
        >>> boundary_distance((360, 480))
        12
    """
    return max(1, round(ratio * math.hypot(*image_hw)))


def boundary_band(mask: NDArray[Any], labelled: NDArray[np.bool_], *, distance: int) -> NDArray[np.bool_]:
    """Labelled pixels near a labelled pixel of another class, or near the outside of the image.

    Args:
        mask: ``(H, W)`` class indices; any number where not labelled.
        labelled: ``(H, W)``, where the truth is not void.
        distance: Distance in pixels, along rows and columns (a square window).

    Returns:
        ``(H, W)``; the band of class c is where it holds and ``mask == c``.

    Example:
        >>> mask = np.array([[0, 0, 0, 0, 1, 1, 1, 1]]).repeat(8, axis=0)
        >>> boundary_band(mask, np.ones_like(mask, bool), distance=1)[3].tolist()
        [True, False, False, True, True, False, False, True]
    """
    values = mask.astype(np.int32)
    largest = np.where(labelled, values, np.iinfo(np.int32).min)
    lowest = np.where(labelled, -values, np.iinfo(np.int32).min)
    band = (_window_maximum(largest, distance) != values) | (_window_maximum(lowest, distance) != -values)
    for edge in (np.s_[:distance], np.s_[-distance:], np.s_[:, :distance], np.s_[:, -distance:]):
        band[edge] = True
    return np.asarray(band & labelled, np.bool_)


def _window_maximum(values: NDArray[np.int32], distance: int) -> NDArray[np.int32]:
    """Maximum over a square of ``2 * distance + 1`` pixels, cut off at the borders.

    Windows of twice the length come from two that overlap, so the cost grows with the logarithm of the distance.
    """
    for axis in (0, 1):
        filled = [(0, 0), (0, 0)]
        filled[axis] = (distance, distance)
        line = np.moveaxis(np.pad(values, filled, constant_values=np.iinfo(np.int32).min), axis, 0)
        length, wanted = 1, 2 * distance + 1
        while length < wanted:
            step = min(length, wanted - length)
            line = np.maximum(line[:-step], line[step:])
            length += step
        values = np.moveaxis(line, 0, axis)
    return values


class BoundaryIoU:
    """Pixels in the boundary bands of truth, prediction and both, per class, over any number of masks.

    Args:
        class_info: The classes; void pixels of the ground truth are left out.
        ratio: Width of the band as a share of the image's diagonal.

    Raises:
        ConfigError: A ratio that is not above 0 and at most 1.

    Example:
        >>> boundary = BoundaryIoU(ClassInfo(("sky", "road")))
        >>> truth = np.array([[0, 0, 1, 1]]).repeat(4, axis=0)
        >>> boundary.update(truth, truth)
        >>> boundary.mean_iou
        1.0
    """

    def __init__(self, class_info: ClassInfo, *, ratio: float = DILATION_RATIO) -> None:
        if not 0 < ratio <= 1:
            raise ConfigError(f"expected a boundary ratio above 0 and at most 1, got {ratio:g}; the usual one is 0.02")
        self.class_info, self.ratio = class_info, ratio
        # rows: in both bands, in that of the truth, in that of the prediction
        self.counts: NDArray[np.int64] = np.zeros((3, class_info.num_classes), np.int64)

    def update(self, mask: NDArray[Any], truth: NDArray[Any]) -> None:
        """Count one prediction.

        Args:
            mask: ``(H, W)`` predicted class indices.
            truth: ``(H, W)`` true class indices and ``ignore_index``.

        Raises:
            LabelError: The shapes differ.
        """
        if mask.shape != truth.shape:
            raise LabelError(f"expected prediction and truth of one size, got {mask.shape} and {truth.shape}")
        labelled = truth != self.class_info.ignore_index
        distance = boundary_distance((truth.shape[0], truth.shape[1]), ratio=self.ratio)
        true_band = boundary_band(truth, labelled, distance=distance)
        band = boundary_band(mask, labelled, distance=distance)
        for row, values in enumerate((truth[true_band & band & (mask == truth)], truth[true_band], mask[band])):
            values = values.astype(np.int64)
            inside = values[(values >= 0) & (values < self.class_info.num_classes)]  # a predicted void is no class
            self.counts[row] += np.bincount(inside, minlength=self.class_info.num_classes)

    def __add__(self, other: BoundaryIoU) -> BoundaryIoU:
        """Counts of two disjoint parts together."""
        if other.class_info != self.class_info or other.ratio != self.ratio:
            raise LabelError("expected boundary counts of the same classes and ratio to add")
        total = BoundaryIoU(self.class_info, ratio=self.ratio)
        total.counts = self.counts + other.counts
        return total

    @property
    def per_class_iou(self) -> NDArray[np.float64]:
        """(K,) intersection over union of the bands; nan for a class that occurs in neither."""
        both, true, predicted = self.counts
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(both / (true + predicted - both), np.float64)

    @property
    def mean_iou(self) -> float:
        """Mean of ``per_class_iou`` over the classes in the truth; nan without any labelled pixel."""
        occurs = self.counts[1] > 0
        return float(self.per_class_iou[occurs].mean()) if occurs.any() else float("nan")

    def to_json(self) -> dict[str, Any]:
        """All numbers and the counts as plain values; nan becomes None."""
        iou = {
            name: None if value != value else float(value)
            for name, value in zip(self.class_info.names, self.per_class_iou, strict=True)
        }
        mean = None if self.mean_iou != self.mean_iou else self.mean_iou
        return {"ratio": self.ratio, "mean_iou": mean, "per_class": iou, "counts": self.counts.tolist()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], class_info: ClassInfo) -> BoundaryIoU:
        """The counts whose :meth:`to_json` this is."""
        boundary = cls(class_info, ratio=float(value["ratio"]))
        boundary.counts = np.asarray(value["counts"], np.int64)
        return boundary
