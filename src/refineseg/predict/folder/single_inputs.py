"""Inputs that are worked on one at a time, because each is large: rasters and videos.

In: what is left when the image files are done. Out: their results; a line and a row of areas for each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np

from refineseg.devices import find_device
from refineseg.errors import ConfigError, RefinesegError
from refineseg.images.damage import check_plausible
from refineseg.predict.folder.file_run import FileRun
from refineseg.predict.folder.follower import share_of
from refineseg.predict.options import PredictorOptions
from refineseg.predict.outputs.areas import Areas
from refineseg.predict.outputs.kinds import Outputs
from refineseg.predict.raster.options import RasterOptions
from refineseg.predict.video.options import VideoKind, VideoOptions
from refineseg.predict.video.sources import find_source
from refineseg.predict.views.scoring_views import DEFAULT_VIEW
from refineseg.predict.views.tiling import TilingOptions
from refineseg.terminal.printable import duration

if TYPE_CHECKING:  # which load PyTorch
    from refineseg.predict.array_predictor import AnyPredictor
    from refineseg.runtimes.open import OpenedModel
    from refineseg.runtimes.opened_file import OpenedFile

_JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")


class SingleInputs:
    """Rasters and videos of one call.

    Args:
        run: Where failures, lines and rows go.
        alone: There is but one input, so that an option that does not fit it makes the whole call wrong.
    """

    def __init__(self, run: FileRun, *, alone: bool) -> None:
        self._run, self._follower, self._alone = run, run.follower, alone

    @contextmanager
    def _named(self, source: str, shown: str | None = None) -> Iterator[None]:
        """One bad input costs one line."""
        shown = shown or source
        try:
            yield
        except ConfigError as error:
            if self._alone:
                raise
            self._run.fail(f"skipped: {shown}: {error}")
        except (RefinesegError, OSError) as error:
            text = str(error).replace(source, shown)
            self._run.fail(f"skipped: {text}" if shown in text else f"skipped: {shown}: {text}")

    def rasters(
        self,
        opened: OpenedModel | OpenedFile,
        how: PredictorOptions,
        *,
        outputs: Outputs,
        tiling: TilingOptions,
        rasters: RasterOptions,
    ) -> None:
        """Predict what the run has set aside as rasters."""
        from refineseg.predict.raster.raster import predict_raster

        for job in self._run.rasters:
            with self._named(job.source), share_of(self._follower, job.source) as told:
                _refuse_bomb(Path(job.source))
                if how.scales != (1.0,) or how.flip or how.crf is not None or how.view.name != DEFAULT_VIEW:
                    raise ConfigError(
                        "expected a raster without --scales, --flip, --crf and --protocol, which need the whole image"
                    )
                result = predict_raster(
                    Path(job.source),
                    Path(f"{job.target}.tif"),
                    opened.needs_inner("a raster").segmenter,
                    tiling=tiling,
                    options=rasters,
                    device=find_device(how.device),
                    precision=how.precision,
                    vectors=outputs.vectors,
                    outputs=outputs,
                    progress=told,
                )
                if result.tiles_left:
                    index, count = rasters.part
                    self._follower.result(
                        f"{job.source}: part {index} of {count} is done; {result.tiles_left} of {result.tiles} tiles "
                        "are left to others, the last of which writes the results"
                    )
                    continue
                self._run.row(job.source, result.areas)
                if self._run.prover is not None:
                    self._run.prover.raster(Path(job.source), rasters)
                for note in result.notes:
                    self._follower.noted(f"{job.source}: {note}")
                kept = f", {result.tiles_kept} of them from before" if result.tiles_kept else ""
                self._follower.said(f"{job.source}: {result.tiles} tiles{kept} in {duration(result.seconds)}")
                self._run.result.others.append({"source": job.source, **result.to_json()})

    def videos(
        self, videos: Sequence[tuple[str, str]], predictor: AnyPredictor, *, options: VideoOptions, kinds: Sequence[str]
    ) -> None:
        """Predict videos, each with its results' path without an ending; of the kinds only those a video has."""
        if not videos:
            return
        from refineseg.predict.video.video import predict_video

        wanted: tuple[VideoKind, ...] = tuple(kind for kind in get_args(VideoKind) if kind in kinds)
        for source, stem in videos:
            shown = find_source(source).shown  # without a password
            with self._named(source, shown), share_of(self._follower, shown) as told:
                if not wanted:
                    raise ConfigError(
                        f"expected --save with some of {', '.join(get_args(VideoKind))} for a video, got "
                        f"{', '.join(kinds)}"
                    )
                result = predict_video(
                    source,
                    Path(stem),
                    predictor,
                    options=replace(options, kinds=wanted),
                    progress=partial(_share, told),
                )
                self._follower.result(f"{shown}: {result.summary()}")
                pixels = result.frames * result.size_hw[0] * result.size_hw[1]
                names = self._run.result.class_info.names
                counts = np.array([round(result.shares.get(name, 0.0) * pixels) for name in names], np.int64)
                self._run.row(shown, Areas(pixels, counts), silent=True)
                for note in result.notes:
                    self._follower.noted(f"{shown}: {note}")
                for failure in result.failures:
                    self._run.fail(failure)
                self._run.result.others.append(result.to_json())


def _share(told: Callable[[float], None], done: int, total: int | None) -> None:
    """Tell frames done of frames there are, as a share."""
    if total:
        told(min(1.0, done / total))


def _refuse_bomb(path: Path) -> None:
    """A packed image of more pixels than its bytes can hold, were they all of one colour.

    Raises:
        ImageError: It is one.
    """
    from refineseg.predict.raster.files import open_raster

    if path.suffix.lower() not in (*_JPEG, ".png"):
        return
    with open_raster(path) as reader:
        height, width = reader.size_hw
        bits = reader.num_bands * reader.meaning((1,)).num_bits
        kind = "JPEG" if path.suffix.lower() in _JPEG else "PNG"
    check_plausible(path, kind, (height, width), path.stat().st_size, bits=bits)
