"""The user's list of classes: ``classes.json``, ``labelmap.txt`` (CVAT) or ``classes.txt`` in the root of a data set.

In: the folder. Out: :class:`ClassInfo` and :class:`LabelTable`, or None where there is no such file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refineseg.class_info import ClassInfo, Colour, LabelTable, default_palette, usual_void
from refineseg.errors import ConfigError
from refineseg.files.archives import decoded, is_file, read_bytes
from refineseg.files.foreign_text import parse_json

CLASS_FILES = ("classes.json", "labelmap.txt", "classes.txt")
"""Names of the class list, the first that is there is read."""

NO_ANNOTATIONS = ("classes.json", "remap.json")
"""JSON files that lie beside annotations and are none."""

MOST_UNNAMED = 128
"""Classes without a list; grey photographs and blurred masks also hold the values 0..255."""

_EXAMPLE = '{"ignore_index": 255, "classes": [{"id": 0, "name": "sky", "color": [128, 128, 128]}, ...]}'
_MOST = 65535  # masks have at most 16 bits
LONGEST_NAME = 1000
"""Characters of a class name."""


@dataclass(frozen=True)
class _Entry:
    """A line of a class list: the value in the masks, what it means, its colour if it has one."""

    value: int
    name: str
    colour: Colour | None = None
    void: bool = False


def read_class_file(root: Path) -> tuple[ClassInfo, LabelTable] | None:
    """The classes of a folder, in the order they are listed.

    * ``classes.json``: ``{"num_classes", "ignore_index", "classes": [{"id", "name", "color", "ignore"}, ...]}``. ``id``
      is the value in the masks (any of 0..65535, holes allowed; by default the position); ``color`` may be absent;
      entries with ``"ignore": true`` are void, and so is the value ``ignore_index`` (default: 255, unless a class).
    * ``labelmap.txt`` of CVAT: ``name:r,g,b:parts:actions`` per line, ``#`` starts a comment; the value of a class is
      the number of its line, from 0; 255 is void.
    * ``classes.txt``: one name per line; values as in ``labelmap.txt``; no colours, so masks must be indices. Numbers
      before the names as in :func:`without_numbers`.

    Whatever the values in the files, class indices are 0..K-1. Classes without a colour are shown in default colours,
    but only the colours in the file are accepted in RGB masks.

    Returns:
        The classes and how mask files write them; None where there is no class file.

    Raises:
        ConfigError: The file cannot be read as above, or holds a value, name or colour twice.
    """
    listed = _listed(root, CLASS_FILES)
    return None if listed is None else _tables(listed[0], listed[1], listed[2].name)


def listed_names(
    root: Path, file_names: Sequence[str] = CLASS_FILES
) -> tuple[dict[str, Colour | None], tuple[str, ...], str] | None:
    """The class file of a folder where labels are names: the values in it do not matter.

    Args:
        root: The folder, or a zip file.
        file_names: The first that is there is read.

    Returns:
        Name and colour of each class in order, the names that are void, and the file's name; None where there is none.

    Raises:
        ConfigError: As :func:`read_class_file`.
    """
    listed = _listed(root, file_names)
    if listed is None:
        return None
    entries, _, path = listed
    colours = {entry.name: entry.colour for entry in entries if not entry.void}
    return colours, tuple(entry.name for entry in entries if entry.void), path.name


def _listed(root: Path, file_names: Sequence[str]) -> tuple[list[_Entry], int | None, Path] | None:
    """The entries of the first class file that is there, its void value, and its path."""
    path = next((root / name for name in file_names if is_file(root / name)), None)
    if path is None:
        return None
    try:
        text = decoded(read_bytes(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"expected a UTF-8 text file, got {path}: {error}") from error
    if path.suffix == ".json":
        entries, ignore_index = _from_json(text, path)
    else:
        read = _from_labelmap if path.name == "labelmap.txt" else _from_names
        entries, ignore_index = read(text, path), None
    if len(entries) > _MOST:
        raise ConfigError(f"expected at most {_MOST} classes in {path}, as many as masks can hold, got {len(entries)}")
    long = max((entry.name for entry in entries), key=len, default="")
    if len(long) > LONGEST_NAME:
        raise ConfigError(
            f"expected class names of at most {LONGEST_NAME} characters in {path}, got {len(long)}: {long[:40]!r}..."
        )
    _check(entries, ignore_index, path)
    return entries, ignore_index, path


def _from_json(text: str, path: Path) -> tuple[list[_Entry], int | None]:
    try:
        content = parse_json(text)
    except ValueError as error:
        raise ConfigError(f"expected JSON in {path}, got {error}; for instance {_EXAMPLE}") from error
    listed = content.get("classes") if isinstance(content, dict) else None
    if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise ConfigError(f'expected a list of objects under "classes" in {path}; for instance {_EXAMPLE}')
    entries = [_json_entry(item, position, path) for position, item in enumerate(listed)]
    num_classes, stated = sum(not entry.void for entry in entries), content.get("num_classes")
    if stated is not None and stated != num_classes:
        raise ConfigError(
            f'expected "num_classes": {num_classes} in {path} (the entries without "ignore"), got {stated!r:.100}; '
            "correct it or leave it out"
        )
    ignore_index = content.get("ignore_index")
    if ignore_index is not None and not _is_value(ignore_index):
        raise ConfigError(f'expected "ignore_index" in {path} to be one of 0..{_MOST}, got {ignore_index!r:.100}')
    return entries, ignore_index


def _json_entry(item: dict[str, Any], position: int, path: Path) -> _Entry:
    name, value, colour = item.get("name"), item.get("id", position), item.get("color", item.get("colour"))
    where = f"in entry {position} of {path}"
    if not isinstance(name, str) or not name.strip():
        raise ConfigError(f'expected a "name" {where}, got {name!r:.100}')
    if not _is_value(value):
        raise ConfigError(f'expected the "id" of {name!r} {where} to be a mask value 0..{_MOST}, got {value!r:.100}')
    if colour is not None and not (
        isinstance(colour, list) and len(colour) == 3 and all(_is_value(part) and part <= 255 for part in colour)
    ):
        raise ConfigError(f'expected the "color" of {name!r} {where} to be three numbers 0..255, got {colour!r:.100}')
    void = item.get("ignore", False)
    if not isinstance(void, bool):
        raise ConfigError(f'expected "ignore" of {name!r} {where} to be true or false, got {void!r:.100}')
    return _Entry(value, name.strip(), None if colour is None else tuple(colour), void)


def _is_value(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST


def _from_labelmap(text: str, path: Path) -> list[_Entry]:
    entries: list[_Entry] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.startswith("#"):
            continue
        match = re.fullmatch(r"([^:]+):\s*(?:(\d+)\s*,\s*(\d+)\s*,\s*(\d+))?\s*(?::.*)?", line)
        colour = match and match[2] and (int(match[2]), int(match[3]), int(match[4]))
        if not match or (colour and max(colour) > 255):
            raise ConfigError(f"expected 'name:r,g,b::' with colours 0..255 in {path}, got {line!r:.100}")
        entries.append(_Entry(len(entries), match[1].strip(), colour or None))
    return entries


def _from_names(text: str, path: Path) -> list[_Entry]:
    names = [line.strip() for line in text.rstrip().splitlines()]
    if "" in names:
        raise ConfigError(
            f"expected a class name on each line of {path}, got an empty line {names.index('') + 1}; "
            "remove it, or write classes.json if the value is not used"
        )
    return [_Entry(value, name) for value, name in enumerate(without_numbers(names, path))]


def without_numbers(names: Sequence[str], path: Path) -> list[str]:
    """The names of a list without the numbers before them (``0: sky``), where these count the lines from 0.

    Lists with numbers on some lines alone stay as they are, and so do names that only their numbers tell apart
    (``1 euro``, ``2 euro``).

    Args:
        names: The lines.
        path: Path of the list, for the message.

    Raises:
        ConfigError: The numbers count from 1, or stand before colons and do not count the lines: nobody knows whether
            they are the values in the masks.
    """
    numbered = [match for name in names if (match := re.fullmatch(r"(\d{1,9})(\s*[:.,;=)]\s*|\s+)(.+)", name))]
    bare, numbers = [match[3] for match in numbered], [int(match[1]) for match in numbered]
    if len(numbered) < len(names):
        return list(names)
    if numbers == list(range(len(names))):
        return bare
    from_one = numbers == list(range(1, len(names) + 1)) and len(set(bare)) == len(bare)
    if from_one or all(match[2].strip() == ":" for match in numbered):
        raise ConfigError(
            f"expected names without numbers, or with 0, 1, 2, ..., in {path}, got {names[0]!r} on the first line, "
            "whose value in masks is 0; leave the numbers out, or where they are the values write classes.json: "
            f'{{"classes": [{{"id": {numbers[0]}, "name": {json.dumps(bare[0], ensure_ascii=False)}}}, ...]}}'
        )
    return list(names)


def _check(entries: Sequence[_Entry], ignore_index: int | None, path: Path) -> None:
    if all(entry.void for entry in entries):
        raise ConfigError(f"expected at least one class in {path}, got none; for instance classes.json: {_EXAMPLE}")
    seen: dict[object, _Entry] = {}
    for entry in entries:
        if entry.value == ignore_index and not entry.void:
            raise ConfigError(
                f'expected "ignore_index" in {path} to be no class, got {ignore_index}, the id of {entry.name!r}; '
                'mark that entry "ignore": true, or choose another ignore_index'
            )
        for what, value in (("id", entry.value), ("name", entry.name), ("colour", entry.colour)):
            before = seen.setdefault((what, value), entry)
            both_void = what == "colour" and before.void and entry.void  # black for several kinds of void is common
            if before is not entry and value is not None and not both_void:
                raise ConfigError(
                    f"expected every {what} once in {path}, got {value!r} for {before.name!r} and {entry.name!r}"
                )


def _tables(entries: Sequence[_Entry], ignore_index: int | None, file_name: str) -> tuple[ClassInfo, LabelTable]:
    classes = [entry for entry in entries if not entry.void]
    void = usual_void(len(classes))
    taken = {entry.colour for entry in entries}
    spare = (colour for colour in default_palette(256) if colour not in taken)
    palette = tuple(entry.colour or next(spare, (0, 0, 0)) for entry in classes)
    values = {entry.value: index for index, entry in enumerate(classes)}
    colours = {entry.colour: index for index, entry in enumerate(classes) if entry.colour}
    for entry in entries:
        if entry.void:
            values[entry.value] = void
            if entry.colour:
                colours[entry.colour] = void
    values.setdefault(void if ignore_index is None else ignore_index, void)
    names = tuple(entry.name for entry in classes)
    names_void = any(entry.void and entry.value == 255 for entry in entries)
    return ClassInfo(names, palette, void), LabelTable(values, colours, file_name, names_void)
