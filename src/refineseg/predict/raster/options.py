"""What can be asked of the prediction of a raster.

In: values. Out: a frozen :class:`RasterOptions`.
"""

from __future__ import annotations

from dataclasses import dataclass

from refineseg.errors import ConfigError
from refineseg.images.reading import USUAL, Reading

COMPRESSIONS = ("deflate", "lzw", "zstd", "none")


@dataclass(frozen=True)
class RasterOptions:
    """How a raster is read, and its results written.

    Args:
        reading: Reading of its pixels, by the contract of all images.
        overviews: Smaller copies in the results, for viewers.
        resume: Go on where the same job was broken off, and refuse what another one left; False: begin anew and
            replace everything.
        compress: Compression of the results.
        part: Number of this process, from 1 on, and number of processes that share one raster.

    Raises:
        ConfigError: A compression that is none, or a part that begins anew.
    """

    reading: Reading = USUAL
    overviews: bool = True
    resume: bool = True
    compress: str = "deflate"
    part: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        if self.compress not in COMPRESSIONS:
            raise ConfigError(f"expected a compression of {', '.join(COMPRESSIONS)}, got {self.compress!r}")
        if self.part[1] > 1 and not self.resume:
            raise ConfigError("expected --part without --no-resume: the parts share one job, which goes on")
