"""How training crops are placed and drawn: the part of a configuration that its phases may choose each for itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from refineseg.errors import require


@dataclass(frozen=True)
class CropOptions:
    """Size, scale and place of crops.

    Args:
        crop_hw: Height and width in pixels; multiples of 32 waste nothing.
        scale: Smallest and largest factor by which the image is resized before cropping, drawn uniformly.
        scale_step: Draw only the smallest factor plus multiples of this; None: any factor.
        short_side: Images are brought to a shorter side in this range before the random factor; None: not.
        smallest_side: The factor is raised until the shorter side has this many pixels.
        crop_centre: ``uniform``: crops lie anywhere; ``class``: a random pixel of a random class of the mask is in the
            middle of the crop, as far as the image reaches.
        pad: Pad images smaller than the crop; False: the crop shrinks to the image's shorter side, rounded to even
            (batches of one).
        at_most_images: Crops become no larger than the images are when training begins, rounded up to multiples of 32.
        rotation: Turn crops around their middle by up to so many degrees either way; what lies outside of the image is
            void.
        copy_paste: Share of crops that get the pixels of a rare class, and their labels, from another crop, 0..1.
        class_balance: Share of an epoch's images drawn by the classes in them, all classes alike, 0..1; 0: every image
            once.
    """

    crop_hw: tuple[int, int]
    scale: tuple[float, float]
    scale_step: float | None = None
    short_side: tuple[int, int] | None = None
    smallest_side: int = 0
    crop_centre: Literal["uniform", "class"] = "uniform"
    pad: bool = True
    at_most_images: bool = False
    rotation: float = 0.0
    copy_paste: float = 0.0
    class_balance: float = 0.0

    def __post_init__(self) -> None:
        require(0 < self.scale[0] <= self.scale[1], "crops.scale as (smallest, largest) above 0", self.scale)
        require(self.scale_step is None or self.scale_step > 0, "crops.scale_step above 0", self.scale_step)
        low, high = self.short_side or (1, 1)
        require(0 < low <= high, "crops.short_side as (smallest, largest) above 0", self.short_side)
        require(0 <= self.rotation <= 180, "crops.rotation in 0..180 degrees", self.rotation)
        require(0 <= self.copy_paste <= 1, "crops.copy_paste in 0..1", self.copy_paste)
        require(0 <= self.class_balance <= 1, "crops.class_balance in 0..1", self.class_balance)
