"""Which files a data set should have, and which are there: each folder is listed once, however many files it holds.

In: folders, lists and the JSON files of the package. Out: names, or one error that names the first few absent files.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from refineseg.errors import DatasetError
from refineseg.images.files import first_names


def packaged_table(folder: str, name: str) -> dict[str, Any]:
    """A JSON file of the package.

    Args:
        folder: ``class_tables`` or ``split_lists``.
        name: Without the ending.

    Example:
        >>> [len(packaged_table("split_lists", "nyud")[split]) for split in ("train", "test")]
        [795, 654]
    """
    text = (resources.files("refineseg") / folder / f"{name}.json").read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text)
    return table


def file_names(folder: Path) -> list[str]:
    """Names of what is no folder, sorted, hidden ones left out; empty where there is no such folder.

    Links that lead nowhere and FIFOs are among them: reading them says what they are.

    Raises:
        DatasetError: The folder cannot be listed.
    """
    return [name for name, is_folder in _entries(folder) if not is_folder]


def subfolders(folder: Path) -> list[Path]:
    """Folders in a folder, sorted, hidden ones left out; empty where there is no such folder.

    Raises:
        DatasetError: The folder cannot be listed.
    """
    return [folder / name for name, is_folder in _entries(folder) if is_folder]


def _entries(folder: Path) -> list[tuple[str, bool]]:
    """Names in a folder, sorted, and whether each is a folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry.name, _is_folder(entry)) for entry in entries if not entry.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise DatasetError(f"expected a folder, but {folder} cannot be listed: {error}; restore it") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle
        return False


def files_by_stem(folder: Path, *, suffixes: Sequence[str], ending: str = "") -> dict[str, Path]:
    """Files of a folder by what stands before a common ending.

    Args:
        folder: Where to look, without its subfolders.
        suffixes: File types in lower case, for instance ``(".png",)``.
        ending: The end of the stem that is left out; files without it are too.

    Returns:
        Shortened stem -> path, in the order of the names.
    """
    found = {}
    for name in file_names(folder):
        path = folder / name
        if path.suffix.lower() in suffixes and path.stem.endswith(ending):
            found[path.stem.removesuffix(ending)] = path
    return found


def check_present(paths: Iterable[Path], *, root: Path, listed_in: str, advice: str) -> None:
    """All files of a list must be there.

    Args:
        paths: The files.
        root: Names in the message are relative to it where they lie in it.
        listed_in: The list, for the message.
        advice: What to do, for the message.

    Raises:
        DatasetError: Some are absent; the first few and how many.
    """
    listings: dict[Path, frozenset[str]] = {}
    absent = []
    for path in paths:
        if path.parent not in listings:
            listings[path.parent] = frozenset(file_names(path.parent))
        if path.name not in listings[path.parent]:
            absent.append(path.relative_to(root) if path.is_relative_to(root) else path)
    if absent:
        raise DatasetError(
            f"expected the files named in {listed_in}, but {len(absent)} are absent: {first_names(absent)}; {advice}"
        )


def check_pairs(images: Mapping[str, Path], masks: Mapping[str, Path], *, where: str, advice: str) -> None:
    """Every image needs its mask and every mask its image.

    Args:
        images: By the name both share.
        masks: By the same name.
        where: The folders, for the message.
        advice: What to do, for the message.

    Raises:
        DatasetError: No images, or some are alone; the first few of each kind and how many.
    """
    if not images and not masks:
        raise DatasetError(f"expected images and masks in {where}, got none; {advice}")
    parts = []
    for kind, partner, alone in (
        ("images", "mask", [path.name for name, path in images.items() if name not in masks]),
        ("masks", "image", [path.name for name, path in masks.items() if name not in images]),
    ):
        if alone:
            parts.append(f"{len(alone)} {kind} without {partner} ({first_names(alone)})")
    if parts:
        raise DatasetError(f"expected each image in {where} to have its mask, got {' and '.join(parts)}; {advice}")


def incomplete_note(split: str, found: int, complete: int) -> tuple[str, ...]:
    """One note where a split has another number of images than the published one, else none.

    Example:
        >>> incomplete_note("val", 3, 500)
        ('val: 3 images here, 500 in the complete data set',)
    """
    return () if found == complete else (f"{split}: {found} images here, {complete} in the complete data set",)
