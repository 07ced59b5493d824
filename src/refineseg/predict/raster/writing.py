"""Rasters written to disk: results in rows of blocks, and a copy in blocks of what can only be read in order.

In: rows of values, top to bottom. Out: tiled, compressed GeoTIFF with overviews, on the grid of its input. Every block
is written once and whole, and every file is read back and compared before it counts: GDAL may report a full disk in its
log alone.

Sources: GDAL's documentation of the GTiff driver.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refineseg.class_info import Colour
from refineseg.predict.raster.files import (
    CACHE_BYTES,
    Dataset,
    RasterReader,
    block_names,
    quietly,
    rasterio_module,
    translated,
    window_of,
)
from refineseg.predict.raster.job import PIECE_ROWS
from refineseg.predict.views.tiling import Region

BLOCK = 256
"""Sides of a block of the files that are written, in pixels; a piece's rows are a multiple of it."""

_SMALLEST_OVERVIEW = 256
_COPY_BYTES = 32 * 2**20
_ADVICE = "make room or choose a folder that may be written to, and run the same command again"

Rows = Callable[[int, Region], NDArray[Any]]
"""Band (from 0) and rows of the whole image -> (h, W)."""

_Written = tuple[list[int], Region, int]
"""Bands, where, and the checksum of what was written there."""


@dataclass(frozen=True)
class Layout:
    """What a raster that is written looks like.

    Args:
        size_hw: Height and width.
        dtype: Type of its pixels.
        names: One per band.
        nodata: Value of pixels without a result; None: no such value.
        palette: Colours of the values, for the first band; empty: none.
        scale: What a value is to be multiplied by.
        tags: Text for its header.
        compress: Compression, one of :data:`~refineseg.predict.raster.options.COMPRESSIONS`.
        overviews: ``mode`` (classes), ``average`` or ``nearest``; None: without.
    """

    size_hw: tuple[int, int]
    dtype: str
    names: tuple[str, ...]
    nodata: int | None = None
    palette: tuple[Colour, ...] = ()
    scale: float = 1.0
    tags: Mapping[str, str] = field(default_factory=dict)
    compress: str = "deflate"
    overviews: str | None = "mode"

    @property
    def overview_factors(self) -> list[int]:
        """2, 4, 8 ... until the whole is no larger than 256 pixels.

        Example:
            >>> Layout((900, 700), "uint8", ("class",)).overview_factors
            [2, 4]
        """
        longest = max(self.size_hw)
        return [2**power for power in range(1, 24) if longest > _SMALLEST_OVERVIEW * 2 ** (power - 1)]


def write_raster(path: Path, *, like: RasterReader, layout: Layout, rows: Rows, turned: bool = False) -> None:
    """Write a result; BigTIFF where it may pass 2 GB.

    Args:
        path: A temporary name; what is there after an error is of no use.
        like: The raster on whose grid it lies.
        layout: What it looks like.
        rows: Called for each band from top to bottom in steps of :data:`~refineseg.predict.raster.job.PIECE_ROWS`.
        turned: The pixels were turned; they lie on no grid then.

    Raises:
        ImageError: It cannot be written.
    """
    rasterio = rasterio_module()
    path.unlink(missing_ok=True)

    def prepare(dataset: Dataset) -> None:
        if layout.palette:
            dataset.write_colormap(1, dict(enumerate(layout.palette)))
        if layout.scale != 1.0:
            dataset.scales = (layout.scale,) * len(layout.names)
        point = {"AREA_OR_POINT": "Point"} if like.is_point and not turned else {}
        dataset.update_tags(**layout.tags, **point)
        for band, name in enumerate(layout.names):
            dataset.set_band_description(band + 1, name.encode("utf-8", "backslashreplace").decode("utf-8"))

    def pieces() -> Iterator[tuple[list[int], Region, NDArray[Any]]]:
        for band in range(len(layout.names)):
            for region in _strips(layout.size_hw, PIECE_ROWS):
                yield [band + 1], region, rows(band, region)[None]

    with rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES), quietly(), translated(f"to write {path}", _ADVICE):
        profile = _profile(layout, interleave="band") | ({} if turned else like.places())
        written = _store(path, profile, pieces(), prepare=prepare)
        _compare(path, written, num_overviews=0)
        if layout.overviews and layout.overview_factors:
            with rasterio.open(path, "r+") as dataset:
                dataset.build_overviews(layout.overview_factors, rasterio.enums.Resampling[layout.overviews])
            _compare(path, written, num_overviews=len(layout.overview_factors))


def _profile(layout: Layout, *, interleave: str, block: int = BLOCK) -> dict[str, Any]:
    height, width = layout.size_hw
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "height": height,
        "width": width,
        "count": len(layout.names),
        "dtype": layout.dtype,
        "nodata": layout.nodata,
        "tiled": True,
        "blockxsize": block,
        "blockysize": block,
        "interleave": interleave,
        "BIGTIFF": "IF_SAFER",
    }
    return profile if layout.compress == "none" else profile | {"compress": layout.compress}


def _strips(size_hw: tuple[int, int], height: int) -> Iterator[Region]:
    for top in range(0, size_hw[0], height):
        yield Region(top, 0, min(top + height, size_hw[0]), size_hw[1])


def _store(
    path: Path,
    profile: Mapping[str, Any],
    pieces: Iterable[tuple[list[int], Region, NDArray[Any]]],
    *,
    prepare: Callable[[Dataset], None] | None = None,
) -> list[_Written]:
    options = dict(profile)
    rpcs = options.pop("rpcs", None)
    written = []
    with rasterio_module().open(path, "w", **options) as dataset:
        if rpcs is not None:
            dataset.rpcs = rpcs
        if prepare is not None:
            prepare(dataset)
        for bands, region, values in pieces:
            whole = np.ascontiguousarray(values.astype(options["dtype"], copy=False))
            written.append((bands, region, zlib.crc32(whole.data)))
            dataset.write(whole, bands, window=window_of(region))
    return written


def _compare(path: Path, written: Iterable[_Written], *, num_overviews: int) -> None:
    """Whether the file holds what was written, and its overviews can be read: every block is unpacked."""
    rasterio = rasterio_module()
    with rasterio.open(path) as dataset:
        for bands, region, total in written:
            if zlib.crc32(np.ascontiguousarray(dataset.read(bands, window=window_of(region))).data) != total:
                raise OSError(f"rows {region.top} to {region.bottom} could not be stored completely")
        if len(dataset.overviews(1)) != num_overviews:
            raise OSError("overviews could not be stored completely")
    for level in range(num_overviews):
        with rasterio.open(path, overview_level=level) as dataset:
            for band in range(1, dataset.count + 1):
                for name in block_names(dataset.shape, (BLOCK, BLOCK)):  # GDAL reads a block that is not there as zeros
                    if not dataset.get_tag_item(f"BLOCK_OFFSET_{name}", "TIFF", bidx=band):
                        raise OSError("overviews could not be stored completely")
                for region in _strips(dataset.shape, PIECE_ROWS):
                    dataset.read(band, window=window_of(region))


def copy_in_order(
    path: Path, reader: RasterReader, bands: tuple[int, ...], *, orientation: int, declared: bool
) -> None:
    """Copy the bands of a raster that can only be read from top to bottom into blocks, and turn it upright.

    The last band of the copy is 1 where there are data.

    Args:
        path: A temporary name.
        reader: The raster.
        bands: Bands; their values stay as they are.
        orientation: EXIF's, 1 to 8.
        declared: As in :meth:`~refineseg.predict.raster.files.RasterReader.valid`.

    Raises:
        ImageError: The raster is damaged, or the copy cannot be written.
    """
    height, width = reader.size_hw
    dtype = reader.meaning(bands).dtype
    layout = Layout(
        (width, height) if orientation >= 5 else (height, width),
        str(dtype),
        (*(f"band {band}" for band in bands), "data"),
    )
    block = 256
    while block > 16 and block * width * len(layout.names) * dtype.itemsize > _COPY_BYTES:
        block //= 2

    def pieces() -> Iterator[tuple[list[int], Region, NDArray[Any]]]:
        for strip in _strips((height, width), block):
            values = reader.read(bands, strip)
            valid = reader.valid(bands, strip, declared=declared)
            data = np.ones((1, *strip.size_hw), values.dtype) if valid is None else valid[None].astype(values.dtype)
            joined = np.concatenate([values, data])
            yield (
                list(range(1, len(joined) + 1)),
                turned_region(strip, (height, width), orientation),
                turned(joined, orientation),
            )

    path.unlink(missing_ok=True)
    with rasterio_module().Env(GDAL_CACHEMAX=CACHE_BYTES), quietly(), translated(f"to write {path}", _ADVICE):
        profile = _profile(layout, interleave="pixel", block=block) | {"zlevel": 1}
        _compare(path, _store(path, profile, pieces()), num_overviews=0)


def turned(values: NDArray[Any], orientation: int) -> NDArray[Any]:
    """(B, h, w) turned upright by EXIF's orientation; sides are exchanged from 5 on. Source: EXIF 2.3, Orientation.

    Example:
        >>> turned(np.array([[[1, 2], [3, 4]]]), 6)[0].tolist()  # a quarter to the right
        [[3, 1], [4, 2]]
    """
    if orientation >= 5:
        values = values.transpose(0, 2, 1)
    upside, mirrored = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return values[:, :: -1 if upside else 1, :: -1 if mirrored else 1]


def turned_region(region: Region, size_hw: tuple[int, int], orientation: int) -> Region:
    """Where a region of an image of that size lies after :func:`turned`.

    Example:
        >>> turned_region(Region(0, 0, 1, 5), (4, 5), 6)
        Region(top=0, left=3, bottom=5, right=4)
    """
    (height, width), (top, left, bottom, right) = size_hw, (region.top, region.left, region.bottom, region.right)
    if orientation >= 5:
        height, width, top, left, bottom, right = width, height, left, top, right, bottom
    if orientation in (3, 4, 7, 8):
        top, bottom = height - bottom, height - top
    if orientation in (2, 3, 6, 7):
        left, right = width - right, width - left
    return Region(top, left, bottom, right)
