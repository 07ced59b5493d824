"""Images of one size that can be a batch, and fit into the memory.

In: arrays (H, W, C) uint8, or bytes that are needed. Out: nothing, or an error or its text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refineseg.devices import free_memory
from refineseg.errors import ConfigError

_ALWAYS_THERE = 10**9  # bytes, for which nobody asks the system


class PixelBytes(NamedTuple):
    """Memory of a pixel of an image that a network sees whole.

    Args:
        network: Bytes of its feature maps.
        alone: Bytes for each class where the class map alone is computed.
        scored: Bytes for each class where logits or probabilities are.
    """

    network: int
    alone: int
    scored: int


IN_PYTORCH = PixelBytes(600, 1, 16)
"""Measured: 540 (LW-MobileNet-v2, 21 classes); 1 and 13 (300 classes)."""
IN_OPENVINO = PixelBytes(300, 3, 20)
"""Measured: 230 (`camvid`); 3 and 20 (300 classes)."""
IN_OTHERS = PixelBytes(300, 12, 20)
"""Measured in ONNX Runtime: 12 and 16 (300 classes)."""


def too_large(needed: int, size_hw: tuple[int, int]) -> str | None:
    """Why an image that must be seen whole cannot be, before the system ends the process; None: it fits.

    Args:
        needed: Bytes, as of ``Predictor.whole_bytes``.
        size_hw: Its height and width.
    """
    if needed <= _ALWAYS_THERE or needed <= free_memory():
        return None
    return (
        f"about {needed / 1e9:.0f} GB are needed to see {size_hw[0]}x{size_hw[1]} pixels at once; shrink it, or use a "
        "model file without --scales, --flip, --crf and --protocol, which is cut into tiles"
    )


def check_images(images: Sequence[NDArray[np.uint8]]) -> None:
    """Refuse what is no batch of images.

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
