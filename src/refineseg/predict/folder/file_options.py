"""What to write of every file of a call of ``predict``, and how many are worked on at once; without torch.

In: values of the command line. Out: frozen :class:`FileOptions` and :class:`StreamOptions`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from refineseg.errors import ConfigError
from refineseg.predict.outputs.areas import check_areas_path
from refineseg.predict.outputs.kinds import Outputs
from refineseg.predict.raster.options import RasterOptions
from refineseg.predict.stream import StreamOptions
from refineseg.predict.video.options import VideoOptions


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
