"""One image in, one Prediction out: the core, which knows no paths and no terminal.

In: ``(H, W, 3)`` uint8 arrays and any Scorer (or a segmenter, which is put on a device). Out:
:class:`~refineseg.prediction.Prediction`. Training, evaluation, the command line and services predict through here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from numpy.typing import NDArray
from torch import Tensor

from refineseg.class_info import ClassInfo
from refineseg.devices import find_device
from refineseg.errors import ConfigError
from refineseg.networks.variants import find_variant
from refineseg.predict.batches import IN_OTHERS, IN_PYTORCH, PixelBytes, check_images
from refineseg.predict.exact.tiled_scorer import Cutter
from refineseg.predict.views.augmented import mean_probabilities
from refineseg.predict.views.authors import authors_scores
from refineseg.predict.views.crf import dense_crf
from refineseg.predict.views.crf_options import CrfOptions
from refineseg.predict.views.scoring_views import (
    DEFAULT_VIEW,
    ScoringView,
    check_scales,
    find_view,
)
from refineseg.predict.views.tiling import TilingOptions
from refineseg.prediction import Prediction
from refineseg.runtimes.eager import TorchScorer
from refineseg.runtimes.table import Precision
from refineseg.scoring import Scorer, class_map_of, confidence_of, probabilities_of
from refineseg.segmenter import Segmenter
from refineseg.terminal.value_types import check_types

_CRF_BYTES = PixelBytes(600, 28, 28)
"""Of a dense CRF and its probabilities, after the network. Measured: 583, 887, 3360 in all (2, 19, 100 classes)."""


class Predictor:
    """Predicts images, one by one or in batches of one size.

    Several threads may use one predictor at once: nothing of a call is kept in it. It can be pickled for other
    processes if its model can (a segmenter can).

    Args:
        model: A segmenter, or any Scorer (an exported file in a runtime).
        device: For a segmenter: ``auto`` (CUDA if there, else CPU), ``cpu``, ``cuda``, ...
        precision: For a segmenter: ``float32`` or ``bfloat16``.
        scales: Score each image at these scales and average; 1 is its own size.
        flip: Score each scale mirrored too.
        protocol: At which sizes the network sees an image and how its output is enlarged: a name of
            :data:`~refineseg.predict.views.scoring_views.SCORING_VIEWS`, or a view.
        crf: Refine the (mean) probabilities by a dense CRF; RGB images only.
        tiling: How images are cut that are too large to be predicted whole; None: never. Exact tiles change nothing.

    Raises:
        ConfigError: No such device, scale or view, or options that do not fit each other.

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
        protocol: str | ScoringView = DEFAULT_VIEW,
        crf: CrfOptions | None = None,
        tiling: TilingOptions | None = None,
    ) -> None:
        flip = check_types(Predictor.__init__, {"flip": flip, "device": device})["flip"]
        if crf is not None and not isinstance(crf, CrfOptions):
            raise ConfigError(f"expected CrfOptions as crf, or None, got {type(crf).__name__}")
        self._scales, self._flip, self._crf = check_scales(scales), flip, crf
        self._view = find_view(protocol) if isinstance(protocol, str) else protocol
        self._view.check_flip(flip)
        self._scorer: Scorer = (
            TorchScorer(model, device=find_device(device), precision=precision)
            if isinstance(model, Segmenter)
            else model
        )
        self._inner: TorchScorer | None = self._scorer.inner
        if self._view.looks_inside and self._inner is None:
            raise ConfigError(
                f"expected a segmenter for the protocol {self._view.name}, which needs the network's output before "
                f"its enlargement, got {type(model).__name__}, which gives logits at image size; use the model file, "
                f"or the protocol {DEFAULT_VIEW}"
            )
        spec = None if self._inner is None else self._inner.segmenter.spec
        two_scale = spec is not None and find_variant(spec.variant).two_scale
        if two_scale and self._view.enlargement not in (None, 1):
            raise ConfigError(
                "expected the enlargement 1 with a two-scale network, whose encoders enlarge and shrink images "
                f"themselves, got {self._view.enlargement}; add --enlargement 1"
            )
        self.num_channels = self._scorer.num_channels
        if crf is not None and self.num_channels != 3:
            raise ConfigError(
                f"expected a model of RGB images for a CRF, which compares colours, got one of {self.num_channels} "
                "channels; leave the CRF out"
            )
        self._tiling = tiling
        self._cutter: Cutter | None = None
        if self._inner is not None and self._is_plain and tiling is not None:
            self._cutter = Cutter(self._inner, tiling)
        elif tiling is not None and isinstance(tiling.tile, int):
            raise ConfigError(
                f"expected tiles of {tiling.tile} pixels with a segmenter, no scales, no mirror images, no CRF and the "
                f"protocol {DEFAULT_VIEW}, got another of them, which needs the whole image; leave the tiles out"
            )

    @property
    def _is_plain(self) -> bool:
        """Whether a pixel depends on its surroundings through the network alone."""
        return self._scales == (1.0,) and not self._flip and self._crf is None and self._view.name == DEFAULT_VIEW

    @property
    def class_info(self) -> ClassInfo:
        """The classes of the masks."""
        return self._scorer.class_info

    def cuts(self, size_hw: tuple[int, int]) -> bool:
        """Whether images of this size are predicted in tiles."""
        return self._cutter is not None and self._cutter.cuts(size_hw)

    def whole_bytes(self, size_hw: tuple[int, int], *, scored: bool = False) -> int:
        """About the memory of the host that an image of this size needs; 0 where it is cut, or a GPU computes.

        Args:
            size_hw: Its height and width.
            scored: Whether probabilities or confidence are wanted.
        """
        if self._cutter is not None or (self._inner is not None and self._inner.device.type != "cpu"):
            return 0
        scale = max(1.0, *self._scales)
        if self._view.is_authors:
            scale *= self._view.factor(size_hw) * (self._view.enlargement or 1.0)
        elif self._inner is not None:
            scale *= self._inner.segmenter.spec.preprocessing.input_scale
        each = IN_OTHERS if self._inner is None else IN_PYTORCH
        if self._view.is_authors:
            classes = 8 + scale * scale
        elif self._scales != (1.0,) or self._flip or scale != 1:
            classes = each.scored + 4 * scale * scale
        else:
            scored = scored or self._view.looks_inside or self._crf is not None
            classes = each.scored if scored else each.alone
        pixel = each.network * scale * scale
        if self._crf is not None:
            pixel, classes = max(pixel, _CRF_BYTES.network), max(classes, _CRF_BYTES.scored)
        return int(size_hw[0] * size_hw[1] * (pixel + classes * self.class_info.num_classes))

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
        predictions = []
        for i, image in enumerate(images):
            own, own_classes = None if scores is None else scores[i : i + 1], classes[i : i + 1]
            if own is not None and self._crf is not None:
                own = torch.from_numpy(dense_crf(own[0].cpu().numpy(), image, options=self._crf))[None]
                own_classes = class_map_of(own)
            mask = own_classes[0].cpu().numpy().astype(self.class_info.mask_dtype, copy=False)
            kept = own[0].cpu().numpy() if probabilities and own is not None else None
            sure = confidence_of(own)[0].cpu().numpy() if (probabilities or confidence) and own is not None else None
            predictions.append(Prediction(image, mask, self.class_info, kept, sure))
        return predictions

    def _classes_and_scores(
        self, batch: UInt8[Tensor, "n c h w"], *, scored: bool
    ) -> tuple[Integer[Tensor, "n h w"], Float[Tensor, "n k h w"] | None]:
        """Class maps, and probabilities where they are wanted or come along."""
        if self._scales != (1.0,) or self._flip or self._view.looks_inside:
            scores = self._mean_scores(batch)
            classes = class_map_of(scores)
        elif scored:
            logits = self._scorer.logits(batch)
            scores = probabilities_of(logits)
            classes = class_map_of(logits)
        else:
            return self._scorer.class_map(batch), None
        if self._view.is_authors:  # whose scores do not sum to 1
            scores = scores / scores.sum(dim=1, keepdim=True)
        return classes, scores

    def _mean_scores(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n k h w"]:
        """Of all scales and mirror images, by the view; the class of a pixel is where they are largest."""
        scorer = self._inner
        if scorer is None:
            return mean_probabilities(self._scorer.logits, images, scales=self._scales, flip=self._flip)
        images = images.to(scorer.device)
        if self._view.is_authors:
            return authors_scores(
                lambda resized: scorer.output_logits(resized, resized_already=True),
                images,
                scales=self._scales,
                view=self._view,
            )
        score = scorer.cubic_logits if self._view.enlarged == "logits_cubic" else scorer.logits
        return mean_probabilities(score, images, scales=self._scales, flip=self._flip)


def stacked(images: Sequence[NDArray[np.uint8]]) -> UInt8[Tensor, "n c h w"]:
    """Checked images behind each other; a single one is copied only if it may not be written to, as torch wants."""
    pixels = np.require(images[0], requirements=("C", "W"))[None] if len(images) == 1 else np.stack(images)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)
