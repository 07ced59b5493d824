"""MATLAB files of level 5 (versions 5, 6 and 7) as the nodes of :mod:`refineseg.files.mat_nodes`.

In: the bytes of a file, of a model or a data set. Out: its variables. Read here rather than by ``scipy.io.loadmat``:
cells in cells crash it and with it the whole process, and a check that prevents that has to walk through the same tree
(docs/experiments.md).

Source: "MAT-File Format", The MathWorks, chapter 1 (level 5).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from refineseg.errors import ModelFileError
from refineseg.files.mat_nodes import (
    DEFLATE_LIMIT,
    MAX_ELEMENTS,
    MAX_NODES,
    MAX_VALUES,
    MatCell,
    MatNode,
    MatNumbers,
    MatOther,
    MatStruct,
    MatText,
    damaged,
    no_numbers,
)

_HEADER_BYTES = 128
MAX_INFLATED_BYTES = 2**30
"""Of all compressed variables of a file together; the largest ImageNet networks in this form have 550 MB."""
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXTS = {1: "utf-8", 2: "utf-8", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_UINT32, _INT32, _MATRIX, _COMPRESSED = 6, 5, 14, 15
_CELL, _STRUCT, _OBJECT, _CHAR, _SPARSE, _FUNCTION, _OPAQUE = 1, 2, 3, 4, 5, 16, 17
_NUMERIC = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_KINDS = {_OBJECT: "object", _SPARSE: "sparse", _FUNCTION: "function_handle", _OPAQUE: "object"}
_COMPLEX = 0x0800
_MAX_AXES = 32


def read_level5(data: memoryview, path: Path, *, as_stored: bool = False) -> MatStruct:
    """The variables of a file, as the fields of one struct.

    Args:
        data: The whole file.
        path: Its name, for messages.
        as_stored: Arrays have the type that their values are stored in (``uint8`` for whole numbers of class double),
            and not that of their class.

    Raises:
        ModelFileError: Damaged, truncated, or claiming more than it holds; nodes raise it as well, when they are read.
    """
    reader = _Level5Reader("<" if bytes(data[126:128]) == b"IM" else ">", path, as_stored=as_stored)
    variables: dict[str, MatNode] = {}
    for content in reader.top_level(data):
        name, node = reader.named(content)
        if not name:  # what functions and objects keep beside the variables
            continue
        if name in variables:
            raise reader.damaged(f"which holds the variable {name!r} twice")
        variables[name] = node
    return MatStruct(0, 1, tuple(variables), lambda _, name: variables[name])


class _Level5Reader:
    """Nodes from the elements of a file of one byte order."""

    def __init__(self, order: str, path: Path, *, as_stored: bool) -> None:
        self.order, self.path, self.as_stored = order, path, as_stored
        self._made = self._keys = self._inflated = 0

    def damaged(self, what: str) -> ModelFileError:
        return damaged(self.path, what)

    def top_level(self, data: memoryview) -> Iterator[memoryview]:
        """The contents of the file's matrices, inflated where they are compressed."""
        at = _HEADER_BYTES
        while at < len(data):
            kind, content, at = self._element(data, at, padded=False)
            if kind == _COMPRESSED:
                kind, content, _ = self._element(memoryview(self._inflate(content)), 0)
            if kind != _MATRIX:
                raise self.damaged(f"where a variable is of type {kind}")
            yield content

    def _inflate(self, content: memoryview) -> bytes:
        """One compressed element, no further than its own size says."""
        try:
            head = zlib.decompressobj().decompress(content, 8)
            claimed = int(np.frombuffer(head, f"{self.order}u4", 2)[1]) if len(head) == 8 else 0
            self._inflated += claimed
            if self._inflated > MAX_INFLATED_BYTES or claimed > len(content) * DEFLATE_LIMIT:
                raise self.damaged(f"where {len(content):,} compressed bytes claim to be {claimed:,}")
            return zlib.decompressobj().decompress(content, claimed + 8)
        except zlib.error as error:
            raise self.damaged(f"whose compressed data are broken ({error})") from error

    def _element(self, data: memoryview, at: int, *, padded: bool = True) -> tuple[int, memoryview, int]:
        """Type and content of the element at a place, and where the next one begins."""
        if at + 8 > len(data):
            raise self.damaged("which ends within an element")
        first, size = (int(word) for word in np.frombuffer(data, f"{self.order}u4", 2, at))
        if first >> 16:  # up to four bytes lie in the tag itself
            kind, size, start, following = first & 0xFFFF, first >> 16, at + 4, at + 8
            if size > 4:
                raise self.damaged(f"where a short element claims {size} bytes")
        else:
            kind, start = first, at + 8
            following = start + size
            if padded:
                following += -size % 8
        if start + size > len(data):
            raise self.damaged(f"where an element claims {size:,} bytes and {len(data) - start:,} follow")
        return kind, data[start : start + size], following

    def _numbers(self, data: memoryview, at: int) -> tuple[np.ndarray, int]:
        """The values of a small element."""
        kind, content, at = self._element(data, at)
        if kind not in _TYPES or len(content) > MAX_ELEMENTS:
            raise self.damaged(f"where {len(content):,} bytes of type {kind} stand for a shape or name")
        return np.frombuffer(content, self._dtype(kind)), at

    def _dtype(self, kind: int) -> np.dtype[Any]:
        return np.dtype(self.order + _TYPES[kind])

    def _name(self, data: memoryview, at: int) -> tuple[str, int]:
        kind, content, at = self._element(data, at)
        if kind not in (1, 2, 16) or len(content) > MAX_ELEMENTS:
            raise self.damaged(f"where a name is of type {kind}")
        return bytes(content).decode("utf-8", "replace"), at

    def named(self, content: memoryview) -> tuple[str, MatNode]:
        """A variable: its name and node, from the content of a matrix element."""
        self._made += 1
        if self._made > MAX_NODES:
            raise self.damaged(f"with more than {MAX_NODES:,} elements to visit")
        if len(content) == 0:
            return "", no_numbers()
        flags, at = self._numbers(content, 0)
        if flags.size != 2 or flags.dtype.kind not in "iu":
            raise self.damaged("where an array has no flags")
        kind, is_complex = int(flags[0]) & 0xFF, bool(int(flags[0]) & _COMPLEX)
        if kind == _OPAQUE:  # flags, variable, type system, class; no shape
            name, at = self._name(content, at)
            _, at = self._name(content, at)
            class_name, _ = self._name(content, at)
            return name, MatOther(class_name)
        axes, at = self._numbers(content, at)
        shape = tuple(int(n) for n in axes)
        if not 2 <= len(shape) <= _MAX_AXES or min(shape) < 0 or axes.dtype.kind not in "iu":
            raise self.damaged(f"where an array has the shape {shape[:8]}")
        name, at = self._name(content, at)
        if kind in _NUMERIC:
            return name, MatOther("complex") if is_complex else self._array(
                content, at, shape, np.dtype(_NUMERIC[kind])
            )
        if kind == _CHAR:
            return name, self._text(content, at)
        if kind == _CELL:
            return name, self._cell(content, at, shape)
        if kind == _STRUCT:
            return name, self._struct(content, at, shape)
        if kind in _KINDS:
            return name, MatOther(_KINDS[kind])
        raise self.damaged(f"where {name or 'an array'} is of the unknown class {kind}")

    def _array(self, content: memoryview, at: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> MatNumbers:
        """``dtype`` is the class of the array; its values may be stored as smaller integers where they fit."""
        size = math.prod(shape)
        kind, values, _ = self._element(content, at) if size else (9, memoryview(b""), at)
        if kind not in _TYPES:
            raise self.damaged(f"where numbers are of type {kind}")
        stored = self._dtype(kind)
        if size > MAX_VALUES or size * stored.itemsize != len(values):
            raise self.damaged(f"where an array of shape {shape} has {len(values):,} bytes of {stored}")
        if self.as_stored:
            dtype = stored.newbyteorder("=")
        return MatNumbers(
            shape, dtype, lambda: np.frombuffer(values, stored).reshape(shape, order="F").astype(dtype, copy=False)
        )

    def _text(self, content: memoryview, at: int) -> MatNode:
        if at >= len(content):
            return MatText("")
        kind, values, _ = self._element(content, at)
        if len(values) > 2 * MAX_ELEMENTS:
            return MatOther("long char")
        if kind not in _TEXTS:
            raise self.damaged(f"where a text is of type {kind}")
        coding = _TEXTS[kind] + ("" if _TEXTS[kind] == "utf-8" else "-le" if self.order == "<" else "-be")
        return MatText(bytes(values).decode(coding, "replace"))

    def _children(self, content: memoryview, at: int, count: int) -> list[memoryview]:
        """The contents of the matrices that follow, after checking that there is room for as many."""
        if count > MAX_NODES or count * 8 > len(content) - at:
            raise self.damaged(f"where {count:,} elements are claimed in {len(content) - at:,} bytes")
        children = []
        for _ in range(count):
            kind, child, at = self._element(content, at)
            if kind != _MATRIX:
                raise self.damaged(f"where an element of a cell or struct is of type {kind}")
            children.append(child)
        return children

    def _key(self) -> int:
        self._keys += 1
        return self._keys

    def _cell(self, content: memoryview, at: int, shape: tuple[int, ...]) -> MatNode:
        if math.prod(shape) > MAX_ELEMENTS:
            return MatOther("large cell")
        children = self._children(content, at, math.prod(shape))
        return MatCell(self._key(), len(children), lambda i: self.named(children[i])[1])

    def _struct(self, content: memoryview, at: int, shape: tuple[int, ...]) -> MatNode:
        width, at = self._numbers(content, at)
        if width.size != 1 or not 0 < int(width[0]) <= 4096:
            raise self.damaged(f"where field names have the width {width.tolist()[:4]}")
        kind, block, at = self._element(content, at)
        length = int(width[0])
        if kind not in (1, 2, 16) or len(block) % length or len(block) > MAX_ELEMENTS:
            raise self.damaged(f"where {len(block):,} bytes of type {kind} stand for field names")
        names = tuple(
            bytes(block[i : i + length]).split(b"\0")[0].decode("utf-8", "replace")
            for i in range(0, len(block), length)
        )
        if len(set(names)) != len(names):
            raise self.damaged(f"where a struct has a field twice: {', '.join(names[:8])}")
        size = math.prod(shape)
        if size > MAX_ELEMENTS:
            return MatOther("large struct")
        children = self._children(content, at, size * len(names))
        place = {name: k for k, name in enumerate(names)}
        return MatStruct(
            self._key(), size, names, lambda i, name: self.named(children[i * len(names) + place[name]])[1]
        )
