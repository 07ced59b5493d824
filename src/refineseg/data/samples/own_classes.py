"""Classes of annotation programs: names, a background, and labels that mean "not labelled".

In: the names a format lists, or the class file beside it. Out: :class:`NamedClasses`, which turns names into indices.
"""

from __future__ import annotations

import difflib
import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from refineseg.class_info import ClassInfo, usual_void
from refineseg.data.samples.class_files import CLASS_FILES, LONGEST_NAME, listed_names
from refineseg.errors import ConfigError, DatasetError, LabelError

BACKGROUND = "background"
"""Name of the class of pixels that no object covers; it is class 0."""

BACKGROUND_NAMES = (BACKGROUND, "_background_", "__background__")
VOID_NAMES = ("__ignore__", "_ignore_", "__void__")
"""Labels that mean void, whatever the class list."""


@dataclass(frozen=True)
class NamedClasses:
    """The classes of outlines by name.

    Args:
        class_info: The background first.
        index_of: Name of a label -> class index or void.
        listed_in: The class file they come from; empty where the labels themselves tell.
        uses: How often each label occurs, where the labels themselves tell.
    """

    class_info: ClassInfo
    index_of: Mapping[str, int] = field(repr=False)
    listed_in: str = ""
    uses: Mapping[str, int] = field(default_factory=dict, repr=False)

    def index(self, label: str, *, where: str) -> int:
        """Class index, or void, of a label.

        Raises:
            LabelError: It is no class; with the file, the label, and names like it.
        """
        index = self.index_of.get(tidy(label))
        if index is None:
            names = self.class_info.names
            listed = f"list it in {self.listed_in}, or correct it" if self.listed_in else "correct it"
            raise LabelError(
                f"{where}: expected one of {len(names)} classes, got {label!r}{near(label, names)}; {listed}"
            )
        return index


def tidy(label: str) -> str:
    """A label as the class it names: blanks around it and doubled ones do not count, nor how an accent is written.

    The names of the background and of void count in capitals, too.

    Example:
        >>> tidy(" red  car "), tidy("Background"), tidy("__IGNORE__")
        ('red car', 'background', '__ignore__')
    """
    plain = " ".join(unicodedata.normalize("NFC", label).split())
    lower = plain.lower()
    if lower in BACKGROUND_NAMES:
        return BACKGROUND
    return lower if lower in VOID_NAMES else plain


class AlikeNote(str):
    """A note of :func:`alike`, which holds for these names only."""

    __slots__ = ()


def alike(names: Sequence[str], uses: Mapping[str, int] | None = None) -> tuple[AlikeNote, ...]:
    """One note where names differ by capitals, blanks, hyphens, underscores or unseen characters only; else none.

    Args:
        names: The classes.
        uses: How often each occurs; the others are renamed to the most frequent, else to the first.

    Example:
        >>> print(*alike(["car", "sky", "Car"]))
        the classes 'car' and 'Car' differ by capitals or blanks only; remap.json can make them one: {"Car": "car"}
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(_bare(name), []).append(name)
    groups = {bare: sorted(group, key=lambda name: -(uses or {}).get(name, 0)) for bare, group in groups.items()}
    return tuple(
        AlikeNote(
            f"the classes {' and '.join(map(repr, group))} differ by capitals or blanks only; remap.json can make them "
            f"one: {json.dumps(dict.fromkeys(group[1:], group[0]), ensure_ascii=False)}"
        )
        for group in groups.values()
        if len(group) > 1
    )


def _bare(name: str) -> str:
    plain = unicodedata.normalize("NFKC", name).casefold()
    return (
        "".join(c for c in plain if not (c.isspace() or c in "_-" or unicodedata.category(c) in ("Cc", "Cf"))) or name
    )


def near(name: str, names: Iterable[str]) -> str:
    """The names like one that is unknown, for a message; empty where none is.

    Example:
        >>> near("raod", ["road", "sky"])
        ' (near: road)'
    """
    found = difflib.get_close_matches(name, list(names), cutoff=0.6)
    return f" (near: {', '.join(found)})" if found else ""


def check_name(name: str) -> None:
    """A class name must be short enough for a legend, and text: half a character cannot be written to any file.

    Raises:
        DatasetError: It is not.
    """
    if len(name) > LONGEST_NAME:
        raise DatasetError(
            f"expected class names of at most {LONGEST_NAME} characters, got {len(name)}: {name[:40]!r}...; correct it"
        )
    if any("\ud800" <= character <= "\udfff" for character in name):
        raise DatasetError(f"expected class names of whole characters, got {name!r:.100}; correct it")


def named_classes(names: Sequence[str], *, listed_in: str = "", void_names: Sequence[str] = ()) -> NamedClasses:
    """Classes in the order of their names, the background first.

    ``background``, ``_background_`` and ``__background__`` are one class, called ``background``, which is there even if
    no label has it; ``__ignore__`` is void.

    Args:
        names: Each once.
        listed_in: A class file, for messages.
        void_names: More labels that mean void.

    Raises:
        DatasetError: A name that is too long for any use, or that no file can hold.

    Example:
        >>> named_classes(["tree", "_background_", "__ignore__"]).index_of["tree"]
        1
    """
    for name in names:
        check_name(name)
    unlabelled = (*VOID_NAMES, *map(tidy, void_names))
    classes = [name for name in dict.fromkeys(map(tidy, names)) if name != BACKGROUND and name not in unlabelled]
    void = usual_void(1 + len(classes))
    class_info = ClassInfo((BACKGROUND, *classes), ignore_index=void)
    index_of = {name: index for index, name in enumerate(class_info.names)}
    index_of |= dict.fromkeys(unlabelled, void)
    return NamedClasses(class_info, index_of, listed_in)


def classes_beside(root: Path, *, file_names: Sequence[str] = CLASS_FILES) -> NamedClasses | None:
    """The classes of the class file in a folder, for labels that are names; None where there is none.

    Colours and void entries of ``classes.json`` are kept; the values in it do not matter. The background goes first.

    Raises:
        ConfigError: The class file is wrong.
    """
    listed = listed_names(root, file_names)
    if listed is None:
        return None
    colours, void_names, file_name = listed
    if BACKGROUND in map(tidy, void_names):
        raise ConfigError(
            f'expected {BACKGROUND} in {root / file_name} without "ignore": it is the class of pixels that no object '
            'covers; take that entry out, and to make them void write remap.json: {"background": null}'
        )
    classes = named_classes(list(colours), listed_in=file_name, void_names=void_names)
    info = classes.class_info
    own = {tidy(name): colour for name, colour in colours.items()}
    palette = tuple(own.get(name) or spare for name, spare in zip(info.names, info.palette, strict=True))
    return NamedClasses(ClassInfo(info.names, palette, info.ignore_index), classes.index_of, file_name)
