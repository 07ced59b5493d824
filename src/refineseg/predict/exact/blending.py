"""Overlapping windows that are averaged where they overlap: for networks that see the whole image at once.

In: a function that scores a region as an image of its own. Out: logits of tiles. Each window weighs less towards those
of its sides that lie inside the image, linearly over the overlap. The result is close to that of the whole image, not
equal; every pixel's is the same whichever tile is asked for, since windows lie on one grid and are summed in one order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from refineseg.predict.exact.exact_plan import TilePlan
from refineseg.predict.views.tiling import SMALLEST_TILE, PixelSource, Region, TilingOptions, grid

_WINDOW_PIXEL_BYTES = 2000  # of whole-image inference; more than every network of the papers takes
_USUAL_WINDOW = 1024
_MOST_WINDOWS = 8
_CLASSES = 150  # of the largest table; how many there are is known only after the first window


@dataclass(frozen=True)
class _Axis:
    """Windows along one axis.

    Args:
        starts: Where each begins.
        length: Length of each one.
        weights: (windows, length); at every pixel those of all windows on it sum to 1.
    """

    starts: tuple[int, ...]
    length: int
    weights: Tensor

    @classmethod
    def make(cls, size: int, window: int, overlap: int) -> _Axis:
        length = min(window, size)
        count = 1 if size == length else math.ceil((size - length) / (length - overlap)) + 1
        starts = [min(index * (length - overlap), size - length) for index in range(count)]
        ramp = torch.arange(1, length + 1, dtype=torch.float64) / (overlap + 1)
        weights, total = torch.ones(count, length, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
        for index, start in enumerate(starts):
            if start > 0:
                weights[index] = torch.minimum(weights[index], ramp)
            if start + length < size:
                weights[index] = torch.minimum(weights[index], ramp.flip(0))
            total[start : start + length] += weights[index]
        for index, start in enumerate(starts):
            weights[index] /= total[start : start + length]
        return cls(tuple(starts), length, weights)

    def touching(self, first: int, end: int) -> list[int]:
        """The windows with pixels in an interval."""
        return [index for index, start in enumerate(self.starts) if start < end and first < start + self.length]


class Blending:
    """Scores one image by overlapping windows.

    Args:
        score: The logits (K, h, w) of a region of a source, as if it were an image.
        size_hw: Height and width of the image.
        options: ``tile`` is the side of a window; ``auto``: 1024 pixels, or what fits into ``memory_bytes``.

    Example:
        >>> import numpy as np
        >>> from refineseg.predict.views.tiling import ArraySource
        >>> source = ArraySource(np.zeros((90, 50, 3), np.uint8))
        >>> options = TilingOptions(64, mode="blend", overlap=16)
        >>> blending = Blending(lambda source, region: torch.ones(2, *region.size_hw), (90, 50), options=options)
        >>> blending.logits(source, Region(20, 0, 90, 50)).shape
        torch.Size([2, 70, 50])
    """

    def __init__(
        self, score: Callable[[PixelSource, Region], Tensor], size_hw: tuple[int, int], *, options: TilingOptions
    ) -> None:
        self._score = score
        window = _window_side(size_hw, options)
        overlap = min(options.overlap, window // 2)
        self._rows, self._columns = (_Axis.make(size, window, overlap) for size in size_hw)
        self.plan = self._plan_tiles(size_hw, window - overlap, options)

    def _plan_tiles(self, size_hw: tuple[int, int], stride: int, options: TilingOptions) -> TilePlan:
        """Tiles of several windows, since each tile needs those of its neighbours at its border too."""
        memory = math.inf if options.memory_bytes is None else options.memory_bytes / 4
        count = _MOST_WINDOWS
        while count > 1 and (count * stride) ** 2 * 4 * _CLASSES > memory:
            count -= 1
        tiles = (Region.whole(size_hw),) if options.tile == "off" else grid(size_hw, (count * stride, count * stride))
        area = self._rows.length * self._columns.length
        windows = sum(
            len(self._rows.touching(tile.top, tile.bottom)) * len(self._columns.touching(tile.left, tile.right))
            for tile in tiles
        )
        return TilePlan(tiles, area, windows * area / math.prod(size_hw))

    def logits(self, source: PixelSource, tile: Region) -> Float[Tensor, "k h w"]:
        """The weighted mean of all windows on a tile.

        Args:
            source: The image.
            tile: Any region of it.
        """
        total: Tensor | None = None
        for row in self._rows.touching(tile.top, tile.bottom):
            for column in self._columns.touching(tile.left, tile.right):
                top, left = self._rows.starts[row], self._columns.starts[column]
                window = Region(top, left, top + self._rows.length, left + self._columns.length)
                part = window.intersection(tile)
                assert part is not None
                scores = self._score(source, window)
                if total is None:
                    total = scores.new_zeros((scores.shape[0], *tile.size_hw))
                inside = part.slices_in(window)
                heights, widths = self._rows.weights[row][inside[0]], self._columns.weights[column][inside[1]]
                weighed = scores[(slice(None), *inside)] * heights[:, None].to(scores)
                total[(slice(None), *part.slices_in(tile))] += weighed * widths.to(scores)
        assert total is not None
        return total


def _window_side(size_hw: tuple[int, int], options: TilingOptions) -> int:
    if isinstance(options.tile, int):
        return options.tile
    if options.tile == "off":
        return max(size_hw)
    side = _USUAL_WINDOW
    while options.memory_bytes is not None and side > 2 * SMALLEST_TILE:
        if side * side * _WINDOW_PIXEL_BYTES <= options.memory_bytes / 2:
            break
        side -= SMALLEST_TILE
    return side
