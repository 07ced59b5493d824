"""Regions of a mask as polygons. The only file that imports shapely.

In: masks, whole or in tiles. Out: :class:`ClassRegion`, one polygon with holes for each region, with its class, area
and mean confidence. Neighbours share their borders exactly: there are no gaps and no overlaps, with simpler borders
neither.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError, MissingExtraError
from refineseg.predict.polygons.borders import rings
from refineseg.predict.polygons.merging import Coverage, TileMerger, without_small
from refineseg.predict.polygons.regions import CONFIDENCE_UNIT, region_labels
from refineseg.predict.polygons.simplify import simplified
from refineseg.predict.views.tiling import Region


def geometry_tools() -> ModuleType:
    """The module ``shapely``.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import shapely
    except ImportError as error:
        raise MissingExtraError("shapely", extra="vectors", purpose="turn masks into polygons") from error
    found: ModuleType = shapely
    return found


@dataclass(frozen=True)
class VectorOptions:
    """Which regions become polygons, and how exact these are.

    Args:
        simplify: Most that a border may move, in pixels (Hausdorff distance); 0 keeps every corner of every pixel.
        smallest_area: Regions of fewer pixels become part of the neighbour with the longest common border, the smallest
            first; those that touch only void or the image's sides become void.
        classes: Names of the classes wanted; None for all. The others are then treated as void.

    Raises:
        ConfigError: A number below 0, or none.
    """

    simplify: float = 1.0
    smallest_area: float = 0.0
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name, value in (("simplify", self.simplify), ("smallest_area", self.smallest_area)):
            if not (value >= 0 and math.isfinite(value)):
                raise ConfigError(f"expected {name} to be a number of pixels from 0 on, got {value}")

    def class_indices(self, class_info: ClassInfo) -> NDArray[np.int64]:
        """The classes wanted.

        Raises:
            ConfigError: A name that is no class.
        """
        if self.classes is None:
            return np.arange(class_info.num_classes)
        unknown = [name for name in self.classes if name not in class_info.names]
        if unknown:
            raise ConfigError(
                f"expected classes of the model ({', '.join(class_info.names)}) as polygons, got {', '.join(unknown)}"
            )
        return np.array([class_info.names.index(name) for name in self.classes], np.int64)


@dataclass(frozen=True, eq=False)
class ClassRegion:
    """Pixels of one class that hang together over their sides (connectivity 4).

    Args:
        class_index: The class.
        polygon: A valid ``shapely.Polygon`` with holes; corners of pixels, x to the right and y down, (0, 0) the
            image's upper left corner.
        area: Pixels, before borders were simplified.
        mean_confidence: Mean over the region's pixels, 0..1, of the probability of each pixel's class; None where
            unknown.
    """

    class_index: int
    polygon: Any
    area: int
    mean_confidence: float | None = None


class RegionMerger:
    """Regions of an image that comes in tiles, in any order; they are those of the whole mask, bit for bit.

    Kept are the corners of all borders so far (not the tiles) and the pixels along sides whose other side is to come.

    Args:
        size_hw: Height and width of the image.
        class_info: The classes.
        options: Options of which regions, and how exact.

    Raises:
        ConfigError: Classes wanted that are not there.
        MissingExtraError: shapely is not installed.

    Example:
        >>> merger = RegionMerger((2, 4), class_info=ClassInfo(("sky", "road")))
        >>> merger.add(Region(0, 2, 2, 4), np.array([[1, 1], [1, 0]]))
        >>> merger.add(Region(0, 0, 2, 2), np.array([[0, 1], [0, 1]]))
        >>> [(region.class_index, region.area) for region in merger.finish()]
        [(0, 2), (1, 5), (0, 1)]
    """

    def __init__(
        self, size_hw: tuple[int, int], *, class_info: ClassInfo, options: VectorOptions | None = None
    ) -> None:
        geometry_tools()  # to miss it now and not after hours
        self._class_info = class_info
        self._options = options or VectorOptions()
        self._classes = self._options.class_indices(class_info)
        self._merger = TileMerger(size_hw)
        self._confident: bool | None = None

    def add(self, region: Region, mask: NDArray[Any], confidence: NDArray[np.float32] | None = None) -> None:
        """Take one tile.

        Args:
            region: Where it lies; tiles do not overlap.
            mask: ``(h, w)`` class indices or ``ignore_index``.
            confidence: Confidence of every pixel, 0..1; with all tiles or with none.

        Raises:
            ConfigError: Values that are no class, a tile outside the image, of another size or over another, or
                confidences with some tiles only.
        """
        if self._confident not in (None, confidence is not None):
            raise ConfigError("expected confidences with all tiles or with none, got them with some; leave them out")
        labels, table = region_labels(mask, self._class_info, confidence=confidence)
        self._merger.add(region, labels, table)
        self._confident = confidence is not None

    def finish(self) -> list[ClassRegion]:
        """The regions of the image, in the order of their first pixels in reading order.

        Raises:
            ConfigError: Tiles are missing.
        """
        coverage = without_small(self._merger.finish(), self._options.smallest_area)
        coverage = coverage.chosen(self._classes)
        polygons = _polygons(coverage, simplify=self._options.simplify)
        table = coverage.table
        means = (table.confidences / table.areas * CONFIDENCE_UNIT).tolist()
        rows = zip(table.classes.tolist(), polygons, table.areas.tolist(), means, strict=True)
        return [ClassRegion(c, polygon, area, mean if self._confident else None) for c, polygon, area, mean in rows]


def regions_of(
    mask: NDArray[Any],
    *,
    class_info: ClassInfo,
    confidence: NDArray[np.float32] | None = None,
    options: VectorOptions | None = None,
) -> list[ClassRegion]:
    """The regions of a mask as polygons.

    Args:
        mask: ``(H, W)`` class indices or ``ignore_index``; void is no region.
        class_info: The classes.
        confidence: ``(H, W)`` 0..1, the probability of each pixel's class.
        options: Options of which regions, and how exact.

    Returns:
        In the order of their first pixels in reading order.

    Raises:
        ConfigError: Values or class names that are no class, or confidences of another size.
        MissingExtraError: shapely is not installed.

    Example:
        >>> mask = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 0]], np.uint8)
        >>> ground, stone = regions_of(mask, class_info=ClassInfo(("ground", "stone")))
        >>> ground.area, len(ground.polygon.interiors), stone.polygon.bounds
        (8, 1, (1.0, 1.0, 2.0, 2.0))
    """
    merger = RegionMerger((mask.shape[0], mask.shape[-1]), class_info=class_info, options=options)
    merger.add(Region.whole((mask.shape[0], mask.shape[-1])), mask, confidence)
    return merger.finish()


def geojson_geometries(
    regions: Sequence[ClassRegion], place: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None
) -> list[str]:
    """The polygons of some regions as GeoJSON text.

    Args:
        regions: Any.
        place: Corners of pixels ``(N, 2)`` -> coordinates to write; None writes the corners.

    Returns:
        One geometry each; the outside runs counterclockwise in the written coordinates, holes clockwise (RFC 7946,
        section 3.1.6).
    """
    shapely = geometry_tools()
    polygons = np.array([region.polygon for region in regions], object)
    if place is not None:
        polygons = shapely.transform(polygons, place)
    texts: list[str] = shapely.to_geojson(shapely.orient_polygons(polygons)).tolist()
    return texts


def corners(regions: Sequence[ClassRegion]) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """The corners of all polygons.

    Returns:
        ``(N, 2)`` x and y, the first of each ring again at its end; ``(G + 1,)`` where each ring begins; ``(G,)`` the
        place in ``regions`` of each ring's region, the outside before the holes.
    """
    shapely = geometry_tools()
    lines, owners = shapely.get_rings(np.array([region.polygon for region in regions], object), return_index=True)
    counts = shapely.get_num_coordinates(lines).astype(np.int64)
    return shapely.get_coordinates(lines), np.append(0, np.cumsum(counts)), owners.astype(np.int64)


def _polygons(coverage: Coverage, *, simplify: float) -> list[Any]:
    """One valid polygon for each region, in their order."""
    if not len(coverage.table.classes):
        return []
    shapely = geometry_tools()
    around = rings(coverage.borders)
    points, counts = around.points(simplified(coverage.borders, simplify))
    lines = shapely.linearrings(points.astype(np.float64), indices=np.repeat(np.arange(len(counts)), counts))
    polygons: list[Any] = shapely.polygons(lines, indices=around.regions).tolist()
    return polygons
