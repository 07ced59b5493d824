"""One contract for the pixels of all images: which bands, scaled how to 8 bits, and which pixels hold data.

In: stored pixels of any type, whatever the file they come from. Out: ``(H, W, C)`` uint8 and what is void.
:mod:`refineseg.images.files` applies it to images in memory, :mod:`refineseg.predict.raster.pixels` to regions of
rasters, both with the functions below, so that one picture gives one result in every container and at every size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from refineseg.errors import ConfigError, ImageError

Percentiles = tuple[float, float] | Literal["auto"] | None

ALL_PIXELS = 1 << 24
"""Images of at most so many pixels are looked at completely for their percentiles; larger ones in windows."""

_USUAL_PERCENTILES = (2.0, 98.0)
_USED = 1 << 15  # 16-bit pixels whose bright ones reach this are meant to be seen from 0 to 65535
_SAMPLE_WINDOWS, _SAMPLE_SIDE = 32, 64  # a regular grid of 32 x 32 windows of 64 x 64 pixels
_FEWEST_SAMPLES = 10_000
_CHUNK_VALUES = 1 << 21  # held in double precision at once


@dataclass(frozen=True)
class Reading:
    """How the stored pixels of an image become what a network sees.

    Args:
        bands: Bands that the model sees, from 1; one stands for all channels; None: red, green and blue, or the first.
        percentiles: Percentiles of the values, where pixels have not 8 bits: so much of each band (in percent) becomes
            black, and all above the other white; found once for the whole image. ``auto``: 2 and 98, but 16-bit pixels
            whose brightest 2 percent reach 32768 are seen from 0 to 65535. None: black is 0 and white the largest value
            of the type.
        value_range: The values of black and white themselves, instead: the same for several images.
        nodata: A value that stands for no data, instead of the one the file declares.

    Raises:
        ConfigError: Values that cannot be.

    Example:
        >>> Reading.parse(bands="4,3,2", nodata="0").bands
        (4, 3, 2)
    """

    bands: tuple[int, ...] | None = None
    percentiles: Percentiles = "auto"
    value_range: tuple[float, float] | None = None
    nodata: float | None = None

    def __post_init__(self) -> None:
        if self.bands is not None and (not self.bands or min(self.bands) < 1):
            raise ConfigError(f"expected bands counted from 1, got {self.bands}; 4,3,2 for instance")
        if isinstance(self.percentiles, str):
            if self.percentiles != "auto":
                raise ConfigError(f"expected two percentiles, auto or none, got {self.percentiles!r}; 2,98 is usual")
        elif self.percentiles is not None and not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise ConfigError(f"expected two rising percentiles within 0..100, got {self.percentiles}; 2,98 is usual")
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise ConfigError(f"expected two rising values as the range from black to white, got {self.value_range}")
        if self.value_range is not None and not all(math.isfinite(value) for value in self.value_range):
            raise ConfigError(f"expected numbers as the range from black to white, got {self.value_range}")

    @classmethod
    def parse(
        cls,
        *,
        bands: str | None = None,
        percentiles: str = "auto",
        value_range: str | None = None,
        nodata: str | None = None,
    ) -> Reading:
        """From the words of the command line.

        Args:
            bands: ``4,3,2``.
            percentiles: ``2,98``, ``auto`` or ``none``.
            value_range: ``0,10000``.
            nodata: A number; ``nan`` is always nodata.

        Raises:
            ConfigError: Words that mean nothing here.
        """
        chosen = None if bands is None else tuple(int(number) for number in _numbers("--bands", bands, whole=True))
        empty = None if nodata is None else _numbers("--nodata", nodata, count=1)[0]
        words: dict[str, Percentiles] = {"auto": "auto", "none": None}
        return cls(
            bands=chosen,
            percentiles=words[percentiles] if percentiles in words else _pair("--percentiles", percentiles),
            value_range=None if value_range is None else _pair("--value-range", value_range),
            nodata=None if empty is None or math.isnan(empty) else empty,
        )


USUAL = Reading()
"""Where nobody says anything else."""


def _pair(option: str, text: str) -> tuple[float, float]:
    low, high = _numbers(option, text, count=2)
    return low, high


def _numbers(option: str, text: str, *, count: int | None = None, whole: bool = False) -> list[float]:
    try:
        numbers = [float(int(part) if whole else part) for part in text.split(",")]
    except (ValueError, OverflowError):
        numbers = []
    if not numbers or count not in (None, len(numbers)):
        kind = "whole numbers" if whole else "numbers"
        wanted = f"{count} {kind}" if count else f"{kind} with commas"
        raise ConfigError(f"expected {option} as {wanted if count != 1 else 'a number'}, got {text!r}")
    return numbers


def choose_bands(
    colours: Sequence[str], bands: Sequence[int] | None, *, num_channels: int, path: Path
) -> tuple[int, ...]:
    """Which bands a model of so many channels looks at; one band stands for all channels.

    Args:
        colours: What each band of the file is: red, green, blue, gray, alpha, palette, undefined.
        bands: Bands that a user names, from 1; None: red, green and blue where the file says which they are, else the
            first ones that are no transparency; one where there are too few.
        num_channels: Number of channels of the model.
        path: File, for messages.

    Raises:
        ImageError: A band that is not there, or too few for the model.
        ConfigError: Another number of them than the model has channels.
    """
    if bands is None:
        return _usual_bands(colours, num_channels, path)
    missing = [band for band in bands if not 1 <= band <= len(colours)]
    if missing:
        raise ImageError(f"expected bands from 1 to {len(colours)} of {path}, got {', '.join(map(str, missing))}")
    if len(bands) not in (1, num_channels):
        raise ConfigError(
            f"expected {num_channels} bands for a model of {num_channels} channels, or one that stands for all, got "
            f"{', '.join(map(str, bands))}; for instance --bands {','.join(map(str, range(1, num_channels + 1)))}"
        )
    return tuple(bands)


def _usual_bands(colours: Sequence[str], num_channels: int, path: Path) -> tuple[int, ...]:
    if num_channels == 3 and all(name in colours for name in ("red", "green", "blue")):
        return colours.index("red") + 1, colours.index("green") + 1, colours.index("blue") + 1
    opaque = [band for band, colour in enumerate(colours, 1) if colour != "alpha"] or [1]
    if len(opaque) >= num_channels and colours[opaque[0] - 1] != "palette":
        return tuple(opaque[:num_channels])
    if num_channels > 3:
        raise ImageError(
            f"expected at least {num_channels} bands for this model, got {len(opaque)} in {path}; say which one "
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


def find_scaling(
    reading: Reading,
    *,
    dtype: np.dtype[Any],
    num_bits: int,
    num_bands: int,
    path: Path,
    samples: Callable[[], Sequence[NDArray[Any]]],
) -> Scaling | None:
    """How the values of an image become 8 bits.

    Args:
        reading: What was asked for.
        dtype: Type of the pixels.
        num_bits: Number of bits of a pixel, where the file says it has fewer than its type.
        num_bands: How many bands are seen.
        path: File, for messages.
        samples: Values of each band that hold data; asked only where they are needed.

    Returns:
        None where the values are 8 bits already.

    Raises:
        ConfigError: Neither percentiles nor a range, and pixels whose type has no range from black to white.
    """
    full = Scaling((0.0,) * num_bands, (2.0**num_bits - 1,) * num_bands)
    if reading.value_range is not None:
        return Scaling((reading.value_range[0],) * num_bands, (reading.value_range[1],) * num_bands)
    if dtype == np.uint8:
        return None if num_bits == 8 else full
    if reading.percentiles is None:
        if dtype.kind != "u":
            raise ConfigError(
                f"expected percentiles or a value range for pixels of {dtype} in {path}, got neither; "
                "--percentiles 2,98 is usual"
            )
        return full
    automatic = reading.percentiles == "auto"
    low, high = [], []
    for values in samples():
        found = _between(values, _USUAL_PERCENTILES if isinstance(reading.percentiles, str) else reading.percentiles)
        low.append(found[0])
        high.append(found[1])
    return full if automatic and dtype == np.uint16 and max(high) >= _USED else Scaling(tuple(low), tuple(high))


def _between(values: NDArray[Any], percentiles: tuple[float, float]) -> tuple[float, float]:
    found = np.percentile(values, percentiles) if values.size else np.array((0.0, 1.0))
    if not found[1] > found[0]:  # a band that is almost everywhere the same
        found = np.array((values.min(), values.max()), np.float64)
    return float(found[0]), float(found[1]) if found[1] > found[0] else float(found[0]) + 1.0


Values = tuple[NDArray[Any], NDArray[np.bool_] | None]
"""(B, h, w) pixels as stored, and which hold data; None: all."""


def gathered(size_hw: tuple[int, int], read: Callable[[int, int, int, int], Values]) -> list[NDArray[Any]]:
    """Values of each band that hold data, of all pixels or of a regular part; which, the image's size alone decides.

    Args:
        size_hw: Height and width of the image.
        read: Called with top, left, bottom, right.
    """
    height, width = size_hw
    if height * width <= ALL_PIXELS:
        return _joined((read(*box) for box in _strips(size_hw, 1)), 1)
    found = _joined((read(*box) for box in _windows(size_hw)), 1)
    if found[0].size >= _FEWEST_SAMPLES:
        return found
    step = math.ceil(math.sqrt(height * width / ALL_PIXELS))  # few data: every pixel of a wide grid, then
    return _joined((read(*box) for box in _strips(size_hw, step)), step)


def _joined(parts: Iterable[Values], step: int) -> list[NDArray[Any]]:
    found: list[list[NDArray[Any]]] = []
    for values, valid in parts:
        values, valid = values[:, ::step, ::step], None if valid is None else valid[::step, ::step]
        found = found or [[] for _ in values]
        for band, samples in enumerate(found):
            samples.append(values[band].ravel() if valid is None else values[band][valid])
    return [np.concatenate(samples) for samples in found]


def _strips(size_hw: tuple[int, int], step: int) -> Iterator[tuple[int, int, int, int]]:
    rows = max(step, _CHUNK_VALUES // size_hw[1] // step * step)
    for top in range(0, size_hw[0], rows):
        yield top, 0, min(top + rows, size_hw[0]), size_hw[1]


def _windows(size_hw: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    def starts(length: int) -> list[int]:
        last = max(0, length - _SAMPLE_SIDE)
        return sorted({round(i * last / (_SAMPLE_WINDOWS - 1)) for i in range(_SAMPLE_WINDOWS)})

    for top in starts(size_hw[0]):
        for left in starts(size_hw[1]):
            yield top, left, min(top + _SAMPLE_SIDE, size_hw[0]), min(left + _SAMPLE_SIDE, size_hw[1])


def with_data(
    values: NDArray[Any],
    declared: NDArray[np.bool_] | None,
    *,
    nodata: float | None,
    palette: NDArray[np.uint8] | None,
) -> NDArray[np.bool_] | None:
    """Which pixels hold data, (h, w); None: all.

    Args:
        values: (B, h, w) as stored.
        declared: What the file says of it by masks, alpha and, where no other is given, its nodata value.
        nodata: A value that stands for no data where all bands have it.
        palette: (256, 4) colours of the values; those without any opacity hold no data.
    """
    parts = [] if declared is None else [declared]
    if values.dtype.kind == "f":
        parts.append(np.isfinite(values).all(axis=0))
    if nodata is not None:
        parts.append((values != nodata).any(axis=0))
    if palette is not None and not palette[:, 3].all():
        parts.append((palette[:, 3] > 0).take(values[0]))
    return np.logical_and.reduce(parts) if parts else None


_LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in grey, as Pillow has them (ITU-R BT.601)."""


def as_channels(
    values: NDArray[Any],
    valid: Callable[[], NDArray[np.bool_] | None],
    *,
    num_channels: int,
    scaling: Scaling | None,
    palette: NDArray[np.uint8] | None,
    inverted: bool,
) -> NDArray[np.uint8]:
    """What the network sees, (h, w, C) uint8; scaled pixels are 0 where there are no data.

    Args:
        values: (B, h, w) as stored, of the chosen bands.
        valid: Tells which hold data; asked only where values are scaled.
        num_channels: C; a single band is repeated.
        scaling: To 8 bits; None: the values are that already.
        palette: (256, 4) colours that the values stand for.
        inverted: The smallest value is white.
    """
    if palette is not None:
        coloured: NDArray[np.uint8] = palette[:, :3].take(values[0], axis=0)
        if num_channels == 1:
            grey: NDArray[np.uint8] = (coloured @ np.array(_LUMA) + 0.5).astype(np.uint8)
            return grey[..., None]
        if num_channels != 3:
            raise ImageError(f"expected an image of {num_channels} bands, got one of palette colours; choose --bands")
        return coloured
    if scaling is not None:
        scaled = scaling(values)
        if inverted:
            np.subtract(255, scaled, out=scaled)
        if (holding := valid()) is not None:
            scaled[:, ~holding] = 0
        values = scaled
    elif inverted:
        values = 255 - values
    channels = values.transpose(1, 2, 0)
    return channels if channels.shape[2] == num_channels else channels.repeat(num_channels, axis=2)
