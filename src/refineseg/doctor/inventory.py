"""Which images and masks a data set has, also where its reader refuses to open it.

In: the root folder. Out: an :class:`Inventory` of cases (an image with its mask), and what is wrong with the tree.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from refineseg.class_info import ClassInfo, LabelTable
from refineseg.data.checks.kinds import Fault
from refineseg.data.datasets import DATASETS, open_dataset
from refineseg.data.own.folder_layout import (
    existing_folders,
    folder_splits,
    partners,
    split_like,
    splits_alike,
    splits_to_train_on,
    stray_images,
)
from refineseg.data.own.formats import recognise, unread_annotations
from refineseg.data.samples.class_files import CLASS_FILES, read_class_file
from refineseg.data.samples.own_classes import alike
from refineseg.data.samples.sample import Dataset, PairDataset
from refineseg.data.storage.shards import is_sharded, shard_splits
from refineseg.doctor.findings import refusal
from refineseg.errors import ConfigError, DatasetError, ImageError, MissingExtraError
from refineseg.files.archives import is_file, is_folder, list_folder
from refineseg.images.files import first_names
from refineseg.terminal.printable import printable


@dataclass(frozen=True)
class Case:
    """An image and its mask, one of which may be absent.

    Args:
        split: Where it belongs.
        name: As the reader names it.
        image: File; None where the reader gives arrays only.
        mask: File; None where there is none.
        shown_image: How the image is named in findings.
        shown_mask: How the mask is named in findings.
        source: Reader of a case without files, and the index in it.
    """

    split: str
    name: str
    image: Path | None
    mask: Path | None
    shown_image: str
    shown_mask: str
    source: tuple[Dataset, int] | None = None


@dataclass(frozen=True)
class Inventory:
    """Everything to examine.

    Args:
        root: Root of the data set.
        own_masks: The user's own images and masks in folders, for which there are rules of repair.
        own_classes: The user's own classes.
        cases: Images with masks.
        splits: Splits in their order.
        faults: Faults of the tree itself.
        class_info: The classes, where a file or the reader tells them.
        table: How mask files write them.
        notes: Facts about the files.
        readers: Data set of each split, where a reader gives the cases: its notes are asked for once all is read.
    """

    root: Path
    own_masks: bool
    own_classes: bool
    cases: tuple[Case, ...]
    splits: tuple[str, ...]
    faults: tuple[Fault, ...] = ()
    class_info: ClassInfo | None = None
    table: LabelTable | None = None
    notes: tuple[str, ...] = ()
    readers: Mapping[str, Dataset] = field(default_factory=dict)


def take_inventory(name: str, root: Path) -> Inventory:
    """The cases of a data set.

    Args:
        name: A key of :data:`~refineseg.data.datasets.DATASETS`.
        root: Its folder, or the file that stands for it.

    Raises:
        MissingExtraError: The reader needs a package that is not installed.
    """
    if name != "folder" or is_sharded(root):
        return _read_inventory(name, root)
    try:
        form, inner = recognise(root)
    except DatasetError as error:
        return Inventory(root, False, True, (), (), (refusal(root.name, error),))
    found = _folder_inventory(inner) if form == "masks" else _read_inventory(name, root)
    faults = (*found.faults, *_no_train_split(found), *_left_out(inner))
    return replace(found, faults=faults, notes=(*found.notes, *splits_alike(found.splits)))


def _no_train_split(inventory: Inventory) -> list[Fault]:
    """Splits of other names, where all of them could be opened."""
    splits = inventory.splits
    if split_like("train", splits) or any(fault.kind == "refused" for fault in inventory.faults):
        return []
    options = splits_to_train_on(splits)
    action = printable(f"refineseg train ... {options}, or move their folders into train and val")
    return [Fault("no_train_split", first_names(splits), action, action, whole=True)] if options else []


def _left_out(root: Path) -> list[Fault]:
    """What lies in a folder and is no file."""
    entries = list_folder(root).left_out if is_folder(root) else {}
    return [Fault("left_out", entry, what) for entry, what in entries.items()]


def relative_name(path: Path, root: Path) -> str:
    """A path as it is named in findings."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()


def _read_inventory(name: str, root: Path) -> Inventory:
    """Through the reader, split by split; the refusal of a split that must be there is a fault."""
    required, optional = DATASETS[name].required_splits, DATASETS[name].optional_splits
    list_splits = shard_splits if is_sharded(root) else DATASETS[name].splits
    cases: list[Case] = []
    faults: list[Fault] = []
    if list_splits is not None:
        try:
            required, optional = list_splits(root), ()
            if not required:
                text = f"expected at least one split in {root}, got none; name train or val in its list of splits"
                faults.append(Fault("refused", root.name, text, text, whole=True))
        except (DatasetError, ImageError, ConfigError) as error:
            faults.append(refusal(root.name, error))
            required, optional = (), ()
    base = root if is_folder(root) else root.parent
    notes: list[str] = []
    opened: dict[str, Dataset] = {}
    for split in (*required, *optional):
        try:
            opened[split] = open_dataset(name, root, split=split)
        except MissingExtraError:
            raise
        except (DatasetError, ImageError, ConfigError) as error:
            if split in required:
                faults.append(refusal(split, error))
            else:
                notes.append(f"{split} was not examined: {error}")
            continue
        cases += _cases_of(opened[split], split, base)
    first = next(iter(opened.values()), None)
    return Inventory(
        base,
        False,
        list_splits is not None and not is_sharded(root),  # no remap file is read beside shards
        tuple(cases),
        tuple(opened),
        tuple(faults),
        None if first is None else first.class_info,
        first.table if isinstance(first, PairDataset) else None,
        tuple(notes),
        opened,
    )


def _cases_of(dataset: Dataset, split: str, root: Path) -> list[Case]:
    if isinstance(dataset, PairDataset) and dataset.read_indices is None:
        return [_case(split, pair.name, pair.image, pair.mask, root) for pair in dataset.pairs]
    names = [f"{split}/{dataset.name(i)}" for i in range(len(dataset))]
    return [Case(split, dataset.name(i), None, None, n, n, (dataset, i)) for i, n in enumerate(names)]


def _case(split: str, name: str, image: Path, mask: Path | None, root: Path) -> Case:
    shown_mask = "" if mask is None else relative_name(mask, root)
    return Case(split, name, image, mask, relative_name(image, root), shown_mask)


def _folder_inventory(root: Path) -> Inventory:
    """The files themselves, because one fault makes the reader refuse all of them."""
    faults: list[Fault] = []
    listed = None
    try:
        listed = read_class_file(root)
    except ConfigError as error:
        name = next(name for name in CLASS_FILES if is_file(root / name))
        faults.append(refusal(name, error, "bad_class_file"))
    cases: list[Case] = []
    splits: tuple[str, ...] = ()
    try:
        splits = folder_splits(root)
    except DatasetError as error:
        faults.append(refusal(root.name, error))
    for split in splits:
        try:
            found, wrong = _split_cases(root, split)
        except ImageError as error:  # a folder that cannot be listed
            faults.append(refusal(split, error))
            continue
        cases += found
        faults += wrong
        if not found and not wrong:
            faults.append(
                Fault("refused", split, "no images", f"add images and masks to the split {split}", whole=True)
            )
    notes: tuple[str, ...] = () if listed is None else alike(listed[0].names)
    with contextlib.suppress(DatasetError, ImageError, OSError):  # said above
        notes += (*stray_images(root), *unread_annotations(root))
    class_info, table = listed or (None, None)
    return Inventory(root, True, True, tuple(cases), splits, tuple(faults), class_info, table, notes)


def _split_cases(root: Path, split: str) -> tuple[list[Case], list[Fault]]:
    """Pairs of a split by the rules of :func:`~refineseg.data.own.folder.open_folder`, and what has no partner."""
    image_folder, mask_folder = existing_folders(root, split)
    found = partners(image_folder, mask_folder)
    if found.images and mask_folder is None and split == "test":
        count = sum(map(len, found.images.values()))
        return [], [Fault("unlabelled_split", split, f"{count} images and no folder of masks", whole=True)]
    faults = [
        Fault("missing_image", relative_name(path, root), f"no image {path.stem} in {split}") for path in found.orphans
    ]
    cases = []
    for key, paths in found.images.items():
        for twins in (paths, found.masks.get(key, [])):
            if len(twins) > 1:
                names = [relative_name(path, root) for path in twins]
                faults += [Fault("ambiguous_name", name, f"one of {len(names)} for {key}") for name in names]
        mask = found.masks[key][0] if key in found.masks else found.by_case.get(key)
        if key in found.by_case:
            detail = f"{relative_name(found.by_case[key], root)} differs only by capitals"
            faults.append(Fault("name_case", relative_name(paths[0], root), detail))
        if mask is None:
            faults.append(Fault("missing_mask", relative_name(paths[0], root), f"no mask {key} in {split}"))
        cases.append(_case(split, key, paths[0], mask, root))
    return cases, faults
