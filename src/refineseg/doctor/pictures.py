"""Small pictures of samples for the report, as ``data:`` addresses that need no other file.

In: a case. Out: base64 of a JPEG or PNG; None where nothing can be drawn.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refineseg.class_info import default_palette
from refineseg.data.checks.expected import Expected
from refineseg.data.checks.facts import inspect_mask
from refineseg.doctor.inventory import Case
from refineseg.errors import DatasetError, ImageError
from refineseg.files.archives import openable
from refineseg.images.files import read_mask, read_rgb
from refineseg.images.render import overlay

SIDE = 220
"""Longest side of a small picture, in pixels."""


def image_picture(case: Case) -> str | None:
    """The image, small."""
    try:
        pixels = case.source[0][case.source[1]].image if case.source else read_rgb(case.image) if case.image else None
    except (ImageError, DatasetError):
        return None
    return None if pixels is None else _address(_small(pixels))


def mask_picture(case: Case) -> str | None:
    """The mask file as it is stored, each value in a colour of its own; photographs and colours as they are."""
    if case.mask is None:
        return None
    facts = inspect_mask(case.mask)
    try:
        if facts.problem or facts.form in ("colour", "jpeg"):
            return _address(_small(read_rgb(case.mask), smooth=False), lossless=True)
        with Image.open(openable(case.mask)) as file:
            values = np.asarray(file)
    except (ImageError, OSError, ValueError, SyntaxError):
        return None
    if values.ndim != 2:
        return None
    small = _small(values, smooth=False)
    return _address(np.array(default_palette(256), np.uint8)[small.astype(np.int64) % 256], lossless=True)


def overlay_picture(case: Case, expected: Expected) -> str | None:
    """The classes painted over the image, with their names; None where image and mask do not go together."""
    if expected.class_info is None:
        return None
    try:
        if case.source:
            sample = case.source[0][case.source[1]]
            image, mask = sample.image, sample.mask
        elif case.image and case.mask:
            image = read_rgb(case.image)
            mask = read_mask(case.mask, table=expected.table, ignore_index=expected.ignore_index)
        else:
            return None
    except (ImageError, DatasetError):
        return None
    if mask is None or mask.shape != image.shape[:2]:
        return None
    small = _small(image, 2 * SIDE)
    classes: NDArray[Any] = _small(mask, 2 * SIDE, smooth=False)
    return _address(overlay(small, classes, expected.class_info))


def _small(pixels: NDArray[Any], side: int = SIDE, *, smooth: bool = True) -> NDArray[Any]:
    """Scaled down to a longest side; masks (``smooth`` False) by nearest neighbour."""
    height, width = pixels.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    if smooth:
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
    rows = (np.arange(size[1]) * height) // size[1]
    columns = (np.arange(size[0]) * width) // size[0]
    small: NDArray[Any] = pixels[rows[:, None], columns]
    return small


def _address(pixels: NDArray[np.uint8], *, lossless: bool = False) -> str:
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "PNG" if lossless else "JPEG", quality=80)
    kind = "png" if lossless else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(target.getvalue()).decode('ascii')}"
