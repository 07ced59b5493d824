"""Cityscapes: street scenes of 50 cities, 2048x1024, 19 classes (Cordts et al., CVPR 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refineseg.class_info import LabelTable
from refineseg.data.samples.catalog import catalog_classes
from refineseg.data.samples.sample import FilePair, PairDataset
from refineseg.data.storage.file_lists import check_pairs, files_by_stem, incomplete_note, packaged_table, subfolders
from refineseg.errors import DatasetError, LabelError
from refineseg.images.files import first_names
from refineseg.images.label_messages import value_ranges

SPLITS = ("train", "val", "test", "train_extra")
_SIZES = {"train": 2975, "val": 500, "test": 1525, "train_extra": 19998}
_WHERE = "register at cityscapes-dataset.com"
_ARCHIVES = {"leftImg8bit": "leftImg8bit_trainvaltest", "gtFine": "gtFine_trainvaltest", "gtCoarse": "gtCoarse"}


def open_cityscapes(root: Path, split: str) -> PairDataset:
    """One split of Cityscapes, as the archives unpack.

    ``ROOT/leftImg8bit/SPLIT/CITY/CITY_SEQUENCE_FRAME_leftImg8bit.png`` with
    ``ROOT/gtFine/SPLIT/CITY/CITY_SEQUENCE_FRAME_gtFine_labelIds.png`` (``gtCoarse`` for ``train_extra``). The two
    folders may also lie in those named after their archives (``ROOT/leftImg8bit_trainvaltest/leftImg8bit``), and ROOT
    may be one of them. Label ids become the 19 training classes while reading, every other id void; no prepared
    ``labelTrainIds`` are needed.

    Args:
        root: The folder with ``leftImg8bit`` and ``gtFine``.
        split: ``train`` (2975 images), ``val`` (500), ``test`` (1525, without masks: the files in ``gtFine/test`` are
            dummies) or ``train_extra`` (19998, coarse masks).

    Raises:
        DatasetError: No such split, folder or files, or images and masks that do not pair.

    Source: the file names and ids of the Cityscapes benchmark.
    """
    if split not in SPLITS:
        raise DatasetError(f"expected a Cityscapes split of {', '.join(SPLITS)}, got {split!r}; join splits with '+'")
    kind = "gtCoarse" if split == "train_extra" else "gtFine"
    images = _files(_part(root, "leftImg8bit", split), "leftImg8bit")
    masks = {} if split == "test" else _files(_part(root, kind, split), f"{kind}_labelIds")
    notes = incomplete_note(split, len(images), _SIZES[split])
    if split == "test":
        notes += (
            "test: its masks are not public; send masks of label ids (to_label_ids) at 2048x1024 to the benchmark's "
            "server",
        )
    else:
        check_pairs(images, masks, where=str(root), advice="unpack both archives again, completely")
    class_info = catalog_classes("cityscapes")
    values = dict.fromkeys(range(256), class_info.ignore_index)  # ids outside the table are void, too
    values |= {label_id: index for index, label_id in enumerate(_label_ids())}
    pairs = tuple(FilePair(path, masks.get(name), name) for name, path in images.items())
    return PairDataset(pairs, class_info, LabelTable(values), notes)


def _label_ids() -> Sequence[int]:
    ids: list[int] = packaged_table("class_tables", "cityscapes_label_ids")["label_ids"]
    return ids


def _part(root: Path, part: str, split: str) -> Path:
    """The folder of a split in one of the archives."""
    above = root.parent if root.name in _ARCHIVES else root
    places = [above / part, *(folder / part for folder in subfolders(above) if folder.name.startswith(part))]
    found = next((place / split for place in places if (place / split).is_dir()), None)
    if found is None:
        archive = "leftImg8bit_trainextra" if (part, split) == ("leftImg8bit", "train_extra") else _ARCHIVES[part]
        here = first_names([folder.name for folder in subfolders(root)]) or "no folders"
        raise DatasetError(
            f"expected Cityscapes in {root}, but there is no {part}/{split}, got {here}; give the folder that holds "
            f"leftImg8bit and gtFine, and unpack {archive}.zip there ({_WHERE})"
        )
    return found


def _files(folder: Path, ending: str) -> dict[str, Path]:
    """``CITY_SEQUENCE_FRAME`` -> file, cities in the order of their names."""
    found: dict[str, Path] = {}
    for city in subfolders(folder):
        found |= files_by_stem(city, suffixes=(".png",), ending=f"_{ending}")
    if not found:
        raise DatasetError(
            f"expected CITY/*_{ending}.png in {folder}, got none; unpack the archive again, completely ({_WHERE})"
        )
    return found


def to_label_ids(mask: NDArray[Any]) -> NDArray[np.uint8]:
    """Class indices as the label ids the benchmark's server wants.

    The server wants one such mask per test image, as an 8-bit grey PNG of 2048x1024 whose name begins with
    ``CITY_SEQUENCE_FRAME``.

    Args:
        mask: ``(H, W)`` class indices 0..18, and 255 for void, which becomes 0 (unlabeled).

    Returns:
        ``(H, W)`` label ids.

    Raises:
        LabelError: Other values.

    Example:
        >>> to_label_ids(np.array([[0, 13, 255]])).tolist()
        [[7, 26, 0]]
    """
    ids = _label_ids()
    stray = np.setdiff1d(mask, [*range(len(ids)), 255])
    if stray.size:
        raise LabelError(
            f"expected class indices 0..{len(ids) - 1} or 255, got {value_ranges(stray.tolist())}; give masks of a "
            "model with the Cityscapes classes"
        )
    table = np.zeros(256, np.uint8)
    table[: len(ids)] = ids
    return table.take(mask)
