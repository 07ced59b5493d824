"""Areas of the classes: a row per image and a total, as CSV or JSON, written as the images come.

In: pixels per class of one image after the other. Out: one file; it gets its name when it is complete.

CSV: ``image, pixels, unknown, <class> pixels ..., <class> share ...``; the last row is named ``total``. JSON:
``classes``, ``images`` (``image, pixels, unknown, areas, shares`` in the order of the classes) and ``total``. Shares
are of all pixels, the unknown ones included.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from refineseg.class_info import ClassInfo
from refineseg.errors import ConfigError
from refineseg.files.writing import written_beside

SUFFIXES = (".csv", ".json")
_TOTAL = "total"


@dataclass(frozen=True)
class Areas:
    """Pixels of one image (or raster, or all frames of a video).

    Args:
        pixels: All of them.
        of_classes: (K,) pixels of each class; the rest is unknown or void.

    Example:
        >>> Areas(10, np.array([4, 5])).unknown
        1
    """

    pixels: int
    of_classes: NDArray[np.int64]

    @property
    def unknown(self) -> int:
        """Pixels without a class."""
        return self.pixels - int(self.of_classes.sum())

    @property
    def shares(self) -> list[float]:
        """Of all pixels; 0 where there are none."""
        return [int(area) / max(1, self.pixels) for area in self.of_classes]

    def plus(self, other: Areas) -> Areas:
        """Both together."""
        return Areas(self.pixels + other.pixels, self.of_classes + other.of_classes)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "pixels": self.pixels,
            "unknown": self.unknown,
            "areas": [int(area) for area in self.of_classes],
            "shares": self.shares,
        }


class AreaTable:
    """Takes rows one by one and sums them; see :func:`area_table`.

    Args:
        class_info: The classes.
        file: Where rows go; None: they are only summed.
        kind: ``.csv`` or ``.json``.
    """

    def __init__(self, class_info: ClassInfo, *, file: TextIO | None = None, kind: str = ".csv") -> None:
        self.total = Areas(0, np.zeros(class_info.num_classes, np.int64))
        self._file, self._kind, self._rows = file, kind, 0
        names = class_info.names
        if kind == ".csv":
            self._write_csv(
                ["image", "pixels", "unknown", *(f"{n} pixels" for n in names), *(f"{n} share" for n in names)]
            )
        else:
            self._write(f'{{"classes": {json.dumps(list(names))},\n "images": [')

    def add(self, name: str, areas: Areas) -> None:
        """One image's row."""
        self.total = self.total.plus(areas)
        self._row(name, areas)

    def finish(self) -> None:
        """The total."""
        if self._kind == ".csv":
            self._row(_TOTAL, self.total)
        else:
            self._write(f'],\n "total": {json.dumps(self.total.to_json())}}}\n')

    def _row(self, name: str, areas: Areas) -> None:
        if self._kind == ".csv":
            shares = [f"{share:.6f}" for share in areas.shares]
            self._write_csv([name, areas.pixels, areas.unknown, *(int(a) for a in areas.of_classes), *shares])
        else:
            comma = "," if self._rows else ""
            self._write(f"{comma}\n  {json.dumps({'image': name, **areas.to_json()})}")
        self._rows += 1

    def _write_csv(self, values: list[Any]) -> None:
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(values)
        self._write(line.getvalue())

    def _write(self, text: str) -> None:
        if self._file is not None:
            self._file.write(text)


def check_areas_path(path: Path) -> None:
    """Whether the ending says a format.

    Raises:
        ConfigError: It does not.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"expected --areas FILE ending in {' or '.join(SUFFIXES)}, got {path}")


def _opened(temporary: Path) -> TextIO:
    """For names of any bytes: what is no UTF-8 becomes an escape."""
    return temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="")


@contextmanager
def area_table(path: Path | None, class_info: ClassInfo) -> Iterator[AreaTable]:
    """A table that is complete, total included, and gets its name when the block ends without an error.

    Args:
        path: Ending in ``.csv`` or ``.json``; None: areas are only summed.
        class_info: The classes.

    Raises:
        ConfigError: Another ending.
        OutputError: The file cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "areas.csv"
        ...     with area_table(path, ClassInfo(("sky", "road"))) as table:
        ...         table.add("a.jpg", Areas(4, np.array([1, 2])))
        ...     print(path.read_text(), end="")
        image,pixels,unknown,sky pixels,road pixels,sky share,road share
        a.jpg,4,1,1,2,0.250000,0.500000
        total,4,1,1,2,0.250000,0.500000
    """
    if path is None:
        yield AreaTable(class_info)
        return
    check_areas_path(path)
    with written_beside(path) as temporary, _opened(temporary) as file:
        table = AreaTable(class_info, file=file, kind=path.suffix.lower())
        yield table
        table.finish()
