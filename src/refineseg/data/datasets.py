"""The data sets by name, and ``open_dataset``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from refineseg.data.ade20k import open_ade20k
from refineseg.data.camvid import open_camvid
from refineseg.data.cityscapes import open_cityscapes
from refineseg.data.folder import open_folder
from refineseg.data.nyud import open_nyud
from refineseg.data.sample import Concatenation, Dataset
from refineseg.data.sunrgbd import open_sunrgbd
from refineseg.errors import ConfigError, DatasetError


@dataclass(frozen=True)
class DatasetEntry:
    """A data set by name.

    Args:
        open: Root folder and split -> the samples.
        summary: One line for ``refineseg datasets``.
        licence: What models trained on it inherit; empty: nothing.
    """

    open: Callable[[Path, str], Dataset]
    summary: str
    licence: str = ""


DATASETS: dict[str, DatasetEntry] = {
    "nyud": DatasetEntry(
        open_nyud,
        "NYU Depth V2, 40 classes, 625x468: nyu_depth_v2_labeled.mat, or train.nyu and val.nyu with images",
        licence="NYU Depth V2 states no licence: research use",
    ),
    "sunrgbd": DatasetEntry(
        open_sunrgbd,
        "SUN RGB-D, 37 classes: images/SPLIT + labels/SPLIT, or SUNRGBD with SUNRGBDtoolbox",
        licence="SUN RGB-D states no licence: research use",
    ),
    "ade20k": DatasetEntry(
        open_ade20k,
        "ADE20K, 150 classes: ADEChallengeData2016, or the full release (images with *_seg.png)",
        licence="ADE20K terms of use: images for non-commercial research and education only",
    ),
    "cityscapes": DatasetEntry(
        open_cityscapes,
        "Cityscapes, 19 classes, 2048x1024: leftImg8bit with gtFine (or gtCoarse)",
        licence="Cityscapes licence agreement: non-commercial use only",
    ),
    "camvid": DatasetEntry(
        open_camvid,
        "CamVid, 11 classes: SegNet's copy at 480x360 (train.txt, train/, trainannot/, ...), or as published",
        licence="CC BY-NC 4.0 (from the CamVid data): personal and research use only",
    ),
    "folder": DatasetEntry(
        open_folder,
        "your own: images/SPLIT + masks/SPLIT or SPLIT/images + SPLIT/masks, with classes.json or labelmap.txt",
    ),
}
"""Every data set; the keys are what stands before the colon in ``--data NAME:ROOT``."""


def parse_data(data: str) -> tuple[str, Path]:
    """``NAME:ROOT`` -> name and root, split at the first colon.

    Raises:
        ConfigError: No colon, or an unknown name.
        DatasetError: The root is no folder.
    """
    name, colon, root = data.partition(":")
    if not colon or name not in DATASETS:
        raise ConfigError(f"expected NAME:ROOT with NAME one of {', '.join(DATASETS)}, got {data!r}")
    if not Path(root).is_dir():
        raise DatasetError(f"expected a folder after {name}:, got {root!r}, which is {_what(Path(root))}")
    return name, Path(root)


def _what(path: Path) -> str:
    return "a file" if path.is_file() else "not there"


def open_dataset(name: str, root: str | Path, *, split: str) -> Dataset:
    """Open a data set as it lies on disk.

    Args:
        name: A key of :data:`DATASETS`.
        root: Its folder.
        split: For instance ``val``; ``train+val`` joins splits.

    Raises:
        ConfigError: An unknown name.
        DatasetError: A missing folder, split or file.
    """
    name, path = parse_data(f"{name}:{root}")
    parts = [DATASETS[name].open(path, part) for part in split.split("+")]
    return parts[0] if len(parts) == 1 else Concatenation(parts)
