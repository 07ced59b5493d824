"""What to write of every file of a call of ``predict``, and how many are worked on at once; without torch.

In: values of the command line. Out: frozen :class:`FileOptions` and :class:`StreamOptions`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from refineseg.errors import ConfigError
from refineseg.predict.areas import check_areas_path
from refineseg.predict.outputs import Outputs
from refineseg.predict.rasters.options import RasterOptions
from refineseg.predict.videos.options import VideoOptions
from refineseg.reading import USUAL, Reading

_MOST_WORKERS = 16
_MOST_ASKED = 4096


@dataclass(frozen=True)
class StreamOptions:
    """How many images are worked on together. None of it changes a result by more than rounding.

    Args:
        batch_size: Images of one size that the network sees together; None: 1 on a CPU, where more is slower, and on a
            GPU up to 16, of 8 megapixels in all.
        workers: Threads that read and write files; None: as many as cores, 2 to 16.
        probabilities: Predictions get the probabilities of all classes.
        confidence: Predictions get the probability of each pixel's likeliest class.
        reading: How stored pixels become what the network sees.

    Raises:
        ConfigError: A number below 1.
    """

    batch_size: int | None = None
    workers: int | None = None
    probabilities: bool = False
    confidence: bool = False
    reading: Reading = USUAL

    def __post_init__(self) -> None:
        for name, value in (("batch size", self.batch_size), ("number of workers", self.workers)):
            if value is not None and not 1 <= value <= _MOST_ASKED:
                end = "at least 1" if value < 1 else f"at most {_MOST_ASKED}"
                raise ConfigError(f"expected a {name} of {end}, got {value}")

    @property
    def num_threads(self) -> int:
        """Threads that read and write."""
        return self.workers or min(_MOST_WORKERS, max(2, os.cpu_count() or 2))


@dataclass(frozen=True)
class FileOptions:
    """What to write of every file, and how to go about it.

    Args:
        outputs: Kinds of results.
        areas: One table of all areas, ending in ``.csv`` or ``.json``; None: none.
        resume: Leave out files whose results are there already, made by the same model and options. None: images are
            predicted anew, but rasters that were broken off are continued.
        batch_size: Images of one size that the network sees together; None: chosen.
        workers: Threads that read and write; None: chosen.
        rasters: How rasters are read and written; images are read in the same way. Of ``resume`` the one above holds.
        videos: How videos are read and written.
        prove: Check a random piece of each image that is cut against the prediction of the whole.
        asked: Options that the call names, by their Python names; one that no input has a use for is an error or a
            note.

    Raises:
        ConfigError: A wrong ending of the table, or a table of resumed results without masks to count.
    """

    outputs: Outputs = field(default_factory=Outputs)
    areas: Path | None = None
    resume: bool | None = None
    batch_size: int | None = None
    workers: int | None = None
    rasters: RasterOptions = field(default_factory=RasterOptions)
    videos: VideoOptions = field(default_factory=VideoOptions)
    prove: bool = False
    asked: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.areas is not None:
            check_areas_path(self.areas)
            if self.resume and "mask" not in self.outputs.kinds:
                raise ConfigError(
                    "expected masks among the results (--save mask) to count the areas of those that are resumed; "
                    "add mask, or leave out --areas or --resume"
                )
        StreamOptions(batch_size=self.batch_size, workers=self.workers)  # which refuses numbers below 1

    @property
    def stream(self) -> StreamOptions:
        """How image files go through the network."""
        return StreamOptions(
            batch_size=self.batch_size,
            workers=self.workers,
            probabilities=self.outputs.needs_probabilities,
            confidence=self.outputs.needs_confidence,
            reading=self.rasters.reading,
        )
