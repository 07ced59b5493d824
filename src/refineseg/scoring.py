"""The seam between models and everything that uses them: the protocol ``Scorer`` and the result ``Prediction``.

In: ``uint8`` batches. Out: logits or class maps; and for one image a mask with its classes. Softmax and argmax are
written here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Integer, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from refineseg import render
from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError

_STRIP_VALUES = {"cpu": 2**20, "other": 2**26}  # of enlarged logits; what a CPU's cache holds is twice as fast


@runtime_checkable
class Scorer(Protocol):
    """Something that scores pixels: a segmenter on a device, or an exported file in a runtime."""

    @property
    def class_info(self) -> ClassInfo:
        """The classes of the logits."""

    def logits(self, images: UInt8[Tensor, "n c h w"], /) -> Float[Tensor, "n k h w"]:
        """Logits at image size."""

    def class_map(self, images: UInt8[Tensor, "n c h w"], /) -> Integer[Tensor, "n h w"]:
        """The likeliest class of every pixel."""


def probabilities_of(logits: Float[Tensor, "n k h w"]) -> Float[Tensor, "n k h w"]:
    """Softmax over the classes."""
    return logits.float().softmax(dim=1)


def confidence_of(probabilities: Float[Tensor, "n k h w"]) -> Float[Tensor, "n h w"]:
    """The probability of the likeliest class."""
    return probabilities.amax(dim=1)


def class_map_of(logits: Float[Tensor, "n k ..."]) -> Int64[Tensor, "n ..."]:
    """Argmax over the classes; the lower index wins a tie."""
    return logits.argmax(dim=1)


def class_map_of_enlarged(
    logits: Float[Tensor, "n k h w"], enlarged_hw: tuple[int, int], size_hw: tuple[int, int]
) -> Integer[Tensor, "n h2 w2"]:
    """Argmax of bilinearly enlarged logits, which exist a strip of rows at a time where the factor is a whole number.

    Args:
        logits: At the network's resolution.
        enlarged_hw: Height and width they stand for; ``align_corners=False``.
        size_hw: Height and width of the result, cut at the bottom and on the right.

    Returns:
        ``class_map_of`` of the enlarged logits; uint8, with more than 256 classes int32.

    Example:
        >>> logits = torch.randn(1, 3, 50, 60)
        >>> large = F.interpolate(logits, size=(200, 240), mode="bilinear", align_corners=False)
        >>> bool((class_map_of_enlarged(logits, (200, 240), (190, 233)) == class_map_of(large)[:, :190, :233]).all())
        True
    """
    n, k, h, _ = logits.shape
    (height, width), (rows, columns) = enlarged_hw, size_hw
    dtype = torch.uint8 if k <= 256 else torch.int32
    factor = height // h
    if factor * h != height:
        large = F.interpolate(logits, size=enlarged_hw, mode="bilinear", align_corners=False)
        return class_map_of(large[:, :, :rows, :columns]).to(dtype)
    classes = torch.empty((n, rows, columns), dtype=dtype, device=logits.device)
    most = _STRIP_VALUES["cpu" if logits.device.type == "cpu" else "other"]
    step = max(1, most // (n * k * factor * width))
    for top in range(0, -(-rows // factor), step):
        first, last = max(0, top - 1), min(h, top + step + 1)  # with the neighbours that are mixed in
        strip = F.interpolate(
            logits[:, :, first:last], size=((last - first) * factor, width), mode="bilinear", align_corners=False
        )
        begin, end, cut = top * factor, min(rows, (top + step) * factor), (top - first) * factor
        classes[:, begin:end] = class_map_of(strip[:, :, cut : cut + end - begin, :columns])
    return classes


@dataclass(frozen=True)
class Prediction:
    """The mask of one image, with what its values mean.

    Args:
        image: ``(H, W, 3)`` uint8 RGB, as predicted on.
        mask: ``(H, W)`` class indices, uint8 (uint16 with more than 256 classes); ``class_info.ignore_index`` where
            pixels were made unknown.
        class_info: The classes.
        probabilities: ``(K, H, W)`` float32, where they were asked for.
        confidence: ``(H, W)`` float32, the probability of the likeliest class, 0..1, where it or the probabilities were
            asked for.

    Example:
        >>> shown = np.array([[0.9, 0.4]], np.float32)
        >>> prediction = Prediction(
        ...     np.zeros((1, 2, 3), np.uint8),
        ...     np.array([[0, 1]], np.uint8),
        ...     ClassInfo(("sky", "road")),
        ...     confidence=shown,
        ... )
        >>> prediction.unknown_below(0.5).mask.tolist()
        [[0, 255]]
    """

    image: NDArray[np.uint8]
    mask: NDArray[Any]
    class_info: ClassInfo
    probabilities: NDArray[np.float32] | None = None
    confidence: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if self.confidence is None and self.probabilities is not None:
            object.__setattr__(self, "confidence", self.probabilities.max(axis=0))

    @property
    def areas(self) -> NDArray[np.int64]:
        """(K,) pixels of each class; together they are all pixels but the unknown ones."""
        if self.mask.dtype == np.uint8:  # counted as they are, without a copy of eight bytes per pixel
            counts = np.array(Image.fromarray(self.mask).histogram())
        else:
            counts = np.bincount(self.mask.ravel(), minlength=self.class_info.num_classes)
        return counts[: self.class_info.num_classes].astype(np.int64)

    @property
    def shares(self) -> NDArray[np.float64]:
        """(K,) share of the pixels of each class; they sum to 1 where no pixel is unknown."""
        return np.asarray(self.areas / self.mask.size, np.float64)

    def unknown_below(self, confidence: float) -> Prediction:
        """The same with ``class_info.ignore_index`` in the mask wherever the confidence is lower.

        Args:
            confidence: 0..1; a pixel of exactly this confidence keeps its class.

        Raises:
            ConfigError: The prediction was made without confidence, or the limit is outside 0..1.
        """
        if not 0 <= confidence <= 1:
            raise ConfigError(f"expected a confidence 0..1 below which pixels are unknown, got {confidence}")
        if self.confidence is None:
            raise ConfigError(
                "expected a prediction with confidence, got one without; ask for it: predictor(image, confidence=True)"
            )
        void = self.class_info.ignore_index
        mask = self.mask if void <= np.iinfo(self.mask.dtype).max else self.mask.astype(np.uint16)
        return replace(self, mask=np.where(self.confidence < confidence, mask.dtype.type(void), mask))

    def without(self, valid: NDArray[np.bool_] | None) -> Prediction:
        """The same with ``class_info.ignore_index``, and no probability of any class, where pixels hold no data.

        Args:
            valid: (H, W), which hold data; None: all.
        """
        if valid is None:
            return self
        void, sure, scores = self.class_info.ignore_index, self.confidence, self.probabilities
        mask = self.mask if void <= np.iinfo(self.mask.dtype).max else self.mask.astype(np.uint16)
        return replace(
            self,
            mask=np.where(valid, mask, mask.dtype.type(void)),
            probabilities=None if scores is None else np.where(valid, scores, np.float32(0)),
            confidence=None if sure is None else np.where(valid, sure, np.float32(0)),
        )

    def overlay(self, *, opacity: float = 0.5, legend: bool = True) -> NDArray[np.uint8]:
        """The image with the classes painted over it, ``(H', W', 3)`` uint8; the legend stands below the image."""
        return render.overlay(self.image, self.mask, self.class_info, opacity=opacity, legend=legend)
