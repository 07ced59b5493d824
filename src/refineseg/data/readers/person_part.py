"""PASCAL Person-Part: six parts of people on images of VOC 2010 (Chen et al., CVPR 2014)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refineseg.class_info import LabelTable
from refineseg.data.readers.matlab import load_mat
from refineseg.data.readers.pascal_layout import Archive, find_folder, first_file, names_in, pair_by_id, read_ids
from refineseg.data.samples.catalog import catalog_classes
from refineseg.data.samples.sample import PairDataset
from refineseg.errors import DatasetError, LabelError

SPLITS = ("train", "val", "trainval", "test")
PART_GROUPS: dict[int, tuple[str, ...]] = {
    1: ("head", "hair", "leye", "reye", "lear", "rear", "lebrow", "rebrow", "nose", "mouth"),
    2: ("torso", "neck"),
    3: ("luarm", "ruarm"),
    4: ("llarm", "rlarm", "lhand", "rhand"),
    5: ("luleg", "ruleg"),
    6: ("llleg", "rlleg", "lfoot", "rfoot"),
}
"""Class -> the parts of PASCAL-Part's annotations it is merged from."""

_CLASS_OF = {part: index for index, parts in PART_GROUPS.items() for part in parts}
_VOC_FOLDERS = ("VOCdevkit/VOC2010", "VOC2010", ".", "VOCdevkit/VOC2012", "VOC2012")
_PNG_FOLDERS = ("SegmentationPart", "pascal_person_part_gt", "pascal_person_part/pascal_person_part_gt")
_MAT_FOLDER = "Annotations_Part"
_PARTS = Archive(
    "PASCAL Person-Part",
    "VOCdevkit/VOC2010/JPEGImages with its masks in VOC2010/SegmentationPart, pascal_person_part_gt or "
    "Annotations_Part",
    "VOCtrainval_03-May-2010.tar of http://host.robots.ox.ac.uk/pascal/VOC/voc2010/ beside pascal_person_part.zip of "
    "http://liangchiehchen.com/projects/DeepLab.html (masks and lists) or PASCAL-Part's trainval.tar.gz "
    "(Annotations_Part)",
)


def read_person_parts(path: Path) -> NDArray[np.uint8]:
    """Merge the parts of all people in an ``Annotations_Part/ID.mat``.

    ``anno.objects`` lists objects with ``class``, ``mask`` and ``parts`` (``part_name``, ``mask``). Parts are painted
    in the order of the file, later ones over earlier ones; other objects, and people without parts, are background.

    Returns:
        ``(H, W)`` classes 0..6.

    Raises:
        DatasetError: The file cannot be read, has another structure, or masks of different sizes.
        LabelError: A person has a part that belongs to no group.
    """
    anno = load_mat(path, ["anno"])["anno"]
    try:
        objects = np.atleast_1d(anno["objects"].item())
        mask = np.zeros(_two_axes(objects[0]["mask"]).shape, np.uint8)
        for name, pixels in _person_parts(objects):
            if name not in _CLASS_OF:
                raise LabelError(
                    f"{path}: expected the {len(_CLASS_OF)} parts of people ({', '.join(list(_CLASS_OF)[:3])}, ...), "
                    f"got {name!r}; unpack the archive again"
                )
            mask[_two_axes(pixels) != 0] = _CLASS_OF[name]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"expected anno.objects with class, mask and parts in {path}, all masks of one size, got another structure "
            f"({error!r}); give PASCAL-Part's Annotations_Part as unpacked"
        ) from error
    return mask


def _two_axes(mask: NDArray[Any]) -> NDArray[Any]:
    if mask.ndim != 2:
        raise ValueError(f"a mask of {mask.ndim} axes")
    return mask


def _person_parts(objects: NDArray[Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    """Name and mask of every part of every person."""
    for thing in objects:
        if str(thing["class"]) == "person":
            for part in np.atleast_1d(thing["parts"]):
                yield str(part["part_name"]), part["mask"]


def open_person_part(root: Path, split: str) -> PairDataset:
    """One split of Person-Part: background, head, torso, upper and lower arms, upper and lower legs.

    Images are VOC 2010's (or 2012's) ``JPEGImages/ID.jpg``. Masks are, whichever is there first, in ROOT or in the VOC
    folder:

    * ``SegmentationPart/ID.png`` or ``pascal_person_part_gt/ID.png``: 0..6, and 255 for void where a copy has it;
    * ``Annotations_Part/ID.mat``: PASCAL-Part's own annotations (:func:`read_person_parts`).

    Lists are ``ImageSets/PersonPart/SPLIT.txt``, ``pascal_person_part_trainval_list/SPLIT.txt``, ``SPLIT_id.txt`` or
    ``SPLIT.txt``. The paper counts 1717 training and 1818 test images, the usual lists one less each.

    Args:
        root: The folder that holds ``VOCdevkit`` and the masks, or the VOC folder with the masks in it.
        split: ``train``, ``val``, ``trainval`` or ``test``, as far as there is a list; images of ``test`` may lack
            masks, which are then None.

    Raises:
        DatasetError: No such split, list or files.
    """
    if split not in SPLITS:
        raise DatasetError(f"expected a Person-Part split of {', '.join(SPLITS)}, got {split!r}; join splits with '+'")
    folder = find_folder(root, _VOC_FOLDERS, holding=("JPEGImages",), archive=_PARTS)
    bases = list(dict.fromkeys((folder, root)))
    pngs = [base / name for base in bases for name in _PNG_FOLDERS if names_in(base / name)]
    mats = [base / _MAT_FOLDER for base in bases if names_in(base / _MAT_FOLDER)]
    if not pngs and not mats:
        wanted = ", ".join((*_PNG_FOLDERS[:2], _MAT_FOLDER))
        raise DatasetError(
            f"expected the masks of Person-Part in {' or '.join(map(str, bases))}: one of {wanted}, got none of them; "
            f"unpack {_PARTS.download}"
        )
    listing = first_file(_lists(bases, split), what=f"the list of Person-Part's {split} images", archive=_PARTS)
    pairs = pair_by_id(
        read_ids(listing),
        listing=listing,
        images=folder / "JPEGImages",
        masks=pngs or mats,
        suffix=".png" if pngs else ".mat",
        labelled=split != "test",
        archive=_PARTS,
    )
    class_info = catalog_classes("person_part")
    table = LabelTable.identity(class_info)
    return PairDataset(pairs, class_info, table, read_indices=None if pngs else read_person_parts)


def _lists(bases: list[Path], split: str) -> list[Path]:
    names = (
        f"ImageSets/PersonPart/{split}.txt",
        f"pascal_person_part_trainval_list/{split}.txt",
        f"pascal_person_part/pascal_person_part_trainval_list/{split}.txt",
        f"{split}_id.txt",
        f"{split}.txt",
    )
    return [base / name for name in names for base in bases]
