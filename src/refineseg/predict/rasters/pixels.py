"""The pixels of a raster as a network sees them: bands chosen, scaled to 8 bits, and which of them hold data.

In: an open raster. Out: :class:`RasterSource`, a source of (h, w, C) uint8 regions. Scaling is found once for the whole
raster, so that a value means the same in every tile.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refineseg.errors import ConfigError, ImageError
from refineseg.predict.rasters.files import RasterReader
from refineseg.predict.tiling import Region

ALL_PIXELS = 1 << 24
"""Rasters of at most so many pixels are looked at completely for their percentiles; larger ones by samples."""

_OVERVIEW_PIXELS = 1 << 22
_SAMPLE_WINDOWS, _SAMPLE_SIDE = 32, 64  # a regular grid of 32 x 32 windows of 64 x 64 pixels
_FEWEST_SAMPLES = 10_000
_CHUNK_VALUES = 1 << 21  # held in double precision at once
_CHUNK_BYTES = 1 << 25  # held in the raster's own type at once
_ALIGNED_ROWS = 256  # so that rows of blocks are unpacked once


def choose_bands(reader: RasterReader, bands: Sequence[int] | None, *, num_channels: int) -> tuple[int, ...]:
    """Which bands a model of so many channels looks at; one band stands for all channels.

    Args:
        reader: The raster.
        bands: As the user says, from 1; None: red, green and blue where the file says which they are, else the first
            ones that are no transparency; one where there are too few.
        num_channels: Of the model.

    Raises:
        ImageError: A band that is not there, or too few for the model.
        ConfigError: Another number of them than the model has channels.
    """
    if bands is None:
        return _usual_bands(reader, num_channels)
    missing = [band for band in bands if not 1 <= band <= reader.num_bands]
    if missing:
        raise ImageError(
            f"expected bands from 1 to {reader.num_bands} of {reader.path}, got {', '.join(map(str, missing))}"
        )
    if len(bands) not in (1, num_channels):
        raise ConfigError(
            f"expected {num_channels} bands for a model of {num_channels} channels, or one that stands for all, got "
            f"{', '.join(map(str, bands))}; for instance --bands {','.join(map(str, range(1, num_channels + 1)))}"
        )
    return tuple(bands)


def _usual_bands(reader: RasterReader, num_channels: int) -> tuple[int, ...]:
    colours = reader.colours
    if num_channels == 3 and all(name in colours for name in ("red", "green", "blue")):
        return colours.index("red") + 1, colours.index("green") + 1, colours.index("blue") + 1
    opaque = [band for band, colour in enumerate(colours, 1) if colour != "alpha"] or [1]
    if len(opaque) >= num_channels and colours[opaque[0] - 1] != "palette":
        return tuple(opaque[:num_channels])
    if num_channels > 3:
        raise ImageError(
            f"expected at least {num_channels} bands for this model, got {len(opaque)} in {reader.path}; say which one "
            "stands for all with --bands"
        )
    return (opaque[0],)


@dataclass(frozen=True)
class Scaling:
    """A straight line per band from its values to 0..255: what is at most ``low`` becomes 0, from ``high`` on 255.

    Args:
        low: One per band.
        high: One per band, above ``low``.

    Example:
        >>> Scaling((100.0,), (300.0,))(np.array([[[0, 100, 200, 301]]], np.uint16)).tolist()
        [[[0, 0, 128, 255]]]
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __call__(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """(B, h, w) values of any real type, rounded to the nearest; what is no number becomes 0."""
        scaled = np.empty(values.shape, np.uint8)
        rows = max(1, _CHUNK_VALUES // max(1, values.shape[2]))
        for band, (low, high) in enumerate(zip(self.low, self.high, strict=True)):
            table = _table(values.dtype, low, high)
            for top in range(0, values.shape[1], rows):
                chunk = values[band, top : top + rows]
                scaled[band, top : top + rows] = (
                    _line(chunk.astype(np.float64), low, high) if table is None else table.take(_codes(chunk))
                )
        return scaled


def _line(values: NDArray[np.float64], low: float, high: float) -> NDArray[np.uint8]:
    with np.errstate(invalid="ignore", over="ignore"):
        steps = np.rint((values - low) / (high - low) * 255)
    return np.nan_to_num(steps, nan=0.0, posinf=255.0, neginf=0.0).clip(0, 255).astype(np.uint8)


def _codes(values: NDArray[Any]) -> NDArray[Any]:
    return values.view(np.dtype(f"u{values.dtype.itemsize}"))


def _table(dtype: np.dtype[Any], low: float, high: float) -> NDArray[np.uint8] | None:
    """The result for each value of a type of at most 16 bits, which is faster than computing it for each pixel."""
    if dtype.kind not in "iu" or dtype.itemsize > 2:
        return None
    codes = np.arange(1 << (8 * dtype.itemsize), dtype=np.dtype(f"u{dtype.itemsize}"))
    return _line(codes.view(dtype).astype(np.float64), low, high)


class RasterSource:
    """A raster as a source of pixels.

    A pixel holds no data where the file's mask, alpha or nodata value says so for all bands, or where any band is no
    finite number.

    Args:
        reader: Open.
        bands: Which, see :func:`choose_bands`.
        num_channels: C; a single band is repeated.
        nodata: A value that stands for no data, instead of the one the file declares.
        data_band: A band that is 0 where there are no data, instead of all the file says (it is a copy then).
        palette: (256, 3) colours that the values of the band stand for.
        scaling: To 8 bits; None: the values are that already.
    """

    def __init__(
        self,
        reader: RasterReader,
        bands: tuple[int, ...],
        *,
        num_channels: int,
        nodata: float | None = None,
        data_band: int | None = None,
        palette: NDArray[np.uint8] | None = None,
        scaling: Scaling | None = None,
    ) -> None:
        self._reader, self._bands, self._nodata, self._data_band = reader, bands, nodata, data_band
        self._num_channels, self._palette, self._scaling = num_channels, palette, scaling

    def scaled(self, scaling: Scaling | None) -> RasterSource:
        """The same pixels with that scaling."""
        return RasterSource(
            self._reader,
            self._bands,
            num_channels=self._num_channels,
            nodata=self._nodata,
            data_band=self._data_band,
            palette=self._palette,
            scaling=scaling,
        )

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width."""
        return self._reader.size_hw

    @property
    def num_channels(self) -> int:
        """C."""
        return self._num_channels

    def read(self, region: Region) -> NDArray[np.uint8]:
        """The pixels of a region, (h, w, C) uint8; scaled ones are 0 where there are no data."""
        image = np.empty((*region.size_hw, self._num_channels), np.uint8)
        for part in self._parts(region):
            values = self._reader.read(self._bands, part)
            image[part.slices_in(region)] = self._shown(values, part, None)
        return image

    def read_small(self, region: Region, size_hw: tuple[int, int]) -> NDArray[np.uint8]:
        """The same, shrunk by averages to ``size_hw``."""
        values = self._reader.read(self._bands, region, size_hw=size_hw, smooth=self._palette is None)
        return self._shown(values, region, size_hw)

    def valid(self, region: Region) -> NDArray[np.bool_] | None:
        """Which pixels of a region hold data, (h, w); None: all."""
        found = None
        for part in self._parts(region):
            valid = self._valid(None, part, None)
            if valid is None:
                return None
            if found is None:
                found = np.empty(region.size_hw, np.bool_)
            found[part.slices_in(region)] = valid
        return found

    def _parts(self, region: Region) -> Iterator[Region]:
        """Rows of a region of which little enough is held at once in the raster's own type."""
        rows = max(1, _CHUNK_BYTES // (region.width * len(self._bands) * self._reader.dtype.itemsize))
        if rows > _ALIGNED_ROWS:
            rows -= rows % _ALIGNED_ROWS
        for top in range(region.top - region.top % rows, region.bottom, rows):
            yield Region(max(top, region.top), region.left, min(top + rows, region.bottom), region.right)

    def _shown(self, values: NDArray[Any], region: Region, size_hw: tuple[int, int] | None) -> NDArray[np.uint8]:
        if self._palette is not None:
            coloured: NDArray[np.uint8] = self._palette.take(values[0], axis=0)
            return coloured
        if self._scaling is not None:
            scaled = self._scaling(values)
            valid = self._valid(values, region, size_hw)
            if valid is not None:
                scaled[:, ~valid] = 0
            values = scaled
        channels = values.transpose(1, 2, 0)
        return channels if channels.shape[2] == self._num_channels else channels.repeat(self._num_channels, axis=2)

    def _valid(
        self, values: NDArray[Any] | None, region: Region, size_hw: tuple[int, int] | None
    ) -> NDArray[np.bool_] | None:
        reader = self._reader
        if self._data_band is not None:
            valid: NDArray[np.bool_] | None = reader.read([self._data_band], region, size_hw=size_hw)[0] > 0
        else:
            valid = reader.valid(self._bands, region, size_hw=size_hw, declared=self._nodata is None)
        if reader.dtype.kind != "f" and self._nodata is None:
            return valid
        if values is None:
            values = reader.read(self._bands, region, size_hw=size_hw)
        if reader.dtype.kind == "f":
            finite = np.isfinite(values).all(axis=0)
            valid = finite if valid is None else valid & finite
        if self._nodata is not None:
            given = (values != self._nodata).any(axis=0)
            valid = given if valid is None else valid & given
        return valid

    def find_scaling(
        self, *, percentiles: tuple[float, float] | None, value_range: tuple[float, float] | None
    ) -> Scaling:
        """The scaling of each band, from percentiles of its pixels that hold data.

        All pixels of a raster of at most :data:`ALL_PIXELS` count; of a larger one those of its overviews, or of a
        regular grid of windows.

        Args:
            percentiles: Two percentages: so much of each band becomes 0, and all above the other 255.
            value_range: The values that become 0 and 255, instead.

        Raises:
            ConfigError: Neither, and pixels whose type has no range from black to white.
        """
        dtype, count = self._reader.dtype, len(self._bands)
        if value_range is not None:
            return Scaling((value_range[0],) * count, (value_range[1],) * count)
        if percentiles is None:
            if dtype.kind != "u":
                raise ConfigError(
                    f"expected percentiles or a value range for pixels of {dtype} in {self._reader.path}, got neither; "
                    "--percentiles 2,98 is usual"
                )
            return Scaling((0.0,) * count, (float(np.iinfo(dtype).max),) * count)
        low, high = [], []
        for samples in self._samples():
            found = np.percentile(samples, percentiles) if samples.size else np.array((0.0, 1.0))
            if not found[1] > found[0]:  # a band that is almost everywhere the same
                found = np.array((samples.min(), samples.max()), np.float64)
            low.append(float(found[0]))
            high.append(float(found[1]) if found[1] > found[0] else float(found[0]) + 1.0)
        return Scaling(tuple(low), tuple(high))

    def _samples(self) -> list[NDArray[Any]]:
        """Values of each band that hold data."""
        height, width = self.size_hw
        whole = Region.whole(self.size_hw)
        if height * width <= ALL_PIXELS:
            return self._gathered(self._parts(whole), None)
        shrink = math.sqrt(_OVERVIEW_PIXELS / (height * width))
        small = (max(1, round(height * shrink)), max(1, round(width * shrink)))
        if not self._reader.has_overviews:
            samples = self._gathered(_windows(self.size_hw), None)
            if samples[0].size >= _FEWEST_SAMPLES:
                return samples
        return self._gathered([whole], small)

    def _gathered(self, regions: Iterable[Region], size_hw: tuple[int, int] | None) -> list[NDArray[Any]]:
        found: list[list[NDArray[Any]]] = [[] for _ in self._bands]
        for region in regions:
            values = self._reader.read(self._bands, region, size_hw=size_hw)
            valid = self._valid(values, region, size_hw)
            for band, samples in enumerate(found):
                samples.append(values[band].ravel() if valid is None else values[band][valid])
        return [np.concatenate(samples) for samples in found]


def _windows(size_hw: tuple[int, int]) -> Iterator[Region]:
    def starts(length: int) -> list[int]:
        last = max(0, length - _SAMPLE_SIDE)
        return sorted({round(i * last / (_SAMPLE_WINDOWS - 1)) for i in range(_SAMPLE_WINDOWS)})

    for top in starts(size_hw[0]):
        for left in starts(size_hw[1]):
            yield Region(top, left, min(top + _SAMPLE_SIDE, size_hw[0]), min(left + _SAMPLE_SIDE, size_hw[1]))
