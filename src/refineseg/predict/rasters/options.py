"""What can be asked of the prediction of a raster.

In: words of the command line. Out: a frozen :class:`RasterOptions`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from refineseg.errors import ConfigError

COMPRESSIONS = ("deflate", "lzw", "zstd", "none")


@dataclass(frozen=True)
class RasterOptions:
    """How a raster is read, and its results written.

    Args:
        bands: Which the model sees, from 1; one stands for all channels; None: red, green and blue, or the first.
        percentiles: Of pixels that have not 8 bits: so much of each band (in percent) becomes black, and all above the
            other white; found once for the whole raster. None: black is 0 and white the largest value of the type.
        value_range: The values of black and white themselves, instead: the same for several scenes.
        nodata: A value that stands for no data, instead of the one the file declares.
        overviews: Smaller copies in the results, for viewers.
        resume: Go on where the same job was broken off, and refuse what another one left; False: begin anew and
            replace everything.
        compress: Of the results.

    Raises:
        ConfigError: Values that cannot be.
    """

    bands: tuple[int, ...] | None = None
    percentiles: tuple[float, float] | None = (2.0, 98.0)
    value_range: tuple[float, float] | None = None
    nodata: float | None = None
    overviews: bool = True
    resume: bool = True
    compress: str = "deflate"

    def __post_init__(self) -> None:
        if self.bands is not None and (not self.bands or min(self.bands) < 1):
            raise ConfigError(f"expected bands counted from 1, got {self.bands}; 4,3,2 for instance")
        if self.percentiles is not None and not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise ConfigError(f"expected two rising percentiles within 0..100, got {self.percentiles}; 2,98 is usual")
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise ConfigError(f"expected two rising values as the range from black to white, got {self.value_range}")
        if self.value_range is not None and not all(math.isfinite(value) for value in self.value_range):
            raise ConfigError(f"expected numbers as the range from black to white, got {self.value_range}")
        if self.compress not in COMPRESSIONS:
            raise ConfigError(f"expected a compression of {', '.join(COMPRESSIONS)}, got {self.compress!r}")

    @classmethod
    def parse(
        cls,
        *,
        bands: str | None = None,
        percentiles: str = "2,98",
        value_range: str | None = None,
        nodata: str | None = None,
        overviews: bool = True,
        resume: bool = True,
        compress: str = "deflate",
    ) -> RasterOptions:
        """From the words of the command line.

        Args:
            bands: ``4,3,2``.
            percentiles: ``2,98``, or ``none``.
            value_range: ``0,10000``.
            nodata: A number; ``nan`` is always nodata.
            overviews: As above.
            resume: As above.
            compress: As above.

        Raises:
            ConfigError: Words that mean nothing here.

        Example:
            >>> RasterOptions.parse(bands="4,3,2", nodata="0").bands
            (4, 3, 2)
        """
        chosen = None if bands is None else tuple(int(number) for number in _numbers("--bands", bands, whole=True))
        empty = None if nodata is None else _numbers("--nodata", nodata, count=1)[0]
        return cls(
            bands=chosen,
            percentiles=None if percentiles == "none" else _pair("--percentiles", percentiles),
            value_range=None if value_range is None else _pair("--value-range", value_range),
            nodata=None if empty is None or math.isnan(empty) else empty,
            overviews=overviews,
            resume=resume,
            compress=compress,
        )


def _pair(option: str, text: str) -> tuple[float, float]:
    low, high = _numbers(option, text, count=2)
    return low, high


def _numbers(option: str, text: str, *, count: int | None = None, whole: bool = False) -> list[float]:
    try:
        numbers = [int(part) if whole else float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or count not in (None, len(numbers)):
        kind = "whole numbers" if whole else "numbers"
        wanted = f"{count} {kind}" if count else f"{kind} with commas"
        raise ConfigError(f"expected {option} as {wanted if count != 1 else 'a number'}, got {text!r}")
    return [float(number) for number in numbers]
