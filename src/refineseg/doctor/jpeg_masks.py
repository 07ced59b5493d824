"""Masks saved as JPEG: which values they can hold, and each pixel's value where that is certain.

In: the facts of a mask, what masks should hold, and the file. Out: values.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refineseg.class_info import LabelTable
from refineseg.data.checks.expected import Expected
from refineseg.data.checks.facts import MaskFacts
from refineseg.errors import DatasetError
from refineseg.images.files import read_rgb

_SEPARATION = 32  # least distance between the values of a JPEG mask, whose errors reach a quarter of it


def two_colours(values: Mapping[int, int]) -> LabelTable:
    """How a mask is read whose pixels are dark or bright.

    Args:
        values: What to write for 0 and for 255.
    """
    return LabelTable({}, {(level, level, level): value for level, value in values.items()})


def legal_colours(mask: MaskFacts, expected: Expected) -> LabelTable | None:
    """The values or colours a JPEG mask can hold; None where they do not lie far enough apart.

    Args:
        mask: Its facts.
        expected: What masks should hold.
    """
    grey = all(max(c >> 16, (c >> 8) & 255, c & 255) - min(c >> 16, (c >> 8) & 255, c & 255) <= 2 for c in mask.counts)
    values = {value: value for value in expected.table.values if value <= 255}
    colours = {colour: expected.value_of(index) for colour, index in expected.table.colours.items()}
    table = LabelTable({}, {(v, v, v): v for v in values} if grey else colours)
    levels = np.array(list(table.colours), np.int64).reshape(-1, 3)
    apart = np.abs(levels[:, None] - levels[None]).max(axis=2)
    if len(levels) < 2 or apart[~np.eye(len(levels), dtype=bool)].min() < _SEPARATION:
        return None
    return table


def jpeg_values(path: Path, table: LabelTable, *, certain: bool) -> NDArray[Any]:
    """The value of each pixel's nearest colour.

    Args:
        path: The mask.
        table: The colours it can hold, at least two.
        certain: Whether each pixel must be clearly nearer to one colour than to all others.

    Returns:
        ``(H, W)`` uint16.

    Raises:
        DatasetError: A pixel is not.
    """
    rgb, colours = read_rgb(path).astype(np.int32), list(table.colours)
    distances = np.stack([np.abs(rgb - np.array(colour, np.int32)).max(axis=2) for colour in colours])
    order = np.sort(distances, axis=0)
    levels = np.array(colours, np.int64)
    apart = np.abs(levels[:, None] - levels[None]).max(axis=2)
    unclear = int((4 * order[0] > apart[~np.eye(len(levels), dtype=bool)].min()).sum())
    if unclear and certain:
        raise DatasetError(f"{unclear} pixels of the JPEG mask are blurred between classes: export it as PNG")
    nearest = distances.argmin(axis=0)
    values: NDArray[Any] = np.array(list(table.colours.values()), np.uint16)[nearest]
    return values
