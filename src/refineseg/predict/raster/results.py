"""The results of a raster, from its finished tiles: class raster, confidence, probabilities, overlay, polygons.

In: a :class:`~refineseg.predict.raster.job.RasterJob` whose tiles are all finished. Out: files on the raster's grid.
Tiles are read in pieces of 512 rows, so memory is a row of pieces whatever the tiles are; files depend on nothing but
them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refineseg._version import __version__
from refineseg.class_info import ClassInfo
from refineseg.images import render
from refineseg.images.encoding import write_image
from refineseg.predict.outputs.areas import Areas
from refineseg.predict.polygons.vectors import RegionMerger, VectorOptions, write_geojson
from refineseg.predict.raster.files import RasterReader, open_raster
from refineseg.predict.raster.job import RasterJob, pieces
from refineseg.predict.raster.pixels import RasterSource
from refineseg.predict.raster.writing import Layout, write_raster
from refineseg.predict.views.tiling import Region

OVERLAY_SIDE = 2048
"""Longest side of the overlay, in pixels; smaller rasters are shown as they are."""

PROBABILITY_1 = 65535
"""What tiles hold where a probability is 1; pixels without data hold 0."""

_OVERLAY_ROWS = 64


@dataclass(frozen=True)
class RasterResult:
    """What became of a raster.

    Args:
        paths: The files, by kind; ``areas`` is the JSON file.
        class_info: The classes.
        size_hw: Height and width.
        areas: Pixels of the classes; unknown are those without data, too.
        pixel_area_m2: Square metres of a pixel, where the coordinate system is projected.
        tiles: How many there were.
        tiles_kept: How many of them were there already.
        seconds: Duration of this call.
        peak_bytes: Most memory this process ever had, where the system says so.
        notes: What a user should know of how it was read.
        tiles_left: How many other processes still have to do; there are no files and areas before they have.
    """

    paths: Mapping[str, Path]
    class_info: ClassInfo
    size_hw: tuple[int, int]
    areas: Areas
    pixel_area_m2: float | None
    tiles: int
    tiles_kept: int
    seconds: float
    peak_bytes: int | None
    notes: tuple[str, ...] = ()
    tiles_left: int = 0

    @property
    def areas_m2(self) -> tuple[float, ...] | None:
        """Of each class; None where the coordinate system is not projected."""
        if self.pixel_area_m2 is None:
            return None
        return tuple(int(pixels) * self.pixel_area_m2 for pixels in self.areas.of_classes)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "paths": {kind: str(path) for kind, path in self.paths.items()},
            "size_hw": list(self.size_hw),
            "tiles": self.tiles,
            "tiles_kept": self.tiles_kept,
            "tiles_left": self.tiles_left,
            "seconds": self.seconds,
            "peak_bytes": self.peak_bytes,
            "notes": list(self.notes),
            "areas_m2": self.areas_m2,
            **self.areas.to_json(),
        }


@dataclass(frozen=True)
class Finished:
    """Everything a result is made of.

    Args:
        job: With the tiles' files.
        tiles: All of them.
        size_hw: Height and width of the raster as predicted.
        reader: The raster as it is on disk, which says where it lies.
        source: Its pixels.
        class_info: Classes and void.
        compress: Compression of the files, see :data:`~refineseg.predict.raster.options.COMPRESSIONS`.
        overviews: Whether files get overviews.
        turned: Whether the pixels were turned upright, so that they lie on no grid.
        facts: What the header of each file is to say, for instance the scaling.
    """

    job: RasterJob
    tiles: Sequence[Region]
    size_hw: tuple[int, int]
    reader: RasterReader
    source: RasterSource
    class_info: ClassInfo
    compress: str
    overviews: bool
    turned: bool
    facts: dict[str, Any]

    def write_classes(self, path: Path, *, told: Callable[[float], None]) -> NDArray[np.int64]:
        """The class raster: palette, nodata = void, overviews by the most frequent class.

        Args:
            path: A temporary name.
            told: Called with the share of the rows that are written.

        Returns:
            (K + 1,) pixels of each class, and of void.
        """
        classes, dtype = self.class_info, self.class_info.mask_dtype
        counts = np.zeros(classes.num_classes + 1, np.int64)

        def rows(_: int, region: Region) -> NDArray[Any]:
            mask = self._rows("mask", region, dtype)
            found = np.bincount(mask.ravel(), minlength=classes.num_classes)[: classes.num_classes]
            counts[:-1] += found
            counts[-1] += mask.size - int(found.sum())
            told(region.bottom / self.size_hw[0])
            return mask

        size = 256 if dtype == np.uint8 else 65536
        palette = (*classes.palette, *((0, 0, 0),) * (size - classes.num_classes))
        layout = self._layout(dtype, ("class",), overviews="mode")
        layout = replace(layout, nodata=classes.ignore_index, palette=palette)
        write_raster(path, like=self.reader, layout=layout, rows=rows, turned=self.turned)
        return counts

    def write_confidence(self, path: Path, *, bits: int) -> None:
        """The probability of the likeliest class; nodata = 0, which is no such probability.

        Args:
            path: A temporary name.
            bits: 8 (255 is probability 1) or 16 (65535 is).
        """
        largest = 2**bits - 1

        def rows(_: int, region: Region) -> NDArray[Any]:
            values = self._rows("confidence", region, np.dtype(np.uint16))
            return values if bits == 16 else np.rint(values / np.float32(PROBABILITY_1 / largest)).astype(np.uint8)

        dtype = np.dtype(np.uint8 if bits == 8 else np.uint16)
        layout = self._layout(dtype, ("probability of the likeliest class",), overviews="average")
        layout = replace(layout, nodata=0, scale=1 / largest)
        write_raster(path, like=self.reader, layout=layout, rows=rows, turned=self.turned)

    def write_probabilities(self, path: Path, *, chosen: Sequence[int]) -> None:
        """A 16-bit band for each class, 65535 is probability 1; all bands are 0 where there are no data."""

        def rows(band: int, region: Region) -> NDArray[Any]:
            return self._rows(f"probability_{chosen[band]}", region, np.dtype(np.uint16))

        names = tuple(self.class_info.names[index] for index in chosen)
        layout = replace(self._layout(np.dtype(np.uint16), names, overviews="average"), scale=1 / PROBABILITY_1)
        write_raster(path, like=self.reader, layout=layout, rows=rows, turned=self.turned)

    def write_overlay(self, path: Path, *, classes: Path, legend: bool) -> None:
        """The whole raster with the classes painted over it, at most :data:`OVERLAY_SIDE` pixels a side.

        Args:
            path: A temporary name.
            classes: The class raster, finished.
            legend: Name the classes below.
        """
        (height, width), longest = self.size_hw, max(self.size_hw)
        small_hw = tuple(max(1, round(side * min(1.0, OVERLAY_SIDE / longest))) for side in (height, width))
        image = np.empty((*small_hw, 3), np.uint8)
        mask = np.empty(small_hw, self.class_info.mask_dtype)
        with open_raster(classes) as reader:
            for top in range(0, small_hw[0], _OVERLAY_ROWS):
                bottom = min(top + _OVERLAY_ROWS, small_hw[0])
                rows = Region(top * height // small_hw[0], 0, bottom * height // small_hw[0], width)
                size_hw = (bottom - top, small_hw[1])
                shown = self.source.read_small(rows, size_hw)
                image[top:bottom] = shown[..., :3] if shown.shape[2] >= 3 else shown[..., :1]
                mask[top:bottom] = reader.read((1,), rows, size_hw=size_hw)[0]
        write_image(path, render.overlay(image, mask, self.class_info, legend=legend))

    def write_polygons(self, path: Path, *, options: VectorOptions) -> None:
        """Polygons in the raster's coordinate system, or in pixels where it has none; GeoJSON."""
        merger = RegionMerger(self.size_hw, class_info=self.class_info, options=options)
        dtype = self.class_info.mask_dtype
        for _, region in pieces(Region.whole(self.size_hw)):
            stored = self._rows("confidence", region, np.dtype(np.uint16))
            confidence = np.divide(stored, PROBABILITY_1, dtype=np.float32)
            merger.add(region, self._rows("mask", region, dtype), confidence)
        transform, crs = (None, None) if self.turned else (self.reader.transform, self.reader.crs)
        write_geojson(path, merger.finish(), self.class_info, transform=transform, crs=crs)

    def _rows(self, layer: str, region: Region, dtype: np.dtype[Any]) -> NDArray[Any]:
        return self.job.read_rows(self.tiles, region, layer, dtype=dtype)

    def _layout(self, dtype: np.dtype[Any], names: tuple[str, ...], *, overviews: str) -> Layout:
        tags = {f"REFINESEG_{name.upper()}": json.dumps(value) for name, value in self.facts.items()}
        return Layout(
            self.size_hw,
            str(dtype),
            names,
            tags={"TIFFTAG_SOFTWARE": f"refineseg {__version__}", **tags},
            compress=self.compress,
            overviews=overviews if self.overviews else None,
        )
