"""What the relatives of PASCAL VOC have in common on disk: lists of image ids, and folders of files named by them.

In: folders as unpacked. Out: pairs of image and mask. Nothing is decoded, and a folder is listed once instead of asking
for each of its ten thousand files.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from refineseg.data.samples.sample import FilePair
from refineseg.errors import DatasetError
from refineseg.files.special import refuse_special
from refineseg.images.files import first_names

_LIST_SUFFIXES = (".jpg", ".png", ".mat")


@dataclass(frozen=True)
class Archive:
    """Where a data set comes from, for messages.

    Args:
        title: Its name in prose.
        layout: What lies in the folder to give.
        download: File to unpack, and where it is.
    """

    title: str
    layout: str
    download: str


def names_in(folder: Path) -> frozenset[str]:
    """The names of everything in a folder; none where it is not there.

    Raises:
        DatasetError: The folder cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries)
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()
    except OSError as error:
        raise DatasetError(f"expected a folder, but {folder} cannot be listed: {error}; restore it") from error


def find_folder(root: Path, candidates: Sequence[str], *, holding: Sequence[str], archive: Archive) -> Path:
    """The first of several folders that holds one of some names.

    Args:
        root: What the user gave.
        candidates: Folders relative to it; ``.`` is the root itself.
        holding: Names of which one must be in it.
        archive: Archive, for the message.

    Raises:
        DatasetError: None of them does.
    """
    for candidate in candidates:
        folder = root / candidate
        if any((folder / name).exists() for name in holding):
            return folder
    inside = sorted(names_in(root))
    raise DatasetError(
        f"expected {archive.title} in {root}: {archive.layout}; got a folder with {first_names(inside) or 'nothing'}; "
        f"give the right folder, or unpack {archive.download}"
    )


def first_file(candidates: Sequence[Path], *, what: str, archive: Archive) -> Path:
    """The first file of several that is there.

    Raises:
        DatasetError: None is.
    """
    for path in candidates:
        if path.is_file():
            return path
    raise DatasetError(
        f"expected {what}: {' or '.join(str(path) for path in candidates)}, but there is no such file; "
        f"it comes with {archive.download}"
    )


def read_ids(listing: Path) -> tuple[str, ...]:
    """The image ids of a list file, in its order.

    Of a line only the first word counts, without folders and without ``.jpg``, ``.png`` or ``.mat``: ``2007_000032``,
    ``2007_000032 1`` and ``/JPEGImages/2007_000032.jpg /SegmentationClassAug/2007_000032.png`` are the same id.

    Raises:
        DatasetError: The list is no text, is empty, or names an id twice.
    """
    try:
        refuse_special(listing)
        lines = listing.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"expected a list of image ids, got {listing}, which cannot be read: {error}") from error
    ids = tuple(_identifier(line.split()[0]) for line in lines if line.strip())
    if not ids:
        raise DatasetError(f"expected a list of image ids, got {listing} without any line; unpack its archive again")
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if twice:
        raise DatasetError(
            f"expected each image once in {listing}, got {len(twice)} more than once: {first_names(twice)}; "
            "remove the repeated lines"
        )
    return ids


def _identifier(word: str) -> str:
    name = word.replace("\\", "/").rsplit("/", 1)[-1]
    return name[:-4] if name.lower().endswith(_LIST_SUFFIXES) else name


def pair_by_id(
    ids: Sequence[str],
    *,
    listing: Path,
    images: Path,
    masks: Sequence[Path],
    suffix: str,
    labelled: bool,
    archive: Archive,
) -> tuple[FilePair, ...]:
    """Image and mask of every id.

    Args:
        ids: Ids of the split.
        listing: The list they come from, for messages.
        images: Folder of ``ID.jpg``.
        masks: Folders of masks; the first that has an id's mask gives it.
        suffix: Suffix of the masks, for instance ``.png``.
        labelled: False for a split without public labels: images without a mask are then unlabelled samples.
        archive: Archive, for the messages.

    Raises:
        DatasetError: Images, or masks of a labelled split, are absent; the first few names and how many.
    """
    have = names_in(images)
    absent = [f"{name}.jpg" for name in ids if f"{name}.jpg" not in have]
    if absent:
        raise _absent(absent, len(ids), "images", listing, images, archive)
    folders = [(folder, names_in(folder)) for folder in masks]
    pairs, lonely = [], []
    for name in ids:
        file_name = name + suffix
        mask = next((folder / file_name for folder, inside in folders if file_name in inside), None)
        if mask is None:
            lonely.append(file_name)
        pairs.append(FilePair(images / f"{name}.jpg", mask, name))
    if lonely and labelled:
        raise _absent(lonely, len(ids), "masks", listing, masks[0], archive)
    return tuple(pairs)


def _absent(names: Sequence[str], total: int, what: str, listing: Path, folder: Path, archive: Archive) -> DatasetError:
    there = "" if folder.is_dir() else " (there is no such folder)"
    return DatasetError(
        f"expected the {total} {what} of {listing} in {folder}{there}, but {len(names)} are absent: "
        f"{first_names(names)}; unpack {archive.download} completely, or give the list that belongs to this copy"
    )
