"""The pixels of a raster as a network sees them: bands chosen, scaled to 8 bits, and which of them hold data.

In: an open raster. Out: :class:`RasterSource`, a source of (h, w, C) uint8 regions, by the contract of
:mod:`refineseg.images.reading`. Scaling is found once for the whole raster, so that a value means the same in every
tile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refineseg.images.reading import Reading, Scaling, Values, as_channels, find_scaling, gathered, with_data
from refineseg.predict.raster.files import RasterReader
from refineseg.predict.views.tiling import Region

_FILLS = (0.0, 255.0, 65535.0, -9999.0, -32768.0, 32767.0, float(np.finfo(np.float32).min))
_FILLED = 0.2
_CHUNK_BYTES = 1 << 25  # held in the raster's own type at once
_ALIGNED_ROWS = 256  # so that rows of blocks are unpacked once


def _share(samples: Sequence[NDArray[Any]], value: float) -> int:
    same = samples[0] == value
    for band in samples[1:]:
        same &= band == value
    return int(same.sum())


class RasterSource:
    """A raster as a source of pixels.

    A pixel holds no data where the file's mask, alpha or nodata value says so for all bands, or where any band is no
    finite number.

    Args:
        reader: Open.
        bands: Bands, see :func:`~refineseg.images.reading.choose_bands`.
        num_channels: C; a single band is repeated.
        nodata: A value that stands for no data, instead of the one the file declares.
        data_band: A band that is 0 where there are no data, instead of all the file says (it is a copy then).
        palette: (256, 4) colours and opacities that the values of the band stand for.
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
        return as_channels(
            values,
            lambda: self._valid(values, region, size_hw),
            num_channels=self._num_channels,
            scaling=self._scaling,
            palette=self._palette,
        )

    def _valid(
        self, values: NDArray[Any] | None, region: Region, size_hw: tuple[int, int] | None
    ) -> NDArray[np.bool_] | None:
        reader = self._reader
        if self._data_band is not None:
            valid: NDArray[np.bool_] | None = reader.read([self._data_band], region, size_hw=size_hw)[0] > 0
        else:
            valid = reader.valid(self._bands, region, size_hw=size_hw, declared=self._nodata is None)
        if reader.dtype.kind != "f" and self._nodata is None and self._palette is None:
            return valid
        if values is None:
            values = reader.read(self._bands, region, size_hw=size_hw)
        return with_data(values, valid, nodata=self._nodata, palette=self._palette)

    def find_scaling(self, reading: Reading, *, num_bits: int) -> Scaling | None:
        """Scaling of each band (:func:`refineseg.images.reading.find_scaling`); None: the values are 8 bits already.

        Args:
            reading: What was asked for.
            num_bits: Number of bits of a pixel.
        """
        reader = self._reader
        if self._palette is not None:
            return None
        return find_scaling(
            reading,
            dtype=reader.dtype,
            num_bits=num_bits,
            num_bands=len(self._bands),
            path=reader.path,
            samples=lambda: gathered(self.size_hw, self._values),
        )

    def undeclared_fill(self) -> tuple[float, float] | None:
        """A value that all bands have in a fifth of the raster or more and that often means no data, and its share."""
        if self._palette is not None:
            return None
        samples = gathered(self.size_hw, self._values)
        count = max(1, samples[0].size)
        shares = {value: _share(samples, value) / count for value in _FILLS}
        value = max(shares, key=shares.__getitem__)
        return (value, shares[value]) if shares[value] >= _FILLED else None

    def _values(self, top: int, left: int, bottom: int, right: int) -> Values:
        region = Region(top, left, bottom, right)
        values = self._reader.read(self._bands, region)
        return values, self._valid(values, region, None)
