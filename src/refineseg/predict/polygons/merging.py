"""Regions across tiles, and small regions into their neighbours.

In: numbered tiles of one image, in any order. Out: :class:`Coverage`, the regions of the whole image and the borders
between them, equal to those of the mask in one piece. Of each tile the borders inside it are kept, and the numbers
along a side until the tile on the other side has come.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from refineseg.errors import ConfigError
from refineseg.predict.polygons.borders import Borders, inner_borders, joined
from refineseg.predict.polygons.regions import NO_REGION, RegionTable, connected
from refineseg.predict.views.tiling import Region

Axis = Literal["x", "y"]


@dataclass(frozen=True)
class Coverage:
    """The regions of an image, which do not overlap, and the borders between them.

    Args:
        size_hw: Height and width.
        table: The regions, in the order of their first pixels.
        borders: Their borders, from meeting point to meeting point.
    """

    size_hw: tuple[int, int]
    table: RegionTable
    borders: Borders

    def united(self, groups: NDArray[np.int64]) -> Coverage:
        """Fewer regions.

        Args:
            groups: ``(R,)`` for each region any number of the region it becomes part of, or ``NO_REGION``. A group
                gets the class of its last region.
        """
        taken, numbers = np.unique(groups, return_inverse=True)
        if len(taken) and taken[0] == NO_REGION:
            numbers -= 1
        num_groups = int(np.count_nonzero(taken != NO_REGION))
        table = self.table.gathered(numbers, num_groups)
        order = np.argsort(table.first_pixels)
        places = np.append(np.argsort(order), NO_REGION)
        numbers = places[numbers]
        borders = joined(self.borders.renumbered(numbers), self.size_hw)
        return Coverage(self.size_hw, self.table.gathered(numbers, num_groups), borders)

    def chosen(self, classes: NDArray[np.int64]) -> Coverage:
        """Only the regions of some classes; the others are treated as void."""
        wanted = np.isin(self.table.classes, classes)
        return self if wanted.all() else self.united(np.where(wanted, np.arange(len(wanted)), NO_REGION))


@dataclass(frozen=True)
class _Side:
    """The pixels along one side of a tile, or a part of it, that wait for those on the other side."""

    start: int
    numbers: NDArray[np.int64]
    classes: NDArray[np.int64]

    @property
    def stop(self) -> int:
        return self.start + len(self.numbers)

    def part(self, start: int, stop: int) -> _Side:
        places = slice(start - self.start, stop - self.start)
        return _Side(start, self.numbers[places], self.classes[places])

    def without(self, start: int, stop: int) -> list[_Side]:
        bounds = ((self.start, min(start, self.stop)), (max(stop, self.start), self.stop))
        return [self.part(first, last) for first, last in bounds if first < last]


@dataclass
class TileMerger:
    """Collects the tiles of one image.

    Args:
        size_hw: Height and width of the image.
    """

    size_hw: tuple[int, int]
    _tiles: list[Region] = field(default_factory=list)
    _tables: list[RegionTable] = field(default_factory=list)
    _borders: list[Borders] = field(default_factory=list)
    _same: list[NDArray[np.int64]] = field(default_factory=list)  # (2, n) numbers of one region in two tiles
    _num_regions: int = 0
    # by axis, place and whether the tile lies before it
    _waiting: dict[tuple[Axis, int, bool], list[_Side]] = field(default_factory=dict)

    def add(self, tile: Region, labels: NDArray[np.int32], table: RegionTable) -> None:
        """Take one tile.

        Args:
            tile: Where it lies.
            labels: ``(h, w)`` numbers of its regions, from 0.
            table: Its regions; first pixels within the tile.

        Raises:
            ConfigError: It lies outside the image, over another tile, or has another size than its labels.
        """
        self._check(tile, labels.shape)
        row, column = np.divmod(table.first_pixels, tile.width)
        first = (row + tile.top) * self.size_hw[1] + column + tile.left
        self._tables.append(RegionTable(table.classes, table.areas, table.confidences, first))
        own = np.arange(len(table.classes), dtype=np.int64)
        inner = joined(inner_borders(labels, top=tile.top, left=tile.left).renumbered(own), self.size_hw)
        self._borders.append(inner.renumbered(own + self._num_regions))
        classes = np.append(table.classes, NO_REGION)
        numbers = np.append(own + self._num_regions, NO_REGION)
        self._num_regions += len(own)
        edges = (
            ("x", tile.left, False, tile.top, labels[:, 0]),
            ("x", tile.right, True, tile.top, labels[:, -1]),
            ("y", tile.top, False, tile.left, labels[0]),
            ("y", tile.bottom, True, tile.left, labels[-1]),
        )
        for axis, place, before, start, line in edges:
            side = _Side(start, numbers[line], classes[line])
            self._meet("x" if axis == "x" else "y", place, side, before=before)
        self._tiles.append(tile)

    def finish(self) -> Coverage:
        """The regions of the whole image.

        Raises:
            ConfigError: The tiles do not cover it.
        """
        covered, wanted = sum(t.height * t.width for t in self._tiles), self.size_hw[0] * self.size_hw[1]
        if covered != wanted:
            raise ConfigError(
                f"expected tiles that cover the image of {self.size_hw[0]}x{self.size_hw[1]} pixels (height x width), "
                f"got {covered:,} of {wanted:,} pixels; add the others first"
            )
        one, other = np.concatenate([np.zeros((2, 0), np.int64), *self._same], axis=1)
        whole = Coverage(self.size_hw, RegionTable.stacked(self._tables), Borders.stacked(self._borders))
        return whole.united(connected(self._num_regions, one, other))

    def _check(self, tile: Region, size_hw: tuple[int, ...]) -> None:
        if tile.bottom > self.size_hw[0] or tile.right > self.size_hw[1]:
            raise ConfigError(f"expected tiles inside the image of {self.size_hw} pixels (height, width), got {tile}")
        if size_hw != tile.size_hw:
            raise ConfigError(f"expected a mask of the tile's size {tile.size_hw}, got {size_hw}")
        for known in self._tiles:
            apart_y = tile.bottom <= known.top or known.bottom <= tile.top
            if not (apart_y or tile.right <= known.left or known.right <= tile.left):
                raise ConfigError(f"expected tiles that do not overlap, got {tile} over {known}; add each tile once")

    def _meet(self, axis: Axis, place: int, side: _Side, *, before: bool) -> None:
        """Join a side with what waits for it; what finds nothing waits."""
        if place in (0, self.size_hw[1 if axis == "x" else 0]):
            outside = np.full(len(side.numbers), NO_REGION)
            self._seam(axis, place, side, _Side(side.start, outside, outside), before=before)
            return
        rest: list[_Side] = []
        unmet = [side]
        for other in self._waiting.pop((axis, place, not before), []):
            parts, unmet, left = unmet, [], [other]
            for part in parts:
                start, stop = max(part.start, other.start), min(part.stop, other.stop)
                if start >= stop:
                    unmet.append(part)
                    continue
                self._seam(axis, place, part.part(start, stop), other.part(start, stop), before=before)
                unmet += part.without(start, stop)
                left = [piece for old in left for piece in old.without(start, stop)]
            rest += left
        if rest:
            self._waiting[axis, place, not before] = rest
        if unmet:
            self._waiting.setdefault((axis, place, before), []).extend(unmet)

    def _seam(self, axis: Axis, place: int, side: _Side, other: _Side, *, before: bool) -> None:
        """Regions of one class that face each other are one; between others runs a border."""
        first, second = (side, other) if before else (other, side)
        equal = (first.classes == second.classes) & (first.numbers != NO_REGION)
        pairs = np.stack([first.numbers[equal], second.numbers[equal]])
        self._same.append(np.unique(pairs, axis=1))
        one, two = first.numbers, second.numbers
        border = (first.classes != second.classes).astype(np.int64)
        changes = (one[1:] != one[:-1]) | (two[1:] != two[:-1])
        bounds = np.flatnonzero(np.concatenate([[True], changes, [True]]))
        runs = np.flatnonzero(border[bounds[:-1]])
        start, stop, at = bounds[:-1][runs] + side.start, bounds[1:][runs] + side.start, np.full(len(runs), place)
        one, two = one[bounds[:-1][runs]], two[bounds[:-1][runs]]
        if axis == "x":  # downward, the second is on the left
            ends, left, right = np.stack([at, start, at, stop], axis=1), two, one
        else:  # to the right, the first is
            ends, left, right = np.stack([start, at, stop, at], axis=1), one, two
        self._borders.append(Borders.of_segments(ends, left, right))


def without_small(coverage: Coverage, smallest_area: float) -> Coverage:
    """Regions smaller than this become part of the neighbour with the longest common border.

    The smallest comes first; of equal ones that with the first pixel. Of equally long borders the one with the larger
    neighbour counts. What has grown large enough on the way stays, and neighbours of one class that touch through it
    become one. Regions with only void or the image's side around them become void.

    Args:
        coverage: The regions.
        smallest_area: Pixels.
    """
    areas = coverage.table.areas.tolist()
    heap = [(area, number, number) for number, area in enumerate(areas) if area < smallest_area]
    if not heap:
        return coverage
    heapq.heapify(heap)
    merging = _Merging(areas, coverage.table.classes.tolist(), _neighbours(coverage.borders, len(areas)))
    while heap:
        area, _, group = heapq.heappop(heap)
        if merging.parent[group] != group or areas[group] != area:
            continue  # it has been taken in, or has grown and comes again
        grown = merging.give_away(group)
        if grown is not None and areas[grown] < smallest_area:
            heapq.heappush(heap, (areas[grown], merging.first[grown], grown))
    groups = merging.groups()
    table = coverage.table
    kept = np.array(merging.classes, np.int64)[groups]  # a region's class is then that of its group
    table = RegionTable(kept, table.areas, table.confidences, table.first_pixels)
    return Coverage(coverage.size_hw, table, coverage.borders).united(groups)


def _neighbours(borders: Borders, num_regions: int) -> list[dict[int, int]]:
    """For each region its neighbours, and how long the border with each is."""
    found: list[dict[int, int]] = [{} for _ in range(num_regions)]
    inner = (borders.left != NO_REGION) & (borders.right != NO_REGION)
    rows = (part[inner].tolist() for part in (borders.left, borders.right, borders.lengths))
    for left, right, length in zip(*rows, strict=True):
        found[left][right] = found[right][left] = found[left].get(right, 0) + length
    return found


@dataclass
class _Merging:
    """Regions while they take one another in; a group is known by one of its regions."""

    areas: list[int]
    classes: list[int]
    neighbours: list[dict[int, int]]
    parent: list[int] = field(init=False)
    first: list[int] = field(init=False)  # the smallest number in each group, so that of its first pixel

    def __post_init__(self) -> None:
        self.parent = list(range(len(self.areas)))
        self.first = list(range(len(self.areas)))

    def give_away(self, group: int) -> int | None:
        """Unite a group with its best neighbour; returns the group of both, None where there is no neighbour."""
        around = self.neighbours[group]
        if not around:
            self.parent[group] = NO_REGION
            return None
        best = max(around, key=lambda n: (around[n], self.areas[n], -self.first[n]))
        class_index = self.classes[best]
        alike = [n for n in around if n != best and self.classes[n] == class_index]
        for other in (best, *alike):
            group = self._unite(group, other, class_index)
        return group

    def _unite(self, one: int, other: int, class_index: int) -> int:
        group, gone = (one, other) if len(self.neighbours[one]) >= len(self.neighbours[other]) else (other, one)
        known = self.neighbours[group]
        del known[gone]
        for neighbour, length in self.neighbours[gone].items():
            if neighbour != group:
                known[neighbour] = known.get(neighbour, 0) + length
                del self.neighbours[neighbour][gone]
                self.neighbours[neighbour][group] = known[neighbour]
        self.neighbours[gone] = {}
        self.areas[group] += self.areas[gone]
        self.first[group] = min(self.first[group], self.first[gone])
        self.classes[group] = class_index
        self.parent[gone] = group
        return group

    def groups(self) -> NDArray[np.int64]:
        """The group each region has become part of, or ``NO_REGION``."""
        parents = np.array(self.parent, np.int64)
        while True:
            above = np.where(parents == NO_REGION, NO_REGION, parents[parents])
            if np.array_equal(above, parents):
                return parents
            parents = above
