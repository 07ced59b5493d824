"""Frames with the classes painted over them, quickly and all of one even size.

In: images and masks of one size. Out: RGB pictures that H.264 can hold, with a legend that does not change.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refineseg.class_info import ClassInfo
from refineseg.images.render import is_painted, legend

_LARGEST_LEGEND = 0.5  # of the height of the frame


class FramePainter:
    """Paints the classes over the frames of a video.

    The legend stands below the image and names all classes that are painted, so that it is the same in every frame;
    where it would take more than half the image's height, it is left out. Odd sides grow by one pixel, a copy of the
    last one, because H.264 in its usual form has colours for pairs of pixels only.

    Args:
        class_info: Colours and names.
        size_hw: Height and width of all frames.
        opacity: 0 shows the image, 1 the colours.
        with_legend: Add the legend.
    """

    def __init__(
        self, class_info: ClassInfo, size_hw: tuple[int, int], *, opacity: float = 0.5, with_legend: bool = True
    ) -> None:
        height, width = size_hw
        self._class_info, self._opacity = class_info, opacity
        painted = is_painted(class_info)
        self._painted = np.append(painted, False)  # the last one stands for void
        shown = np.flatnonzero(painted).tolist() if with_legend else []
        strip = legend(class_info, shown, width=width) if shown else None
        if strip is not None and strip.shape[0] > _LARGEST_LEGEND * height:
            strip = None
        rows = height + (0 if strip is None else strip.shape[0])
        self.size_hw = rows + rows % 2, width + width % 2
        self._strip = strip

    def paint(self, image: NDArray[np.uint8], mask: NDArray[Any]) -> NDArray[np.uint8]:
        """The picture of one frame, ``(*self.size_hw, 3)``; void and background stay unpainted.

        Args:
            image: ``(H, W, 3)`` uint8 RGB.
            mask: ``(H, W)`` classes.
        """
        colours = Image.fromarray(self._class_info.colours(mask))
        blended = np.asarray(Image.blend(Image.fromarray(image), colours, self._opacity))
        painted = self._painted.take(np.minimum(mask, self._class_info.num_classes))
        if not painted.all():
            blended = np.where(painted[..., None], blended, image)
        if self._strip is not None:
            blended = np.concatenate([blended, self._strip])
        bottom, right = self.size_hw[0] - blended.shape[0], self.size_hw[1] - blended.shape[1]
        if bottom or right:
            blended = np.pad(blended, ((0, bottom), (0, right), (0, 0)), mode="edge")
        return blended
