"""The seam between models and everything that uses them: the class ``Scorer``.

In: ``uint8`` batches. Out: logits or class maps. Softmax and argmax are written here and nowhere else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Integer, UInt8
from torch import Tensor

from refineseg.class_info import ClassInfo, fits_byte

_STRIP_VALUES = {"cpu": 2**20, "other": 2**26}  # of enlarged logits; what a CPU's cache holds is twice as fast


class Scorer(ABC):
    """Something that scores pixels: a segmenter on a device, an exported file in a runtime, or one of your own.

    One of your own gives :attr:`class_info` and :meth:`logits`; the rest has an answer here. Several threads may call
    one scorer at once, and each result is that of a call alone. OpenVINO and compiled programs compute one call at a
    time.
    """

    @property
    @abstractmethod
    def class_info(self) -> ClassInfo:
        """The classes of the logits."""

    @abstractmethod
    def logits(self, images: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n k h w"]:
        """Logits at image size."""

    def class_map(self, images: UInt8[Tensor, "n c h w"]) -> Integer[Tensor, "n h w"]:
        """The likeliest class of every pixel."""
        return class_map_of(self.logits(images))

    @property
    def num_channels(self) -> int:
        """Channels of the images that it takes."""
        return 3

    @property
    def inner(self) -> Any:  # noqa: ANN401 - a TorchScorer, which lies above this module
        """The scorer whose network can be looked into, for tiles, rasters and output before it is enlarged.

        None: this one gives nothing but logits at image size.
        """
        return None


def probabilities_of(logits: Float[Tensor, "n k h w"]) -> Float[Tensor, "n k h w"]:
    """Softmax over the classes."""
    return logits.float().softmax(dim=1)


def confidence_of(probabilities: Float[Tensor, "n k h w"]) -> Float[Tensor, "n h w"]:
    """The probability of the likeliest class."""
    return probabilities.amax(dim=1)


def class_map_of(logits: Float[Tensor, "n k ..."]) -> Int64[Tensor, "n ..."]:
    """Argmax over the classes; the lower index wins a tie."""
    return logits.argmax(dim=1)


def class_dtype(largest: int) -> torch.dtype:
    """The dtype of class indices in tensors: uint8 where masks are, else int32, since torch computes little in uint16.

    Args:
        largest: The largest index that is stored, void included.
    """
    return torch.uint8 if fits_byte(largest) else torch.int32


def class_map_of_enlarged(
    logits: Float[Tensor, "n k h w"], enlarged_hw: tuple[int, int], size_hw: tuple[int, int]
) -> Integer[Tensor, "n h2 w2"]:
    """Argmax of bilinearly enlarged logits, which exist a strip of rows at a time where the factor is a whole number.

    Args:
        logits: Logits at the network's resolution.
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
    dtype = class_dtype(k - 1)
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
