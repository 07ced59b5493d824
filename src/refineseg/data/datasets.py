"""The data sets by name, and ``open_dataset``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from refineseg.data.camvid import open_camvid
from refineseg.data.folder import open_folder
from refineseg.data.sample import Concatenation, Dataset
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
    "camvid": DatasetEntry(
        open_camvid,
        "CamVid, 11 classes, 480x360: SegNet's copy (train.txt, train/, trainannot/, ...)",
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
