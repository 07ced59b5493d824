"""The predictor that people use: a model by name, and images in whatever they are held; rasters and videos.

In: what :class:`~refineseg.predict.predictor.Predictor` takes, names and paths. Out: predictions, and files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from refineseg.errors import ConfigError, RefinesegError
from refineseg.images.inputs import AnyImage, picture_of
from refineseg.images.reading import USUAL, Reading
from refineseg.networks.model_names import model_text
from refineseg.predict.outputs.kinds import Outputs
from refineseg.predict.predictor import Predictor
from refineseg.predict.raster.options import RasterOptions
from refineseg.predict.raster.raster import predict_raster
from refineseg.predict.raster.results import RasterResult
from refineseg.predict.stream import StreamOptions, predictions
from refineseg.predict.video.options import VideoOptions
from refineseg.predict.video.video import VideoResult, predict_video
from refineseg.predict.views.crf_options import CrfOptions
from refineseg.predict.views.scoring_views import DEFAULT_VIEW, ScoringView, find_view
from refineseg.predict.views.tiling import TilingOptions
from refineseg.prediction import Prediction
from refineseg.runtimes.open import open_model
from refineseg.runtimes.table import Precision
from refineseg.scoring import Scorer
from refineseg.segmenter import Segmenter


class FilePredictor(Predictor):
    """``refineseg.Predictor``: predicts images, files, rasters and videos.

    Args:
        model: A shipped name (``camvid``), a ``.safetensors``, ``.onnx``, ``.xml`` or ``.pt2`` file, a segmenter, or
            any Scorer.
        device: Device of a segmenter: ``auto`` (CUDA if there, else CPU), ``cpu``, ``cuda``, ...
        precision: Precision of the network: ``float32`` or ``bfloat16``.
        scales: Scales of each image that are averaged; 1 is its own size.
        flip: Average with the mirrored image, too.
        protocol: Way of scoring, by name or as a view, see :class:`~refineseg.predict.predictor.Predictor`.
        crf: Options of a dense CRF at the end; None: without.
        tiling: How large images are cut; None: never. Exact tiles change nothing.
        backend: Runtime for a name or file: ``torch``, ``openvino``, ``auto``, ...; None: ``torch``, and of an exported
            file its own.

    Raises:
        ConfigError: Options that do not fit each other, the model or this machine.
        ModelFileError: No such model.

    Example:
        >>> import numpy as np, refineseg
        >>> predictor = refineseg.Predictor("camvid", device="cpu")
        >>> grey = np.zeros((20, 30), np.uint8)
        >>> predictor(grey).mask.shape
        (20, 30)
    """

    def __init__(
        self,
        model: str | Path | Segmenter | Scorer,
        *,
        device: str = "auto",
        precision: Precision = "float32",
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        protocol: str | ScoringView = DEFAULT_VIEW,
        crf: CrfOptions | None = None,
        tiling: TilingOptions | None = None,
        backend: str | None = None,
    ) -> None:
        if isinstance(model, str | Path):
            view = find_view(protocol) if isinstance(protocol, str) else protocol
            backend = "torch" if backend == "auto" and view.looks_inside else backend
            model = open_model(model_text(model), backend=backend, device=device, precision=precision)
        elif backend is not None:
            raise ConfigError(
                f"expected a model's name or file with the backend {backend}, got {type(model).__name__}; leave the "
                "backend out"
            )
        super().__init__(
            model,
            device=device,
            precision=precision,
            scales=scales,
            flip=flip,
            protocol=protocol,
            crf=crf,
            tiling=tiling,
        )

    def __call__(
        self,
        image: AnyImage,
        *,
        probabilities: bool = False,
        confidence: bool = False,
        reading: Reading = USUAL,
    ) -> Prediction:
        """Predict one image.

        Args:
            image: A path, a Pillow image, a tensor ``(C, H, W)``, or an array ``(H, W)`` grey or ``(H, W, C)``: RGB,
                RGBA, or as many channels as the model has; see :func:`~refineseg.images.inputs.picture_of`.
            probabilities: Whether to return the probabilities of all classes (and so the confidence).
            confidence: Whether to return the probability of each pixel's likeliest class.
            reading: How stored pixels become what the network sees; those that hold no data are void.

        Raises:
            ImageError: The image cannot be read.
            ConfigError: No such image.
        """
        picture = picture_of(image, reading=reading, num_channels=self.num_channels)
        (found,) = self.batch([picture.image], probabilities=probabilities, confidence=confidence)
        return found.without(picture.valid)

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
            probabilities: Whether to return the probabilities of all classes.
            confidence: Whether to return the probability of each pixel's likeliest class.
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

        Without ``tiling``, it is cut as the predictor cuts images.

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
            tiling=tiling or self._tiling,
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
