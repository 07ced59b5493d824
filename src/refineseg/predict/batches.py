"""Images of one size that can be a batch.

In: arrays (H, W, C) uint8. Out: nothing, or an error.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from refineseg.errors import ConfigError

WHOLE_PIXEL_BYTES = 600
"""Memory of a pixel of an image that a network in PyTorch sees whole: 540 (LW-MobileNet-v2, 21 classes)."""
OTHER_PIXEL_BYTES = 300
"""The same in another runtime: 230 (`camvid` in OpenVINO)."""
SCORED_CLASS_BYTES = 16
"""Memory of a pixel for each class, where its probability is computed: 12 to 13 (300 classes). For classes alone 1."""


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
