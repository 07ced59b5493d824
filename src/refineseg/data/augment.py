"""Random scale, crop, flip and colour: one sample in, one training crop out.

In: a :class:`~refineseg.data.sample.Sample` and a random generator. Out: ``(3, h, w)`` uint8 and ``(h, w)`` int64
    tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from refineseg.data.sample import Sample
from refineseg.errors import DatasetError

_GREY = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in brightness (ITU-R BT.601)."""
_PADDING_PIXEL = (124.0, 116.0, 104.0)  # the mean colour of ImageNet, which becomes about 0 for the network


def padding_pixel(channels: int) -> tuple[float, ...]:
    """The colour outside an image: ImageNet's mean, or its average for images that are not RGB."""
    return _PADDING_PIXEL if channels == 3 else (sum(_PADDING_PIXEL) / 3,) * channels


@dataclass(frozen=True)
class Augmentation:
    """How a crop is drawn.

    Args:
        crop_hw: Height and width of the result, in pixels.
        scale: Smallest and largest factor by which the image is resized before cropping, drawn uniformly.
        flip: Mirror left and right half of the time.
        colour: Largest relative change of brightness, contrast and saturation, 0..1.
        scale_step: Draw only the smallest factor plus multiples of this; None: any factor.
        short_side: Images are brought to a shorter side in this range before the random factor; None: not.
        smallest_side: The factor is raised until the shorter side has this many pixels.
        crop_centre: ``uniform``: crops lie anywhere; ``class``: a random pixel of a random class of the mask is in the
            middle of the crop, as far as the image reaches.
        pad: Pad images smaller than the crop; False: the crop shrinks to the image's shorter side, rounded to even.
    """

    crop_hw: tuple[int, int]
    scale: tuple[float, float]
    flip: bool = True
    colour: float = 0.0
    scale_step: float | None = None
    short_side: tuple[int, int] | None = None
    smallest_side: int = 0
    crop_centre: Literal["uniform", "class"] = "uniform"
    pad: bool = True

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

    def colours(self, draw: Sequence[float]) -> tuple[float, float, float]:
        """Factors of brightness, contrast and saturation."""
        brightness, contrast, saturation = (1 + self.colour * (2 * value - 1) for value in draw[4:7])
        return brightness, contrast, saturation

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

    def corner(
        self,
        draw: Sequence[float],
        resized_hw: tuple[int, int],
        crop_hw: tuple[int, int],
        *,
        mask: Tensor | None,
        ignore_index: int,
    ) -> tuple[int, int]:
        """The first row and column of the crop; ``mask`` (of any size) is needed for crops around a class."""
        room = [max(side - crop, 0) for side, crop in zip(resized_hw, crop_hw, strict=True)]
        if self.crop_centre == "uniform" or mask is None:
            return int(draw[1] * (room[0] + 1)), int(draw[2] * (room[1] + 1))
        pixel = _pixel_of_a_class(mask, ignore_index, draw[1], draw[2])
        top, left = (
            min(max(int((at + 0.5) * side / of) - crop // 2, 0), most)
            for at, side, of, crop, most in zip(pixel, resized_hw, mask.shape, crop_hw, room, strict=True)
        )
        return top, left


def augment(
    sample: Sample, augmentation: Augmentation, *, ignore_index: int, generator: torch.Generator
) -> tuple[UInt8[Tensor, "c h w"], Int64[Tensor, "h w"]]:
    """Draw one training crop.

    Images smaller than the crop are padded with the mean colour, their masks with void.

    Args:
        sample: Image and mask.
        augmentation: What to draw.
        ignore_index: Void value.
        generator: Every random number comes from it.

    Raises:
        DatasetError: The sample has no mask.
    """
    if sample.mask is None:
        raise DatasetError(f"expected a labelled image for training, got {sample.name} without a mask")
    draw = torch.rand(7, generator=generator).tolist()
    image = torch.from_numpy(sample.image).permute(2, 0, 1)  # (3, H, W), channels last in memory: resizes twice as fast
    # (1, H, W); bytes are resized several times as fast as int64
    mask = torch.from_numpy(sample.mask if sample.mask.dtype == "uint8" else sample.mask.astype("int64"))[None]
    size = augmentation.resized(draw[0], (image.shape[1], image.shape[2]))
    height, width = augmentation.crop_of(size)
    top, left = augmentation.corner(draw, size, (height, width), mask=mask[0], ignore_index=ignore_index)
    image = transforms.resize_image(image, list(size), interpolation=InterpolationMode.BILINEAR, antialias=True)
    mask = transforms.resize_image(mask, list(size), interpolation=InterpolationMode.NEAREST_EXACT)
    pad = [0, 0, max(0, width - size[1]), max(0, height - size[0])]
    if any(pad):
        image = transforms.pad_image(image, pad, fill=list(padding_pixel(image.shape[0])))
        mask = transforms.pad_image(mask, pad, fill=ignore_index)
    image = image[:, top : top + height, left : left + width]
    mask = mask[:, top : top + height, left : left + width]
    if augmentation.flip and draw[3] < 0.5:
        image, mask = image.flip(2), mask.flip(2)
    if augmentation.colour:
        factors = torch.tensor([augmentation.colours(draw)])
        image = recoloured(image[None].float(), factors)[0].round_().clamp_(0, 255).to(torch.uint8)
    return image.contiguous(), mask[0].long()


def recoloured(images: Float[Tensor, "n c h w"], factors: Float[Tensor, "n 3"]) -> Float[Tensor, "n c h w"]:
    """Change brightness, contrast (around the mean grey) and saturation in one pass; the result is not clamped.

    Args:
        images: 0..255; images that are not RGB have no saturation.
        factors: Of brightness, contrast and saturation; 1 changes nothing.
    """
    channels = images.shape[1]
    weights = images.new_tensor(_GREY if channels == 3 else [1 / channels] * channels)
    brightness, contrast, saturation = factors.unbind(1)
    if channels != 3:
        saturation = torch.ones_like(saturation)
    # x -> saturation * x + (1 - saturation) * grey(x), scaled by brightness and contrast: one matrix for each image
    mixed = saturation[:, None, None] * torch.eye(channels, device=images.device) + (
        (1 - saturation)[:, None, None] * weights.expand(channels, channels)
    )
    matrices = (brightness * contrast)[:, None, None] * mixed
    grey = (images.mean((2, 3)) * weights).sum(1)
    offsets = ((1 - contrast) * brightness * grey)[:, None, None]
    return torch.baddbmm(offsets.expand(-1, channels, 1), matrices, images.flatten(2)).reshape(images.shape)


def _pixel_of_a_class(mask: Tensor, ignore_index: int, class_draw: float, pixel_draw: float) -> tuple[int, int]:
    """A random pixel of a random class that occurs; the middle where nothing is labelled."""
    classes = [int(c) for c in torch.unique(mask) if int(c) != ignore_index]
    if not classes:
        return mask.shape[0] // 2, mask.shape[1] // 2
    pixels = (mask == classes[int(class_draw * len(classes))]).flatten().nonzero().flatten()
    pixel = int(pixels[int(pixel_draw * len(pixels))])
    return pixel // mask.shape[1], pixel % mask.shape[1]
