"""Pictures of masks: overlay with a legend, and rows of pictures side by side.

In: images and masks as arrays. Out: ``(H, W, 3)`` uint8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from refineseg.class_info import ClassInfo
from refineseg.printable import short

_ERROR_COLOUR = (230, 30, 30)
_CORRECT_COLOUR = (235, 235, 235)
_LEGEND_PIXELS = 14


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _fitting(name: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, room: int) -> tuple[str, int]:
    """A name, shortened where it is too wide, and its width in pixels."""
    probe = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    line = text = short(name)
    while (width := int(probe.textlength(text, font=font))) > room and len(line) > 1:
        line = line[:-1]
        text = f"{line}..."
    return text, width


def legend(class_info: ClassInfo, shown: Sequence[int], *, width: int) -> NDArray[np.uint8]:
    """Colour patches with class names, in as many rows as needed.

    Args:
        class_info: Names and colours.
        shown: Which classes, in order.
        width: Of the picture, in pixels.

    Returns:
        ``(h, width, 3)`` uint8, white background.
    """
    size = max(8, min(_LEGEND_PIXELS, width // 16))
    font = _font(size)
    places, x, y = [], size // 2, size // 2
    for index in shown:
        name, length = _fitting(class_info.names[index], font, width - 3 * size)
        need = size + size // 2 + length + size
        if x + need > width and x > size // 2:
            x, y = size // 2, y + size + size // 2
        places.append((index, name, x, y))
        x += need
    picture = Image.new("RGB", (width, y + size + size // 2), "white")
    draw = ImageDraw.Draw(picture)
    for index, name, left, top in places:
        draw.rectangle((left, top, left + size - 1, top + size - 1), fill=class_info.palette[index], outline="black")
        draw.text((left + size + size // 3, top + size / 2), name, "black", font, anchor="lm")
    return np.asarray(picture)


def overlay(
    image: NDArray[np.uint8], mask: NDArray[Any], class_info: ClassInfo, *, opacity: float = 0.5, legend: bool = True
) -> NDArray[np.uint8]:
    """Paint the classes over an image.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        mask: ``(H, W)`` class indices; void stays unpainted.
        class_info: Colours and names.
        opacity: 0 shows the image, 1 the colours.
        legend: Add the names of the classes that occur, largest first, below the image.

    Returns:
        ``(H', W, 3)`` uint8; with a legend H' > H (tiny images are not enlarged).
    """
    painted = image.astype(np.float32) * (1 - opacity) + class_info.colours(mask) * opacity
    wide = mask.astype(np.int64)
    inside = (wide >= 0) & (wide < class_info.num_classes)
    blended = np.where(inside[..., None], painted.round(), image).astype(np.uint8)
    if not legend:
        return blended
    counts = np.bincount(wide[inside], minlength=class_info.num_classes)
    shown = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
    strip = _legend(class_info, shown, width=blended.shape[1])
    return np.concatenate([blended, strip]) if shown else blended


_legend = legend  # ``overlay`` has an option of that name


def error_map(mask: NDArray[Any], truth: NDArray[Any], class_info: ClassInfo) -> NDArray[np.uint8]:
    """Where a prediction is wrong: red wrong, light grey right, black void; ``(H, W, 3)`` uint8."""
    picture = np.where((mask == truth)[..., None], np.array(_CORRECT_COLOUR), np.array(_ERROR_COLOUR))
    picture[truth == class_info.ignore_index] = 0
    return picture.astype(np.uint8)


def side_by_side(pictures: Sequence[NDArray[np.uint8]], titles: Sequence[str]) -> NDArray[np.uint8]:
    """Pictures of equal size in one row, each under its title; ``(H', W', 3)`` uint8."""
    gap, band = 4, 20
    height, width = pictures[0].shape[:2]
    canvas = Image.new("RGB", (len(pictures) * (width + gap) - gap, height + band), "white")
    draw = ImageDraw.Draw(canvas)
    for i, (picture, title) in enumerate(zip(pictures, titles, strict=True)):
        canvas.paste(Image.fromarray(picture), (i * (width + gap), band))
        draw.text((i * (width + gap) + 2, band / 2), title, "black", _font(12), anchor="lm")
    return np.asarray(canvas)
