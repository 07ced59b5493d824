"""Which tiles an image is cut into, so that memory stays below a limit and little is computed twice.

In: a graph, the image's size and how much memory there is. Out: a :class:`TilePlan`, a function of these alone. Within
a tile nothing is computed twice (:mod:`refineseg.predict.exact.streaming`); what tiles compute twice is their
neighbours' context. The best tiles are therefore as wide as the image and as high as the memory for their results
allows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from refineseg.errors import TooLittleMemoryError
from refineseg.predict.exact.graph import Graph
from refineseg.predict.exact.streaming import maps_bytes, needed_spans
from refineseg.predict.views.tiling import Region, TilingOptions, grid

STEPS = (128, 64, 32)
"""Image rows read at a time; more are faster and take more memory."""

_SPLITS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 48, 64, 96, 128)
RESULT_BYTES = 10
"""Of each pixel of a tile: its class as int64, and once more as a byte or two while it is written."""
_MOST_PIXELS = 2**25  # of a tile: a job that is stopped loses little
_PROBE_ROWS = 512
_SPARE = 0.55  # allocators keep a good part of what is freed: measured, maps of 970 MB take 1.7 GB


@dataclass(frozen=True)
class TilePlan:
    """How an image is cut.

    Args:
        tiles: Disjoint regions, row by row, that cover the image.
        step: Image rows read at a time.
        extra_arithmetic: Multiply-adds of all tiles, divided by those of the whole image.
    """

    tiles: tuple[Region, ...]
    step: int
    extra_arithmetic: float


@dataclass(frozen=True)
class _Choice:
    cost: float
    tile_hw: tuple[int, int]
    step: int


def plan_tiles(graph: Graph, *, options: TilingOptions, budget: int, result_bytes: int = RESULT_BYTES) -> TilePlan:
    """Cut an image.

    Args:
        graph: Graph of the whole image.
        options: ``tile`` says how; ``auto`` takes the tiles with the least extra arithmetic that fit.
        budget: Bytes for maps and the result of a tile: the memory in all without the program and the weights.
        result_bytes: What is kept of each pixel of a tile, in bytes.

    Raises:
        ConfigError: Not even the smallest tile fits, or not the one that is asked for.
    """
    size_hw = graph.maps[graph.output].size_hw
    if options.tile != "auto":
        tile_hw = size_hw if options.tile == "off" else (options.tile, options.tile)
        tile_hw = (min(tile_hw[0], size_hw[0]), min(tile_hw[1], size_hw[1]))
        return _plan(graph, tile_hw, _largest_step(graph, tile_hw, budget, result_bytes, memory=options.memory_bytes))
    smallest = (min(32, size_hw[0]), min(32, size_hw[1]))
    needs = int(_probe(graph, smallest, STEPS[-1]) / _SPARE) + result_bytes * math.prod(smallest)
    if needs > budget:
        raise TooLittleMemoryError(
            f"expected memory for maps of at least {needs / 1e6:.0f} MB beside the program and the weights, "
            f"{_got(needs, budget, options.memory_bytes)}; give more with --memory"
        )
    best = _Choice(math.inf, smallest, STEPS[-1])
    for width in dict.fromkeys(_rounded(size_hw[1] / count, size_hw[1]) for count in _SPLITS):
        found = _best_of_width(graph, width, budget, result_bytes)
        if found is not None and found.cost < best.cost:
            best = found
        elif best.cost < math.inf:
            break
    return _plan(graph, best.tile_hw, best.step)


def _rounded(side: float, limit: int) -> int:
    """Up to whole blocks, of a file or of the coarsest stride; at most to the limit."""
    unit = 256 if side >= 1024 else 32
    return min(limit, math.ceil(side / unit) * unit)


def _best_of_width(graph: Graph, width: int, budget: int, result_bytes: int) -> _Choice | None:
    """The best tile of a width; None: none fits."""
    height = graph.maps[graph.output].size_hw[0]
    best: _Choice | None = None
    for step in STEPS:
        peak = _probe(graph, (min(_PROBE_ROWS, height), width), step)
        rows = min(int((budget - peak / _SPARE) / (result_bytes * width)), max(32, _MOST_PIXELS // width))
        if rows < min(height, 32):
            continue
        if rows < height:
            even = _rounded(height / math.ceil(height / rows), height)  # tiles of about the same height
            rows = even if even <= rows else rows // 32 * 32
        tile_hw = (min(rows, height), width)
        cost = extra_arithmetic(graph, tile_hw) * (1 + 6 / step)  # small steps are slower
        if best is None or cost < best.cost:
            best = _Choice(cost, tile_hw, step)
        if rows >= min(height, _PROBE_ROWS):  # smaller steps would save memory that is not needed
            break
    return best


def _largest_step(graph: Graph, tile_hw: tuple[int, int], budget: int, result_bytes: int, *, memory: int | None) -> int:
    needs = 0
    for step in STEPS:
        needs = int(_probe(graph, tile_hw, step) / _SPARE) + result_bytes * math.prod(tile_hw)
        if needs <= budget:
            return step
    raise TooLittleMemoryError(
        f"expected memory for tiles of {tile_hw[0]}x{tile_hw[1]}, about {needs / 1e6:.0f} MB for maps and result "
        f"beside the program and the weights, {_got(needs, budget, memory)}; choose smaller tiles (--tile), tile auto, "
        "or more with --memory"
    )


def _got(needs: int, budget: int, memory: int | None) -> str:
    """What there is, and how much it would have to be, all together."""
    if memory is None:
        return f"got {max(budget, 0) / 1e6:.0f} MB"
    return f"{math.ceil((memory - budget + needs) / 1e6)} MB in all, got {memory / 1e6:.0f} MB in all"


def _probe(graph: Graph, tile_hw: tuple[int, int], step: int) -> int:
    """Memory of a tile in the middle of the image, where it has context on all sides."""
    size_hw = graph.maps[graph.output].size_hw
    top, left = ((size - side) // 2 for size, side in zip(size_hw, tile_hw, strict=True))
    rows = min(tile_hw[0], _PROBE_ROWS)
    return maps_bytes(graph, Region(top, left, top + rows, left + tile_hw[1]), step=step)


def _plan(graph: Graph, tile_hw: tuple[int, int], step: int) -> TilePlan:
    tiles = grid(graph.maps[graph.output].size_hw, tile_hw)
    return TilePlan(tiles, step, extra_arithmetic(graph, tile_hw))


def extra_arithmetic(graph: Graph, tile_hw: tuple[int, int]) -> float:
    """Multiply-adds of all tiles of a size, divided by those of the whole image."""
    size_hw = graph.maps[graph.output].size_hw
    lengths: list[list[int]] = []  # of every map, rows and columns of all tiles together
    for axis in (0, 1):
        total = [0] * len(graph.maps)
        for first in range(0, size_hw[axis], tile_hw[axis]):
            spans = needed_spans(graph, axis, (first, min(first + tile_hw[axis], size_hw[axis])))
            total = [known + (0 if s is None else s[1] - s[0]) for known, s in zip(total, spans, strict=True)]
        lengths.append(total)
    computed = sum(n.operation.multiply_adds * lengths[0][n.output] * lengths[1][n.output] for n in graph.nodes)
    return computed / max(graph.multiply_adds(), 1)


def context_of(graph: Graph) -> int:
    """How far from a pixel, in pixels, its result depends on the image; the graph's image must be larger than that.

    A pixel's place between the strides matters a little; this is the largest.
    """
    height = graph.maps[graph.output].size_hw[0]
    middle, reach = height // 2, 0
    for row in range(middle, middle + 32):
        span = needed_spans(graph, 0, (row, row + 1))[0]
        assert span is not None
        reach = max(reach, row - span[0], span[1] - 1 - row)
    return reach
