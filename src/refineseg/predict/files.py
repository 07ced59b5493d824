"""The predictor that people use: arrays, and image files, rasters and videos.

In: what :class:`~refineseg.predict.predictor.Predictor` takes, and paths. Out: predictions, and files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from refineseg.errors import ConfigError, RefinesegError
from refineseg.images.reading import USUAL, Reading
from refineseg.predict.outputs.kinds import Outputs
from refineseg.predict.predictor import Predictor
from refineseg.predict.raster.options import RasterOptions
from refineseg.predict.raster.raster import predict_raster
from refineseg.predict.raster.results import RasterResult
from refineseg.predict.stream import StreamOptions, predictions
from refineseg.predict.video.options import VideoOptions
from refineseg.predict.video.video import VideoResult, predict_video
from refineseg.predict.views.tiling import TilingOptions
from refineseg.prediction import Prediction


class FilePredictor(Predictor):
    """``refineseg.Predictor``: predicts arrays as :class:`~refineseg.predict.predictor.Predictor` does, and files."""

    def stream(
        self,
        paths: Iterable[str | Path],
        *,
        probabilities: bool = False,
        confidence: bool = False,
        batch_size: int | None = None,
        workers: int | None = None,
        reading: Reading = USUAL,
        failed: Callable[[Path, RefinesegError], None] | None = None,
    ) -> Iterator[tuple[Path, Prediction]]:
        """Predict image files, however many: they are read ahead in threads, and those of one size share a batch.

        Args:
            paths: Taken as they are needed; memory is bounded whatever their number.
            probabilities: Also return the probabilities of all classes.
            confidence: Also return the probability of each pixel's likeliest class.
            batch_size: Images of one size that the network sees together; None: 1 on a CPU, up to 16 on a GPU.
            workers: Threads that read files; None: as many as cores, 2 to 16.
            reading: How stored pixels become what the network sees; those that hold no data are void.
            failed: Called with a file that cannot be read, and why.

        Yields:
            Path and prediction, in the order of the paths; files that cannot be read are left out.

        Raises:
            ImageError: After the last prediction, if files could not be read and there is no ``failed``.

        Example:
            >>> from tempfile import TemporaryDirectory
            >>> import refineseg
            >>> import numpy as np
            >>> from refineseg.images.encoding import write_image
            >>> predictor = refineseg.Predictor(refineseg.build("refinenet_lw_mobilenetv2", num_classes=4))
            >>> with TemporaryDirectory() as folder:
            ...     write_image(Path(folder) / "a.png", np.zeros((20, 30, 3), np.uint8))
            ...     for path, prediction in predictor.stream(Path(folder).glob("*.png")):
            ...         print(path.name, prediction.mask.shape)
            a.png (20, 30)
        """
        options = StreamOptions(batch_size, workers, probabilities, confidence, reading)
        return predictions(paths, self, options=options, failed=failed)

    def raster(
        self,
        src: str | Path,
        dst: str | Path,
        *,
        tiling: TilingOptions | None = None,
        options: RasterOptions | None = None,
        outputs: Outputs | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> RasterResult:
        """Predict a raster into a class raster on the same grid; see :mod:`refineseg.predict.raster.raster`.

        Raises:
            ConfigError: A predictor with scales, mirror images, another protocol or a CRF, or that is no segmenter's.
            ImageError: The raster cannot be read, or a result not be written.
        """
        if self._inner is None or not self._is_plain:
            raise ConfigError(
                "expected a predictor of a segmenter without scales, mirror images, another protocol and CRF for a "
                "raster; build one: Predictor(segmenter)"
            )
        return predict_raster(
            Path(src),
            Path(dst),
            self._inner.segmenter,
            tiling=tiling,
            options=options,
            device=self._inner.device,
            precision=self._inner.precision,
            vectors=None if outputs is None else outputs.vectors,
            outputs=outputs,
            progress=progress,
        )

    def video(
        self,
        source: str | Path,
        target_stem: str | Path,
        *,
        options: VideoOptions | None = None,
        progress: Callable[[int, int | None], None] | None = None,
    ) -> VideoResult:
        """Predict every frame of a video; see :func:`refineseg.predict.video.video.predict_video`.

        Args:
            source: A file, an address, a camera's number, or a pattern of images (``frame_%05d.png``).
            target_stem: Where results go; an ending ``.mp4`` is left away.
            options: How it is read, smoothed and written.
            progress: Called with the frames done and, where known, how many there are.
        """
        stem = Path(target_stem)
        stem = stem.with_suffix("") if stem.suffix.lower() == ".mp4" else stem
        return predict_video(source, stem, self, options=options, progress=progress)
