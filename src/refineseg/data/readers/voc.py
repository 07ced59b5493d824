"""PASCAL VOC 2012: photographs of 20 kinds of objects and background (Everingham et al., IJCV 2015)."""

from __future__ import annotations

from pathlib import Path

from refineseg.class_info import LabelTable
from refineseg.data.readers.pascal_layout import Archive, find_folder, first_file, names_in, pair_by_id, read_ids
from refineseg.data.samples.catalog import catalog_classes
from refineseg.data.samples.sample import PairDataset
from refineseg.errors import DatasetError

SPLITS = ("train", "val", "trainval", "test", "train_aug")
_VOC = Archive(
    "PASCAL VOC 2012",
    "VOCdevkit/VOC2012 with JPEGImages, SegmentationClass and ImageSets/Segmentation",
    "VOCtrainval_11-May-2012.tar (test: VOC2012test.tar) of http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
)
_AUGMENTED = Archive(
    "PASCAL VOC 2012 with the masks of SBD",
    "VOC2012/SegmentationClassAug",
    "SegmentationClassAug (SBD's masks as PNG) with its list train_aug.txt; "
    "or join the data sets voc and sbd instead, which need neither",
)


def open_voc(root: Path, split: str) -> PairDataset:
    """One split of VOC 2012, or of another year of the same layout.

    ``VOC2012/JPEGImages/ID.jpg``, ``VOC2012/SegmentationClass/ID.png`` (palette PNG: 0..20, void 255) and
    ``VOC2012/ImageSets/Segmentation/SPLIT.txt`` with an id per line.

    ``train_aug`` are the 10582 images of VOC train and SBD without those of VOC val, with the masks in
    ``VOC2012/SegmentationClassAug``, or ``SegmentationClass`` for an id that is only there; its list is
    ``train_aug.txt`` or ``trainaug.txt`` beside the others, or ``train.txt`` followed by ``aug.txt``. ``test`` has no
    public labels: its masks are None.

    Args:
        root: The folder that holds ``VOCdevkit``, or ``VOCdevkit``, or ``VOC2012`` itself.
        split: ``train`` (1464 images), ``val`` (1449), ``trainval``, ``test`` (1456) or ``train_aug``.

    Raises:
        DatasetError: No such split, list or files.
    """
    if split not in SPLITS:
        raise DatasetError(f"expected a VOC split of {', '.join(SPLITS)}, got {split!r}; join splits with '+'")
    folder = find_folder(root, ("VOCdevkit/VOC2012", "VOC2012", "."), holding=("JPEGImages", "ImageSets"), archive=_VOC)
    archive = _AUGMENTED if split == "train_aug" else _VOC
    lists = folder / "ImageSets" / "Segmentation"
    masks = [folder / "SegmentationClass"]
    notes: tuple[str, ...] = ()
    if split == "train_aug":
        masks.insert(0, folder / "SegmentationClassAug")
        listing, ids = _augmented_ids(lists)
        notes = _shared_with_val(ids, lists / "val.txt")
    else:
        listing = first_file([lists / f"{split}.txt"], what=f"the list of VOC's {split} images", archive=archive)
        ids = read_ids(listing)
    pairs = pair_by_id(
        ids,
        listing=listing,
        images=folder / "JPEGImages",
        masks=masks,
        suffix=".png",
        labelled=split != "test",
        archive=archive,
    )
    class_info = catalog_classes("voc")
    return PairDataset(pairs, class_info, LabelTable.identity(class_info), notes)


def _augmented_ids(lists: Path) -> tuple[Path, tuple[str, ...]]:
    """The list of train_aug under one of its names, and its ids."""
    names = names_in(lists)
    whole = [lists / name for name in ("train_aug.txt", "trainaug.txt")]
    if {"train.txt", "aug.txt"} <= names and not {path.name for path in whole} & names:
        added = lists / "aug.txt"
        return added, tuple(dict.fromkeys(read_ids(lists / "train.txt") + read_ids(added)))
    listing = first_file(whole, what="the list of the augmented training images", archive=_AUGMENTED)
    return listing, read_ids(listing)


def _shared_with_val(ids: tuple[str, ...], val: Path) -> tuple[str, ...]:
    shared = set(ids) & set(read_ids(val)) if val.is_file() else set()
    if not shared:
        return ()
    return (f"train_aug: {len(shared)} of its images are also in val, so that scores on val are too good",)
