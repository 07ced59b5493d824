"""One image in, one Prediction out.

In: ``(H, W, 3)`` uint8 arrays and any Scorer (or a segmenter, which is put on a device). Out:
:class:`~refineseg.prediction.Prediction`. Training, evaluation and the command line predict through here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from numpy.typing import NDArray
from torch import Tensor

from refineseg.class_info import ClassInfo
from refineseg.devices import find_device
from refineseg.errors import ConfigError, RefinesegError
from refineseg.images.reading import USUAL, Reading
from refineseg.networks.variants import find_variant
from refineseg.predict.batches import check_images, stacked
from refineseg.predict.exact.cutting import Cutter
from refineseg.predict.outputs.kinds import Outputs
from refineseg.predict.raster.options import RasterOptions
from refineseg.predict.raster.raster import RasterResult, predict_raster
from refineseg.predict.video.options import VideoOptions
from refineseg.predict.video.video import VideoResult, predict_video
from refineseg.predict.views.augmented import mean_probabilities
from refineseg.predict.views.authors import authors_scores
from refineseg.predict.views.crf import CrfOptions, dense_crf
from refineseg.predict.views.protocols import (
    DEFAULT_PROTOCOL,
    ScoringProtocol,
    check_scales,
    find_protocol,
    parse_scales,
)
from refineseg.predict.views.tiling import TilingOptions
from refineseg.prediction import Prediction
from refineseg.runtimes.eager import TorchScorer
from refineseg.runtimes.open import OpenedModel, open_model
from refineseg.runtimes.table import PRECISIONS, Precision, check_name
from refineseg.scoring import Scorer, class_map_of, confidence_of, probabilities_of
from refineseg.segmenter import Segmenter
from refineseg.terminal.arguments import check_word


class Predictor:
    """Predicts images, one by one or in batches of one size.

    Args:
        model: A segmenter, or any Scorer (an exported file in a runtime).
        device: For a segmenter: ``auto`` (CUDA if there, else CPU), ``cpu``, ``cuda``, ...
        precision: For a segmenter: ``float32`` or ``bfloat16``.
        scales: Score each image at these scales and average; 1 is its own size.
        flip: Score each scale mirrored too.
        protocol: At which sizes the network sees an image and how its output is enlarged: a name of
            :data:`~refineseg.predict.views.protocols.PROTOCOLS`, or a protocol.
        crf: Refine the (mean) probabilities by a dense CRF; RGB images only.
        tiling: How images are cut that are too large to be predicted whole; None: never. Exact tiles change nothing.

    Raises:
        ConfigError: No such device, scale or protocol, or options that do not fit each other.

    Example:
        >>> import numpy as np, refineseg
        >>> segmenter = refineseg.build("refinenet_lw_mobilenetv2", num_classes=4)
        >>> refineseg.Predictor(segmenter)(np.zeros((20, 30, 3), np.uint8)).mask.shape
        (20, 30)
        >>> careful = refineseg.Predictor(segmenter, scales=(0.5, 1.0), flip=True)
        >>> careful(np.zeros((20, 30, 3), np.uint8)).mask.shape
        (20, 30)
    """

    def __init__(
        self,
        model: Segmenter | Scorer,
        *,
        device: str = "auto",
        precision: Precision = "float32",
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        protocol: str | ScoringProtocol = DEFAULT_PROTOCOL,
        crf: CrfOptions | None = None,
        tiling: TilingOptions | None = None,
    ) -> None:
        self._scales, self._flip, self._crf = check_scales(scales), flip, crf
        self._protocol = find_protocol(protocol) if isinstance(protocol, str) else protocol
        self._protocol.check_flip(flip)
        self._scorer: Scorer = (
            TorchScorer(model, device=find_device(device), precision=precision)
            if isinstance(model, Segmenter)
            else model
        )
        self._inner: TorchScorer | None = self._scorer.inner
        if self._protocol.enlarged != "logits_bilinear" and self._inner is None:
            raise ConfigError(
                f"expected a segmenter for the protocol {self._protocol.name}, which needs the network's output before "
                f"its enlargement, got {type(model).__name__}, which gives logits at image size; use the model file, "
                f"or the protocol {DEFAULT_PROTOCOL}"
            )
        spec = None if self._inner is None else self._inner.segmenter.spec
        two_scale = spec is not None and find_variant(spec.variant).two_scale
        if two_scale and self._protocol.enlargement not in (None, 1):
            raise ConfigError(
                "expected the enlargement 1 with a two-scale network, whose encoders enlarge and shrink images "
                f"themselves, got {self._protocol.enlargement}; add --enlargement 1"
            )
        self.num_channels = 3 if spec is None else spec.preprocessing.in_channels  # of the images that it takes
        self._cutter: Cutter | None = None
        if self._inner is not None and self._is_plain and tiling is not None:
            self._cutter = Cutter(self._inner, tiling)
        elif tiling is not None and isinstance(tiling.tile, int):
            raise ConfigError(
                f"expected tiles of {tiling.tile} pixels with a segmenter, no scales, no mirror images, no CRF and the "
                f"protocol {DEFAULT_PROTOCOL}, got another of them, which needs the whole image; leave the tiles out"
            )

    @property
    def _is_plain(self) -> bool:
        """Whether a pixel depends on its surroundings through the network alone."""
        return (
            self._scales == (1.0,) and not self._flip and self._crf is None and self._protocol.name == DEFAULT_PROTOCOL
        )

    @property
    def class_info(self) -> ClassInfo:
        """The classes of the masks."""
        return self._scorer.class_info

    def cuts(self, size_hw: tuple[int, int]) -> bool:
        """Whether images of this size are predicted in tiles."""
        return self._cutter is not None and self._cutter.cuts(size_hw)

    @property
    def prefers_batches(self) -> bool:
        """Whether images of one size are predicted faster together than one by one: on a GPU, not on a CPU."""
        return self._inner is not None and self._inner.device.type != "cpu"

    def __call__(
        self, image: NDArray[np.uint8], *, probabilities: bool = False, confidence: bool = False
    ) -> Prediction:
        """Predict one image.

        Args:
            image: ``(H, W, 3)`` uint8 RGB (other channels if the model was built so), any size from 1x1 up.
            probabilities: Also return the probabilities of all classes (and so the confidence).
            confidence: Also return the probability of each pixel's likeliest class.

        Raises:
            ConfigError: Not such an array.
        """
        return self.batch([image], probabilities=probabilities, confidence=confidence)[0]

    def batch(
        self, images: Sequence[NDArray[np.uint8]], *, probabilities: bool = False, confidence: bool = False
    ) -> list[Prediction]:
        """Predict images of one size together: faster on a GPU, the same as one by one up to rounding.

        Each is as :meth:`__call__` takes it, and so are the options.

        Raises:
            ConfigError: No such arrays, or of different shapes.
        """
        check_images(images)
        if self._cutter is not None and self._cutter.cuts((images[0].shape[0], images[0].shape[1])):
            return [self._cutter(image, probabilities=probabilities, confidence=confidence) for image in images]
        classes, scores = self._classes_and_scores(
            stacked(images), scored=probabilities or confidence or self._crf is not None
        )
        dtype: type[Any] = np.uint8 if self.class_info.num_classes <= 256 else np.uint16
        predictions = []
        for i, image in enumerate(images):
            own, own_classes = None if scores is None else scores[i : i + 1], classes[i : i + 1]
            if own is not None and self._crf is not None:
                own = torch.from_numpy(dense_crf(own[0].cpu().numpy(), image, options=self._crf))[None]
                own_classes = class_map_of(own)
            mask = own_classes[0].cpu().numpy().astype(dtype, copy=False)
            kept = own[0].cpu().numpy() if probabilities and own is not None else None
            sure = confidence_of(own)[0].cpu().numpy() if (probabilities or confidence) and own is not None else None
            predictions.append(Prediction(image, mask, self.class_info, kept, sure))
        return predictions

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
            >>> from refineseg.images.files import write_image
            >>> predictor = refineseg.Predictor(refineseg.build("refinenet_lw_mobilenetv2", num_classes=4))
            >>> with TemporaryDirectory() as folder:
            ...     write_image(Path(folder) / "a.png", np.zeros((20, 30, 3), np.uint8))
            ...     for path, prediction in predictor.stream(Path(folder).glob("*.png")):
            ...         print(path.name, prediction.mask.shape)
            a.png (20, 30)
        """
        from refineseg.predict.folder.file_options import StreamOptions
        from refineseg.predict.stream import predictions

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

    def _classes_and_scores(
        self, batch: UInt8[Tensor, "n c h w"], *, scored: bool
    ) -> tuple[Integer[Tensor, "n h w"], Float[Tensor, "n k h w"] | None]:
        """Class maps, and probabilities where they are wanted or come along."""
        if self._scales != (1.0,) or self._flip or self._protocol.enlarged != "logits_bilinear":
            scores = self._mean_scores(batch)
            classes = class_map_of(scores)
        elif scored:
            logits = self._scorer.logits(batch)
            scores = probabilities_of(logits)
            classes = class_map_of(logits)
        else:
            return self._scorer.class_map(batch), None
        if self._protocol.is_authors:  # whose scores do not sum to 1
            scores = scores / scores.sum(dim=1, keepdim=True)
        return classes, scores

    def _mean_scores(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n k h w"]:
        """Of all scales and mirror images, by the protocol; the class of a pixel is where they are largest."""
        scorer = self._inner
        if scorer is None:
            return mean_probabilities(self._scorer.logits, images, scales=self._scales, flip=self._flip)
        images = images.to(scorer.device)
        if self._protocol.is_authors:
            return authors_scores(
                lambda resized: scorer.output_logits(resized, enlarged_already=True),
                images,
                scales=self._scales,
                protocol=self._protocol,
            )
        score = scorer.cubic_logits if self._protocol.enlarged == "logits_cubic" else scorer.logits
        return mean_probabilities(score, images, scales=self._scales, flip=self._flip)


@dataclass(frozen=True)
class PredictorOptions:
    """How to predict, as the command line says it; all that must be known to repeat a number beside model and data.

    Args:
        device: ``auto``, ``cpu``, ``cuda``, ...
        precision: Precision of the network.
        scales: Scales of the views that are averaged.
        flip: Mirror each view too.
        protocol: Sizes and enlargements.
        crf: Options of a dense CRF at the end; None: without.
        tiling: How large images are cut; None: never.
        backend: Name of the runtime, a key of :data:`~refineseg.runtimes.table.BACKENDS`, or ``auto``; None: ``torch``,
            and of an exported file its own.
    """

    device: str
    precision: Precision
    scales: tuple[float, ...]
    flip: bool
    protocol: ScoringProtocol
    crf: CrfOptions | None = None
    tiling: TilingOptions | None = None
    backend: str | None = None

    @classmethod
    def parse(
        cls,
        *,
        device: str = "auto",
        precision: str = "float32",
        scales: str = "1",
        flip: bool = False,
        protocol: str = DEFAULT_PROTOCOL,
        enlargement: float | None = None,
        crf: bool = False,
        tiling: TilingOptions | None = None,
        backend: str | None = None,
    ) -> PredictorOptions:
        """From the words of the command line.

        Raises:
            ConfigError: An unknown word, wrong scales, or an enlargement that is not the protocol's.
        """
        check_word("precision", precision, PRECISIONS)
        kind: Precision = "bfloat16" if precision == "bfloat16" else "float32"
        chosen, refined = find_protocol(protocol, enlargement=enlargement), CrfOptions() if crf else None
        return cls(device, kind, parse_scales(scales), flip, chosen, refined, tiling, backend and check_name(backend))

    def open(self, model: str) -> Predictor:
        """A predictor of a shipped model, a model file or an exported file."""
        return self.predictor(self.opened(model))

    def opened(self, model: str) -> OpenedModel:
        """A model in the runtime and on the device that were asked for."""
        return open_model(model, backend=self.backend, device=self.device, precision=self.precision)

    def predictor(self, model: Segmenter | Scorer) -> Predictor:
        """A predictor of what was opened."""
        return Predictor(
            model,
            device=self.device,
            precision=self.precision,
            scales=self.scales,
            flip=self.flip,
            protocol=self.protocol,
            crf=self.crf,
            tiling=self.tiling,
        )

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "device": self.device,
            "backend": self.backend or "torch",
            "precision": self.precision,
            "scales": list(self.scales),
            "flip": self.flip,
            "scoring_protocol": self.protocol.to_json(),
            "crf": None if self.crf is None else asdict(self.crf),
            **({"tiling": asdict(self.tiling)} if self.tiling is not None and self.tiling.mode == "blend" else {}),
        }
