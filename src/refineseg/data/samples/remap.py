"""Rename and merge classes by a small table: ``remap.json`` or ``remap.csv`` in the root of a data set.

In: a data set and its table. Out: :class:`Remapped`, the same samples with fewer or other classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refineseg.class_info import ClassInfo, usual_void
from refineseg.data.samples.json_files import read_json
from refineseg.data.samples.left_out import LeftOut, left_out
from refineseg.data.samples.own_classes import AlikeNote, alike, near
from refineseg.data.samples.sample import Dataset, PairDataset, Sample, held_mark, image_file, image_header, pair_of
from refineseg.errors import ConfigError, DatasetError
from refineseg.files.archives import is_file, read_text
from refineseg.files.foreign_text import csv_rows

FILE_NAMES = ("remap.json", "remap.csv")
_TITLES = (["from", "to"], ["old", "new"])
_EXAMPLE = '{"car": "vehicle", "truck": "vehicle", "tree": null}'


def read_remap(root: Path) -> tuple[dict[str, str | None], str] | None:
    """The table of a folder or zip file.

    ``remap.json`` is an object ``{"car": "vehicle", "truck": "vehicle", "tree": null}``; ``remap.csv`` has two columns,
    ``car,vehicle``. ``null``, or an empty second column, is void.

    Returns:
        Old name -> new name or None (void), and the file's name; None where there is no table.

    Raises:
        ConfigError: The table cannot be read, or there are two.
    """
    found = [name for name in FILE_NAMES if is_file(root / name)]
    if not found:
        return None
    path = root / found[0]
    if len(found) > 1:
        raise ConfigError(f"expected one table in {root}, got {' and '.join(found)}; remove one")
    try:
        return (_from_json(path) if path.suffix == ".json" else _from_csv(path)), path.name
    except DatasetError as error:
        raise ConfigError(str(error)) from error


def _from_json(path: Path) -> dict[str, str | None]:
    content = read_json(path)
    named = isinstance(content, dict) and all(
        value is None or (isinstance(value, str) and value.strip()) for value in content.values()
    )
    if not named:
        raise ConfigError(f"expected names to names or null in {path}, for instance {_EXAMPLE}")
    return {str(old): None if new is None else str(new).strip() for old, new in content.items()}


def _from_csv(path: Path) -> dict[str, str | None]:
    rows = [[cell.strip() for cell in row] for row in csv_rows(read_text(path).splitlines(), path) if any(row)]
    if rows and [cell.lower() for cell in rows[0]] in _TITLES:
        rows = rows[1:]
    wrong = [row for row in rows if len(row) != 2 or not row[0]]
    twice = [name for name, count in Counter(row[0] for row in rows if row).items() if count > 1]
    if wrong or twice:
        got = wrong[0] if wrong else twice[0]
        raise ConfigError(f"expected 'old,new' once for each name in {path}, got {got!r:.100}; correct it")
    return {old: new or None for old, new in rows}


@dataclass(frozen=True)
class Remapped:
    """A data set whose classes are renamed, merged or made void.

    Args:
        dataset: Where samples come from.
        class_info: The new classes.
        table: New class (or void) of each old class, and of old void last.
        note: What was done.
    """

    dataset: Dataset
    class_info: ClassInfo
    table: NDArray[Any] = field(repr=False)
    note: str

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes of the data set, but of its classes as they are now, and what was done."""
        kept = (note for note in self.dataset.notes if not isinstance(note, AlikeNote))
        return (*kept, *alike(self.class_info.names), self.note)

    def left_out(self) -> tuple[LeftOut, ...]:
        """The objects that cover no pixel of their class."""
        return left_out(self.dataset)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        return Sample(sample.image, self._mapped(sample.mask), sample.name)

    def name(self, index: int) -> str:
        """Name of a sample, without reading it."""
        return self.dataset.name(index)

    def image_file(self, index: int) -> Path | None:
        """The file of the image, where the data set has one."""
        return image_file(self.dataset, index)

    def image_mark(self, index: int) -> str:
        """The mark of the image, where the data set holds one."""
        return held_mark(self.dataset, index)

    def image_header(self, index: int) -> tuple[tuple[int, int], str] | None:
        """Size and ending of the image, where the data set knows them."""
        return image_header(self.dataset, index)

    def pair_of(self, index: int) -> tuple[PairDataset, int] | None:
        """The pair of files of a sample, where the data set has one; its mask is in the old classes."""
        return pair_of(self.dataset, index)

    def read_mask(self, index: int) -> NDArray[Any] | None:
        """The mask of a sample, in the new classes."""
        return self._mapped(self.dataset.read_mask(index))

    def _mapped(self, mask: NDArray[Any] | None) -> NDArray[Any] | None:
        if mask is None:
            return None
        mapped: NDArray[Any] = self.table.take(np.minimum(mask, len(self.table) - 1))  # void lies beyond the classes
        return mapped


def remapped(dataset: Dataset, mapping: Mapping[str, str | None], *, declared_in: str) -> Remapped:
    """Apply a table to a data set.

    Classes that it does not name stay. The new classes are in the order in which they first appear among the old ones,
    in the colour of the old class of that name, else of the first that became it.

    Args:
        dataset: The data set.
        mapping: Old name -> new name, or None for void.
        declared_in: The table's file, for messages.

    Raises:
        ConfigError: A name that is no class (with those like it), or no class is left.

    Example:
        >>> from refineseg.class_info import LabelTable
        >>> from refineseg.data.samples.sample import PairDataset
        >>> old = ClassInfo(("car", "road", "truck"))
        >>> dataset = PairDataset((), old, LabelTable.identity(old))
        >>> merged = remapped(dataset, {"truck": "car"}, declared_in="remap.json")
        >>> merged.class_info.names, merged.table.tolist()
        (('car', 'road'), [0, 1, 0, 255])
    """
    old = dataset.class_info
    unknown = [name for name in mapping if name not in old.names]
    if unknown:
        shown = ", ".join(f"{name!r}{near(name, old.names)}" for name in unknown[:5])
        raise ConfigError(
            f"expected the names of classes in {declared_in} ({', '.join(old.names[:20])}), got {shown}; correct them"
        )
    new_names = [mapping.get(name, name) for name in old.names]
    names = [name for name in dict.fromkeys(new_names) if name is not None]
    if not names:
        raise ConfigError(f"expected {declared_in} to leave a class, got void for all {len(old.names)}")
    colours = {name: old.palette[new_names.index(name)] for name in names}
    colours |= {name: colour for name, colour in zip(old.names, old.palette, strict=True) if name in colours}
    void = usual_void(len(names))
    class_info = ClassInfo(tuple(names), tuple(colours[name] for name in names), void)
    values = [void if name is None else names.index(name) for name in new_names]
    table = np.array([*values, void], class_info.mask_dtype)
    note = f"{declared_in}: {old.num_classes} classes became {len(names)}"
    return Remapped(dataset, class_info, table, note)
