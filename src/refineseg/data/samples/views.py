"""Data sets seen otherwise: what such views share, and some of the samples by number.

In: a data set. Out: another one of the same samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from refineseg.class_info import ClassInfo
from refineseg.data.samples.sample import Dataset, Sample, image_file, image_header


class View:
    """A data set seen otherwise: the same samples by the same names and numbers.

    Args:
        dataset: Where samples come from.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    @property
    def class_info(self) -> ClassInfo:
        """The classes of the masks."""
        return self._dataset.class_info

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes of the data set."""
        return self._dataset.notes

    def __len__(self) -> int:
        return len(self._dataset)

    def name(self, index: int) -> str:
        """Name of a sample, without reading it."""
        return self._dataset.name(index)


def evenly_spread(count: int, wanted: int) -> list[int]:
    """``wanted`` of the numbers 0 to ``count - 1`` at about equal distances, or all of them if there are fewer."""
    return [place * count // wanted for place in range(wanted)] if wanted < count else list(range(count))


class Subset(View):
    """Some samples of a data set, by number.

    Args:
        dataset: Where samples come from.
        numbers: Their numbers there.
    """

    def __init__(self, dataset: Dataset, numbers: Sequence[int]) -> None:
        super().__init__(dataset)
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Sample:
        return self._dataset[self._numbers[index]]

    def name(self, index: int) -> str:
        """Name of a sample, without reading it."""
        return self._dataset.name(self._numbers[index])

    def image_file(self, index: int) -> Path | None:
        """The file that holds exactly the image of a sample."""
        return image_file(self._dataset, self._numbers[index])

    def image_header(self, index: int) -> tuple[tuple[int, int], str] | None:
        """Size and ending of the image, where the data set knows them."""
        return image_header(self._dataset, self._numbers[index])

    def read_mask(self, index: int) -> NDArray[Any] | None:
        """The mask of a sample."""
        return self._dataset.read_mask(self._numbers[index])
