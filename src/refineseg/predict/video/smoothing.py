"""Steady masks over time: a moving average of probabilities where nothing moves, and a score of how much they flicker.

In: the images, probabilities and masks of consecutive frames. Out: smoothed masks; label changes per static pixel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from refineseg.predict.video.options import CUT_ABOVE, STATIC_BELOW
from refineseg.scoring import class_map_of


def grey_of(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey levels ``(H, W)`` of an RGB image.

    Source: ITU-R BT.601 luma, 0.299 red + 0.587 green + 0.114 blue, as Pillow rounds it.
    """
    return np.asarray(Image.fromarray(image).convert("L"))


class Motion:
    """Which pixels are static from one frame to the next.

    Args:
        static_below: A pixel is static where its grey level changes by less than this.
        cut_above: Where the mean change of all pixels is more, the scene has changed and no pixel is static.
    """

    def __init__(self, *, static_below: float = STATIC_BELOW, cut_above: float = CUT_ABOVE) -> None:
        self._static_below, self._cut_above = static_below, cut_above
        self._before: NDArray[np.uint8] | None = None
        self.cuts = 0

    def static(self, image: NDArray[np.uint8]) -> NDArray[np.bool_] | None:
        """The static pixels ``(H, W)`` of the next frame; None: the first frame of a scene.

        Args:
            image: ``(H, W, 3)``, of one size over all frames.
        """
        grey, before = grey_of(image), self._before
        self._before = grey
        if before is None:
            return None
        change = np.maximum(grey, before) - np.minimum(grey, before)
        if float(change.mean()) > self._cut_above:
            self.cuts += 1
            return None
        return change < self._static_below


class Smoother:
    """A moving average of probabilities, for each pixel since it last moved.

    Where a pixel is static, its average becomes ``smooth`` x average + (1 - smooth) x new probabilities; where it
    moved, and everywhere at the start of a scene, it becomes the new probabilities, so that nothing is dragged along.

    Args:
        smooth: Weight of the past, 0 to 1.
    """

    def __init__(self, smooth: float) -> None:
        self._smooth = smooth
        self._average: Float[Tensor, "k h w"] | None = None

    def mask(self, probabilities: NDArray[np.float32], static: NDArray[np.bool_] | None) -> NDArray[Any]:
        """The classes ``(H, W)`` of the next frame, int64.

        Args:
            probabilities: ``(K, H, W)`` of this frame.
            static: Static pixels from :meth:`Motion.static`.
        """
        new = torch.from_numpy(probabilities)
        if self._average is None or static is None:
            self._average = new
        else:
            self._average = torch.lerp(new, self._average, torch.from_numpy(static).to(new) * self._smooth)
        return class_map_of(self._average[None])[0].numpy()


class FlickerScore:
    """Label changes per static pixel and pair of frames: 0 steady, 1 every label changes every time."""

    def __init__(self) -> None:
        self._before: NDArray[Any] | None = None
        self._changes = self._pixels = 0

    def update(self, mask: NDArray[Any], static: NDArray[np.bool_] | None) -> None:
        """Count the next frame.

        Args:
            mask: ``(H, W)`` classes.
            static: Static pixels from :meth:`Motion.static`; None starts anew.
        """
        if self._before is not None and static is not None:
            self._changes += int(np.count_nonzero(static & (mask != self._before)))
            self._pixels += int(np.count_nonzero(static))
        self._before = mask

    @property
    def score(self) -> float | None:
        """The score; None: no pixel was static in any pair of frames."""
        return self._changes / self._pixels if self._pixels else None
