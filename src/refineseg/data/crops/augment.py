"""Random scale, crop, turn, flip, paste and colour: one sample in, one training crop out.

In: a :class:`~refineseg.data.samples.sample.Sample` and a random generator. Out: ``(3, h, w)`` uint8, ``(h, w)`` int64
    tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from refineseg.data.crops.placement import Augmentation, Placed, corners, turned_sources
from refineseg.data.samples.sample import Sample
from refineseg.errors import DatasetError

__all__ = ["Augmentation", "augment", "padding_pixel", "recoloured"]

_GREY = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in brightness (ITU-R BT.601)."""
_MUCH_LARGER = 32  # times the pixels of a crop: then resizing the whole image takes most of the time
_PADDING_PIXEL = (124.0, 116.0, 104.0)  # the mean colour of ImageNet, which becomes about 0 for the network


def padding_pixel(channels: int) -> tuple[float, ...]:
    """The colour outside an image: ImageNet's mean, or its average for images that are not RGB."""
    return _PADDING_PIXEL if channels == 3 else (sum(_PADDING_PIXEL) / 3,) * channels


def augment(
    sample: Sample,
    augmentation: Augmentation,
    *,
    ignore_index: int,
    generator: torch.Generator,
    num_classes: int | None = None,
    donate: Callable[[float, float], tuple[Sample, int, int] | None] | None = None,
) -> tuple[UInt8[Tensor, "c h w"], Int64[Tensor, "h w"]]:
    """Draw one training crop.

    Images smaller than the crop are padded with the mean colour, their masks with void.

    Args:
        sample: Image and mask.
        augmentation: What to draw.
        ignore_index: Void value.
        generator: Every random number comes from it.
        num_classes: Number of the classes; further labels are unions of them. None: there are no unions.
        donate: Two numbers from 0..1 -> a sample to paste from, a class, and which of its pixels to hold; None: nothing
            is pasted.

    Raises:
        DatasetError: The sample has no mask.
    """
    draw = augmentation.draw(generator)
    placed = augmentation.place(draw, (sample.image.shape[0], sample.image.shape[1]))
    if augmentation.crop_centre == "class":
        pixel = _pixel_of_a_class(_mask_of(sample), num_classes, ignore_index, draw[1], draw[2])
        placed = _holding(pixel, placed, in_middle=True)
    image, mask = _cut(sample, placed, ignore_index)
    donated = donate(draw[9], draw[10]) if donate is not None and augmentation.pastes(draw) else None
    if donated is not None:
        image, mask = _pasted(image, mask, donated, augmentation, draw, ignore_index)
    if augmentation.recolours:
        factors = torch.tensor([augmentation.colours(draw)])
        image = recoloured(image[None].float(), factors)[0].round_().clamp_(0, 255).to(torch.uint8)
    return image.contiguous(), mask.long()


def _mask_of(sample: Sample) -> Tensor:
    """(H, W) uint8 or int64."""
    if sample.mask is None:
        raise DatasetError(f"expected a labelled image for training, got {sample.name} without a mask")
    # bytes are resized several times as fast as int64
    return torch.from_numpy(sample.mask if sample.mask.dtype == "uint8" else sample.mask.astype("int64"))


def _cut(sample: Sample, placed: Placed, ignore_index: int) -> tuple[Tensor, Tensor]:
    """(C, h, w) uint8 and (h, w): resized, cropped or padded, turned, mirrored."""
    if not placed.degrees and math.prod(placed.resized_hw) > _MUCH_LARGER * math.prod(placed.crop_hw):
        sample, placed = _part_of(sample, placed)
    size, (height, width) = placed.resized_hw, placed.crop_hw
    image = torch.from_numpy(sample.image).permute(2, 0, 1)  # (3, H, W), channels last in memory: resizes twice as fast
    mask = _mask_of(sample)[None]
    image = transforms.resize_image(image, list(size), interpolation=InterpolationMode.BILINEAR, antialias=True)
    if placed.degrees:
        return _turned(image, mask[0], placed, ignore_index)
    mask = transforms.resize_image(mask, list(size), interpolation=InterpolationMode.NEAREST_EXACT)
    pad = [0, 0, max(0, width - size[1]), max(0, height - size[0])]
    if any(pad):
        image = transforms.pad_image(image, pad, fill=list(padding_pixel(image.shape[0])))
        mask = transforms.pad_image(mask, pad, fill=ignore_index)
    image = image[:, placed.top : placed.top + height, placed.left : placed.left + width]
    mask = mask[:, placed.top : placed.top + height, placed.left : placed.left + width]
    if placed.flip:
        image, mask = image.flip(2), mask.flip(2)
    return image, mask[0]


def _part_of(sample: Sample, placed: Placed) -> tuple[Sample, Placed]:
    """The part of an image that a crop shows, with what resizing looks at beside it, so that the rest is not resized.

    The crop moves by less than a pixel, its labels with it.
    """
    spans, sizes, firsts = [], [], []
    sides = zip(placed.size_hw, placed.resized_hw, placed.crop_hw, (placed.top, placed.left), strict=True)
    for stored, resized, crop, first in sides:
        ratio = stored / resized
        beside = math.ceil(max(1.0, ratio)) + 2
        begin = max(0, math.floor(first * ratio) - beside)
        end = min(stored, math.ceil(min(first + crop, resized) * ratio) + beside)
        size = max(1, round((end - begin) / ratio))
        spans.append(slice(begin, end))
        sizes.append(size)
        firsts.append(min(max(0, round(first - begin / ratio)), max(0, size - crop)))
    rows, columns = spans
    image = np.ascontiguousarray(sample.image[rows, columns])
    mask = None if sample.mask is None else np.ascontiguousarray(sample.mask[rows, columns])
    size_hw, resized_hw = (image.shape[0], image.shape[1]), (sizes[0], sizes[1])
    placed = replace(placed, size_hw=size_hw, resized_hw=resized_hw, top=firsts[0], left=firsts[1])
    return Sample(image, mask, sample.name), placed


def _turned(image: Tensor, mask: Tensor, placed: Placed, ignore_index: int) -> tuple[Tensor, Tensor]:
    """A turned crop of a resized image; its labels are picked from the mask as it is stored."""
    at, sources, inside = turned_sources(
        torch.tensor([[placed.top, placed.left]]),
        torch.tensor([placed.resized_hw]),
        torch.tensor([placed.size_hw]),
        torch.tensor([placed.flip]),
        torch.tensor([placed.degrees]),
        placed.crop_hw,
    )
    grid = 2 * at / torch.tensor(placed.resized_hw)[:, None, None] - 1  # (1, 2, h, w)
    grid = torch.stack([grid[:, 1], grid[:, 0]], dim=3).float()
    pixels = F.grid_sample(image[None].float(), grid, padding_mode="border", align_corners=False)[0]
    padding = torch.tensor(padding_pixel(len(image)))[:, None, None]
    pixels = torch.where(inside, pixels, padding).round_().clamp_(0, 255).to(torch.uint8)
    rows, columns = sources[0].long()
    return pixels, mask[rows, columns].long().masked_fill(~inside[0], ignore_index)


def _pasted(
    image: Tensor,
    mask: Tensor,
    donated: tuple[Sample, int, int],
    augmentation: Augmentation,
    draw: list[float],
    ignore_index: int,
) -> tuple[Tensor, Tensor]:
    """The crop with the pixels and labels of one class of another crop."""
    donor, class_index, rank = donated
    placed = augmentation.place_donor(
        draw, (donor.image.shape[0], donor.image.shape[1]), (mask.shape[0], mask.shape[1])
    )
    assert donor.mask is not None
    position = int(np.flatnonzero(donor.mask == class_index)[rank])
    placed = _holding(divmod(position, donor.mask.shape[1]), placed, in_middle=False)
    donor_image, donor_mask = _cut(donor, placed, ignore_index)
    pasted = donor_mask == class_index
    return torch.where(pasted, donor_image, image), torch.where(pasted, donor_mask, mask)


def _holding(pixel: tuple[int, int], placed: Placed, *, in_middle: bool) -> Placed:
    """The crop moved so that it holds a pixel of the stored image."""
    at, size, resized, crop = (
        torch.tensor([side]) for side in (pixel, placed.size_hw, placed.resized_hw, placed.crop_hw)
    )
    starts = None if in_middle else torch.tensor([(placed.top, placed.left)])
    top, left = corners(at, size, resized, crop, starts)[0].tolist()
    return replace(placed, top=top, left=left)


def recoloured(images: Float[Tensor, "n c h w"], factors: Float[Tensor, "n 5"]) -> Float[Tensor, "n c h w"]:
    """Change brightness, contrast (around the mean grey), saturation and white balance in one pass; nothing is clamped.

    Args:
        images: 0..255; images that are not RGB have no saturation and no white balance.
        factors: Factors of brightness, contrast, saturation, red and blue; 1 changes nothing.
    """
    channels = images.shape[1]
    shares = _GREY if channels == 3 else (1 / channels,) * channels
    weights = torch.cat([images.new_full((1,), share) for share in shares])  # a tensor of numbers would wait for a GPU
    brightness, contrast, saturation, red, blue = factors.unbind(1)
    gains = torch.stack([red, torch.ones_like(red), blue], dim=1)
    if channels != 3:
        saturation, gains = torch.ones_like(saturation), torch.ones(1, 1, device=images.device)
    # x -> saturation * x + (1 - saturation) * grey(x), scaled by brightness and contrast: one matrix for each image
    mixed = saturation[:, None, None] * torch.eye(channels, device=images.device) + (
        (1 - saturation)[:, None, None] * weights.expand(channels, channels)
    )
    matrices = (brightness * contrast)[:, None, None] * mixed * gains[:, :, None]
    grey = (images.mean((2, 3)) * weights).sum(1)
    offsets = ((1 - contrast) * brightness * grey)[:, None, None]
    return torch.baddbmm(offsets.expand(-1, channels, 1) * gains[:, :, None], matrices, images.flatten(2)).reshape(
        images.shape
    )


def _pixel_of_a_class(
    mask: Tensor, num_classes: int | None, ignore_index: int, class_draw: float, pixel_draw: float
) -> tuple[int, int]:
    """A random pixel of a random class that occurs, unions of classes left out; the middle where there is none."""
    found = [int(c) for c in torch.unique(mask) if int(c) != ignore_index]
    classes = [c for c in found if num_classes is None or c < num_classes]
    if not classes:
        return mask.shape[0] // 2, mask.shape[1] // 2
    pixels = (mask == classes[int(class_draw * len(classes))]).flatten().nonzero().flatten()
    pixel = int(pixels[int(pixel_draw * len(pixels))])
    return pixel // mask.shape[1], pixel % mask.shape[1]
