"""The nodes of a MATLAB file, whatever its version: what the readers of level 5 and of 7.3 give.

Arrays keep MATLAB's axis order in both versions. Values are read on demand, one array at a time, and only after their
declared size was compared with what the file can hold.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from refineseg.errors import ModelFileError

MAX_VALUES = 2**27
"""Values of one array: 512 MiB in float32; the largest layer of VGG-16 has 1.03e8."""
MAX_ELEMENTS = 2**16
"""Elements of a cell or struct array, and characters of a text; larger ones are left unread."""
MAX_NODES = 2**18
"""Nodes that are made of a file; the two-scale network with ResNet-152 has some 40,000."""
DEFLATE_LIMIT = 1100
"""No deflate stream holds more than 1032 bytes a byte."""


@dataclass(frozen=True)
class MatNumbers:
    """A numeric or logical array; ``read`` gives it in MATLAB's axis order, ``dtype`` as stored."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[], np.ndarray]


@dataclass(frozen=True)
class MatText:
    """A char array, its columns one after the other where it has several rows."""

    value: str


@dataclass(frozen=True)
class MatCell:
    """A cell array of ``size`` elements in column-major order; ``key`` tells it from every other node of the file."""

    key: int
    size: int
    element: Callable[[int], MatNode]


@dataclass(frozen=True)
class MatStruct:
    """A struct array of ``size`` elements; ``field(i, name)`` is one value."""

    key: int
    size: int
    names: tuple[str, ...]
    field: Callable[[int, str], MatNode]

    def get(self, name: str, i: int = 0) -> MatNode | None:
        """A field of element ``i``, None where there is no such field or element."""
        return self.field(i, name) if name in self.names and i < self.size else None


@dataclass(frozen=True)
class MatOther:
    """Something that is not interpreted: its MATLAB class, or what else it is."""

    kind: str


MatNode: TypeAlias = MatNumbers | MatText | MatCell | MatStruct | MatOther


@dataclass(frozen=True)
class MatFile:
    """An open file: its variables as one struct, and the property values of its objects."""

    variables: MatStruct
    objects: MatNode | None


def damaged(path: Path, what: str) -> ModelFileError:
    """The error of a file that is not what it claims to be; ``what`` goes on after the path."""
    return ModelFileError(f"expected a sound MATLAB file, got {path}, {what}; fetch or save it again")


def no_numbers() -> MatNumbers:
    """MATLAB's ``[]``."""
    return MatNumbers((0, 0), np.dtype(np.float64), lambda: np.zeros((0, 0)))
