"""ADE20K, 150 classes of the scene parsing challenge (Zhou et al., CVPR 2017): the challenge's files or all."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refineseg.class_info import LabelTable
from refineseg.data.samples.catalog import catalog_classes
from refineseg.data.samples.sample import Dataset, FilePair, PairDataset
from refineseg.data.samples.sources import SourceDataset
from refineseg.data.storage.file_lists import check_pairs, files_by_stem, incomplete_note, packaged_table, subfolders
from refineseg.errors import DatasetError
from refineseg.images.files import first_names, read_image_size, read_rgb

_FOLDERS = {
    "train": "training",
    "training": "training",
    "val": "validation",
    "validation": "validation",
    "test": "testing",
}
_SIZES = {"training": 20210, "validation": 2000, "testing": 3352}
_CHALLENGE = "ADEChallengeData2016"
_WHERE = f"{_CHALLENGE}.zip of the scene parsing benchmark, sceneparsing.csail.mit.edu"
_SHORT_SIDE = 512


def open_ade20k(root: Path, split: str) -> Dataset:
    """One split of ADE20K, in either of its releases.

    * The challenge (the one results are reported on): ``ROOT/images/training/*.jpg`` and
      ``ROOT/annotations/training/*.png`` (``validation``), labels 1..150 and 0 for void. The images of ``test`` lie in
      ``ROOT/release_test/testing``, beside ROOT, or in ``ROOT/images/testing``; they have no masks.
    * The full release of 2016 or 2021: ``ROOT/images/.../training/.../*.jpg`` with ``*_seg.png`` beside them, whose
      colours are object numbers. They are read as the challenge's conversion makes them: short side at most 512 pixels
      (masks by nearest neighbour), objects mapped to the 150 classes, all others void.

    Args:
        root: ``ADEChallengeData2016``, the folder above it, or the folder of the full release.
        split: ``train`` (20210 images), ``val`` (2000), which may also be called ``training`` and ``validation``, or
            ``test`` (3352, without masks).

    Raises:
        DatasetError: No such split, folder or files, or images and masks that do not pair.

    Source: the challenge's development kit (CSAILVision/sceneparsing): README, convertFromADE.m, mapFromADE.txt.
    """
    if split not in _FOLDERS:
        raise DatasetError(f"expected an ADE20K split of {', '.join(_FOLDERS)}, got {split!r}; join splits with '+'")
    folder = _FOLDERS[split]
    inner = root / _CHALLENGE
    top = inner if inner.is_dir() else root
    if folder == "testing":
        return _open_test(root, top)
    if (top / "annotations").is_dir():
        return _open_challenge(top, folder)
    full = _full_folder(top, folder)
    if full is not None:
        return _open_full(full, folder)
    here = first_names([path.name for path in subfolders(root)]) or "no folders"
    raise DatasetError(
        f"expected ADE20K in {root}: images/{folder} with annotations/{folder}, or images/.../{folder} with *_seg.png, "
        f"got {here}; give the folder that holds images and annotations ({_WHERE})"
    )


def _table() -> LabelTable:
    """Labels 1..150 are the classes; 0 is void."""
    class_info = catalog_classes("ade20k")
    return LabelTable({0: class_info.ignore_index} | {i + 1: i for i in range(class_info.num_classes)})


def _open_challenge(top: Path, folder: str) -> PairDataset:
    images = files_by_stem(top / "images" / folder, suffixes=(".jpg", ".jpeg", ".png"))
    masks = files_by_stem(top / "annotations" / folder, suffixes=(".png",))
    where = f"{top / 'images' / folder} and {top / 'annotations' / folder}"
    check_pairs(images, masks, where=where, advice=f"unpack the archive again, completely ({_WHERE})")
    pairs = tuple(FilePair(path, masks[name], name) for name, path in images.items())
    return PairDataset(pairs, catalog_classes("ade20k"), _table(), incomplete_note(folder, len(pairs), _SIZES[folder]))


def _open_test(root: Path, top: Path) -> PairDataset:
    bases = (top, root, root.parent)
    places = [top / "images" / "testing", *(base / "release_test" / "testing" for base in bases), root / "testing"]
    for place in places:
        images = files_by_stem(place, suffixes=(".jpg", ".jpeg", ".png"))
        if images:
            pairs = tuple(FilePair(path, None, name) for name, path in images.items())
            notes = (*incomplete_note("test", len(pairs), _SIZES["testing"]), "test: its masks are not public")
            return PairDataset(pairs, catalog_classes("ade20k"), _table(), notes)
    raise DatasetError(
        f"expected the test images of ADE20K in one of {', '.join(map(str, places[:3]))}, got none; unpack "
        "release_test.zip of the scene parsing benchmark there (sceneparsing.csail.mit.edu)"
    )


def _full_folder(top: Path, folder: str) -> Path | None:
    """The split's folder of a full release: ``images/training`` in 2016, ``images/ADE/training`` in 2021."""
    releases = [path for path in subfolders(top) if path.name.startswith("ADE20K_")]
    for base in (top, *releases):
        for place in (base / "images" / folder, base / "images" / "ADE" / folder):
            if place.is_dir():
                return place
    return None


def _open_full(place: Path, folder: str) -> SourceDataset:
    images: dict[str, Path] = {}
    masks: dict[str, Path] = {}
    waiting = [place]
    while waiting:
        current = waiting.pop()
        images |= files_by_stem(current, suffixes=(".jpg",))
        masks |= files_by_stem(current, suffixes=(".png",), ending="_seg")
        # the release of 2021 has a folder of instance masks for each image: 25000 of them that need no look
        waiting += [path for path in subfolders(current) if path.name not in images]
    check_pairs(images, masks, where=str(place), advice="unpack the release again, completely (its *_seg.png too)")
    names = tuple(sorted(images))
    numbers = packaged_table("class_tables", "ade20k_full_ids")["labels"]
    classes = np.full(256 * 26, catalog_classes("ade20k").ignore_index, np.uint8)
    for number, label in numbers.items():
        classes[int(number)] = label - 1
    source = FullSource(tuple(images[n] for n in names), tuple(masks[n] for n in names), classes)
    notes = (
        *incomplete_note(folder, len(names), _SIZES[folder]),
        "the full release, its labels converted to the 150 classes; the challenge's own images may differ slightly",
    )
    return SourceDataset(names, source, catalog_classes("ade20k"), notes)


@dataclass(frozen=True)
class FullSource:
    """Images and coded masks of the full release, brought to the challenge's size and classes.

    Args:
        images: JPEG files.
        masks: RGB files; an object's number is red // 10 * 256 + green.
        classes: Object number -> class index or void.
    """

    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    classes: NDArray[np.uint8] = field(repr=False, compare=False)

    def image(self, index: int) -> NDArray[np.uint8]:
        """The image at the challenge's size, resized as ``imresize`` does by default: bicubic, averaging."""
        image = read_rgb(self.images[index])
        height, width = challenge_size((image.shape[0], image.shape[1]))
        if (height, width) == image.shape[:2]:
            return image
        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))

    def image_hw(self, index: int) -> tuple[int, int]:
        """Its height and width, from the file's header."""
        return challenge_size(read_image_size(self.images[index]))

    def mask(self, index: int) -> NDArray[np.uint8]:
        """The mask at the challenge's size; objects outside the 150 classes are void."""
        coded = read_rgb(self.masks[index])
        rows, columns = (
            _nearest(size, new_size)
            for size, new_size in zip(coded.shape[:2], challenge_size((coded.shape[0], coded.shape[1])), strict=True)
        )
        coded = coded[rows][:, columns].astype(np.int64)
        return self.classes.take(coded[..., 0] // 10 * 256 + coded[..., 1])


def challenge_size(image_hw: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the challenge's version of an image of the full release.

    Args:
        image_hw: Height and width of images of the full release.

    Source: convertFromADE.m: the shorter side becomes 512 where it is longer; square images stay as they are.

    Example:
        >>> challenge_size((768, 1024))
        (512, 683)
    """
    height, width = image_hw
    if width > height > _SHORT_SIDE:
        return _SHORT_SIDE, int(width / height * _SHORT_SIDE + 0.5)
    if height > width > _SHORT_SIDE:
        return int(height / width * _SHORT_SIDE + 0.5), _SHORT_SIDE
    return height, width


def _nearest(size: int, new_size: int) -> NDArray[np.int64]:
    """The old pixel under the centre of each new one."""
    return np.minimum(((np.arange(new_size) + 0.5) * size / new_size).astype(np.int64), size - 1)
