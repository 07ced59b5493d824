"""Borders between the regions of a mask: each border once, with the region on its left and on its right.

In: numbered pixels. Out: :class:`Borders`, lines of whole-numbered corners between the points where three or more
regions meet. What two regions share is one line, so whatever is done to it, they go on sharing it. From the lines come
the rings of each region's polygon.

Coordinates are those of pixel corners: pixel (row, column) covers x from column to column + 1 and y from row to
row + 1, x to the right and y down. "Left" is what a walker along the line sees to the left on a screen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refineseg.predict.polygons.regions import NO_REGION

_TAKEN = -2
_NONE = -1


def spread(begin: NDArray[Any], count: NDArray[Any]) -> NDArray[np.int64]:
    """The ranges ``begin .. begin + count - 1``, one after the other.

    Example:
        >>> spread(np.array([5, 0]), np.array([2, 3])).tolist()
        [5, 6, 0, 1, 2]
    """
    ends = np.cumsum(count)
    total = int(ends[-1]) if len(ends) else 0
    shift = np.repeat(np.asarray(begin, np.int64) - ends + count, count)
    return np.asarray(np.arange(total) + shift, np.int64)


@dataclass(frozen=True)
class Borders:
    """Lines between regions.

    Args:
        points: ``(N, 2)`` x and y of the corners of all lines, one line after the other.
        offsets: ``(L + 1,)`` where each line begins; the last is N.
        left: ``(L,)`` region on the left, going along the line, or ``NO_REGION``.
        right: ``(L,)`` region on the right.
    """

    points: NDArray[np.int32]
    offsets: NDArray[np.int64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]

    @property
    def counts(self) -> NDArray[np.int64]:
        """(L,) points of each line."""
        return np.diff(self.offsets)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(L,) length of each line in pixels; only of lines along pixels."""
        steps = np.abs(np.diff(self.points.astype(np.int64), axis=0)).sum(axis=1)
        along = np.append(0, np.cumsum(steps))
        return np.asarray(along[self.offsets[1:] - 1] - along[self.offsets[:-1]], np.int64)

    @classmethod
    def of_segments(cls, ends: NDArray[Any], left: NDArray[Any], right: NDArray[Any]) -> Borders:
        """Lines of two points each, ``(L, 2, 2)``: line, end, x and y."""
        points = ends.reshape(-1, 2).astype(np.int32)
        offsets = np.arange(0, len(points) + 1, 2, dtype=np.int64)
        return cls(points, offsets, left.astype(np.int64), right.astype(np.int64))

    @classmethod
    def stacked(cls, parts: list[Borders]) -> Borders:
        """All lines of several parts."""
        ends = np.cumsum([0, *(len(part.points) for part in parts)])
        return cls(
            np.concatenate([np.zeros((0, 2), np.int32), *(part.points for part in parts)]),
            np.concatenate([*(p.offsets[:-1] + e for p, e in zip(parts, ends[:-1], strict=True)), ends[-1:]]),
            np.concatenate([np.zeros(0, np.int64), *(part.left for part in parts)]),
            np.concatenate([np.zeros(0, np.int64), *(part.right for part in parts)]),
        )

    def renumbered(self, numbers: NDArray[np.int64]) -> Borders:
        """With other numbers for the regions; lines inside a region, or between none, are gone.

        Every line is turned so that the larger number is on its left. So the lines that meet where only two regions
        do have one direction.

        Args:
            numbers: New number (or ``NO_REGION``) of each region.
        """
        table = np.append(numbers, NO_REGION)  # NO_REGION, -1, finds itself at the end
        left, right = table[self.left], table[self.right]
        kept = np.flatnonzero(left != right)
        left, right, count, begin = left[kept], right[kept], self.counts[kept], self.offsets[:-1][kept]
        turned = left < right
        offsets = np.append(0, np.cumsum(count))
        place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], count)
        place = np.where(np.repeat(turned, count), np.repeat(count - 1, count) - place, place)
        points = self.points[np.repeat(begin, count) + place]
        return Borders(points, offsets, np.maximum(left, right), np.minimum(left, right))


def inner_borders(labels: NDArray[Any], *, top: int, left: int) -> Borders:
    """The straight pieces of the borders inside a tile, not those along its sides.

    Args:
        labels: ``(h, w)`` number of each pixel's region.
        top: First row of the tile in the image.
        left: Its first column.
    """
    line, start, end, north, south = _pieces(labels[:-1], labels[1:])
    across = np.stack([start + left, line + 1 + top, end + left, line + 1 + top], axis=1)
    columns = np.ascontiguousarray(labels.T)
    line, start, end, west, east = _pieces(columns[:-1], columns[1:])
    down = np.stack([line + 1 + left, start + top, line + 1 + left, end + top], axis=1)
    ends = np.concatenate([across, down]).reshape(-1, 2, 2)
    return Borders.of_segments(ends, np.concatenate([north, east]), np.concatenate([south, west]))


def _pieces(one: NDArray[Any], other: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Longest runs along the rows of two arrays in which the same two numbers face each other.

    Returns:
        Row, first column, column after the last, the number in the one and in the other array.
    """
    length = one.shape[1]
    places = np.flatnonzero(one != other)
    one, other = one.reshape(-1)[places], other.reshape(-1)[places]
    begins = np.ones(len(places), np.bool_)
    begins[1:] = (np.diff(places) != 1) | (places[1:] % length == 0) | (one[1:] != one[:-1]) | (other[1:] != other[:-1])
    first = np.flatnonzero(begins)
    last = np.append(first[1:], len(places))[: len(first)] - 1
    row, start = np.divmod(places[first], length)
    return row, start, places[last] % length + 1, one[first], other[first]


def traced(following: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Put the elements of chains in order.

    Args:
        following: ``(n,)`` the element after each one, each at most once, or -1.

    Returns:
        The elements, chain by chain; where each chain begins (and n); and how many chains are open: those that end
        come first, those that return to their beginning follow.

    Example:
        >>> [part.tolist() for part in traced(np.array([2, 3, -1, 1]))[:2]]
        [[0, 2, 1, 3], [0, 2, 4]]
    """
    begins = np.ones(len(following), np.bool_)
    begins[following[following != _NONE]] = False
    alone = np.flatnonzero(begins & (following == _NONE))
    after = following.tolist()  # a list is many times faster than an array here
    order: list[int] = []
    offsets: list[int] = []
    for head in np.flatnonzero(begins & (following != _NONE)).tolist():
        offsets.append(len(order))
        element = head
        while element != _NONE:
            order.append(element)
            after[element], element = _TAKEN, after[element]
    chains, firsts = np.array(order, np.int64), np.array(offsets, np.int64)
    closed = np.ones(len(following), np.bool_)
    closed[chains] = closed[alone] = False
    order.clear()
    offsets.clear()
    for head in np.flatnonzero(closed).tolist():
        if after[head] == _TAKEN:
            continue
        offsets.append(len(order))
        element = head
        while after[element] != _TAKEN:
            order.append(element)
            after[element], element = _TAKEN, after[element]
    num_open = len(chains) + len(alone)
    starts = [
        firsts,
        np.arange(len(chains), num_open),
        np.array(offsets, np.int64) + num_open,
        np.array([len(following)]),
    ]
    whole = np.concatenate([chains, alone, np.array(order, np.int64)])
    return whole, np.concatenate(starts).astype(np.int64), len(firsts) + len(alone)


def _keys(points: NDArray[np.int32], width: int) -> NDArray[np.int64]:
    return points[:, 1].astype(np.int64) * (width + 1) + points[:, 0]


def joined(borders: Borders, size_hw: tuple[int, int]) -> Borders:
    """Lines from one meeting point of three or more regions to the next, or closed ones; corners only.

    Which pieces they were made of leaves no trace: lines are the same whether the mask came in tiles or as a whole.
    Corners on the side of the image stay ends of lines, so that nothing moves them.

    Args:
        borders: Pieces, the larger number on the left of each.
        size_hw: Height and width of the image.
    """
    if not len(borders.left):
        return borders
    width = size_hw[1]
    order, offsets, num_open = traced(_following(borders, size_hw))
    head = np.zeros(len(order), np.bool_)
    head[offsets[:-1]] = True
    skipped = (~head).astype(np.int64)  # the first point of a piece is the last of the one before it
    count = borders.counts[order] - skipped
    points = borders.points[spread(borders.offsets[:-1][order] + skipped, count)]
    counts = np.add.reduceat(count, offsets[:-1])
    bounds = np.append(0, np.cumsum(counts))
    points = _from_topmost(points, bounds, num_open, width)

    steps = np.sign(np.diff(points, axis=0))
    corner = np.ones(len(points), np.bool_)
    corner[1:-1] = (steps[1:] != steps[:-1]).any(axis=1)
    corner[bounds[:-1]] = corner[bounds[1:] - 1] = True
    counts = np.add.reduceat(corner.astype(np.int64), bounds[:-1])
    first = order[offsets[:-1]]
    result = Borders(points[corner], np.append(0, np.cumsum(counts)), borders.left[first], borders.right[first])
    keys = _keys(result.points, width)
    by_place = np.lexsort((keys[result.offsets[:-1] + 1], keys[result.offsets[:-1]]))
    counts = result.counts[by_place]
    return Borders(
        result.points[spread(result.offsets[:-1][by_place], counts)],
        np.append(0, np.cumsum(counts)),
        result.left[by_place],
        result.right[by_place],
    )


def _from_topmost(points: NDArray[np.int32], bounds: NDArray[Any], num_open: int, width: int) -> NDArray[np.int32]:
    """Closed lines begin at their topmost, then leftmost corner, wherever the pieces began."""
    if num_open == len(bounds) - 1:
        return points
    begin, count = bounds[num_open:-1], np.diff(bounds[num_open:])
    keys = _keys(points[begin[0] :], width)
    line = np.repeat(np.arange(len(begin)), count)
    smallest = np.minimum.reduceat(keys, begin - begin[0])
    at = np.flatnonzero(keys == smallest[line])
    _, first = np.unique(line[at], return_index=True)
    shift = at[first] - (begin - begin[0])
    place = np.arange(len(keys)) - (begin - begin[0])[line]
    place = (place + shift[line]) % (count - 1)[line]  # the last point is the first again
    return np.concatenate([points[: begin[0]], points[begin[line] + place]])


def _following(borders: Borders, size_hw: tuple[int, int]) -> NDArray[np.int64]:
    """The piece that goes on where each piece ends, -1 where three or more meet or the image's side is turned from."""
    height, width = size_hw
    points, begin, end = borders.points, borders.offsets[:-1], borders.offsets[1:] - 1
    num_pieces = len(begin)
    keys = np.concatenate([_keys(points[begin], width), _keys(points[end], width)])
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    bounds = np.flatnonzero(np.append(True, np.append(keys[1:] != keys[:-1], True)))
    pairs = bounds[:-1][np.diff(bounds) == 2]
    departing, arriving = order[pairs], order[pairs + 1] - num_pieces
    assert (departing < num_pieces).all()
    assert (arriving >= 0).all()
    at = points[begin[departing]]
    on_side = (at[:, 0] == 0) | (at[:, 0] == width) | (at[:, 1] == 0) | (at[:, 1] == height)
    turns = (_step_in(borders)[arriving] != _step_out(borders)[departing]).any(axis=1)
    kept = ~(on_side & turns)
    following = np.full(num_pieces, _NONE, np.int64)
    following[arriving[kept]] = departing[kept]
    return following


def _step_out(borders: Borders) -> NDArray[np.int32]:
    """(L, 2) direction in which each line leaves its first point."""
    begin = borders.offsets[:-1]
    return np.asarray(np.sign(borders.points[begin + 1] - borders.points[begin]), np.int32)


def _step_in(borders: Borders) -> NDArray[np.int32]:
    """(L, 2) direction in which each line reaches its last point."""
    end = borders.offsets[1:] - 1
    return np.asarray(np.sign(borders.points[end] - borders.points[end - 1]), np.int32)


@dataclass(frozen=True)
class Rings:
    """The closed lines around regions: one around the outside of each, and one around each of its holes.

    Args:
        halves: Lines in order, ring by ring: ``2 * line`` along it, ``2 * line + 1`` against it; the region is left.
        offsets: ``(G + 1,)`` where each ring begins in ``halves``.
        regions: ``(G,)`` region of each ring, ascending; the outside of a region comes before its holes.
    """

    halves: NDArray[np.int64]
    offsets: NDArray[np.int64]
    regions: NDArray[np.int64]

    def points(self, borders: Borders) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Corners of the rings along these lines, and how many each ring has; the first is not repeated at its end.

        Args:
            borders: Lines with the same numbers as those the rings were made of; they may be simpler.
        """
        line, against = np.divmod(self.halves, 2)
        count = borders.counts[line] - 1  # the last point is the first of the next line
        bounds = np.append(0, np.cumsum(count))
        place = np.arange(bounds[-1]) - np.repeat(bounds[:-1], count)
        begin = np.where(against == 1, borders.offsets[line + 1] - 1, borders.offsets[line])
        index = np.repeat(begin, count) + np.where(np.repeat(against == 1, count), -place, place)
        return borders.points[index], np.diff(bounds[self.offsets])


def rings(borders: Borders) -> Rings:
    """Walk around every region.

    Where a region touches itself at a corner only, the walk crosses over the corner. So no ring touches itself: what
    the region encloses there becomes a hole, as polygons are defined to be.
    """
    lines = np.arange(len(borders.left))
    halves = np.concatenate([2 * lines, 2 * lines + 1])
    region = np.concatenate([borders.left, borders.right])
    step_out = np.concatenate([_step_out(borders), -_step_in(borders)])
    step_in = np.concatenate([_step_in(borders), -_step_out(borders)])
    begin, end = borders.points[borders.offsets[:-1]], borders.points[borders.offsets[1:] - 1]
    start, stop = np.concatenate([begin, end]), np.concatenate([end, begin])
    kept = region != NO_REGION
    halves, region, step_out, step_in = halves[kept], region[kept], step_out[kept], step_in[kept]
    start, stop = start[kept], stop[kept]
    # directions 0..3: right, down, left, up. Of two ways to go on, the one that turns right crosses over the corner
    leaving = np.lexsort((_direction(step_out), region, start[:, 0], start[:, 1]))
    reaching = np.lexsort(((_direction(step_in) + 1) % 4, region, stop[:, 0], stop[:, 1]))
    following = np.empty(len(halves), np.int64)
    following[reaching] = leaving
    order, offsets, _ = traced(following)
    found = Rings(halves[order], offsets, region[order[offsets[:-1]]])
    inside_out = _areas(*found.points(borders)) > 0  # with y down, walking with the region to the left is negative
    by_region = np.lexsort((inside_out, found.regions))
    counts = np.diff(offsets)[by_region]
    return Rings(
        found.halves[spread(offsets[:-1][by_region], counts)],
        np.append(0, np.cumsum(counts)),
        found.regions[by_region],
    )


def _direction(steps: NDArray[np.int32]) -> NDArray[np.int32]:
    dx, dy = steps[:, 0], steps[:, 1]
    return np.where(dx != 0, 1 - dx, 2 - dy)


def _areas(points: NDArray[np.int32], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Twice the signed area of each ring."""
    if not len(counts):
        return np.zeros(0, np.int64)
    begin = np.cumsum(counts) - counts
    after = np.arange(1, len(points) + 1)
    after[begin + counts - 1] = begin
    x, y = points.astype(np.int64).T
    return np.asarray(np.add.reduceat(x * y[after] - x[after] * y, begin), np.int64)
