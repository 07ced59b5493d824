"""Outlines of objects as pixels: COCO's polygons and run lengths, polygons of other programs, and which is on top.

In: coordinates and run lengths from annotation files. Out: ``(H, W)`` booleans, and masks of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refineseg.class_info import index_dtype
from refineseg.data.samples.left_out import COVERED, NO_AREA, OUTSIDE, TOO_SMALL, LeftOut, summed
from refineseg.files.run_lengths import decompressed, from_runs, rle_tools

_REACH = 1000  # pixels
_CROSSINGS = 1 << 20  # of edges and rows that are computed at once, at most


def painted(segmentation: dict[str, Any] | list[Any], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels inside one annotation of COCO.

    Args:
        segmentation: Polygons, run lengths (down the columns), or their compressed form.
        size_hw: Height and width of the image.

    Returns:
        ``(H, W)``.

    Raises:
        ValueError: It is none of these, or does not fit the image; damaged entries may also raise TypeError, KeyError,
            IndexError or AttributeError.
    """
    if isinstance(segmentation, dict):
        if tuple(segmentation["size"]) != size_hw:
            raise ValueError(f"run lengths of size {segmentation['size']}")
        counts = segmentation["counts"]
        return from_runs(decompressed(counts) if isinstance(counts, str) else counts, size_hw)
    # fewer than three points enclose nothing, and pycocotools would take two for a box
    polygons = [[float(number) for number in polygon] for polygon in segmentation if len(polygon) >= 6]
    if any(len(polygon) % 2 for polygon in polygons):
        raise ValueError("a polygon with an odd number of coordinates")
    inside = np.zeros(size_hw, np.bool_)
    for polygon in polygons:
        check_near(np.array(polygon).reshape(-1, 2), size_hw)
    if polygons:
        for runs in rle_tools().frPyObjects(polygons, *size_hw):  # its own decoder warns of deprecated numpy
            inside |= from_runs(decompressed(runs["counts"].decode("ascii")), size_hw)
    return inside


def outline_points(polygons: Any) -> NDArray[np.float64]:  # noqa: ANN401 - whatever the file holds
    """The points of COCO's polygons that enclose something: those of at least three points.

    Args:
        polygons: Each as ``x, y, x, y, ...``.

    Returns:
        ``(N, 2)``; empty where none does.

    Raises:
        ValueError: An odd number of coordinates, or no numbers; other things than lists raise TypeError.
    """
    if isinstance(polygons, str):
        raise TypeError("text for polygons")
    found = [np.array(polygon, np.float64).reshape(-1, 2) for polygon in polygons if len(polygon) >= 6]
    return np.concatenate(found) if found else np.zeros((0, 2))


def check_near(points: NDArray[np.float64], size_hw: tuple[int, int]) -> None:
    """Coordinates far outside the image are damage, and would cost memory by their distance.

    Args:
        points: ``(N, 2)``, x and y in pixels.
        size_hw: Height and width of the image.

    Raises:
        ValueError: One is no number, or lies more than the image's size and 1000 pixels beside the image.
    """
    reach = np.array(size_hw[::-1], np.float64) + _REACH
    beyond = points[~((points >= -reach) & (points <= 2 * reach)).all(axis=1)]
    if len(beyond):
        raise ValueError(f"the point {tuple(beyond[0].tolist())}, far outside the image")


def inside_polygon(points: NDArray[np.float64], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels whose centre lies in a polygon (even-odd rule).

    Args:
        points: ``(N, 2)``, x and y; pixel (row, column) covers ``column..column + 1`` and ``row..row + 1``.
        size_hw: Height and width.

    Returns:
        ``(H, W)``; no pixel is in two polygons that only share an edge.

    Raises:
        ValueError: Coordinates far outside the image.

    Example:
        >>> inside_polygon(np.array([[1.0, 0.0], [3.0, 0.0], [3.0, 2.0], [1.0, 2.0]]), (2, 4)).astype(int).tolist()
        [[0, 1, 1, 0], [0, 1, 1, 0]]
    """
    check_near(points, size_hw)
    height, width = size_hw
    crossings = np.zeros((height, width + 1), np.int32)
    start, end = points, np.roll(points, -1, axis=0)
    falls = (start[:, 1:] <= end[:, 1:]).repeat(2, axis=1)
    upper, lower = np.where(falls, start, end), np.where(falls, end, start)
    first, last = (np.ceil(y - 0.5).clip(0, height).astype(np.int64) for y in (upper[:, 1], lower[:, 1]))
    crossing = np.flatnonzero(first < last)  # edges that cross the centre of a row
    for some in np.array_split(crossing, max(1, -(-len(crossing) * height // _CROSSINGS))):
        counts = last[some] - first[some]
        edges = np.repeat(some, counts)
        rows = first[edges] + np.arange(len(edges)) - np.repeat(np.cumsum(counts) - counts, counts)
        (left, top), (right, bottom) = upper[edges].T, lower[edges].T
        x = left + (rows + 0.5 - top) * ((right - left) / (bottom - top))
        columns = np.ceil(x - 0.5).clip(0, width).astype(np.int64)  # the first centre not left of the edge
        np.add.at(crossings, (rows, columns), 1)
    odd: NDArray[np.bool_] = np.cumsum(crossings, axis=1)[:, :width] % 2 == 1
    return odd


class Canvas:
    """A mask on which objects are painted, small ones over large ones, and a record of those that are not seen.

    Args:
        size_hw: Height and width.
        void: Value of pixels without a class; 65535 makes the mask 16 bits wide. Pixels of no object are class 0.
        kind: What the objects are, for the record.
        in_order: Later objects lie over earlier ones, whatever their size.

    Example:
        >>> canvas = Canvas((1, 3), void=255, kind="boxes")
        >>> canvas.add(lambda: np.array([[True, False, False]]), 2, "box 1")
        >>> canvas.add(lambda: np.array([[True, True, False]]), 1, "box 2")
        >>> canvas.add(lambda: np.array([[True, False, False]]), 3, "box 3")
        >>> canvas.mask.tolist(), [str(record) for record in canvas.left_out()]
        ([[3, 1, 0]], ['1 boxes cover no pixel, because others are painted over them (the first: box 1)'])
    """

    def __init__(self, size_hw: tuple[int, int], *, void: int, kind: str, in_order: bool = False) -> None:
        self.mask: NDArray[Any] = np.zeros(size_hw, index_dtype(void))
        self._in_order, self._kind = in_order, kind
        self._areas = np.full(size_hw, size_hw[0] * size_hw[1] + 1, np.int64)
        self._top = np.full(size_hw, -1, np.int32)  # number of the object that is seen
        self._objects: list[tuple[Callable[[], NDArray[np.bool_]], int, str]] = []
        self._left_out: list[LeftOut] = []

    def add(
        self, draw: Callable[[], NDArray[np.bool_]], value: int, where: str, *, points: NDArray[Any] | None = None
    ) -> None:
        """Paint an object over all larger ones; of equal ones the last is on top.

        Args:
            draw: Gives its pixels, ``(H, W)``. It is asked again where the object is not seen in the end.
            value: Its class, or void.
            where: Its file and number, for the record.
            points: ``(N, 2)`` x and y of its outline, to tell why it has no pixel.
        """
        inside = draw()
        area = np.count_nonzero(inside)
        if not area:
            self.leave_out(_why_empty(points, self.mask.shape), where)
            return
        on_top = inside if self._in_order else inside & (area <= self._areas)
        self.mask[on_top] = value
        self._areas[on_top] = area
        self._top[on_top] = len(self._objects)
        self._objects.append((draw, value, where))

    def leave_out(self, reason: str, where: str, *, kind: str = "") -> None:
        """Record an object that is not painted.

        Args:
            reason: As in :class:`~refineseg.data.samples.left_out.LeftOut`.
            where: Its file and number.
            kind: What it is, where it is none of the canvas's kind.
        """
        self._left_out.append(LeftOut(kind or self._kind, reason, where))

    def left_out(self) -> tuple[LeftOut, ...]:
        """The objects that cover no pixel of their class, once everything is painted."""
        seen = np.bincount(self._top[self._top >= 0], minlength=len(self._objects))
        covered = [self._objects[number] for number in np.flatnonzero(seen == 0)]
        lost = [
            LeftOut(self._kind, COVERED, where)
            for draw, value, where in covered
            if not (self.mask[draw()] == value).any()  # under others of its own class it is lost to nobody
        ]
        return summed([*self._left_out, *lost])


def looks_like_fractions(points: NDArray[Any]) -> bool:
    """Whether coordinates are fractions of the image's size where pixels are expected.

    Args:
        points: ``(N, 2)``.

    Example:
        >>> looks_like_fractions(np.array([[0.1, 0.2], [1, 0.2]])), looks_like_fractions(np.array([[0, 0], [1, 1]]))
        (True, False)
    """
    if len(points) < 2:
        return False
    return bool(((points >= 0) & (points <= 1)).all() and (points % 1 != 0).any())


def _why_empty(points: NDArray[Any] | None, size_hw: tuple[int, ...]) -> str:
    if points is None or not len(points):
        return NO_AREA
    outside = (points.max(axis=0) <= 0).any() or (points.min(axis=0) >= np.array(size_hw[::-1])).any()
    return OUTSIDE if outside else TOO_SMALL
