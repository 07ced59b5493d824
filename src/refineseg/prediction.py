"""What is known of an image's pixels after prediction, without torch: the result ``Prediction``.

In: a mask and its classes, and where they were asked for probabilities. Out: areas, shares, overlays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError
from refineseg.images import render


@dataclass(frozen=True)
class Prediction:
    """The mask of one image, with what its values mean.

    Args:
        image: ``(H, W, 3)`` uint8 RGB, as predicted on.
        mask: ``(H, W)`` class indices, of ``class_info.mask_dtype``: uint8, or uint16 with more than 255 classes;
            ``class_info.ignore_index`` where pixels were made unknown.
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
        mask = self._with_room_for_void
        return replace(self, mask=np.where(self.confidence < confidence, mask.dtype.type(void), mask))

    def without(self, valid: NDArray[np.bool_] | None) -> Prediction:
        """The same with ``class_info.ignore_index``, and no probability of any class, where pixels hold no data.

        Args:
            valid: (H, W), which hold data; None: all.
        """
        if valid is None:
            return self
        void, sure, scores = self.class_info.ignore_index, self.confidence, self.probabilities
        mask = self._with_room_for_void
        return replace(
            self,
            mask=np.where(valid, mask, mask.dtype.type(void)),
            probabilities=None if scores is None else np.where(valid, scores, np.float32(0)),
            confidence=None if sure is None else np.where(valid, sure, np.float32(0)),
        )

    @property
    def _with_room_for_void(self) -> NDArray[Any]:
        return self.mask.astype(np.promote_types(self.mask.dtype, self.class_info.mask_dtype), copy=False)

    def overlay(self, *, opacity: float = 0.5, legend: bool = True) -> NDArray[np.uint8]:
        """The image with the classes painted over it, ``(H', W', 3)`` uint8; the legend stands below the image."""
        return render.overlay(self.image, self.mask, self.class_info, opacity=opacity, legend=legend)
