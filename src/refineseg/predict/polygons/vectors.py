"""Regions of a mask as files: GeoJSON and COCO JSON.

In: regions, or a mask. Out: files other programs open. GeoJSON (RFC 7946) is written feature by feature. Coordinates
are pixels, x to the right and y down, unless a raster's place on the ground is given. What a region is, and how exact
polygons are, says :mod:`refineseg.predict.polygons.class_regions`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray

from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError
from refineseg.files.made_by import MADE_BY
from refineseg.files.writing import written_beside
from refineseg.predict.polygons.class_regions import (
    ClassRegion,
    RegionMerger,
    VectorOptions,
    geojson_geometries,
    regions_of,
)
from refineseg.predict.polygons.coco_results import coco_annotations
from refineseg.predict.polygons.coordinates import Affine, Ground

__all__ = [
    "ENDINGS",
    "ClassRegion",
    "RegionMerger",
    "VectorOptions",
    "coco_annotations",
    "encode_vectors",
    "regions_of",
    "write_geojson",
]

ENDINGS = {"geojson": ".geojson", "coco": "_coco.json"}
"""Formats of :func:`encode_vectors`, and what follows the image's name in the name of the file."""

_AT_ONCE = 4096  # features


def write_geojson(
    path: Path,
    regions: Sequence[ClassRegion],
    class_info: ClassInfo,
    *,
    transform: Affine | None = None,
    crs: str | None = None,
) -> None:
    """Write regions as a GeoJSON FeatureCollection; the file appears only when it is complete.

    Properties of each feature: ``class``, ``class_index``, ``colour`` (``#rrggbb``), ``area`` (pixels),
    ``mean_confidence`` (0..1, where known), and ``map_area`` (square units of a projected system; the collection's
    ``map_unit`` names the unit).

    RFC 7946 knows longitude and latitude of WGS 84 only. With another system the coordinates are those of the raster,
    and the collection has the ``crs`` member of the older GeoJSON of 2008, which GDAL and QGIS read. A system without a
    number in a register cannot be named there: then coordinates become longitude and latitude. Corners alone are
    projected, and a region across the 180th meridian is not cut. Borders stay shared in every case.

    Args:
        path: Path of the file.
        regions: Regions in the order of the features.
        class_info: The classes.
        transform: The raster's ``(a, b, c, d, e, f)``; None writes pixels, whatever the system.
        crs: The raster's coordinate reference system, as ``EPSG:32633`` or WKT.

    Raises:
        ConfigError: A transform or system that is none.
        MissingExtraError: shapely, or rasterio for a coordinate system, is not installed.
        OutputError: The file cannot be written.
    """
    ground = None if transform is None else Ground(transform, crs)
    head: dict[str, Any] = {name: _IN_PIXELS[name] for name in ("type", "generator")}
    place: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None
    if ground is None:
        head = _IN_PIXELS
    elif ground.crs is not None and ground.name is None:
        place = ground.longitude_latitude
    else:
        place = ground.places
        if ground.name is not None and not ground.is_longitude_latitude:
            head["crs"] = {"type": "name", "properties": {"name": ground.name}}
    unit = None if ground is None else ground.unit
    if unit is not None:
        head["map_unit"] = unit
    pixel_area = None if ground is None or unit is None else ground.pixel_area
    with written_beside(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        _write_collection(file, head, _features(regions, class_info, place, pixel_area))


def _write_collection(file: TextIO, head: Mapping[str, Any], features: Iterator[str]) -> None:
    """A collection, feature by feature."""
    file.write(json.dumps(head)[:-1] + ', "features": [')
    for number, text in enumerate(features):
        file.write((",\n" if number else "\n") + text)
    file.write("\n]}\n")


_IN_PIXELS = {"type": "FeatureCollection", "generator": MADE_BY, "coordinates": "pixels, x to the right, y down"}


def _features(
    regions: Sequence[ClassRegion],
    class_info: ClassInfo,
    place: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None,
    pixel_area: float | None,
) -> Iterator[str]:
    colours = [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in class_info.palette]
    for start in range(0, len(regions), _AT_ONCE):
        some = regions[start : start + _AT_ONCE]
        for region, geometry in zip(some, geojson_geometries(some, place), strict=True):
            properties: dict[str, Any] = {
                "class": class_info.names[region.class_index],
                "class_index": region.class_index,
                "colour": colours[region.class_index],
                "area": region.area,
            }
            if region.mean_confidence is not None:
                properties["mean_confidence"] = round(region.mean_confidence, 6)
            if pixel_area is not None:
                properties["map_area"] = region.area * pixel_area
            yield f'{{"type": "Feature", "properties": {json.dumps(properties)}, "geometry": {geometry}}}'


def encode_vectors(
    mask: NDArray[Any],
    class_info: ClassInfo,
    *,
    polygon_format: str = "geojson",
    confidence: Float32[np.ndarray, "h w"] | None = None,
    options: VectorOptions | None = None,
    file_name: str = "",
) -> bytes:
    """The regions of a mask as the bytes of a file, in pixels.

    Args:
        mask: Mask, ``(H, W)`` class indices or ``ignore_index``.
        class_info: Classes of the mask.
        polygon_format: Name of a format, a key of :data:`ENDINGS`.
        confidence: Probability of each pixel's class, ``(H, W)`` 0..1; None: not known.
        options: Options of which regions, and how exact.
        file_name: Name of the file of the image, for COCO.

    Raises:
        ConfigError: An unknown format, or what :func:`~refineseg.predict.polygons.class_regions.regions_of` refuses.
        MissingExtraError: shapely is not installed.
    """
    if polygon_format not in ENDINGS:
        raise ConfigError(f"expected a polygon format of {', '.join(ENDINGS)}, got {polygon_format}")
    regions = regions_of(mask, class_info=class_info, confidence=confidence, options=options)
    if polygon_format == "coco":
        size_hw = mask.shape[0], mask.shape[1]
        return json.dumps(coco_annotations(regions, class_info, size_hw=size_hw, file_name=file_name)).encode()
    text = io.StringIO()
    _write_collection(text, _IN_PIXELS, _features(regions, class_info, None, None))
    return text.getvalue().encode()
