"""Rasters on disk, read in windows. The only door to rasterio (GDAL).

In: a path. Out: :class:`RasterReader`: pixels, which of them hold data, and where on the ground they lie. GDAL's own
cache is bounded (:data:`CACHE_BYTES`); without that it would take a twentieth of the machine's memory.

Sources: rasterio's and GDAL's documentation (GTiff, JPEG, PNG and JP2OpenJPEG drivers).
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refineseg.errors import ImageError, MissingExtraError
from refineseg.predict.views.tiling import Region

CACHE_BYTES = 128 * 2**20

Dataset = Any
"""rasterio's, which has no types."""

_DRIVERS = ("GTiff", "JPEG", "PNG", "JP2OpenJPEG", "VRT", "HFA", "WEBP", "BMP")  # no others: some run programs
_NOTHING_FOREIGN = {  # a .vrt may name what lies anywhere, which GDAL would fetch, and hold code
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "none",
    "GDAL_SKIP": "HTTP WMS WMTS WCS PLMOSAIC EEDA EEDAI STACIT STACTA DAAS",  # heeded by the first who uses GDAL
    **dict.fromkeys(("GDAL_HTTP_PROXY", "GDAL_HTTPS_PROXY"), "http://127.0.0.1:1"),  # where nothing listens
}
_MOST_PIXELS = 1 << 40
_STRETCHING = ("merc", "webmerc", "eqc", "mill")  # PROJ's names of what keeps no areas in any part of the world
_RANDOM_ACCESS = ("GTiff", "JP2OpenJPEG", "VRT", "HFA")
_SEQUENTIAL_PIXELS = 1 << 24  # compressed strips of larger images are unpacked again and again by windows
_MOST_CHECKED_BLOCKS = 1 << 20


def rasterio_module() -> ModuleType:
    """The package.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import rasterio as module
        import rasterio._err
    except ImportError as error:
        raise MissingExtraError("rasterio", extra="geo", purpose="read and write rasters such as GeoTIFF") from error
    loaded: ModuleType = module
    return loaded


@contextmanager
def translated(expected: str, advice: str) -> Iterator[None]:
    """GDAL's errors as ours.

    Raises:
        ImageError: With GDAL's reason between what was expected and the advice.
    """
    rasterio = rasterio_module()
    kinds = (rasterio.errors.RasterioError, rasterio._err.CPLE_BaseError)  # some of GDAL's pass through rasterio as is
    try:
        yield
    except (*kinds, OSError, ValueError) as error:
        reason = str(error.__cause__ or error).strip() or type(error).__name__
        raise ImageError(f"expected {expected}, got: {reason}; {advice}") from error


@contextmanager
def quietly() -> Iterator[None]:
    """Without rasterio's warning that an image has no place on the ground."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio_module().errors.NotGeoreferencedWarning)
        yield


class Meaning(NamedTuple):
    """What the values of chosen bands stand for.

    Args:
        types: Type of the pixels of each band.
        num_bits: Number of bits of a pixel, where the file says it has fewer than its type, else those of the type.
        palette: (256, 4) colours and opacities of palette indices, 65536 of 16 bits; None: they are none.
        inverted: The smallest value is white.
    """

    types: tuple[str, ...]
    num_bits: int
    palette: NDArray[np.uint8] | None
    inverted: bool

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type that holds the pixels of all of them."""
        return np.result_type(*map(np.dtype, self.types))


class RasterReader:
    """An open raster. Bands count from 1. One thread reads at a time.

    Args:
        path: File, for messages.
        dataset: rasterio's.
    """

    def __init__(self, path: Path, dataset: Dataset) -> None:
        self.path = path
        self._dataset = dataset
        self._lock = threading.Lock()
        self.size_hw: tuple[int, int] = (int(dataset.height), int(dataset.width))
        self.num_bands = int(dataset.count)
        self.colours: tuple[str, ...] = tuple(colour.name for colour in dataset.colorinterp)

    def meaning(self, bands: Sequence[int]) -> Meaning:
        """What the values of these bands (from 1) stand for.

        Raises:
            ImageError: One of several has palette indices, or indices have no colours.
        """
        types = tuple(self._dataset.dtypes[band - 1] for band in bands)
        said = [self._dataset.tags(band, ns="IMAGE_STRUCTURE").get("NBITS") for band in bands]
        num_bits = max(int(bits or 8 * np.dtype(name).itemsize) for bits, name in zip(said, types, strict=True))
        palette = self._palette(bands)
        white = tuple(bands) == (1,) and self._dataset.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"
        return Meaning(types, num_bits, palette, white and palette is None)

    @property
    def orientation(self) -> int:
        """EXIF's, 1 (upright) to 8; rasters that have a place on the ground are never turned."""
        said = self._dataset.tags().get("EXIF_Orientation", "1").strip()
        return int(said) if said in list("12345678") and not self.is_georeferenced else 1

    @property
    def files(self) -> tuple[str, ...]:
        """The files that it is made of."""
        return tuple(self._dataset.files)

    @property
    def stretches_areas(self) -> bool:
        """Whether a metre of its coordinates is shorter the farther it is from the equator, as Mercator's is."""
        crs = self._dataset.crs
        return bool(crs and crs.is_projected and crs.to_dict().get("proj") in _STRETCHING)

    @property
    def is_placed_by_points(self) -> bool:
        """Whether ground control points or a camera model say where it lies, and no grid does."""
        return self.transform is None and bool(self._dataset.gcps[0] or self._dataset.rpcs)

    @property
    def is_georeferenced(self) -> bool:
        """Whether anything says where on the ground its pixels are."""
        dataset = self._dataset
        return bool(dataset.crs or not dataset.transform.is_identity or dataset.gcps[0] or dataset.rpcs)

    @property
    def is_sequential(self) -> bool:
        """Whether its pixels can only be had from top to bottom: PNG, JPEG and large compressed strips of TIFF."""
        dataset = self._dataset
        if dataset.driver not in _RANDOM_ACCESS:
            return True
        height, width = self.size_hw
        strips = dataset.driver == "GTiff" and dataset.block_shapes[0][1] == width
        packed = dataset.tags(ns="IMAGE_STRUCTURE").get("COMPRESSION") is not None
        return bool(strips and packed and height * width > _SEQUENTIAL_PIXELS)

    def _palette(self, bands: Sequence[int]) -> NDArray[np.uint8] | None:
        indexed = [band for band in bands if self.colours[band - 1] == "palette"]
        if not indexed:
            return None
        if len(bands) > 1:
            raise ImageError(
                f"expected one band of palette indices or several without, got bands {', '.join(map(str, bands))} of "
                f"{self.path}, where {', '.join(map(str, indexed))} have palettes; choose one of them with --bands"
            )
        dtype = np.dtype(self._dataset.dtypes[bands[0] - 1])
        if dtype not in (np.uint8, np.uint16):
            raise ImageError(
                f"expected palette indices of 8 or 16 bits without a sign, got {dtype} in {self.path}; save it as RGB"
            )
        table = np.zeros((1 << (8 * dtype.itemsize), 4), np.uint8)
        table[:, 3] = 255
        with translated(f"a palette of band {bands[0]} of {self.path}", "save it as grey or RGB"):
            colours = self._dataset.colormap(bands[0])
        for index, colour in colours.items():
            if index < len(table):
                table[index] = colour
        return table

    @property
    def crs(self) -> str | None:
        """The coordinate system: ``EPSG:32616``, or WKT where it has no such number; None where it has none."""
        crs = self._dataset.crs
        if not crs:
            return None
        code = crs.to_epsg()
        return f"EPSG:{code}" if code else str(crs.to_wkt())

    @property
    def transform(self) -> tuple[float, float, float, float, float, float] | None:
        """(a, b, c, d, e, f): x = a column + b row + c, y = d column + e row + f; None where there is none."""
        transform = self._dataset.transform
        if transform.is_identity:
            return None
        return transform.a, transform.b, transform.c, transform.d, transform.e, transform.f

    @property
    def pixel_area_m2(self) -> float | None:
        """Square metres of a pixel where the coordinate system is projected and does not stretch areas, else None."""
        crs, transform = self._dataset.crs, self._dataset.transform
        if not crs or transform.is_identity or not crs.is_projected or self.stretches_areas:
            return None
        metres = float(crs.linear_units_factor[1])
        return abs(float(transform.determinant)) * metres**2

    def read(
        self, bands: Sequence[int], region: Region, *, size_hw: tuple[int, int] | None = None, smooth: bool = False
    ) -> NDArray[Any]:
        """Pixels as they are stored, (B, h, w).

        Args:
            bands: Bands, from 1.
            region: Region of the raster.
            size_hw: Shrink to this size, from overviews where there are any.
            smooth: Shrink by averages; else each pixel is one of the raster's.

        Raises:
            ImageError: The file is damaged there.
        """
        rasterio = rasterio_module()
        method = rasterio.enums.Resampling.average if smooth else rasterio.enums.Resampling.nearest
        with self._lock, self._reading(region):
            how = {"window": window_of(region), "resampling": method}
            shape = size_hw or region.size_hw
            if len({self._dataset.dtypes[band - 1] for band in bands}) == 1:
                values: NDArray[Any] = self._dataset.read(list(bands), out_shape=(len(bands), *shape), **how)
                return values
            return np.stack([self._dataset.read(band, out_shape=shape, **how) for band in bands])

    def valid(
        self, bands: Sequence[int], region: Region, *, size_hw: tuple[int, int] | None = None, declared: bool = True
    ) -> NDArray[np.bool_] | None:
        """Which pixels hold data in any of the bands, (h, w), by nodata value, mask or alpha; None: all.

        Args:
            bands: Bands, from 1.
            region: Region of the raster.
            size_hw: As in :meth:`read`.
            declared: Heed the file's nodata value.
        """
        flags = [{flag.name for flag in self._dataset.mask_flag_enums[band - 1]} for band in bands]
        if all("all_valid" in flag or (not declared and "nodata" in flag) for flag in flags):
            return None
        with self._lock, self._reading(region):
            masks: NDArray[np.uint8] = self._dataset.read_masks(
                list(bands), window=window_of(region), out_shape=(len(bands), *(size_hw or region.size_hw))
            )
        return np.asarray((masks > 0).any(axis=0))

    @contextmanager
    def _reading(self, region: Region) -> Iterator[None]:
        where = f"rows {region.top} to {region.bottom}, columns {region.left} to {region.right}"
        with translated(f"readable pixels in {where} of {self.path}", "the file is truncated or damaged: replace it"):
            yield

    def check_complete(self) -> None:
        """Compare where a TIFF says its blocks are with the file's length.

        Raises:
            ImageError: It is truncated.
        """
        dataset = self._dataset
        if dataset.driver != "GTiff":
            return
        length = self.path.stat().st_size
        pixelwise = dataset.tags(ns="IMAGE_STRUCTURE").get("INTERLEAVE") != "BAND"
        for band in [1] if pixelwise else range(1, self.num_bands + 1):
            for name in block_names(self.size_hw, dataset.block_shapes[0]):
                offset = dataset.get_tag_item(f"BLOCK_OFFSET_{name}", "TIFF", bidx=band)
                size = dataset.get_tag_item(f"BLOCK_SIZE_{name}", "TIFF", bidx=band)
                if offset and size and int(offset) + int(size) > length:
                    raise ImageError(
                        f"expected at least {int(offset) + int(size)} bytes in {self.path}, got {length}: the file "
                        "is truncated; copy or download it again"
                    )

    def places(self) -> dict[str, Any]:
        """What puts its pixels on the ground, for a file of the same grid: rasterio's values, coordinates and tags."""
        dataset = self._dataset
        points, points_crs = dataset.gcps
        found: dict[str, Any] = {"crs": points_crs if points and not dataset.crs else dataset.crs}
        if points:
            found["gcps"] = points
        elif not dataset.transform.is_identity:
            found["transform"] = dataset.transform
        if dataset.rpcs:
            found["rpcs"] = dataset.rpcs
        return found

    @property
    def is_point(self) -> bool:
        """Whether coordinates mean pixel centres (GDAL's AREA_OR_POINT)."""
        return str(self._dataset.tags().get("AREA_OR_POINT", "")) == "Point"


def window_of(region: Region) -> object:
    """A region as rasterio's window."""
    return rasterio_module().windows.Window(region.left, region.top, region.width, region.height)


def block_names(size_hw: tuple[int, int], block_hw: tuple[int, int]) -> Iterator[str]:
    """``COLUMN_ROW`` of every block, as GDAL's metadata count them; none of files with more than a million."""
    rows, columns = -(-size_hw[0] // block_hw[0]), -(-size_hw[1] // block_hw[1])
    if rows * columns <= _MOST_CHECKED_BLOCKS:
        yield from (f"{column}_{row}" for row in range(rows) for column in range(columns))


@contextmanager
def open_raster(path: Path) -> Iterator[RasterReader]:
    """A raster as it is on disk. Nothing is fetched over a network for it, whatever a ``.vrt`` names.

    Raises:
        ImageError: There is no such file, it is empty, truncated, of another kind, or of complex numbers, or it
            declares more than a million megapixels.
        MissingExtraError: rasterio is not installed.
    """
    rasterio = rasterio_module()
    if not path.is_file():
        raise ImageError(f"expected a raster, but there is no file {path}")
    if path.stat().st_size == 0:
        raise ImageError(f"expected a raster, got {path}, which is empty (0 bytes); replace it")
    limits = {"GDAL_CACHEMAX": CACHE_BYTES, "GDAL_ERROR_ON_LIBJPEG_WARNING": "TRUE", **_NOTHING_FOREIGN}
    with rasterio.Env(**limits), quietly():
        with translated(f"a raster in {path}", f"{', '.join(_DRIVERS)} are read; it may be truncated: replace it"):
            dataset = rasterio.io.DatasetReader(str(path), driver=list(_DRIVERS))  # open() takes one driver only
        with dataset:
            if not dataset.count:
                raise ImageError(f"expected a raster with at least one band, got {path} with none")
            if dataset.height * dataset.width > _MOST_PIXELS:
                raise ImageError(
                    f"expected a raster of at most {_MOST_PIXELS} pixels, got {dataset.height}x{dataset.width} in "
                    f"{path}; cut it first"
                )
            complex_types = [name for name in dataset.dtypes if "complex" in name]
            if complex_types:
                raise ImageError(
                    f"expected pixels of integers or real numbers, got {complex_types[0]} in {path}; "
                    "write their magnitude as a raster first"
                )
            yield RasterReader(path, dataset)
