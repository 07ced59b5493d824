"""Data sets that a program made, in the place of ``NAME:ROOT``.

In: objects of the interface :class:`~refineseg.data.samples.sample.Dataset`. Out: :class:`GivenData`, which training
and evaluation take as they take roots.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refineseg.data.samples.sample import Dataset, Sample, held_mark, image_file, image_header, pair_of
from refineseg.data.samples.views import View
from refineseg.errors import ConfigError, DatasetError

GIVEN = "given"
"""What stands for such data where a data set has its name: in messages, records and model files."""

_MEMBERS = ("class_info", "notes", "__len__", "__getitem__", "name", "read_mask")


class CheckedSamples(View):
    """Samples that a program made, each as it must be when it is read; of two files the reader looks after that.

    Args:
        dataset: Where samples come from.
    """

    def __getitem__(self, index: int) -> Sample:
        sample = self._dataset[index]
        image, mask = sample.image, sample.mask
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3:
            raise DatasetError(f"{sample.name}: expected an image (H, W, 3) of uint8 pixels, got {_described(image)}")
        if mask is None:
            return Sample(np.ascontiguousarray(image), None, sample.name)
        whole = isinstance(mask, np.ndarray) and (mask.dtype == bool or np.issubdtype(mask.dtype, np.integer))
        if not whole or mask.shape != image.shape[:2]:
            raise DatasetError(
                f"{sample.name}: expected a mask {image.shape[:2]} of integers for an image {image.shape}, got "
                f"{_described(mask)}"
            )
        numbers = mask.astype(np.uint8) if mask.dtype == bool else mask
        return Sample(np.ascontiguousarray(image), np.ascontiguousarray(numbers), sample.name)

    def read_mask(self, index: int) -> NDArray[Any] | None:
        """The mask of a sample, whose image is looked at, too."""
        return self[index].mask

    def image_file(self, index: int) -> Path | None:
        """The file of the image, where the data set has one."""
        return image_file(self._dataset, index)

    def image_mark(self, index: int) -> str:
        """The mark of the image, where the data set holds one."""
        return held_mark(self._dataset, index)

    def image_header(self, index: int) -> tuple[tuple[int, int], str] | None:
        """Size and ending of the image, where the data set knows them."""
        return image_header(self._dataset, index)


def _described(value: object) -> str:
    return f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__


@dataclass(frozen=True)
class GivenData:
    """Data sets by the names of their splits.

    Args:
        splits: Name of a split (``train``, ``val``) -> its samples.

    Raises:
        ConfigError: One is no data set; the message names what it lacks.
    """

    splits: Mapping[str, Dataset] = field(repr=False)

    def __post_init__(self) -> None:
        given: Mapping[str, object] = self.splits
        for name, dataset in given.items():
            if not isinstance(dataset, Dataset):
                lacking = [member for member in _MEMBERS if member not in dir(dataset)]
                raise ConfigError(
                    f"expected NAME:ROOT or a data set for {name}, got {type(dataset).__name__}, which has no "
                    f"{', '.join(lacking)}; refineseg.Dataset says what a data set has"
                )

    def __str__(self) -> str:
        return GIVEN

    def open(self, split: str) -> Dataset:
        """The samples of a split.

        Raises:
            DatasetError: It was not given, or has no samples.
        """
        dataset = self.splits.get(split)
        if dataset is None:
            raise DatasetError(f"expected a split of {', '.join(self.splits)}, as data sets were given, got {split!r}")
        if not len(dataset):
            raise DatasetError(f"expected samples in the data set for {split}, got none")
        return dataset if pair_of(dataset, 0) is not None else CheckedSamples(dataset)
