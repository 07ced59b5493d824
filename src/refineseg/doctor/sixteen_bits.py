"""Images of 16 bits become images of 8 bits in a repaired copy, all from one range where that is possible.

In: what was found of all images. Out: pixels of 8 bits.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refineseg.data.checks.facts import CaseFacts
from refineseg.doctor.examination import Examination
from refineseg.images.files import read_picture, read_rgb
from refineseg.images.reading import Reading


def bits_of(examination: Examination) -> int:
    """Bits that the 16-bit images use, together: 8, 10, 12, 14 or 16; one scale keeps them comparable.

    16: they use them all, or values below 0, so that each image is scaled as in training.
    """
    found = [facts.image for facts in examination.facts if facts.image is not None]
    if any(image.smallest < 0 for image in found):
        return 16
    largest = max((image.largest for image in found), default=-1)
    return next((bits for bits in (8, 10, 12, 14) if largest < 2**bits), 16)


def what_became(bits: int) -> str:
    """What was done with the values, and what predictions need then."""
    if bits == 16:
        return "its percentiles 2 and 98 became 0 and 255, as in predictions"
    largest = 2**bits - 1
    return f"0..{largest} became 0..255; predict such images with --value-range 0,{largest}"


def eight_bits(path: Path, facts: CaseFacts, *, bits: int) -> NDArray[np.uint8]:
    """An image upright and of 8 bits; 16-bit grey from the range that all 16-bit images share.

    Args:
        path: The file.
        facts: What is known of it.
        bits: As :func:`bits_of` found.

    Returns:
        ``(H, W, 3)`` uint8.
    """
    if facts.image is None or facts.image.largest < 0 or bits == 16:
        return read_rgb(path)
    return read_picture(path, reading=Reading(value_range=(0.0, 2.0**bits - 1))).image
