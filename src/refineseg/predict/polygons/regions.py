"""Regions of a mask: pixels of one class that hang together over their sides, numbered and counted.

In: a mask, or one tile of it. Out: the number of every pixel's region, and class, area, confidence and first pixel of
each region. Pixels that touch only at a corner belong to different regions (connectivity 4). Pure numpy: runs of equal
pixels are found in each row and joined with the runs they touch in the row above.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError

NO_REGION = -1
"""Number of void pixels, and of everything outside the image."""

CONFIDENCE_UNIT = 2.0**-20
"""Confidences are summed as multiples of this, exactly, so that their sum does not depend on the order of the tiles."""


@dataclass(frozen=True)
class RegionTable:
    """What is known of the regions ``0 .. R-1`` beside their borders.

    Args:
        classes: ``(R,)`` class index.
        areas: ``(R,)`` pixels.
        confidences: ``(R,)`` sum over the pixels, in units of ``CONFIDENCE_UNIT``; zeros where none are known.
        first_pixels: ``(R,)`` the region's first pixel in reading order, ``row * width + column``.
    """

    classes: NDArray[np.int64]
    areas: NDArray[np.int64]
    confidences: NDArray[np.int64]
    first_pixels: NDArray[np.int64]

    def gathered(self, groups: NDArray[np.int64], num_groups: int) -> RegionTable:
        """The table after regions were united.

        Args:
            groups: ``(R,)`` number of the group each region belongs to, or ``NO_REGION``.
            num_groups: How many there are; each has at least one region, and the class of its last one.
        """
        kept = groups != NO_REGION
        members = groups[kept]
        classes, areas, confidences = (np.zeros(num_groups, np.int64) for _ in range(3))
        first = np.full(num_groups, np.iinfo(np.int64).max)
        classes[members] = self.classes[kept]
        np.add.at(areas, members, self.areas[kept])
        np.add.at(confidences, members, self.confidences[kept])
        np.minimum.at(first, members, self.first_pixels[kept])
        return RegionTable(classes, areas, confidences, first)

    @classmethod
    def stacked(cls, tables: Sequence[RegionTable]) -> RegionTable:
        """Several tables, one below the other."""
        return cls(
            np.concatenate([t.classes for t in tables]),
            np.concatenate([t.areas for t in tables]),
            np.concatenate([t.confidences for t in tables]),
            np.concatenate([t.first_pixels for t in tables]),
        )


def connected(num_nodes: int, one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.int64]:
    """The connected parts of a graph.

    Args:
        num_nodes: Nodes ``0 .. num_nodes - 1``.
        one: ``(E,)`` one end of each edge.
        other: ``(E,)`` its other end.

    Returns:
        ``(num_nodes,)`` the smallest node of the part each node is in.

    Example:
        >>> connected(5, np.array([3, 4]), np.array([1, 3])).tolist()
        [0, 1, 2, 1, 1]
    """
    parent = np.arange(num_nodes, dtype=np.int64)
    while len(one):
        low, high = np.minimum(one, other), np.maximum(one, other)
        np.minimum.at(parent, high, low)
        while True:
            grandparent = parent[parent]
            if np.array_equal(grandparent, parent):
                break
            parent = grandparent
        one, other = parent[one], parent[other]
        apart = one != other
        one, other = one[apart], other[apart]
    return parent


def check_mask(mask: NDArray[Any], class_info: ClassInfo) -> None:
    """Only classes and void may be in a mask.

    Raises:
        ConfigError: It is not (H, W) of integers, has no pixels, or holds other values; they are named.
    """
    if mask.ndim != 2 or mask.dtype.kind not in "ui" or not mask.size:
        raise ConfigError(f"expected a mask of integers, (H, W), got {mask.dtype} of shape {mask.shape}")
    low, high = int(mask.min()), int(mask.max())
    if low >= 0 and high < class_info.num_classes:
        return
    values, counts = np.unique(mask, return_counts=True)
    wrong = ((values < 0) | (values >= class_info.num_classes)) & (values != class_info.ignore_index)
    if wrong.any():
        named = ", ".join(
            f"{v} ({n:,} pixels)" for v, n in zip(values[wrong][:5].tolist(), counts[wrong][:5].tolist(), strict=True)
        )
        raise ConfigError(
            f"expected class indices 0..{class_info.num_classes - 1} or {class_info.ignore_index} (void) in the mask, "
            f"got {named}; give the classes the mask was predicted with"
        )


def region_labels(
    mask: NDArray[Any], class_info: ClassInfo, *, confidence: NDArray[np.float32] | None = None
) -> tuple[NDArray[np.int32], RegionTable]:
    """Number the regions of a mask.

    Args:
        mask: ``(H, W)`` class indices or ``ignore_index``.
        class_info: The classes.
        confidence: ``(H, W)`` 0..1, of every pixel.

    Returns:
        ``(H, W)`` number of each pixel's region, in the order of their first pixels, ``NO_REGION`` where it is void;
        and the regions.

    Raises:
        ConfigError: The mask holds other values, or the confidences have another size or are no numbers 0..1.

    Example:
        >>> labels, table = region_labels(np.array([[0, 0, 1], [1, 255, 1]]), ClassInfo(("sky", "road")))
        >>> labels.tolist(), table.areas.tolist()
        ([[0, 0, 1], [2, -1, 1]], [2, 2, 1])
    """
    check_mask(mask, class_info)
    height, width = mask.shape
    begins = np.ones(mask.shape, np.bool_)
    np.not_equal(mask[:, 1:], mask[:, :-1], out=begins[:, 1:])
    starts = np.flatnonzero(begins)
    runs = (np.cumsum(begins.ravel(), dtype=np.int32) - 1).reshape(mask.shape)
    # two runs that overlap do so where one of them begins, so this finds each pair once
    touching = (mask[1:] == mask[:-1]) & (begins[1:] | begins[:-1])
    roots = connected(len(starts), runs[:-1][touching].astype(np.int64), runs[1:][touching].astype(np.int64))
    values = mask.ravel()[starts].astype(np.int64)
    is_region = values < class_info.num_classes
    firsts = np.flatnonzero((roots == np.arange(len(roots))) & is_region)
    numbers = np.full(len(starts), NO_REGION, np.int64)
    numbers[firsts] = np.arange(len(firsts))
    numbers = numbers[roots]
    lengths = np.diff(starts, append=height * width)
    sums = np.zeros(len(starts)) if confidence is None else _run_sums(confidence, mask.shape, starts)
    members = numbers[is_region]
    table = RegionTable(
        values[firsts],
        np.bincount(members, lengths[is_region], len(firsts)).astype(np.int64),
        np.bincount(members, sums[is_region], len(firsts)).astype(np.int64),
        starts[firsts],
    )
    return numbers.astype(np.int32)[runs], table


def _run_sums(confidence: NDArray[np.float32], size_hw: tuple[int, ...], starts: NDArray[Any]) -> NDArray[np.float64]:
    """Sums over runs of whole units, which float64 adds without rounding up to 2^33 pixels."""
    if confidence.shape != size_hw:
        raise ConfigError(f"expected confidences of the mask's size {size_hw}, got {confidence.shape}")
    if not (confidence.min() >= 0 and confidence.max() <= 1 + 1e-3):  # also catches NaN
        raise ConfigError(f"expected confidences 0..1, got {confidence.min()}..{confidence.max()}")
    units = np.rint(confidence.reshape(-1) * np.float32(1 / CONFIDENCE_UNIT))  # a power of two: nothing else is rounded
    return np.asarray(np.add.reduceat(units, starts, dtype=np.float64), np.float64)
