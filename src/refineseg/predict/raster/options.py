"""What can be asked of the prediction of a raster.

In: words of the command line. Out: a frozen :class:`RasterOptions`.
"""

from __future__ import annotations

from dataclasses import dataclass

from refineseg.errors import ConfigError
from refineseg.images.reading import Percentiles, Reading

COMPRESSIONS = ("deflate", "lzw", "zstd", "none")


@dataclass(frozen=True)
class RasterOptions:
    """How a raster is read, and its results written.

    Args:
        bands: As in :class:`~refineseg.images.reading.Reading`, and so the next three.
        percentiles: Percentiles of the values, where pixels have not 8 bits.
        value_range: The values of black and white.
        nodata: A value that stands for no data.
        overviews: Smaller copies in the results, for viewers.
        resume: Go on where the same job was broken off, and refuse what another one left; False: begin anew and
            replace everything.
        compress: Compression of the results.

    Raises:
        ConfigError: Values that cannot be.
    """

    bands: tuple[int, ...] | None = None
    percentiles: Percentiles = "auto"
    value_range: tuple[float, float] | None = None
    nodata: float | None = None
    overviews: bool = True
    resume: bool = True
    compress: str = "deflate"

    def __post_init__(self) -> None:
        self.reading  # noqa: B018 - which refuses values that cannot be
        if self.compress not in COMPRESSIONS:
            raise ConfigError(f"expected a compression of {', '.join(COMPRESSIONS)}, got {self.compress!r}")

    @property
    def reading(self) -> Reading:
        """How the raster is read, by the contract of all images."""
        return Reading(self.bands, self.percentiles, self.value_range, self.nodata)

    @classmethod
    def parse(
        cls,
        *,
        bands: str | None = None,
        percentiles: str = "auto",
        value_range: str | None = None,
        nodata: str | None = None,
        overviews: bool = True,
        resume: bool = True,
        compress: str = "deflate",
    ) -> RasterOptions:
        """From the words of the command line.

        Args:
            bands: As :meth:`~refineseg.images.reading.Reading.parse` takes it, and so the next three.
            percentiles: ``2,98``, ``auto`` or ``none``.
            value_range: ``0,10000``.
            nodata: A number.
            overviews: As above.
            resume: As above.
            compress: As above.

        Raises:
            ConfigError: Words that mean nothing here.

        Example:
            >>> RasterOptions.parse(bands="4,3,2", nodata="0").bands
            (4, 3, 2)
        """
        reading = Reading.parse(bands=bands, percentiles=percentiles, value_range=value_range, nodata=nodata)
        return cls(
            reading.bands,
            reading.percentiles,
            reading.value_range,
            reading.nodata,
            overviews=overviews,
            resume=resume,
            compress=compress,
        )
