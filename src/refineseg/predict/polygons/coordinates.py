"""Where pixels lie on the ground: a raster's affine transform and its coordinate reference system.

In: what a georeferenced raster says. Out: map coordinates of corners of pixels, the area of a pixel, and the system's
name. One of the two doors to rasterio, for its projections alone; the other one reads and writes rasters.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refineseg.errors import ConfigError, MissingExtraError

_LONGITUDE_LATITUDE = ("EPSG", "4326")

System = Any
"""rasterio's ``CRS``, which has no types."""

Affine = tuple[float, float, float, float, float, float]
"""``(a, b, c, d, e, f)``: x = a column + b row + c, y = d column + e row + f."""


@dataclass(frozen=True)
class Ground:
    """The coordinates of an image's pixels on the ground.

    Args:
        transform: Transform of the corners of pixels, (0, 0) the upper left one of the image.
        crs: Coordinate reference system, anything rasterio understands (``EPSG:32633``, WKT); None where unknown.

    Raises:
        ConfigError: A transform that is none, or a system that PROJ does not know.
        MissingExtraError: A system is given and rasterio is not installed.

    Example:
        >>> Ground((0.5, 0.0, 100.0, 0.0, -0.5, 900.0), None).places(np.array([[2.0, 4.0]])).tolist()
        [[101.0, 898.0]]
    """

    transform: Affine
    crs: str | None

    def __post_init__(self) -> None:
        a, b, _, d, e, _ = self.transform
        if not all(map(math.isfinite, self.transform)) or a * e == b * d:
            raise ConfigError(f"expected an affine transform (a, b, c, d, e, f) with a size, got {self.transform}")
        self._system()

    @property
    def name(self) -> str | None:
        """The system's name as of OGC, ``urn:ogc:def:crs:EPSG::32633``; None where it has no number of its own."""
        system = self._system()
        authority = None if system is None else _quiet_authority(system)
        return None if authority is None else f"urn:ogc:def:crs:{authority[0]}::{authority[1]}"

    @property
    def is_longitude_latitude(self) -> bool:
        """Whether x and y are longitude and latitude of WGS 84 already."""
        system = self._system()
        return system is not None and _quiet_authority(system) in (_LONGITUDE_LATITUDE, ("OGC", "CRS84"))

    @property
    def unit(self) -> str | None:
        """The unit of x and y of a projected system, ``metre`` for instance; None of degrees and unknown systems."""
        system = self._system()
        return None if system is None or not system.is_projected else str(system.linear_units)

    @property
    def pixel_area(self) -> float:
        """Of one pixel, in square units of x and y."""
        a, b, _, d, e, _ = self.transform
        return abs(a * e - b * d)

    def places(self, corners: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map coordinates ``(N, 2)`` of corners of pixels ``(N, 2)``, x and y each."""
        a, b, c, d, e, f = self.transform
        x, y = corners.T
        return np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)

    def longitude_latitude(self, corners: NDArray[np.float64]) -> NDArray[np.float64]:
        """The same as longitude and latitude of WGS 84, in degrees.

        Raises:
            ConfigError: The system is unknown, or a corner has no place on the ellipsoid.
        """
        if self.crs is None:
            raise ConfigError("expected a coordinate system to project to WGS 84, got none; write pixels or map units")
        from rasterio.warp import transform

        places = self.places(corners)
        if self.is_longitude_latitude:
            return places
        missing = ConfigError(f"expected corners with a longitude and latitude, got some without in {self.crs}")
        try:
            x, y = transform(self._system(), "OGC:CRS84", places[:, 0], places[:, 1])
        except Exception as error:  # GDAL's errors have no public base in rasterio
            raise missing from error
        result = np.stack([np.asarray(x, np.float64), np.asarray(y, np.float64)], axis=1)
        if not np.isfinite(result).all():
            raise missing
        return result

    def check_places(self, size_hw: tuple[int, int]) -> None:
        """Whether polygons of an image can be written: they are projected where the system has no number.

        Args:
            size_hw: Height and width of the image.

        Raises:
            ConfigError: Some place of it has no longitude and latitude.
        """
        if self.crs is None or self.name is not None:
            return
        y, x = np.meshgrid(*(np.linspace(0, side, 17) for side in size_hw), indexing="ij")
        try:
            self.longitude_latitude(np.stack([x.ravel(), y.ravel()], axis=1))
        except ConfigError as error:
            raise ConfigError(f"{error}; leave polygons out of --save, or warp the raster first (gdalwarp)") from error

    def _system(self) -> System | None:
        if self.crs is None:
            return None
        try:
            from rasterio.crs import CRS
            from rasterio.errors import CRSError
        except ImportError as error:
            raise MissingExtraError("rasterio", extra="vectors", purpose="name coordinate systems") from error
        try:
            return CRS.from_user_input(self.crs)
        except CRSError as error:
            raise ConfigError(
                f"expected a coordinate reference system such as EPSG:32633, or WKT, got {self.crs!r}: {error}"
            ) from error


def _quiet_authority(system: System) -> tuple[str, str] | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: tuple[str, str] | None = system.to_authority()
    return found
