"""IDD-Lite: street scenes of India, 320x227, 7 classes that group those of IDD (Varma et al., WACV 2019)."""

from __future__ import annotations

from pathlib import Path

from refineseg.class_info import LabelTable
from refineseg.data.samples.catalog import catalog_classes
from refineseg.data.samples.sample import FilePair, PairDataset
from refineseg.data.storage.file_lists import check_pairs, files_by_stem, incomplete_note, subfolders
from refineseg.errors import DatasetError

SPLITS = ("train", "val", "test")
_SIZES = {"train": 1403, "val": 204, "test": 404}


def open_idd_lite(root: Path, split: str) -> PairDataset:
    """One split of IDD-Lite, as it unpacks.

    ``ROOT/leftImg8bit/SPLIT/DRIVE/FRAME_image.jpg`` with ``ROOT/gtFine/SPLIT/DRIVE/FRAME_label.png``.

    Args:
        root: The folder with ``leftImg8bit`` and ``gtFine``.
        split: ``train`` (1403 images), ``val`` (204) or ``test`` (404, without masks).

    Raises:
        DatasetError: No such split, folder or files, or images and masks that do not pair.

    Source: the file names and values of the data set.
    """
    if split not in SPLITS:
        raise DatasetError(f"expected an IDD-Lite split of {', '.join(SPLITS)}, got {split!r}; join splits with '+'")
    images = _files(root / "leftImg8bit" / split, "_image", ".jpg")
    masks = {} if split == "test" else _files(root / "gtFine" / split, "_label", ".png")
    if split != "test":
        check_pairs(images, masks, where=str(root), advice="unpack the archive again, completely")
    class_info = catalog_classes("idd_lite")
    pairs = tuple(FilePair(path, masks.get(name), name) for name, path in images.items())
    return PairDataset(
        pairs, class_info, LabelTable.identity(class_info), incomplete_note(split, len(images), _SIZES[split])
    )


def _files(folder: Path, ending: str, suffix: str) -> dict[str, Path]:
    """``DRIVE/FRAME`` -> file."""
    found = {
        f"{drive.name}/{frame}": path
        for drive in subfolders(folder)
        for frame, path in files_by_stem(drive, suffixes=(suffix,), ending=ending).items()
    }
    if not found:
        raise DatasetError(
            f"expected DRIVE/FRAME{ending}{suffix} in {folder}, got none; give the folder that holds leftImg8bit and "
            "gtFine, and unpack the archive again, completely"
        )
    return found
