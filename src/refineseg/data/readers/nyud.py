"""NYU Depth V2: rooms seen by a Kinect, 40 classes (Silberman et al., ECCV 2012; Gupta et al., CVPR 2013)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from refineseg.class_info import LabelTable
from refineseg.data.readers.matlab import load_mat, open_hdf5
from refineseg.data.samples.catalog import catalog_classes
from refineseg.data.samples.sample import Without
from refineseg.data.samples.sources import SourceDataset, mapped_labels
from refineseg.data.storage.file_lists import (
    check_pairs,
    check_present,
    files_by_stem,
    incomplete_note,
    packaged_table,
    subfolders,
)
from refineseg.errors import DatasetError
from refineseg.files.archives import read_text
from refineseg.images.files import IMAGE_SUFFIXES, first_names, mask_values, read_image_size, read_mask, read_rgb
from refineseg.images.label_messages import value_ranges

MAT_NAME = "nyu_depth_v2_labeled.mat"
ENCODING_NAME = "first_label.txt"
"""A file beside the lists that says which value the first class has: 0 or 1."""

FRAME_HW = (480, 640)
WINDOW = (slice(6, 474), slice(7, 632))
"""Rows and columns of a frame inside its white border: 468x625 pixels.

Source: the images the RefineNet and Light-Weight RefineNet authors evaluate on, found by exact alignment of labels.
"""

_LISTS = {"train": ("train",), "test": ("test", "val"), "val": ("val", "test")}
_SIZES = {"train": 795, "test": 654, "val": 654}
_NUM_FRAMES = 1449
_PROBED = 24  # masks read first for the encoding; one of 40 classes or void is in nearly each
_WHERE = f"{MAT_NAME} from cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html"


CHOICE_SPLITS = ("fit", "held_out")
"""Splits of ``train``, for choices that must not be made on the test split."""
_EVERY_RUN, _FIRST_RUN = 7, 2  # 18 of 123 runs, 99 of 795 frames


def held_out_names(names: Sequence[str]) -> frozenset[str]:
    """The training frames of ``held_out``: every seventh run of consecutive frame numbers, from the third on.

    Frames of one run show one room, so a run is held out as a whole.

    Args:
        names: Names of all training frames, which end in their numbers.

    Raises:
        DatasetError: A name without a number.

    Example:
        >>> sorted(held_out_names(["000003", "000004", "000006", "000009", "000010", "000012"]))
        ['000009', '000010']
    """
    found = {name: re.search(r"(\d+)$", name) for name in names}
    unnumbered = [name for name, number in found.items() if number is None]
    if unnumbered:
        raise DatasetError(
            f"expected frame numbers in the names of NYUDv2's training images for the splits "
            f"{' and '.join(CHOICE_SPLITS)}, got {first_names(unnumbered)}; use train and test"
        )
    numbers = sorted((int(number[1]), name) for name, number in found.items() if number is not None)
    run, before, held_out = -1, None, set()
    for number, name in numbers:
        run += before is None or number != before + 1
        before = number
        if run % _EVERY_RUN == _FIRST_RUN:
            held_out.add(name)
    return frozenset(held_out)


def open_nyud(root: Path, split: str) -> SourceDataset | Without:
    """One split of NYU Depth V2, frames without their white border (468 rows, 625 columns).

    * The official file: ``ROOT/nyu_depth_v2_labeled.mat``; its 894 raw labels become the 40 classes. The split is that
      of ``ROOT/splits.mat`` where it is there, else the official one. Needs the extra ``mat``.
    * Images: ``ROOT/train.nyu`` and ``ROOT/val.nyu`` with an image and a mask path per line, relative to ROOT, or
      without lists ``ROOT/train_images`` and ``ROOT/train_labels`` (``val`` or ``test``). Images and masks of whole
      frames (480x640) are cropped, others taken as they are. Masks hold 0..39, or 1..40; 255, and 0 in the second
      case, are void. Which of the two is found out from the masks themselves; where they do not tell, from
      ``ROOT/first_label.txt``, which holds 0 or 1.

    Args:
        root: The folder.
        split: ``train`` (795 frames) or ``test`` (654), which may also be called ``val``. For choices, ``train`` is
            divided by rooms: ``held_out`` (99 frames) and ``fit`` (696), see :func:`held_out_names`.

    Raises:
        DatasetError: No such split or files, or masks that do not tell their encoding.
        MissingExtraError: h5py is needed and not installed.

    Source: classMapping40.mat for the classes; the lists of Light-Weight RefineNet for the layout of images.
    """
    if split in CHOICE_SPLITS:
        train = open_nyud(root, "train")
        frames = frozenset(train.name(index) for index in range(len(train)))
        held_out = held_out_names(sorted(frames))
        return Without(train, held_out if split == "fit" else frames - held_out)
    if split not in _LISTS:
        raise DatasetError(
            f"expected an NYUDv2 split of {', '.join((*_LISTS, *CHOICE_SPLITS))}, got {split!r}; join splits with '+'"
        )
    if (root / MAT_NAME).is_file():
        return _open_mat(root, split)
    listed = {name: _listed(root, name) for name in ("train", "val", "test")}
    name = next((name for name in _LISTS[split] if listed[name]), None)
    if name is None:
        inner = [path for path in subfolders(root) if (path / MAT_NAME).is_file()]
        here = first_names([path.name for path in subfolders(root)]) or "no folders"
        advice = f"give {inner[0]}" if inner else f"give the folder that holds {_WHERE}, or the lists"
        expected = " or ".join(f"{name}.nyu" for name in _LISTS[split])
        raise DatasetError(f"expected NYUDv2 in {root}: {MAT_NAME}, or {expected}, got {here}; {advice}")
    images, masks = zip(*listed.pop(name), strict=True)
    check_present(
        [*images, *masks],
        root=root,
        listed_in=str(root / f"{name}.nyu"),
        advice=f"export all frames of {_WHERE}, or correct the list",
    )
    class_info = catalog_classes("nyud")
    first = _first_label(root, masks, [mask for pairs in listed.values() for _, mask in pairs])
    source = FolderSource(images, masks, _label_values(first), class_info.ignore_index)
    names = tuple(image.stem for image in images)
    return SourceDataset(names, source, class_info, incomplete_note(split, len(names), _SIZES[split]))


def _label_values(first: int) -> Mapping[int, int]:
    """Value in a mask -> class, for masks whose first class is written as 0 or as 1."""
    class_info = catalog_classes("nyud")
    return dict.fromkeys((0, 255), class_info.ignore_index) | {i + first: i for i in range(class_info.num_classes)}


def _listed(root: Path, name: str) -> list[tuple[Path, Path]]:
    """Image and mask of each line of ``NAME.nyu``, or of the folders ``NAME_images`` and ``NAME_labels``."""
    listing = root / f"{name}.nyu"
    if not listing.is_file():
        images = files_by_stem(root / f"{name}_images", suffixes=IMAGE_SUFFIXES)
        masks = files_by_stem(root / f"{name}_labels", suffixes=(".png",))
        if not images and not masks:
            return []
        where = f"{root / name}_images and {name}_labels"
        check_pairs(images, masks, where=where, advice="unpack them again, completely")
        return [(path, masks[stem]) for stem, path in images.items()]
    lines = [line.split("\t") if "\t" in line else line.split() for line in _lines(listing)]
    malformed = [" ".join(line) for line in lines if len(line) != 2]
    if malformed or not lines:
        raise DatasetError(
            f"expected 'image<TAB>mask' on each line of {listing}, got {first_names(malformed) or 'no line'}; restore "
            "the list"
        )
    return [(root / image, root / mask) for image, mask in lines]


def _lines(listing: Path) -> list[str]:
    return [line.strip() for line in read_text(listing).splitlines() if line.strip()]


def _first_label(root: Path, masks: Sequence[Path], others: Sequence[Path]) -> int:
    """The value of the first class, 0 or 1, by what only one of the two encodings can hold.

    The last class, otherprop, is in nearly every room: 40 where labels start at 1. Without it, 0 is the first class
    and not void if void is written as 255 or the last class as 39.

    Args:
        root: Where the user may have written it down.
        masks: Masks of the split; a few of them are nearly always enough.
        others: Folders of the other splits, which need not be there.
    """
    told = root / ENCODING_NAME
    if told.is_file():
        text = read_text(told).strip()
        if text not in ("0", "1"):
            raise DatasetError(f"expected 0 or 1 in {told}, the value of the first class (wall), got {text!r:.100}")
        return int(text)
    step = max(1, len(masks) // _PROBED)
    values: set[int] = set()
    for batch in (masks[::step], [mask for index, mask in enumerate(masks) if index % step], others):
        for mask in batch:
            if batch is not others or mask.is_file():
                values |= mask_values(mask).keys()
            if 40 in values:
                return 1
        if 0 in values and (255 in values or 39 in values):
            return 0
    raise DatasetError(
        f"expected masks in {root} that tell whether labels start at 0 (0..39) or at 1 (1..40), but {len(masks)} of "
        f"them hold only {value_ranges(values)}; write {ENCODING_NAME} there, with the value of the first class, wall: "
        "0 or 1"
    )


def _cropped(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return frame[WINDOW] if frame.shape[:2] == FRAME_HW else frame


@dataclass(frozen=True)
class FolderSource:
    """Frames as image files.

    Args:
        images: RGB files.
        masks: Grey or palette files.
        values: Value in a mask -> class index or void.
        ignore_index: Void.
    """

    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    values: Mapping[int, int] = field(repr=False)
    ignore_index: int

    def image(self, index: int) -> NDArray[np.uint8]:
        """The image, whole frames cropped."""
        return _cropped(read_rgb(self.images[index]))

    def image_hw(self, index: int) -> tuple[int, int]:
        """Its height and width, from the file's header."""
        height_width = read_image_size(self.images[index])
        return (468, 625) if height_width == FRAME_HW else height_width

    def mask(self, index: int) -> NDArray[np.uint8]:
        """The mask, whole frames cropped."""
        mask = read_mask(self.masks[index], table=LabelTable(self.values), ignore_index=self.ignore_index)
        return _cropped(mask.astype(np.uint8, copy=False))


def _open_mat(root: Path, split: str) -> SourceDataset:
    path = root / MAT_NAME
    with open_hdf5(path) as file:
        absent = [name for name in ("images", "labels") if name not in file]
        if absent:
            raise DatasetError(f"expected {' and '.join(absent)} in {path}, got {first_names(sorted(file))}; {_WHERE}")
        shapes = {name: tuple(file[name].shape) for name in ("images", "labels")}
    frames = shapes["images"][0]
    width_height = FRAME_HW[::-1]
    if shapes != {"images": (frames, 3, *width_height), "labels": (frames, *width_height)}:
        raise DatasetError(
            f"expected images (N, 3, 640, 480) and labels (N, 640, 480) in {path}, got {shapes['images']} and "
            f"{shapes['labels']}; download it again: {_WHERE}"
        )
    numbers = _split_numbers(root, split, frames)
    classes = np.array([0, *packaged_table("class_tables", "nyud_raw_labels")["labels"]], np.uint8) - np.uint8(1)
    notes = incomplete_note(split, len(numbers), _SIZES[split])
    return SourceDataset(
        tuple(f"{number:06d}" for number in numbers),
        MatSource(path, tuple(number - 1 for number in numbers), classes),  # uint8: 0 - 1 is 255, void
        catalog_classes("nyud"),
        notes,
    )


def _split_numbers(root: Path, split: str, frames: int) -> list[int]:
    """Numbers of the frames of a split, from 1."""
    kind = "train" if split == "train" else "test"
    beside = root / "splits.mat"
    if not beside.is_file():
        if frames != _NUM_FRAMES:
            raise DatasetError(
                f"expected the {_NUM_FRAMES} frames of NYUDv2 in {root / MAT_NAME}, got {frames}; put splits.mat "
                "beside it, which says which of them are for training"
            )
        official: list[int] = packaged_table("split_lists", "nyud")[kind]
        return official
    variable = f"{kind}Ndxs"
    numbers = sorted(int(number) for number in np.atleast_1d(load_mat(beside, [variable])[variable]))
    outside = [number for number in numbers if not 1 <= number <= frames]
    if outside or not numbers:
        raise DatasetError(
            f"expected frame numbers 1..{frames} in {variable} of {beside}, got {first_names(outside) or 'none'}; "
            f"give the {MAT_NAME} and the splits.mat of one download"
        )
    return numbers


@dataclass(frozen=True)
class MatSource:
    """Frames of the official file, read one at a time.

    Args:
        path: The HDF5 file; its axes are those of MATLAB reversed.
        indices: Frames, from 0.
        classes: Raw label 0..894 -> class index or void.
    """

    path: Path
    indices: tuple[int, ...]
    classes: NDArray[np.uint8] = field(repr=False, compare=False)

    def image(self, index: int) -> NDArray[np.uint8]:
        """The image inside the white border."""
        with open_hdf5(self.path) as file:
            frame: NDArray[np.uint8] = file["images"][self.indices[index]]  # (3, 640, 480)
        return np.ascontiguousarray(frame.transpose(2, 1, 0)[WINDOW])

    def image_hw(self, index: int) -> tuple[int, int]:
        """468x625: every frame is cropped."""
        return WINDOW[0].stop - WINDOW[0].start, WINDOW[1].stop - WINDOW[1].start

    def mask(self, index: int) -> NDArray[np.uint8]:
        """The mask inside the white border.

        Raises:
            LabelError: A raw label above 894.
        """
        number = self.indices[index]
        with open_hdf5(self.path) as file:
            labels: NDArray[np.uint16] = file["labels"][number]  # (640, 480)
        return mapped_labels(labels.T[WINDOW], self.classes, name=f"{self.path}, frame {number + 1}")
