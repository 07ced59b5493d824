"""Pictures of masks: overlay with a legend, and rows of pictures side by side.

In: images and masks as arrays. Out: ``(H, W, 3)`` uint8, or Pillow images; what is made on the way is a strip of rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from refineseg.class_info import ClassInfo, Colour
from refineseg.terminal.printable import short

_ERROR_COLOUR = (230, 30, 30)
_CORRECT_COLOUR = (235, 235, 235)
_VOID_COLOUR = (0, 0, 0)
_LEGEND_PIXELS = 14
_TITLE_PIXELS, _TITLE_STEP = 12, 14  # of the letters, and from one line to the next
_BACKGROUNDS = frozenset({"background", "_background_", "bg"})
_STRIP_PIXELS = 2**18  # painted at a time: some 15 MB of floating-point numbers


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
        shown: Classes in order.
        width: Width of the picture, in pixels.

    Returns:
        ``(h, width, 3)`` uint8, white background.
    """
    return _patches([(class_info.names[index], class_info.palette[index]) for index in shown], width=width)


def _patches(entries: Sequence[tuple[str, Colour]], *, width: int) -> NDArray[np.uint8]:
    """Colours with their names, in as many rows as needed."""
    size = max(8, min(_LEGEND_PIXELS, width // 16))
    font = _font(size)
    places, x, y = [], size // 2, size // 2
    for entry, colour in entries:
        name, length = _fitting(entry, font, width - 3 * size)
        need = size + size // 2 + length + size
        if x + need > width and x > size // 2:
            x, y = size // 2, y + size + size // 2
        places.append((colour, name, x, y))
        x += need
    picture = Image.new("RGB", (width, y + size + size // 2), "white")
    draw = ImageDraw.Draw(picture)
    for colour, name, left, top in places:
        draw.rectangle((left, top, left + size - 1, top + size - 1), fill=colour, outline="black")
        draw.text((left + size + size // 3, top + size / 2), name, "black", font, anchor="lm")
    return np.asarray(picture)


def overlay_picture(
    image: NDArray[np.uint8], mask: NDArray[Any], class_info: ClassInfo, *, opacity: float = 0.5, legend: bool = True
) -> Image.Image:
    """:func:`overlay` as a Pillow image; besides it only a strip of rows is in memory at a time."""
    height, width = mask.shape
    counts = np.zeros(class_info.num_classes, np.int64)
    for rows in _strips(height, width):
        part = mask[rows].astype(np.int64)
        counts += np.bincount(part[_inside(part, class_info)], minlength=class_info.num_classes)
    painted_classes = is_painted(class_info)
    shown = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i] and painted_classes[i]] if legend else []
    below = [Image.fromarray(_legend(class_info, shown, width=width))] if shown else []
    picture = Image.new("RGB", (width, height + sum(strip.height for strip in below)))
    for rows in _strips(height, width):
        pixels, classes = _rgb(image[rows]), mask[rows]
        painted = pixels.astype(np.float32) * (1 - opacity) + class_info.colours(classes) * opacity
        inside = _inside(classes, class_info)
        inside[inside] = painted_classes[classes[inside].astype(np.int64)]
        blended = np.where(inside[..., None], painted.round(), pixels).astype(np.uint8)
        picture.paste(Image.fromarray(blended), (0, rows.start))
    for strip in below:
        picture.paste(strip, (0, height))
    return picture


def overlay(
    image: NDArray[np.uint8], mask: NDArray[Any], class_info: ClassInfo, *, opacity: float = 0.5, legend: bool = True
) -> NDArray[np.uint8]:
    """Paint the classes over an image.

    Args:
        image: ``(H, W, C)`` uint8; the first three bands are shown, or the first one where there are fewer.
        mask: ``(H, W)`` class indices; void stays unpainted, and so does a class called background.
        class_info: Colours and names.
        opacity: 0 shows the image, 1 the colours.
        legend: Add the names of the classes that are painted, largest first, below the image.

    Returns:
        ``(H', W, 3)`` uint8; with a legend H' > H (tiny images are not enlarged).
    """
    return np.array(overlay_picture(image, mask, class_info, opacity=opacity, legend=legend))


def _rgb(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The first three bands of an image, or the first one as grey where there are fewer."""
    return pixels[..., :3] if pixels.shape[2] >= 3 else np.repeat(pixels[..., :1], 3, axis=2)


_legend = legend  # ``overlay`` has an option of that name


def _strips(height: int, width: int) -> list[slice]:
    step = max(1, _STRIP_PIXELS // max(1, width))
    return [slice(top, min(top + step, height)) for top in range(0, height, step)]


def is_painted(class_info: ClassInfo) -> NDArray[np.bool_]:
    """Of every class whether overlays paint it: what lies behind all objects is seen as it is."""
    return np.array([name.strip().casefold() not in _BACKGROUNDS for name in class_info.names])


def _inside(mask: NDArray[Any], class_info: ClassInfo) -> NDArray[np.bool_]:
    return (mask >= 0) & (mask < class_info.num_classes)


def error_map(mask: NDArray[Any], truth: NDArray[Any], class_info: ClassInfo) -> NDArray[np.uint8]:
    """Where a prediction is wrong: red wrong, light grey right, black void; ``(H, W, 3)`` uint8."""
    colours = np.array([_ERROR_COLOUR, _CORRECT_COLOUR], np.uint8)
    picture = np.empty((*mask.shape, 3), np.uint8)
    for rows in _strips(*mask.shape):
        picture[rows] = colours[(mask[rows] == truth[rows]).astype(np.uint8)]
        picture[rows][truth[rows] == class_info.ignore_index] = _VOID_COLOUR
    return picture


def compared(
    sample: tuple[NDArray[np.uint8], NDArray[Any]],
    mask: NDArray[Any],
    class_info: ClassInfo,
    *,
    title: str = "prediction",
    errors: str | None = None,
    legend: bool = True,
) -> Image.Image:
    """Image, truth, prediction and where it is wrong, side by side, with a legend below them.

    Args:
        sample: Image, ``(H, W, 3)`` uint8, and truth, ``(H, W)`` classes.
        mask: ``(H, W)`` predicted classes.
        class_info: Names and colours.
        title: Title of the prediction.
        errors: Title of the errors; None leaves their picture out.
        legend: Name the classes that occur, and the colours of the errors.
    """
    image, truth = sample
    pictures, titles = [image, class_info.colours(truth), class_info.colours(mask)], ["image", "truth", title]
    occurring = np.unique(np.concatenate([np.unique(truth), np.unique(mask)]))
    entries = [(class_info.names[i], class_info.palette[i]) for i in occurring if 0 <= i < class_info.num_classes]
    if (truth == class_info.ignore_index).any():
        entries.append(("not labelled", _VOID_COLOUR))
    if errors is not None:
        pictures.append(error_map(mask, truth, class_info))
        titles.append(errors)
        entries += [("right", _CORRECT_COLOUR), ("wrong", _ERROR_COLOUR)]
    row = side_by_side(pictures, titles)
    if not legend:
        return row
    below = Image.fromarray(_patches(entries, width=row.width))
    whole = Image.new("RGB", (row.width, row.height + below.height), "white")
    whole.paste(row, (0, 0))
    whole.paste(below, (0, row.height))
    return whole


def side_by_side(pictures: Iterable[NDArray[np.uint8]], titles: Sequence[str]) -> Image.Image:
    """Pictures of equal size in one row, each under its title; they are taken one after the other.

    Long titles have several lines, and pictures that are narrower than a word have room beside them.
    """
    gap, font = 4, _font(_TITLE_PIXELS)
    canvas = draw = None
    column = band = 0
    lines: list[list[str]] = []
    for i, (picture, _) in enumerate(zip(pictures, titles, strict=True)):
        height, width = picture.shape[:2]
        if canvas is None or draw is None:
            column = max(width, *(int(np.ceil(font.getlength(word))) for title in titles for word in title.split()))
            lines = [_in_lines(title, font, column) for title in titles]
            band = 6 + _TITLE_STEP * max(map(len, lines))
            canvas = Image.new("RGB", (len(titles) * (column + gap) - gap, height + band), "white")
            draw = ImageDraw.Draw(canvas)
        canvas.paste(Image.fromarray(picture), (i * (column + gap), band))
        for number, line in enumerate(lines[i]):
            left = i * (column + gap) + max(0, min(2, column - int(np.ceil(font.getlength(line)))))
            draw.text((left, 10 + _TITLE_STEP * number), line, "black", font, anchor="lm")
    assert canvas is not None
    return canvas


def _in_lines(title: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, room: int) -> list[str]:
    """A title in lines that are no wider than the room, or than one word."""
    lines: list[str] = []
    for word in title.split():
        longer = f"{lines[-1]} {word}" if lines else word
        lines = [*lines[:-1], longer] if font.getlength(longer) <= room else [*lines, word]
    return lines or [""]
