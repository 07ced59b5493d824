"""Samples whose masks are painted when they are read: one class for every format of outlines.

In: image files, each with its annotations as text, and a function that paints them. Out: a
:class:`~refineseg.data.samples.sources.SampleSource`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refineseg.data.own.folder_layout import splits_to_train_on
from refineseg.data.own.outlines import Canvas
from refineseg.data.samples.left_out import LeftOut, summed
from refineseg.data.samples.own_classes import NamedClasses, alike
from refineseg.data.samples.sample import void_where_transparent
from refineseg.data.samples.sources import SourceDataset
from refineseg.data.samples.threads import read_all
from refineseg.errors import DatasetError, ImageError
from refineseg.images.files import first_names, read_image_size, read_rgb


@dataclass(frozen=True)
class Drawing:
    """An image and what is drawn on it.

    Args:
        image: The image file.
        labels: The file that holds the annotations: for messages, and where ``text`` is empty to be read.
        name: Name of the sample.
        text: Annotations as JSON, where the file holds those of many images; several times smaller than the objects.
        size_hw: Height and width as the annotations state them; None where they do not.
    """

    image: Path
    labels: Path
    name: str
    text: str = ""
    size_hw: tuple[int, int] | None = None


Paint = Callable[[Drawing, tuple[int, int], NamedClasses], Canvas]
"""A drawing, the image's height and width, and the classes -> what is painted. A function of a module, for other
processes."""

Content = Callable[[Drawing], bytes | None]
"""A drawing -> its image's bytes where they do not lie in the image file."""


@dataclass(frozen=True)
class PaintedSource:
    """Reads images and paints masks.

    Coordinates refer to the image as :func:`~refineseg.images.files.read_rgb` shows it: turned upright by EXIF, as
    browsers and today's annotation programs do. A stated size that is the upright one with its sides exchanged is an
    error.

    Args:
        drawings: One per sample.
        classes: What labels mean.
        paint: Paints one mask.
        content: Finds images that lie in the annotations; None: they are files.
        strays: Objects that belong to no image.
    """

    drawings: tuple[Drawing, ...] = field(repr=False)
    classes: NamedClasses
    paint: Paint
    content: Content | None = None
    strays: tuple[LeftOut, ...] = ()
    _painted: dict[int, tuple[LeftOut, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def image(self, index: int) -> NDArray[np.uint8]:
        """``(H, W, 3)`` uint8 RGB."""
        drawing = self.drawings[index]
        return read_rgb(drawing.image, content=self._content(drawing))

    def image_file(self, index: int) -> Path | None:
        """The file of the image; None where it lies in the annotations."""
        drawing = self.drawings[index]
        return drawing.image if self._content(drawing) is None else None

    def image_hw(self, index: int) -> tuple[int, int]:
        """Height and width, from the file's header."""
        drawing = self.drawings[index]
        return read_image_size(drawing.image, content=self._content(drawing))

    def mask(self, index: int) -> NDArray[Any]:
        """``(H, W)`` classes and void.

        Raises:
            DatasetError: Annotations that cannot be read, or made for another size than the image's.
            LabelError: A label that is no class.
        """
        drawing, size_hw = self.drawings[index], self.image_hw(index)
        check_size(drawing, drawing.size_hw, size_hw)
        canvas = self.paint(drawing, size_hw, self.classes)
        self._painted[index] = canvas.left_out()
        return void_where_transparent(
            canvas.mask,
            drawing.image,
            ignore_index=self.classes.class_info.ignore_index,
            content=self._content(drawing),
        )

    def left_out(self) -> tuple[LeftOut, ...]:
        """The objects that cover no pixel of their class; masks that were not painted yet are painted for it.

        A mask that cannot be painted tells nothing here: it is an error where it is read.
        """
        unseen = [index for index in range(len(self.drawings)) if index not in self._painted]
        read_all(lambda number: self._tried(unseen[number]), len(unseen))
        records = (record for index in range(len(self.drawings)) for record in self._painted.get(index, ()))
        return summed((*self.strays, *records))

    def _tried(self, index: int) -> None:
        with contextlib.suppress(DatasetError, ImageError):
            self.mask(index)

    def _content(self, drawing: Drawing) -> bytes | None:
        return None if self.content is None else self.content(drawing)


def check_size(drawing: Drawing, stated_hw: tuple[int, int] | None, size_hw: tuple[int, int]) -> None:
    """The size stated by annotations must be the image's.

    Raises:
        DatasetError: It is another.
    """
    if stated_hw is None or stated_hw == size_hw:
        return
    advice = "annotate the image as it is now"
    if stated_hw == size_hw[::-1]:
        advice = "the image is rotated by EXIF and the annotations are not, rotate its pixels"
    raise DatasetError(
        f"{drawing.labels}: expected annotations of {drawing.image.name} for its size {size_hw[0]}x{size_hw[1]} "
        f"(height x width), got {stated_hw[0]}x{stated_hw[1]}; {advice}"
    )


def damaged(drawing: Drawing, what: str, error: Exception) -> DatasetError:
    """An annotation that cannot be painted, for any of the errors that damaged entries raise."""
    reason = str(error) if isinstance(error, ValueError) else repr(error)
    return DatasetError(f"{drawing.labels}: expected {what} on {drawing.image.name}, got others ({reason}); correct it")


UNPAINTABLE = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError)
"""What damaged entries raise while they are painted."""


def painted_dataset(
    drawings: tuple[Drawing, ...],
    classes: NamedClasses,
    paint: Paint,
    *,
    notes: tuple[str, ...] = (),
    content: Content | None = None,
    strays: tuple[LeftOut, ...] = (),
) -> SourceDataset:
    """A data set of drawings; their names and their images must differ.

    Raises:
        DatasetError: Two have one name, or one image.
    """
    names = tuple(drawing.name for drawing in drawings)
    seen: set[str] = set()
    twice = [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]
    if twice:
        raise DatasetError(
            f"expected every image once in {drawings[0].labels}, got {len(twice)} again: {first_names(twice)}; "
            "remove one of each"
        )
    owners: dict[str, str] = {}
    for drawing in drawings:
        other = owners.setdefault(os.path.normpath(str(drawing.image)), drawing.name)  # itself it would be fetched
        if other != drawing.name:
            raise DatasetError(
                f"expected an image file for each entry of {drawing.labels}, got {drawing.image} for {other} and for "
                f"{drawing.name}; copy the images under their own folders"
            )
    source = PaintedSource(drawings, classes, paint, content, strays)
    return SourceDataset(names, source, classes.class_info, (*notes, *alike(classes.class_info.names, classes.uses)))


def unknown_split(split: str, splits: tuple[str, ...], root: Path, advice: str = "") -> DatasetError:
    """A split that a data set does not have."""
    only = (
        "; it is one set without splits: divide its files, or train without validation" if splits == ("train",) else ""
    )
    if split == "train" and (options := splits_to_train_on(splits)):
        only = f"; to train on these: {options}"
    return DatasetError(
        f"expected a split of {', '.join(splits) or '(none found)'} (those in {root}), got {split!r}{advice or only}"
    )
