"""Rare classes: images drawn by the classes they hold, and pixels of rare classes to paste into other images.

In: how many pixels of each class each image has. Out: orders of samples and places of pixels, from random numbers
    alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray

from refineseg.data.samples.sample import Dataset
from refineseg.data.samples.threads import read_all


def count_classes(mask: NDArray[Any], num_classes: int) -> Int64[np.ndarray, " k"]:
    """Pixels of each class in a mask; void is not counted."""
    return np.bincount(mask[mask < num_classes], minlength=num_classes).astype(np.int64)


def image_counts(dataset: Dataset) -> Int64[np.ndarray, "n k"]:
    """Pixels of each class in each image; every mask is read once."""
    num_classes = dataset.class_info.num_classes

    def count(index: int) -> NDArray[np.int64]:
        mask = dataset.read_mask(index)
        return np.zeros(num_classes, np.int64) if mask is None else count_classes(mask, num_classes)

    return np.stack(read_all(count, len(dataset)))


def balanced_samples(
    counts: Int64[np.ndarray, "n k"], class_balance: float, *, generator: torch.Generator
) -> list[int]:
    """As many samples as there are images, shuffled; images with much of a rare class come several times.

    Of the samples a share ``class_balance`` falls on the classes in equal parts, and a class's part on the images by
    how many of its pixels they have; the rest falls on all images alike. An image comes as often as its part says,
    rounded up or down.

    Args:
        counts: Pixels of each class in each image.
        class_balance: 0..1; 0 shows every image once.
        generator: Generator of the random numbers.

    Returns:
        Sample ``i`` at its first time, ``i + n`` at its second, ``i + 2 n`` at its third, and so on, so that each time
        has a number of its own.
    """
    num = len(counts)
    of_class = counts[:, counts.any(axis=0)]
    parts = np.full(num, 1.0 / num)
    if of_class.size:
        parts = (1 - class_balance) * parts + class_balance * (of_class / of_class.sum(axis=0)).mean(axis=1)
    ends = np.cumsum(parts) * num / parts.sum()
    ends[-1] = num
    # systematic sampling: one random offset, so that each image's number differs from its part by less than one
    offset = float(torch.rand(1, generator=generator, dtype=torch.float64))
    times = np.diff(np.floor(ends + offset).astype(np.int64), prepend=0)
    chosen = [index + num * turn for index in range(num) for turn in range(times[index])]
    return [chosen[i] for i in torch.randperm(len(chosen), generator=generator).tolist()]


class Donors:
    """Pixels of rare classes, to paste from.

    Rare are the classes with fewer pixels than the median class; the fewer, the more often they are drawn (by the root
    of the number).

    Args:
        counts: Pixels of each class in each image.
    """

    def __init__(self, counts: Int64[np.ndarray, "n k"]) -> None:
        totals = counts.sum(axis=0)
        occurs = totals > 0
        rare = occurs & (totals < np.median(totals[occurs])) if occurs.any() else occurs
        if not rare.any():  # all classes have as many pixels
            rare = occurs
        shares = np.where(rare, 1.0, 0.0) / np.sqrt(np.maximum(totals, 1))
        self.shares = shares / max(float(shares.sum()), 1e-300)
        self._class_ends = np.cumsum(self.shares)
        self._image_ends = np.cumsum(counts, axis=0)

    def choose(self, class_draw: float, pixel_draw: float) -> tuple[int, int, int] | None:
        """A random pixel of a random rare class in the whole data set.

        Args:
            class_draw: 0..1.
            pixel_draw: 0..1.

        Returns:
            Its image, its class, and which of that image's pixels of the class it is, counted row by row; None where
            nothing is labelled.
        """
        if not self._class_ends[-1]:
            return None
        last = int(np.flatnonzero(self.shares)[-1])
        chosen = min(int(np.searchsorted(self._class_ends, class_draw, side="right")), last)
        ends = self._image_ends[:, chosen]
        pixel = min(int(pixel_draw * int(ends[-1])), int(ends[-1]) - 1)
        image = int(np.searchsorted(ends, pixel, side="right"))
        return image, chosen, pixel - (int(ends[image - 1]) if image else 0)
