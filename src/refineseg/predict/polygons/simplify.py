"""Simpler borders, no further from the true ones than stated, that still neither cross nor touch one another.

In: borders along pixels. Out: the same lines with fewer corners. Lines are halved at their farthest corner until every
corner lies within the tolerance of the piece that replaces it (Ramer 1972; Douglas and Peucker 1973). A piece is also
halved where a corner of any line lies between it and what it replaces: then no piece can cross another, and nothing
changes sides (de Berg, van Kreveld and Schirra 1998, on simplifying subdivisions). Both depend on the true borders
only, so neither the order of the lines nor how a mask was cut into tiles matters.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from refineseg.predict.polygons.borders import Borders, spread

_MOST_TESTS = 4_000_000  # of a corner against a piece's edge at once; bounds memory

Ints = NDArray[np.int64]


def simplified(borders: Borders, tolerance: float) -> Borders:
    """Leave out corners.

    Ends of lines stay, so do at least three corners of a closed line, and so that no two lines become the same.

    Args:
        borders: Lines along pixels that meet at their ends only.
        tolerance: Pixels, at least 0. Every point of the old line is within it of the new one, and the other way round
            (the Hausdorff distance is at most this).

    Returns:
        Lines with the same numbers.
    """
    if tolerance <= 0 or not len(borders.left):
        return borders
    points = borders.points.astype(np.int64)
    corners = _Corners(points)
    kept = np.zeros(len(points), np.bool_)
    begin, end = borders.offsets[:-1], borders.offsets[1:] - 1
    kept[begin] = kept[end] = True
    closed = (points[begin] == points[end]).all(axis=1)
    far, _ = _farthest(points, begin[closed], end[closed])
    kept[far] = True  # a closed line has no direction to measure from; this gives it one
    begin, end = _pieces(kept, borders)
    while len(begin):
        while len(begin):
            far, distance = _farthest(points, begin, end)
            halved = distance > tolerance**2
            near = np.flatnonzero(~halved)
            halved[near] = corners.between(begin[near], end[near], tolerance)
            begin, far, end = begin[halved], far[halved], end[halved]
            kept[far] = True
            begin, end = np.concatenate([begin, far]), np.concatenate([far, end])
            begin, end = _with_corners(begin, end)
        begin, end = _equal_pieces(points, *_pieces(kept, borders, all_pieces=True))
        far, _ = _farthest(points, begin, end)
        kept[far] = True
        begin, end = _with_corners(np.concatenate([begin, far]), np.concatenate([far, end]))
    counts = np.add.reduceat(kept.astype(np.int64), borders.offsets[:-1])
    return Borders(borders.points[kept], np.append(0, np.cumsum(counts)), borders.left, borders.right)


def _with_corners(begin: Ints, end: Ints) -> tuple[Ints, Ints]:
    """Those pieces that leave corners out."""
    longer = end > begin + 1
    return begin[longer], end[longer]


def _pieces(kept: NDArray[np.bool_], borders: Borders, *, all_pieces: bool = False) -> tuple[Ints, Ints]:
    """First and last corner of the pieces between kept corners."""
    index = np.flatnonzero(kept)
    last = np.zeros(len(kept), np.bool_)
    last[borders.offsets[1:] - 1] = True
    within = ~last[index[:-1]]
    begin, end = index[:-1][within], index[1:][within]
    return (begin, end) if all_pieces else _with_corners(begin, end)


def _equal_pieces(points: Ints, begin: Ints, end: Ints) -> tuple[Ints, Ints]:
    """Pieces that leave corners out and have the same two ends as another piece."""
    scale = np.int64(points.max()) + 1
    keys = points[:, 1] * scale + points[:, 0]
    low, high = np.minimum(keys[begin], keys[end]), np.maximum(keys[begin], keys[end])
    order = np.lexsort((high, low))
    same = (np.diff(low[order]) == 0) & (np.diff(high[order]) == 0)
    equal = np.zeros(len(begin), np.bool_)
    equal[order[1:][same]] = equal[order[:-1][same]] = True
    return _with_corners(begin[equal], end[equal])


def _farthest(points: Ints, begin: Ints, end: Ints) -> tuple[Ints, NDArray[np.float64]]:
    """The corner between each two that is farthest from the straight line between them, the first of several.

    Returns:
        Its index, and the square of its distance.
    """
    if not len(begin):
        return np.zeros(0, np.int64), np.zeros(0)
    count = end - begin - 1
    index = spread(begin + 1, count)
    piece = np.repeat(np.arange(len(begin)), count)
    along = points[end] - points[begin]
    length = (along**2).sum(axis=1)
    offset = points[index] - points[begin][piece]
    along, square = along[piece], length[piece]
    dot = (offset * along).sum(axis=1)
    cross = offset[:, 0] * along[:, 1] - offset[:, 1] * along[:, 0]
    beyond = offset - along
    distance = np.where(
        dot <= 0,
        (offset**2).sum(axis=1),
        np.where(dot >= square, (beyond**2).sum(axis=1), cross.astype(np.float64) ** 2 / np.maximum(square, 1)),
    )
    bounds = np.cumsum(count) - count
    largest = np.maximum.reduceat(distance, bounds)
    at = np.flatnonzero(distance == largest[piece])
    _, first = np.unique(piece[at], return_index=True)
    return index[at[first]], largest


class _Corners:
    """All corners of all lines, to be found by their place.

    Args:
        points: ``(N, 2)`` x and y.
    """

    def __init__(self, points: Ints) -> None:
        self._points = points
        self._stride = np.int64(points[:, 0].max()) + 2
        keys = points[:, 1] * self._stride + points[:, 0]
        self._keys, self._index = np.unique(keys, return_index=True)  # ends of lines come several times

    def between(self, begin: Ints, end: Ints, tolerance: float) -> NDArray[np.bool_]:
        """Whether a corner lies between a straight piece and what it replaces, or on the piece.

        Args:
            begin: First corner of each piece.
            end: Its last; all corners between the two are within the tolerance of the piece.
            tolerance: Pixels.
        """
        found = np.zeros(len(begin), np.bool_)
        if not len(begin):
            return found
        piece, corner = self._near(begin, end, tolerance)
        at, first, last = self._points[corner], self._points[begin[piece]], self._points[end[piece]]
        own = ((corner > begin[piece]) & (corner < end[piece])) | (at == first).all(axis=1) | (at == last).all(axis=1)
        piece, corner = piece[~own], corner[~own]
        edges = np.cumsum(end[piece] - begin[piece])
        start = 0
        while start < len(piece):
            done = edges[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(edges, done + _MOST_TESTS)))
            part = slice(start, stop)
            found[piece[part][self._enclosed(begin[piece[part]], end[piece[part]], corner[part])]] = True
            start = stop
        return found

    def _near(self, begin: Ints, end: Ints, tolerance: float) -> tuple[Ints, Ints]:
        """Pairs of a piece and a corner within its tolerance and the rows and columns of what it replaces."""
        count = end - begin + 1
        replaced = self._points[spread(begin, count)]
        bounds = np.cumsum(count) - count
        low, high = np.minimum.reduceat(replaced, bounds), np.maximum.reduceat(replaced, bounds)
        rows = high[:, 1] - low[:, 1] + 1
        row = spread(low[:, 1], rows)
        piece = np.repeat(np.arange(len(begin)), rows)
        (x, y), (dx, dy) = self._points[begin].T, (self._points[end] - self._points[begin]).T
        slope = dx / np.where(dy == 0, 1, dy)
        reach = np.where(dy == 0, np.inf, tolerance * np.hypot(dx, dy) / np.maximum(np.abs(dy), 1)) + 1e-6
        centre = x[piece] + (row - y[piece]) * slope[piece]
        first = np.ceil(np.maximum(low[piece, 0], centre - reach[piece])).astype(np.int64)
        last = np.floor(np.minimum(high[piece, 0], centre + reach[piece])).astype(np.int64)
        start = np.searchsorted(self._keys, row * self._stride + first)
        stop = np.searchsorted(self._keys, row * self._stride + last, side="right")
        number = np.maximum(stop - start, 0)
        return np.repeat(piece, number), self._index[spread(start, number)]

    def _enclosed(self, begin: Ints, end: Ints, corner: Ints) -> NDArray[np.bool_]:
        """Whether the closed line of a piece and what it replaces goes round a corner, or the piece through it."""
        count = end - begin
        index = spread(begin, count)
        pair = np.repeat(np.arange(len(begin)), count)
        (x0, y0), (_, y1) = self._points[index].T, self._points[index + 1].T
        x, y = self._points[corner].T
        # windings: edges that pass to the right of the corner, counted upward and downward; level ones never pass
        passes = ((y0 <= y[pair]).astype(np.int64) - (y1 <= y[pair])) * (x0 > x[pair])
        turns = np.add.reduceat(passes, np.cumsum(count) - count)
        (x0, y0), (x1, y1) = self._points[end].T, self._points[begin].T
        side = (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)
        passes = (y0 <= y).astype(np.int64) - (y1 <= y)
        turns += np.where((passes > 0) & (side > 0), 1, 0) - np.where((passes < 0) & (side < 0), 1, 0)
        on_piece = (side == 0) & ((x - x0) * (x - x1) <= 0) & ((y - y0) * (y - y1) <= 0)
        return np.asarray((turns != 0) | on_piece)
