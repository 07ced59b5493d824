"""COCO's run lengths: the door to pycocotools, which also defines what COCO's polygons cover.

In: runs of pixels outside and inside in turn, down the columns, beginning outside. Out: COCO's strings of them, and
pixels. Strings of annotation files are read here: pycocotools' decoder warns of a deprecated use of NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from refineseg.errors import MissingExtraError

WRITING = "write COCO's run lengths"
_MOST_BITS = 60


def rle_tools(purpose: str = "paint COCO's outlines") -> ModuleType:
    """The module ``pycocotools.mask``.

    Args:
        purpose: What it is needed for, in the message.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        from pycocotools import mask  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError("pycocotools", extra="coco", purpose=purpose) from error
    found: ModuleType = mask
    return found


def compressed(runs: Sequence[list[int]], size_hw: tuple[int, int]) -> list[str]:
    """COCO's string of the runs of each region.

    Raises:
        MissingExtraError: pycocotools is not installed.

    Example:
        >>> compressed([[1, 1, 1, 1]], (2, 2))
        ['1110']
    """
    plain = [{"size": list(size_hw), "counts": counts} for counts in runs]
    made = rle_tools(WRITING).frPyObjects(plain, *size_hw) if plain else []
    return [segmentation["counts"].decode("ascii") for segmentation in made]


def decompressed(text: str) -> list[int]:
    """Run lengths from COCO's string; the counterpart is in :mod:`fakes.coco`.

    Raises:
        ValueError: The text is no such string.
    """
    counts: list[int] = []
    number = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"a run length with the character {character!r}")
        number |= (bits & 31) << shift
        shift += 5
        if shift > _MOST_BITS:  # more characters would take quadratic time
            raise ValueError(f"a run length of more than {_MOST_BITS} bits")
        if not bits & 32:
            number -= (bits & 16) << (shift - 4)
            counts.append(number + (counts[-2] if len(counts) > 2 else 0))
            number = shift = 0
    if shift:
        raise ValueError("run lengths that end too early")
    return counts


def from_runs(counts: list[int], size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Runs of outside and inside in turn, down the columns, as ``(H, W)``.

    Raises:
        ValueError: They do not cover the image exactly.
    """
    if not counts or min(counts) < 0 or sum(counts) != size_hw[0] * size_hw[1]:
        raise ValueError(f"run lengths of {sum(counts)} pixels")
    inside = np.arange(len(counts)) % 2 == 1
    columns: NDArray[np.bool_] = np.repeat(inside, counts).reshape(size_hw[::-1])
    return columns.T
