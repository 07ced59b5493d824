"""The seam between models and everything that uses them: the protocol ``Scorer`` and the result ``Prediction``.

In: ``uint8`` batches. Out: logits or class maps; and for one image a mask with its classes. Softmax and argmax are
written here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from refineseg import render
from refineseg.class_info import ClassInfo


@runtime_checkable
class Scorer(Protocol):
    """Something that scores pixels: a segmenter on a device, or an exported file in a runtime."""

    @property
    def class_info(self) -> ClassInfo:
        """The classes of the logits."""

    def logits(self, images: UInt8[Tensor, "n c h w"], /) -> Float[Tensor, "n k h w"]:
        """Logits at image size."""

    def class_map(self, images: UInt8[Tensor, "n c h w"], /) -> Int64[Tensor, "n h w"]:
        """The likeliest class of every pixel."""


def probabilities_of(logits: Float[Tensor, "n k h w"]) -> Float[Tensor, "n k h w"]:
    """Softmax over the classes."""
    return logits.float().softmax(dim=1)


def class_map_of(logits: Float[Tensor, "n k h w"]) -> Int64[Tensor, "n h w"]:
    """Argmax over the classes; the lower index wins a tie."""
    return logits.argmax(dim=1)


@dataclass(frozen=True)
class Prediction:
    """The mask of one image, with what its values mean.

    Args:
        image: ``(H, W, 3)`` uint8 RGB, as predicted on.
        mask: ``(H, W)`` class indices, uint8 (uint16 with more than 256 classes).
        class_info: The classes.
        probabilities: ``(K, H, W)`` float32, where they were asked for.
    """

    image: NDArray[np.uint8]
    mask: NDArray[Any]
    class_info: ClassInfo
    probabilities: NDArray[np.float32] | None = None

    @property
    def shares(self) -> NDArray[np.float64]:
        """(K,) share of the pixels of each class; they sum to 1."""
        counts = np.bincount(self.mask.ravel(), minlength=self.class_info.num_classes)
        return np.asarray(counts / self.mask.size, np.float64)

    def overlay(self, *, opacity: float = 0.5, legend: bool = True) -> NDArray[np.uint8]:
        """The image with the classes painted over it, ``(H', W', 3)`` uint8; the legend stands below the image."""
        return render.overlay(self.image, self.mask, self.class_info, opacity=opacity, legend=legend)
