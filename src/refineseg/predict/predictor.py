"""One image in, one Prediction out.

In: ``(H, W, 3)`` uint8 arrays and any Scorer (or a segmenter, which is put on a device). Out:
:class:`~refineseg.scoring.Prediction`. Training, evaluation and the command line predict through here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError
from refineseg.networks.variants import find_variant
from refineseg.predict.augmented import mean_probabilities
from refineseg.predict.authors import authors_scores
from refineseg.predict.crf import CrfOptions, dense_crf
from refineseg.predict.protocols import (
    DEFAULT_PROTOCOL,
    ScoringProtocol,
    check_scales,
    find_protocol,
    parse_scales,
)
from refineseg.scoring import Prediction, Scorer, class_map_of, confidence_of, probabilities_of
from refineseg.segmenter import Segmenter, load

Precision = Literal["float32", "bfloat16"]


def find_device(name: str) -> torch.device:
    """``auto`` (CUDA if there, else CPU), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Raises:
        ConfigError: No such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"expected a device of this machine (cpu{', cuda' if torch.cuda.is_available() else ''}), got {name!r}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return device


class TorchScorer:
    """A segmenter on a device, in a precision.

    Args:
        segmenter: The model; it is moved to the device and set to evaluation mode.
        device: Where.
        precision: ``float32``, or ``bfloat16`` autocast (faster where the hardware has it, slightly other masks).
    """

    def __init__(self, segmenter: Segmenter, *, device: torch.device, precision: Precision = "float32") -> None:
        self._segmenter = segmenter.to(device).eval()
        self._device = device
        self._autocast = precision == "bfloat16"

    @property
    def class_info(self) -> ClassInfo:
        """The classes of the logits."""
        return self._segmenter.class_info

    @torch.inference_mode()
    def logits(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n k h w"]:
        """Logits at image size, on the device."""
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._autocast):
            scores: Tensor = self._segmenter(images.to(self._device))
            return scores

    @torch.inference_mode()
    def output_logits(
        self, images: UInt8[Tensor, "n c h w"], *, enlarged_already: bool = False
    ) -> Float[Tensor, "n k h2 w2"]:
        """Logits at the network's own resolution, on the device; see :mod:`refineseg.predict.authors`."""
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._autocast):
            return self._segmenter.output_logits(images.to(self._device), enlarged_already=enlarged_already)

    def cubic_logits(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n k h w"]:
        """Logits at image size, enlarged bicubically (a = -0.75, border repeated: as OpenCV does it), on the device."""
        logits = self.output_logits(images).float()
        return F.interpolate(logits, size=images.shape[2:], mode="bicubic", align_corners=False)

    def class_map(self, images: UInt8[Tensor, "n c h w"]) -> Int64[Tensor, "n h w"]:
        """The likeliest class of every pixel, on the device."""
        return class_map_of(self.logits(images))

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self._device


class Predictor:
    """Predicts images, one by one or in batches of one size.

    Args:
        model: A segmenter, or any Scorer (an exported file in a runtime).
        device: For a segmenter: ``auto`` (CUDA if there, else CPU), ``cpu``, ``cuda``, ...
        precision: For a segmenter: ``float32`` or ``bfloat16``.
        scales: Score each image at these scales and average; 1 is its own size.
        flip: Score each scale mirrored too.
        protocol: At which sizes the network sees an image and how its output is enlarged: a name of
            :data:`~refineseg.predict.protocols.PROTOCOLS`, or a protocol.
        crf: Refine the (mean) probabilities by a dense CRF; RGB images only.

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
    ) -> None:
        self._scales, self._flip, self._crf = check_scales(scales), flip, crf
        self._protocol = find_protocol(protocol) if isinstance(protocol, str) else protocol
        if flip and self._protocol.is_authors:
            raise ConfigError(f"expected no mirror images with the protocol {self._protocol.name}, which has none")
        if isinstance(model, Segmenter):
            self._scorer: Scorer = TorchScorer(model, device=find_device(device), precision=precision)
        else:
            self._scorer = model
        if self._protocol.enlarged != "logits_bilinear" and not isinstance(self._scorer, TorchScorer):
            raise ConfigError(
                f"expected a segmenter for the protocol {self._protocol.name}, which needs the network's output before "
                f"its enlargement, got {type(model).__name__}, which gives logits at image size; use the model file, "
                f"or the protocol {DEFAULT_PROTOCOL}"
            )
        own = isinstance(model, Segmenter) and find_variant(model.spec.variant).two_scale
        if own and self._protocol.enlargement not in (None, 1):
            raise ConfigError(
                "expected the enlargement 1 with a two-scale network, whose encoders enlarge and shrink images "
                f"themselves, got {self._protocol.enlargement}; add --enlargement 1"
            )

    @property
    def class_info(self) -> ClassInfo:
        """The classes of the masks."""
        return self._scorer.class_info

    @property
    def prefers_batches(self) -> bool:
        """Whether images of one size are predicted faster together than one by one: on a GPU, not on a CPU."""
        return isinstance(self._scorer, TorchScorer) and self._scorer.device.type != "cpu"

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

        Args:
            images: Each as :meth:`__call__` takes it, all of one shape.
            probabilities: Also return the probabilities of all classes.
            confidence: Also return the probability of each pixel's likeliest class.

        Raises:
            ConfigError: No such arrays, or of different shapes.
        """
        for image in images:
            if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3:
                got = f"{image.dtype} of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
                raise ConfigError(f"expected an image (H, W, channels) of uint8 pixels 0..255, got {got}")
        if len({image.shape for image in images}) != 1:
            raise ConfigError(
                f"expected images of one shape in a batch, got {sorted({image.shape for image in images})}; "
                "predict those of other shapes by themselves"
            )
        pixels = np.ascontiguousarray(images[0])[None] if len(images) == 1 else np.stack(images)
        batch = torch.from_numpy(pixels).permute(0, 3, 1, 2)  # (N, C, H, W)
        classes, scores = self._classes_and_scores(batch, scored=probabilities or confidence or self._crf is not None)
        dtype: type[Any] = np.uint8 if self.class_info.num_classes <= 256 else np.uint16
        predictions = []
        for i, image in enumerate(images):
            own, own_classes = None if scores is None else scores[i : i + 1], classes[i : i + 1]
            if own is not None and self._crf is not None:
                own = torch.from_numpy(dense_crf(own[0].cpu().numpy(), image, options=self._crf))[None]
                own_classes = class_map_of(own)
            mask = own_classes[0].cpu().numpy().astype(dtype)
            kept = own[0].cpu().numpy() if probabilities and own is not None else None
            sure = confidence_of(own)[0].cpu().numpy() if (probabilities or confidence) and own is not None else None
            predictions.append(Prediction(image, mask, self.class_info, kept, sure))
        return predictions

    def _classes_and_scores(
        self, batch: UInt8[Tensor, "n c h w"], *, scored: bool
    ) -> tuple[Int64[Tensor, "n h w"], Float[Tensor, "n k h w"] | None]:
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
        scorer = self._scorer
        if not isinstance(scorer, TorchScorer):
            return mean_probabilities(scorer.logits, images, scales=self._scales, flip=self._flip)
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
        precision: Of the network.
        scales: Of the views that are averaged.
        flip: Mirror each view too.
        protocol: Sizes and enlargements.
        crf: Of a dense CRF at the end; None: without.
    """

    device: str
    precision: Precision
    scales: tuple[float, ...]
    flip: bool
    protocol: ScoringProtocol
    crf: CrfOptions | None = None

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
    ) -> PredictorOptions:
        """From the words of the command line.

        Raises:
            ConfigError: An unknown precision or protocol, wrong scales, or an enlargement that is not the protocol's.
        """
        for known in get_args(Precision):
            if precision == known:
                chosen = find_protocol(protocol, enlargement=enlargement)
                return cls(device, known, parse_scales(scales), flip, chosen, CrfOptions() if crf else None)
        raise ConfigError(f"expected a precision of {', '.join(get_args(Precision))}, got {precision!r}")

    def open(self, model: str) -> Predictor:
        """A predictor of a shipped model or a model file."""
        return self.predictor(load(model))

    def predictor(self, segmenter: Segmenter) -> Predictor:
        """A predictor of a segmenter."""
        return Predictor(
            segmenter,
            device=self.device,
            precision=self.precision,
            scales=self.scales,
            flip=self.flip,
            protocol=self.protocol,
            crf=self.crf,
        )

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "device": self.device,
            "precision": self.precision,
            "scales": list(self.scales),
            "flip": self.flip,
            "scoring_protocol": self.protocol.to_json(),
            "crf": None if self.crf is None else asdict(self.crf),
        }
