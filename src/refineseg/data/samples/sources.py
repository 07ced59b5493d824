"""Data sets whose samples are more than a pair of files: one interface for what differs, one class for the rest.

In: a :class:`SampleSource`, which knows how to read sample ``i``. Out: a :class:`SourceDataset`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from refineseg.class_info import ClassInfo
from refineseg.data.samples.left_out import LeftOut, left_out
from refineseg.data.samples.sample import Sample, held_mark, image_file, image_header
from refineseg.errors import DatasetError, LabelError
from refineseg.images.label_messages import value_ranges


@runtime_checkable
class SampleSource(Protocol):
    """Reads images and masks by number; picklable, and callable from several threads."""

    def image(self, index: int, /) -> NDArray[np.uint8]:
        """``(H, W, 3)`` uint8 RGB."""

    def image_hw(self, index: int, /) -> tuple[int, int]:
        """Height and width of the image, where possible without decoding it."""

    def mask(self, index: int, /) -> NDArray[Any] | None:
        """``(H, W)`` class indices and ``ignore_index``."""


@dataclass(frozen=True)
class SourceDataset:
    """Samples of a source, under their names.

    Args:
        names: One per sample.
        source: Reads them.
        class_info: The classes.
        facts: Notes of the reader.
    """

    names: tuple[str, ...]
    source: SampleSource
    class_info: ClassInfo
    facts: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """The reader's notes, and the objects that cover no pixel, for which all masks not read yet are read."""
        return (*self.facts, *map(str, self.left_out()))

    def left_out(self) -> tuple[LeftOut, ...]:
        """The objects that cover no pixel of their class."""
        return left_out(self.source)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """Name of a sample, without reading it."""
        return self.names[index]

    def image_file(self, index: int) -> Path | None:
        """The file of the image, where the source has one."""
        return image_file(self.source, index)

    def image_mark(self, index: int) -> str:
        """The mark of the image, where the source holds one."""
        return held_mark(self.source, index)

    def image_header(self, index: int) -> tuple[tuple[int, int], str] | None:
        """Size and ending of the image, where the source knows them."""
        return image_header(self.source, index)

    def __getitem__(self, index: int) -> Sample:
        name = self.names[index]
        image, mask = self.source.image(index), self.source.mask(index)
        if mask is not None:
            _check_size(name, (image.shape[0], image.shape[1]), (mask.shape[0], mask.shape[1]))
        return Sample(image, mask, name)

    def read_mask(self, index: int) -> NDArray[Any] | None:
        """The mask alone, its size checked against the image's.

        Raises:
            ImageError: A file cannot be read.
            DatasetError: Image and mask differ in size.
            LabelError: The mask holds values that stand for no class.
        """
        mask = self.source.mask(index)
        if mask is not None:
            _check_size(self.names[index], self.source.image_hw(index), (mask.shape[0], mask.shape[1]))
        return mask


def _check_size(name: str, image_hw: tuple[int, int], mask_hw: tuple[int, int]) -> None:
    if image_hw != mask_hw:
        raise DatasetError(
            f"{name}: expected a mask of the image's size {image_hw[0]}x{image_hw[1]} (height x width), got "
            f"{mask_hw[0]}x{mask_hw[1]}"
        )


def mapped_labels(labels: NDArray[Any], classes: NDArray[np.uint8], *, name: str) -> NDArray[np.uint8]:
    """Labels of an array as class indices.

    Args:
        labels: ``(H, W)`` unsigned integers.
        classes: Class index or void of label 0, 1, ...
        name: Where the labels come from, for the message.

    Raises:
        LabelError: A label has no entry in ``classes``.

    Example:
        >>> mapped_labels(np.array([[0, 2, 1]]), np.array([255, 0, 1], np.uint8), name="a").tolist()
        [[255, 1, 0]]
    """
    beyond = labels[(labels < 0) | (labels >= len(classes))]
    if beyond.size:
        found = value_ranges(np.unique(beyond).tolist())
        raise LabelError(f"{name}: expected labels 0..{len(classes) - 1}, got {found} in {beyond.size} pixels")
    return classes.take(labels)
