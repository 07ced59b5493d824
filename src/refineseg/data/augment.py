"""Random scale, crop, flip and colour: one sample in, one training crop out.

In: a :class:`~refineseg.data.sample.Sample` and a random generator. Out: ``(3, h, w)`` uint8 and ``(h, w)`` int64
    tensors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from refineseg.data.sample import Sample
from refineseg.errors import DatasetError

_PADDING_PIXEL = (124.0, 116.0, 104.0)  # the mean colour of ImageNet, which becomes about 0 for the network


@dataclass(frozen=True)
class Augmentation:
    """How a crop is drawn.

    Args:
        crop_hw: Height and width of the result, in pixels.
        scale: Smallest and largest factor by which the image is resized before cropping, drawn uniformly.
        flip: Mirror left and right half of the time.
        colour: Largest relative change of brightness, contrast and saturation, 0..1.
    """

    crop_hw: tuple[int, int]
    scale: tuple[float, float]
    flip: bool = True
    colour: float = 0.0


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
    mask = torch.from_numpy(sample.mask.astype("int64"))[None]  # (1, H, W)
    low, high = augmentation.scale
    factor = low + (high - low) * draw[0]
    size = [max(1, round(image.shape[1] * factor)), max(1, round(image.shape[2] * factor))]
    image = transforms.resize_image(image, size, interpolation=InterpolationMode.BILINEAR, antialias=True)
    mask = transforms.resize_image(mask, size, interpolation=InterpolationMode.NEAREST_EXACT)
    height, width = augmentation.crop_hw
    pad = [0, 0, max(0, width - size[1]), max(0, height - size[0])]
    if any(pad):
        image = transforms.pad_image(image, pad, fill=list(_PADDING_PIXEL))
        mask = transforms.pad_image(mask, pad, fill=ignore_index)
    top = int(draw[1] * (image.shape[1] - height + 1))
    left = int(draw[2] * (image.shape[2] - width + 1))
    image = image[:, top : top + height, left : left + width]
    mask = mask[:, top : top + height, left : left + width]
    if augmentation.flip and draw[3] < 0.5:
        image, mask = image.flip(2), mask.flip(2)
    if augmentation.colour:
        change = [1 + augmentation.colour * (2 * value - 1) for value in draw[4:]]
        image = transforms.adjust_brightness_image(image, change[0])
        image = transforms.adjust_contrast_image(image, change[1])
        image = transforms.adjust_saturation_image(image, change[2])
    return image.contiguous(), mask[0].contiguous()
