"""A text list of pairs: an image and its mask on each line.

In: ``LIST.txt``, or a folder of lists, one per split. Out: pairs of files.
"""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from refineseg.data.own.accents import in_either_form
from refineseg.data.own.folder import count_classes
from refineseg.data.own.folder_layout import USUAL_SPLITS, in_usual_order, split_like
from refineseg.data.own.painting import unknown_split
from refineseg.data.samples.class_files import read_class_file
from refineseg.data.samples.own_classes import alike
from refineseg.data.samples.sample import FilePair, PairDataset
from refineseg.errors import DatasetError
from refineseg.files.archives import is_file, is_folder, list_files, locate, read_text
from refineseg.images.files import IMAGE_SUFFIXES, first_names

LIST_SUFFIXES = (".txt", ".tsv", ".lst", ".csv")
_NO_LISTS = ("classes.txt", "labelmap.txt", "labels.txt", "readme.txt", "remap.csv")
_TITLES = {  # words of a header -> column
    **dict.fromkeys(("image", "images", "img", "photo", "picture", "file", "filename", "image_path"), 0),
    **dict.fromkeys(("mask", "masks", "label", "labels", "annotation", "gt", "mask_path", "label_path"), 1),
    **dict.fromkeys(("split", "set", "subset"), 2),
}

Line = tuple[str, str, str]
"""Image, mask and split as they stand in a line; the split may be empty."""


def open_pairs(root: Path, split: str) -> PairDataset:
    """One split of a list of pairs.

    * ``pairs:LIST.txt``: on each line an image and a mask, relative to the list's folder, separated by a tab, comma,
      semicolon or spaces; a third word is the split. Names that hold spaces may be quoted, and need not where only one
      reading gives two names of images. Without any split everything is ``train``. Lines that begin with ``#`` are
      comments. The first line may be a header; with ``image`` and ``mask`` in it, columns may be in any order and more.
    * ``pairs:ROOT``: a folder or zip file with one list per split, ``train.txt``, ``val.txt``, ...; or with one list.
    * Masks and classes are as in a folder data set: a class file beside the list, else values 0..K-1 and 255.

    Raises:
        DatasetError: No such list, split or files, or a line of another form.
        LabelError: There is no class file, and the values of the training masks are not 0..K-1 and 255.
    """
    lists = _lists(root)
    splits = pairs_splits(root)
    if split not in splits:
        raise unknown_split(split, splits, root)
    folder = root if is_folder(root) else root.parent
    pairs = _pairs(lists, folder, split)
    listed = read_class_file(folder)
    if listed is not None:
        return PairDataset(pairs, *listed, alike(listed[0].names), root=str(root))
    learned = split_like("train", splits)
    training = pairs if learned in (None, split) else _pairs(lists, folder, str(learned))
    class_info, table = count_classes(training, folder)
    note = f"{class_info.num_classes} classes, counted in {len(training)} masks; write {folder / 'classes.json'}"
    return PairDataset(pairs, class_info, table, (f"{note} to name them and to start faster",), root=str(root))


def pairs_splits(root: Path) -> tuple[str, ...]:
    """The splits of a list, or of a folder of lists.

    Raises:
        DatasetError: There is no list, or a line has another form.
    """
    lists = _lists(root)
    return in_usual_order(split or name for name, lines in lists.items() for _, _, split in lines)


def is_pairs_list(path: Path) -> bool:
    """True for a text file whose first line, or the one after a header, names an image and another image file."""
    try:
        numbered = _numbered(read_text(path))
    except DatasetError:
        return False
    header = _header(numbered[0][1]) if numbered else None
    return any(_words(line, header) is not None for _, line in numbered[:2])


def _lists(root: Path) -> dict[str, list[Line]]:
    """Lines of each list, by the split that the file's name stands for."""
    if not is_folder(root):
        return {"train": _lines(root)}
    names = [n for n in list_files(root) if "/" not in n and n.lower().endswith(LIST_SUFFIXES)]
    names = [name for name in names if name.lower() not in _NO_LISTS and is_pairs_list(root / name)]
    if not names:
        raise DatasetError(
            f"expected a list of 'image mask' lines in {root} (train.txt, val.txt, ...), got none; name the file: "
            "pairs:LIST.txt"
        )
    if len(names) == 1 and PurePosixPath(names[0]).stem not in USUAL_SPLITS:
        return {"train": _lines(root / names[0])}
    by_split: dict[str, str] = {}
    for name in names:
        other = by_split.setdefault(PurePosixPath(name).stem, name)
        if other != name:
            raise DatasetError(f"expected one list of each split in {root}, got {other} and {name}; join or remove one")
    return {split: _lines(root / name) for split, name in by_split.items()}


def _numbered(text: str) -> list[tuple[int, str]]:
    """The lines that are neither empty nor comments, with their numbers."""
    lines = enumerate(text.splitlines(), start=1)
    return [(number, line) for number, line in lines if line.strip() and not line.startswith("#")]


def _header(line: str) -> dict[int, int] | None:
    """Which column of a table with a header is the image, the mask and the split: 0, 1 and 2."""
    if _names_an_image(line):
        return None
    cells = next((cells for cells in _divided(line) if len(cells) > 1), [])
    columns = {_TITLES[title]: number for number, cell in enumerate(cells) if (title := cell.lower()) in _TITLES}
    return columns if columns.keys() >= {0, 1} else None


def _divided(line: str) -> Iterator[list[str]]:
    """A line by each separator in turn; what is quoted is one word."""
    for quote in "\"'":
        for separator in "\t,; ":
            reader = csv.reader([line], delimiter=separator, quotechar=quote, skipinitialspace=True)
            try:
                cells = [cell.strip() for cell in next(reader, [])]
            except csv.Error:  # a word longer than any path
                cells = []
            yield cells if separator in ",;" else [cell for cell in cells if cell]


def _words(line: str, header: dict[int, int] | None) -> Line | None:
    """Image, mask and split of a line; None where it is not clear which they are."""
    for cells in _divided(line):
        if header is not None and len(cells) > max(header.values()):
            cells = [cells[header[column]] for column in sorted(header)]
        if len(cells) in (2, 3) and _are_images(cells[:2]):
            return cells[0], cells[1], cells[2] if len(cells) == 3 else ""
    spaces = [match.span() for match in re.finditer(r"\s+", line.strip())]
    found: list[Line] = []
    for start, end in spaces:  # names with spaces that nothing sets apart
        image, rest = line.strip()[:start], line.strip()[end:]
        mask, _, split = rest.rpartition(" ")
        found += [(image, rest, "")] * _are_images((image, rest))
        found += [(image, mask.strip(), split)] * _are_images((image, mask.strip()))
    return found[0] if len(found) == 1 else None


def _are_images(words: Sequence[str]) -> bool:
    return all(word.lower().endswith(IMAGE_SUFFIXES) for word in words)


def _lines(path: Path) -> list[Line]:
    found: list[Line] = []
    numbered = _numbered(read_text(path))
    header = _header(numbered[0][1]) if numbered else None
    if numbered and (header is not None or (len(numbered) > 1 and not _names_an_image(numbered[0][1]))):
        numbered = numbered[1:]
    for number, line in numbered:
        words = _words(line, header)
        if words is None:
            raise DatasetError(
                f"{path}, line {number}: expected 'image mask' or 'image mask split', got {len(line.split())} words: "
                f"{line[:80]!r}; separate names that hold spaces by a tab, or quote them"
            )
        found.append(words)
    if not found:
        raise DatasetError(f"expected 'image mask' on each line of {path}, got no line")
    with_split = sum(bool(split) for _, _, split in found)
    if with_split not in (0, len(found)):
        raise DatasetError(
            f"expected a split on every line of {path} or on none, got {with_split} on {len(found)} lines; add others"
        )
    return found


def _names_an_image(line: str) -> bool:
    return any(suffix in line.lower() for suffix in IMAGE_SUFFIXES)


def _pairs(lists: dict[str, list[Line]], folder: Path, split: str) -> tuple[FilePair, ...]:
    lines = [line for name, listed in lists.items() for line in listed if (line[2] or name) == split]
    pairs = [
        FilePair(_resolved(folder, image), _resolved(folder, mask), PurePosixPath(image).with_suffix("").as_posix())
        for image, mask, _ in lines
    ]
    absent = [path for pair in pairs for path in (pair.image, pair.mask) if path is not None and not is_file(path)]
    if absent:
        raise DatasetError(
            f"expected the files listed for {split} (relative to {folder}), but {len(absent)} are absent: "
            f"{first_names(absent)}; correct the list"
        )
    twice = [name for name, count in Counter(pair.name for pair in pairs).items() if count > 1]
    twice = twice or [str(path) for path, count in Counter(pair.image for pair in pairs).items() if count > 1]
    if twice:
        raise DatasetError(f"expected every image once in the lists of {split}, got again: {first_names(twice)}")
    return tuple(pairs)


def _resolved(folder: Path, word: str) -> Path:
    joined = folder / word.replace("\\", "/")
    path = type(folder)(os.path.normpath(Path(*joined.parts)))  # of its parts: a remote file would be fetched
    if locate(folder) is not None and not path.is_relative_to(folder):
        raise DatasetError(f"expected files inside {folder}, got {word!r}, which leaves the zip file; correct the list")
    return in_either_form(path)
