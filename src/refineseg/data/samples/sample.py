"""What a data set is: a sequence of samples with one class table.

In: nothing but the definitions. Out: :class:`Sample`, the interface :class:`Dataset`, :class:`PairDataset` for pairs of
files, and views: :class:`Concatenation` joins data sets, :class:`Without` leaves samples out.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from refineseg.class_info import ClassInfo, LabelTable
from refineseg.data.samples.left_out import LeftOut, left_out, summed
from refineseg.errors import DatasetError
from refineseg.images.files import read_image_size, read_mask, read_opaque, read_rgb


@dataclass(frozen=True)
class Sample:
    """One labelled image.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        mask: ``(H, W)`` class indices and ``ignore_index``; None where a split has no labels.
        name: Unique inside its data set, for messages and file names.
    """

    image: NDArray[np.uint8]
    mask: NDArray[Any] | None
    name: str


@runtime_checkable
class Dataset(Protocol):
    """A sequence of samples.

    ``read_mask`` reads one mask alone (also used to check all labels before training, from several threads); ``notes``
    are facts about the files a user should know beside a result.
    """

    @property
    def class_info(self) -> ClassInfo:
        """The classes of the masks."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Facts to print beside results, for instance that a lossy copy of the images was read."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...

    def name(self, index: int, /) -> str:
        """Name of a sample, without reading it."""

    def read_mask(self, index: int, /) -> NDArray[Any] | None:
        """The mask of a sample, checked against the image's size; None where it has no label."""


@runtime_checkable
class ImageFiles(Protocol):
    """What knows the files of its images: a data set, or the source of one."""

    def image_file(self, index: int, /) -> Path | None:
        """The file that holds exactly the image of a sample; None where there is none."""


def image_file(dataset: object, index: int) -> Path | None:
    """The file that holds exactly the image of a sample; None where it is cropped, resized or made otherwise."""
    return dataset.image_file(index) if isinstance(dataset, ImageFiles) else None


@runtime_checkable
class MarkedImages(Protocol):
    """What holds marks of its images, which have no files of their own: a data set, or the source of one."""

    def image_mark(self, index: int, /) -> str:
        """The mark of the image of a sample; empty where none is held."""


def held_mark(dataset: object, index: int) -> str:
    """The mark of an image that its data set holds; empty where there is none, as of images in files."""
    return dataset.image_mark(index) if isinstance(dataset, MarkedImages) else ""


@runtime_checkable
class ImageHeaders(Protocol):
    """What holds sizes and kinds of its images, which have no files of their own: a data set, or the source of one."""

    def image_header(self, index: int, /) -> tuple[tuple[int, int], str] | None:
        """As of :func:`image_header`."""


def image_header(dataset: object, index: int) -> tuple[tuple[int, int], str] | None:
    """Height and width of an image that is not decoded, and the ending of its file; None where they are not known."""
    if (path := image_file(dataset, index)) is not None:
        return read_image_size(path), path.suffix.lower()
    return dataset.image_header(index) if isinstance(dataset, ImageHeaders) else None


@runtime_checkable
class PairFiles(Protocol):
    """What knows which pair of files a sample is."""

    def pair_of(self, index: int, /) -> tuple[PairDataset, int] | None:
        """The data set of files that holds a sample, and the sample's number there; None where it is no such pair."""


def pair_of(dataset: object, index: int) -> tuple[PairDataset, int] | None:
    """The pair of files of a sample; None where its mask is no image file."""
    return dataset.pair_of(index) if isinstance(dataset, PairFiles) else None


@dataclass(frozen=True)
class FilePair:
    """One image file and its mask file (None: unlabelled)."""

    image: Path
    mask: Path | None
    name: str


@dataclass(frozen=True)
class PairDataset:
    """A data set whose samples are pairs of files: what most layouts come down to once their names are found.

    Args:
        pairs: The files.
        class_info: The classes.
        table: What the values in the mask files stand for.
        notes: Facts to print beside results.
        read_indices: Reads a mask file as class indices and ``ignore_index``, for masks that are no images (``.mat``
            files); then ``table`` is not used. A function of a module, or a partial of one: reading processes get a
            copy of it.
        root: Own data that the pairs are a split of, whose masks number their classes alike; empty: none.
    """

    pairs: tuple[FilePair, ...]
    class_info: ClassInfo
    table: LabelTable
    notes: tuple[str, ...] = ()
    read_indices: Callable[[Path], NDArray[Any]] | None = None
    root: str = ""

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        """Name of a sample, without reading it."""
        return self.pairs[index].name

    def image_file(self, index: int) -> Path | None:
        """The file of the image."""
        return self.pairs[index].image

    def pair_of(self, index: int) -> tuple[PairDataset, int] | None:
        """The data set itself, where its masks are image files."""
        return (self, index) if self.read_indices is None else None

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        image = read_rgb(pair.image)
        if pair.mask is None:
            return Sample(image, None, pair.name)
        mask = self._indices(pair.mask)
        _check_size(pair, (image.shape[0], image.shape[1]), (mask.shape[0], mask.shape[1]))
        return Sample(image, self._without_transparent(pair.image, mask), pair.name)

    def read_mask(self, index: int) -> NDArray[Any] | None:
        """The mask alone; its size is checked against the image file's header.

        Raises:
            ImageError: A file cannot be read.
            DatasetError: Image and mask differ in size.
            LabelError: The mask holds values that stand for no class.
        """
        pair = self.pairs[index]
        if pair.mask is None:
            return None
        mask = self._indices(pair.mask)
        _check_size(pair, read_image_size(pair.image), (mask.shape[0], mask.shape[1]))
        return self._without_transparent(pair.image, mask)

    def _without_transparent(self, image: Path, mask: NDArray[Any]) -> NDArray[Any]:
        return void_where_transparent(mask, image, ignore_index=self.class_info.ignore_index)

    def _indices(self, path: Path) -> NDArray[Any]:
        if self.read_indices is not None:
            return self.read_indices(path)
        return read_mask(path, table=self.table, ignore_index=self.class_info.ignore_index)


def same_shape(mask_hw: tuple[int, int], image_hw: tuple[int, int]) -> bool:
    """Whether a mask is its image smaller or larger: the same shape but for a pixel of rounding.

    Example:
        >>> same_shape((454, 551), (1055, 1280)), same_shape((454, 551), (1055, 1055))
        (True, False)
    """
    height, width = image_hw
    return abs(mask_hw[0] * width - mask_hw[1] * height) <= max(height, width)


def void_where_transparent(
    mask: NDArray[Any], image: Path, *, ignore_index: int, content: bytes | None = None
) -> NDArray[Any]:
    """A mask without the pixels that are void in a prediction, because the image holds no data there.

    Args:
        mask: ``(H, W)``.
        image: The image file.
        ignore_index: Void.
        content: The file's bytes where they do not lie there.
    """
    valid = read_opaque(image, content=content)
    return mask if valid is None else np.where(valid, mask, mask.dtype.type(ignore_index))


def _check_size(pair: FilePair, image_hw: tuple[int, int], mask_hw: tuple[int, int]) -> None:
    if image_hw != mask_hw:
        turned = "; the image is rotated by EXIF, rotate its pixels" if image_hw == mask_hw[::-1] else ""
        turned = turned or ("; `refineseg doctor --fix` scales it" if same_shape(mask_hw, image_hw) else "")
        raise DatasetError(
            f"{pair.mask}: expected a mask of the image's size {image_hw[0]}x{image_hw[1]} (height x width), got "
            f"{mask_hw[0]}x{mask_hw[1]}{turned}"
        )


class Concatenation:
    """Several data sets (or splits) of the same classes, one after the other.

    Raises:
        DatasetError: None given, or their classes differ.
    """

    def __init__(self, parts: Sequence[Dataset]) -> None:
        if not parts:
            raise DatasetError("expected at least one data set to join, got none")
        for part in parts[1:]:
            if not part.class_info.means_as(parts[0].class_info):
                own, other = (
                    f"{', '.join(p.class_info.names[:5])} ({p.class_info.num_classes})" for p in (parts[0], part)
                )
                raise DatasetError(
                    f"expected data sets of the same classes, got {own} and {other}; join splits of one data set, or, "
                    "for training, data sets that a table maps to each other (docs/data.md)"
                )
        self._parts = tuple(parts)
        self._ends = list(accumulate(len(part) for part in parts))

    @property
    def parts(self) -> tuple[Dataset, ...]:
        """What is joined."""
        return self._parts

    @property
    def class_info(self) -> ClassInfo:
        """The classes of the masks."""
        return self._parts[0].class_info

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes of all parts, each once."""
        return tuple(dict.fromkeys(note for part in self._parts for note in part.notes))

    def left_out(self) -> tuple[LeftOut, ...]:
        """The objects of all parts that cover no pixel of their class."""
        return summed(record for part in self._parts for record in left_out(part))

    def _locate(self, index: int) -> tuple[Dataset, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = bisect.bisect_right(self._ends, index)
        return self._parts[part], index - (self._ends[part - 1] if part else 0)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Sample:
        part, inner = self._locate(index)
        return part[inner]

    def name(self, index: int) -> str:
        """Name of a sample, without reading it."""
        part, inner = self._locate(index)
        return part.name(inner)

    def image_file(self, index: int) -> Path | None:
        """The file of the image, where the part has one."""
        part, inner = self._locate(index)
        return image_file(part, inner)

    def image_mark(self, index: int) -> str:
        """The mark of the image, where the part holds one."""
        part, inner = self._locate(index)
        return held_mark(part, inner)

    def image_header(self, index: int) -> tuple[tuple[int, int], str] | None:
        """Size and ending of the image, where the part knows them."""
        part, inner = self._locate(index)
        return image_header(part, inner)

    def pair_of(self, index: int) -> tuple[PairDataset, int] | None:
        """The pair of files of a sample, where the part has one."""
        part, inner = self._locate(index)
        return pair_of(part, inner)

    def read_mask(self, index: int) -> NDArray[Any] | None:
        """The mask of a sample."""
        part, inner = self._locate(index)
        return part.read_mask(inner)


class Without:
    """A data set without the samples of some names, for instance a training set without the images it is tested on.

    Args:
        dataset: Where samples come from.
        names: Names of the samples to leave out; names that the data set does not have are no error.

    Example:
        >>> classes = ClassInfo(("sky", "road"))
        >>> pairs = tuple(FilePair(Path(name + ".jpg"), None, name) for name in "abc")
        >>> rest = Without(PairDataset(pairs, classes, LabelTable.identity(classes)), {"b", "z"})
        >>> len(rest), rest.dropped, rest.name(1), rest.notes
        (2, 1, 'c', ('1 of 3 samples left out by name',))
    """

    def __init__(self, dataset: Dataset, names: Collection[str]) -> None:
        unwanted = frozenset(names)
        self._dataset = dataset
        self._kept = tuple(i for i in range(len(dataset)) if dataset.name(i) not in unwanted)

    @property
    def dataset(self) -> Dataset:
        """Where samples come from."""
        return self._dataset

    @property
    def dropped(self) -> int:
        """How many samples are left out."""
        return len(self._dataset) - len(self._kept)

    @property
    def class_info(self) -> ClassInfo:
        """The classes of the masks."""
        return self._dataset.class_info

    def left_out(self) -> tuple[LeftOut, ...]:
        """The objects of the whole data set that cover no pixel of their class."""
        return left_out(self._dataset)

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes of the data set, and how many samples are left out."""
        return (*self._dataset.notes, f"{self.dropped} of {len(self._dataset)} samples left out by name")

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: int) -> Sample:
        return self._dataset[self._inner(index)]

    def name(self, index: int) -> str:
        """Name of a sample, without reading it."""
        return self._dataset.name(self._inner(index))

    def image_file(self, index: int) -> Path | None:
        """The file of the image, where the data set has one."""
        return image_file(self._dataset, self._inner(index))

    def image_mark(self, index: int) -> str:
        """The mark of the image, where the data set holds one."""
        return held_mark(self._dataset, self._inner(index))

    def image_header(self, index: int) -> tuple[tuple[int, int], str] | None:
        """Size and ending of the image, where the data set knows them."""
        return image_header(self._dataset, self._inner(index))

    def pair_of(self, index: int) -> tuple[PairDataset, int] | None:
        """The pair of files of a sample, where the data set has one."""
        return pair_of(self._dataset, self._inner(index))

    def read_mask(self, index: int) -> NDArray[Any] | None:
        """The mask of a sample."""
        return self._dataset.read_mask(self._inner(index))

    def _inner(self, index: int) -> int:
        if not 0 <= index < len(self._kept):
            raise IndexError(index)
        return self._kept[index]
