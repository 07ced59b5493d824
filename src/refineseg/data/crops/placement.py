"""Where a crop lies: what is drawn, and the arithmetic that host and device share.

In: random numbers and sizes. Out: places in an image, the same wherever the pixels are cut.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from refineseg.data.crops.options import CropOptions

_NUM_DRAWS = 7
_NUM_FURTHER_DRAWS = 6
_NUM_CAST_DRAWS = 2


Colours = tuple[float, float, float, float, float]
"""Factors of brightness, contrast, saturation, red and blue; 1 changes nothing."""


@dataclass(frozen=True)
class Augmentation(CropOptions):
    """How a crop is drawn.

    Args:
        flip: Mirror left and right half of the time.
        colour: Largest relative change of brightness, contrast and saturation, 0..1.
        white_balance: Largest factor, as a natural logarithm, by which red and blue change against green, 0..1.
    """

    flip: bool = True
    colour: float = 0.0
    white_balance: float = 0.0

    def draw(self, generator: torch.Generator) -> list[float]:
        """The random numbers, 0..1, of one crop; rotation, pasting and white balance take theirs last."""
        draw: list[float] = torch.rand(_NUM_DRAWS, generator=generator).tolist()
        if self.rotation or self.copy_paste or self.white_balance:
            draw += torch.rand(_NUM_FURTHER_DRAWS, generator=generator, dtype=torch.float64).tolist()
        if self.white_balance:
            draw += torch.rand(_NUM_CAST_DRAWS, generator=generator).tolist()
        return draw

    def factor(self, draw: float, size_hw: tuple[int, int]) -> float:
        """The resize factor of an image of this size, from a number drawn from 0..1."""
        low, high = self.scale
        if self.scale_step is None:
            factor = low + (high - low) * draw
        else:
            choices = round((high - low) / self.scale_step) + 1
            factor = low + self.scale_step * min(int(draw * choices), choices - 1)
        short = min(size_hw)
        if self.short_side is not None:
            factor *= min(max(short, self.short_side[0]), self.short_side[1]) / short
        return max(factor, self.smallest_side / short)

    @property
    def recolours(self) -> bool:
        """Whether anything changes the colours."""
        return bool(self.colour or self.white_balance)

    def colours(self, draw: Sequence[float]) -> Colours:
        """Factors of brightness, contrast, saturation, red and blue."""
        brightness, contrast, saturation = (1 + self.colour * (2 * value - 1) for value in draw[4:7])
        if not self.white_balance:
            return brightness, contrast, saturation, 1.0, 1.0
        red, blue = (math.exp(self.white_balance * (2 * value - 1)) for value in draw[-_NUM_CAST_DRAWS:])
        return brightness, contrast, saturation, red, blue

    def resized(self, draw: float, size_hw: tuple[int, int]) -> tuple[int, int]:
        """Height and width of an image after the resize."""
        factor = self.factor(draw, size_hw)
        return max(1, round(size_hw[0] * factor)), max(1, round(size_hw[1] * factor))

    def crop_of(self, resized_hw: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the crop of a resized image."""
        if self.pad:
            return self.crop_hw
        side = max(2, min(resized_hw) // 2 * 2)
        return min(self.crop_hw[0], side), min(self.crop_hw[1], side)

    def place(self, draw: Sequence[float], size_hw: tuple[int, int]) -> Placed:
        """A crop that lies anywhere in an image of this size."""
        resized_hw = self.resized(draw[0], size_hw)
        crop_hw = self.crop_of(resized_hw)
        return Placed(
            size_hw,
            resized_hw,
            crop_hw,
            _start(draw[1], resized_hw[0], crop_hw[0]),
            _start(draw[2], resized_hw[1], crop_hw[1]),
            self.flip and draw[3] < 0.5,
            self.rotation * (2 * draw[7] - 1) if self.rotation else 0.0,
        )

    def place_donor(self, draw: Sequence[float], size_hw: tuple[int, int], crop_hw: tuple[int, int]) -> Placed:
        """The crop that is pasted from: the same factor, height in the image and turn, so that what stands stands on.

        It is moved as little as it takes to hold a pixel of the class (:func:`corners`).
        """
        resized_hw = self.resized(draw[0], size_hw)
        return Placed(
            size_hw,
            resized_hw,
            crop_hw,
            _start(draw[1], resized_hw[0], crop_hw[0]),
            _start(draw[11], resized_hw[1], crop_hw[1]),
            self.flip and draw[12] < 0.5,
            self.rotation * (2 * draw[7] - 1) if self.rotation else 0.0,
        )

    def pastes(self, draw: Sequence[float]) -> bool:
        """Whether this crop gets something from another."""
        return bool(self.copy_paste) and draw[8] < self.copy_paste


@dataclass(frozen=True)
class Placed:
    """Where a crop lies in a resized image.

    Args:
        size_hw: Height and width of the image as it is stored.
        resized_hw: Height and width of the image after the resize.
        crop_hw: Height and width of the crop.
        top: First row of the crop in the resized image.
        left: First column.
        flip: The crop is mirrored after it is cut.
        degrees: The crop is turned by around its middle.
    """

    size_hw: tuple[int, int]
    resized_hw: tuple[int, int]
    crop_hw: tuple[int, int]
    top: int
    left: int
    flip: bool
    degrees: float


def _start(draw: float, resized: int, crop: int) -> int:
    return int(draw * (max(resized - crop, 0) + 1))


def corners(pixels: Tensor, sizes: Tensor, resized: Tensor, crop: Tensor, starts: Tensor | None) -> Tensor:
    """First row and column of crops that hold a given pixel.

    Args:
        pixels: (N, 2) rows and columns in the stored images.
        sizes: (N, 2) of the stored images.
        resized: (N, 2) of the resized ones.
        crop: (N, 2) or (2,) of the crops.
        starts: (N, 2) where the crops would lie; they are moved as little as it takes. None: the pixel comes to the
            middle, as far as the image reaches.
    """
    at = ((pixels.double() + 0.5) * resized / sizes).floor()
    moved = None if starts is None else torch.minimum(torch.maximum(starts.double(), at - crop + 1), at)
    first = at - crop // 2 if moved is None else moved
    return torch.minimum(first.clamp(min=0), (resized - crop).clamp(min=0)).long()


def turned_sources(
    first: Tensor, resized: Tensor, sizes: Tensor, flips: Tensor, degrees: Tensor, crop_hw: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Where the centres of the pixels of turned crops lie.

    Args:
        first: (N, 2) first row and column of the crops in the resized images.
        resized: (N, 2) of the resized images.
        sizes: (N, 2) of the stored images.
        flips: (N,) bool.
        degrees: (N,) counter-clockwise, as the image's content turns.
        crop_hw: Height and width of all crops.

    Returns:
        (N, 2, h, w) rows and columns in the resized image (whole numbers are edges), the same in the stored image, and
        (N, h, w) whether they lie inside.
    """
    device = first.device
    down, across = (torch.arange(side, device=device).double() + 0.5 - side / 2 for side in crop_hw)
    across = torch.where(flips[:, None], across.flip(0)[None], across[None])[:, None, :]  # (N, 1, w)
    angle = torch.deg2rad(degrees.double())[:, None, None]
    offsets = torch.stack(
        [
            down[None, :, None] * angle.cos() + across * angle.sin(),
            across * angle.cos() - down[None, :, None] * angle.sin(),
        ],
        dim=1,
    )  # (N, 2, h, w)
    middles = torch.stack(
        [starts.double() + side / 2 for starts, side in zip(first.unbind(1), crop_hw, strict=True)], 1
    )
    limits, stored = resized.double()[:, :, None, None], sizes.double()[:, :, None, None]
    at = middles[:, :, None, None] + offsets
    inside = ((at >= 0) & (at < limits)).all(dim=1)
    sources = torch.minimum((at * stored / limits).clamp(min=0.0), stored - 1e-6)
    return at, sources, inside
