"""CVAT's export "segmentation mask 1.1": masks of colours, and their list of labels.

In: ``labelmap.txt``, ``ImageSets/Segmentation/*.txt``, ``JPEGImages`` and ``SegmentationClass`` as unpacked, or the zip
file. Out: pairs of files.

Source: https://docs.cvat.ai/docs/dataset_management/formats/format-smask
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath

from refineseg.class_info import ClassInfo, LabelTable
from refineseg.data.own.folder_layout import in_usual_order
from refineseg.data.own.painting import unknown_split
from refineseg.data.samples.catalog import catalog_classes
from refineseg.data.samples.class_files import read_class_file
from refineseg.data.samples.left_out import LeftOut
from refineseg.data.samples.own_classes import alike
from refineseg.data.samples.sample import FilePair, PairDataset
from refineseg.errors import DatasetError
from refineseg.files.archives import is_file, is_folder, list_files, read_text
from refineseg.images.files import IMAGE_SUFFIXES, first_names

_LISTS, _MASKS, _IMAGES = "ImageSets/Segmentation", "SegmentationClass", "JPEGImages"
_DEFAULT = "default"  # CVAT's name for everything
_VOC_VOID = (224, 224, 192)  # Source: the borders in PASCAL VOC's colour masks


def cvat_splits(root: Path) -> tuple[str, ...]:
    """The splits: CVAT's lists by name; ``default`` alone, or no list, is everything: ``train``."""
    names = _lists(root)
    if not names or names == [_DEFAULT]:
        return ("train",) if is_folder(root / _MASKS) else ()
    return in_usual_order(names)


def _lists(root: Path) -> list[str]:
    folder = root / _LISTS
    if not is_folder(folder):
        return []
    return [name[:-4] for name in list_files(folder) if name.endswith(".txt") and "/" not in name]


def open_cvat(root: Path, split: str) -> PairDataset:
    """One split of CVAT's export "segmentation mask 1.1".

    The mask of ``JPEGImages/NAME`` (any kind of image) is ``SegmentationClass/NAME.png``; its colours are those of
    ``labelmap.txt``, or of PASCAL VOC without that file. Listed images that CVAT wrote no mask for are not labelled and
    left out.

    Raises:
        DatasetError: No such split or files, or masks whose images were not exported.
        ConfigError: ``labelmap.txt`` is wrong.
    """
    masks = {n[:-4]: root / _MASKS / n for n in _in(root / _MASKS) if n.lower().endswith(".png")}
    if not masks:
        raise DatasetError(f"expected CVAT's masks in {root / _MASKS}, got none; export as 'segmentation mask 1.1'")
    splits = cvat_splits(root)
    if split not in splits:
        raise unknown_split(split, splits, root)
    listing = root / _LISTS / f"{split if is_file(root / _LISTS / f'{split}.txt') else _DEFAULT}.txt"
    names = list(masks)
    if is_file(listing):
        names = _names(listing)
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise DatasetError(f"expected every image once in {listing}, got again: {first_names(twice)}; remove one")
    images: dict[str, Path] = {}
    for name in _in(root / _IMAGES):
        stem = PurePosixPath(name).with_suffix("").as_posix()
        path = root / _IMAGES / name
        if name.lower().endswith(IMAGE_SUFFIXES) and images.setdefault(stem, path) != path:
            raise DatasetError(
                f"expected one image for each mask in {root / _IMAGES}, got {images[stem].name} and {name}; keep one"
            )
    labelled = [name for name in names if name in masks]
    absent = [name for name in labelled if name not in images]
    if absent or not labelled:
        raise DatasetError(
            f"expected the images of {len(labelled)} masks in {root / _IMAGES}, but {len(absent)} are absent: "
            f"{first_names(absent)}; export again with 'save images', or copy them there"
            if labelled
            else f"expected masks in {root / _MASKS} of the images in {listing}, got none; export it again"
        )
    left_out = len(names) - len(labelled)
    notes = [f"{split}: {left_out} of {len(names)} images have no mask: not labelled, left out"] if left_out else []
    unlisted = sorted(masks.keys() - _listed(root)) if is_file(listing) else []
    if unlisted:
        notes.append(str(LeftOut("masks", f"no list in {root / _LISTS} names them", unlisted[0], len(unlisted))))
    pairs = tuple(FilePair(images[name], masks[name], name) for name in labelled)
    class_info, table = _classes(root)
    return PairDataset(pairs, class_info, table, (*notes, *alike(class_info.names)), root=str(root))


def _names(listing: Path) -> list[str]:
    return [line.strip().strip('"') for line in read_text(listing).splitlines() if line.strip()]


def _listed(root: Path) -> set[str]:
    """The names in all lists."""
    return {name for split in _lists(root) for name in _names(root / _LISTS / f"{split}.txt")}


def _in(folder: Path) -> tuple[str, ...]:
    return list_files(folder) if is_folder(folder) else ()


def _classes(root: Path) -> tuple[ClassInfo, LabelTable]:
    listed = read_class_file(root)
    if listed is not None:
        return listed
    voc = catalog_classes("voc")
    table = LabelTable.identity(voc)
    return voc, LabelTable(table.values, {**table.colours, _VOC_VOID: voc.ignore_index}, declared_in="labelmap.txt")
