"""MATLAB 7.3 files (HDF5) as the nodes of :mod:`refineseg.files.mat_nodes`.

In: a file. Out: its variables, and the values of its objects' properties.

Objects (class instances) are not decoded; but the values of their properties lie as plain cells in
``#subsystem#/MCOS``. Links out of the file, and values stored in other files, are refused.

Source: the layout is undocumented; it was taken from files that MATLAB wrote.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from refineseg.files.hdf5 import hdf5_tools
from refineseg.files.mat_nodes import (
    DEFLATE_LIMIT,
    MAX_ELEMENTS,
    MAX_NODES,
    MAX_VALUES,
    MatCell,
    MatFile,
    MatNode,
    MatNumbers,
    MatOther,
    MatStruct,
    MatText,
    damaged,
    no_numbers,
)

_FILE_WRAPPER = "FileWrapper__"
_H5py: TypeAlias = Any  # h5py is optional and untyped


@contextlib.contextmanager
def open_hdf5(path: Path) -> Iterator[MatFile]:
    """Open a 7.3 file; see :func:`refineseg.original.mat_files.open_mat`."""
    h5py = hdf5_tools(path)
    with h5py.File(path, "r") as file:
        reader = _Hdf5Reader(h5py, file, path)
        names = tuple(name for name in file if not name.startswith("#"))
        objects = None
        if "#subsystem#" in list(file):  # `in file` would follow a link
            subsystem = reader.member(file, "#subsystem#")
            if isinstance(subsystem, h5py.Group) and "MCOS" in list(subsystem):
                objects = reader.node(reader.member(subsystem, "MCOS"))
        yield MatFile(MatStruct(0, 1, names, lambda _, name: reader.node(reader.member(file, name))), objects)


class _Hdf5Reader:
    """Nodes from the groups and datasets of a 7.3 file; ``h5py`` is handed in because it is optional."""

    def __init__(self, h5py: _H5py, file: _H5py, path: Path) -> None:
        self.h5py, self.file, self.path = h5py, file, path
        self._made = 0

    def member(self, group: _H5py, name: str) -> _H5py:
        """What lies under a name, only if it lies in this file.

        Raises:
            ModelFileError: A link, to another file for instance.
        """
        if not isinstance(group.get(name, getlink=True), self.h5py.HardLink):
            raise damaged(self.path, f"where {name!r} is a link")
        return group[name]

    def node(self, item: _H5py) -> MatNode:
        """The node of a group or dataset."""
        self._made += 1
        if self._made > MAX_NODES:
            raise damaged(self.path, f"with more than {MAX_NODES:,} elements to visit")
        matlab_class = self._attribute(item, "MATLAB_class")
        kind = matlab_class.decode("ascii", "replace") if isinstance(matlab_class, bytes) else str(matlab_class or "")
        if isinstance(item, self.h5py.Group):
            if kind not in ("struct", "") or "MATLAB_sparse" in item.attrs:
                return MatOther(kind if kind != "double" else "sparse")
            return self._struct(item)
        if not isinstance(item, self.h5py.Dataset):
            return MatOther(kind or type(item).__name__)
        decode = self._attribute(item, "MATLAB_object_decode")
        if decode is not None and kind != _FILE_WRAPPER:
            return MatOther(kind)
        if item.shape is None or self._attribute(item, "MATLAB_empty"):
            return self._empty(item, kind)
        if self._is_reference(item):
            return self._cell(item)
        if kind == "char":
            return self._text(item)
        if item.dtype.kind not in "fiub":
            return MatOther(f"{kind} {item.dtype}".strip())
        # MATLAB's axes are stored in reverse
        return MatNumbers(tuple(item.shape[::-1]), item.dtype, lambda: self._values(item, MAX_VALUES).T)

    def _attribute(self, item: _H5py, name: str) -> _H5py:
        """A scalar attribute; None where it is absent or no scalar."""
        if name not in item.attrs or item.attrs.get_id(name).shape not in ((), (1,)):
            return None
        return np.asarray(item.attrs[name]).reshape(-1)[0]

    def _is_reference(self, dataset: _H5py) -> bool:
        return self.h5py.check_ref_dtype(dataset.dtype) is self.h5py.Reference

    def _values(self, dataset: _H5py, limit: int) -> np.ndarray:
        """The values of a dataset, after checking that the file can hold as many."""
        size, item_bytes = math.prod(dataset.shape), dataset.dtype.itemsize
        chunk = math.prod(dataset.chunks or ())
        if size > limit or chunk > limit:
            raise damaged(self.path, f"where {dataset.name} claims {size:,} values; {limit:,} is the most that is read")
        if dataset.external or dataset.is_virtual:
            raise damaged(self.path, f"where the values of {dataset.name} lie in other files")
        stored = dataset.id.get_storage_size()
        if size * item_bytes > (stored * DEFLATE_LIMIT if dataset.chunks else stored):
            raise damaged(
                self.path, f"where {dataset.name} claims {size * item_bytes:,} bytes, {stored:,} of which are stored"
            )
        values: np.ndarray = np.asarray(dataset[()])
        return values

    def _text(self, dataset: _H5py) -> MatNode:
        if dataset.size > MAX_ELEMENTS:
            return MatOther("long char")
        codes = self._values(dataset, MAX_ELEMENTS).reshape(-1)
        if codes.dtype.kind != "u":
            raise damaged(self.path, f"where the text {dataset.name} is stored as {codes.dtype}")
        return MatText(codes.astype("<u2").tobytes().decode("utf-16-le", "replace"))

    def _empty(self, dataset: _H5py, kind: str) -> MatNode:
        """An empty array: the dataset holds its shape instead of values."""
        if kind == "char":
            return MatText("")
        if kind == "cell":
            return MatCell(self._key(dataset), 0, _no_element)
        if kind == "struct":
            return MatStruct(self._key(dataset), 0, (), _no_field)
        return no_numbers()

    def _key(self, item: _H5py) -> int:
        return int(self.h5py.h5o.get_info(item.id).addr)

    def _references(self, dataset: _H5py) -> np.ndarray:
        """The references of a cell, column-major in MATLAB's sense."""
        return self._values(dataset, MAX_ELEMENTS).reshape(-1)

    def _follow(self, reference: _H5py) -> MatNode:
        return self.node(self.file[reference]) if reference else MatOther("null reference")

    def _cell(self, dataset: _H5py) -> MatNode:
        if dataset.size > MAX_ELEMENTS:
            return MatOther("large cell")
        references = self._references(dataset)
        return MatCell(self._key(dataset), len(references), lambda i: self._follow(references[i]))

    def _struct(self, group: _H5py) -> MatNode:
        if len(group) > MAX_ELEMENTS:
            raise damaged(self.path, f"where {group.name} has {len(group):,} fields")
        names = tuple(group)
        columns: dict[str, np.ndarray] = {}
        for name in names:
            item = self.member(group, name)
            # the fields of a struct array are lists of references; the cells of a single struct say that they are cells
            if isinstance(item, self.h5py.Dataset) and self._is_reference(item) and "MATLAB_class" not in item.attrs:
                if item.size > MAX_ELEMENTS:
                    return MatOther("large struct")
                columns[name] = self._references(item)
        if not columns:
            return MatStruct(self._key(group), 1, names, lambda _, name: self.node(self.member(group, name)))
        sizes = {len(column) for column in columns.values()}
        if len(sizes) != 1 or len(columns) != len(names):
            raise damaged(self.path, f"where the fields of the struct array {group.name} differ in length")
        return MatStruct(self._key(group), sizes.pop(), names, lambda i, name: self._follow(columns[name][i]))


def _no_element(i: int) -> MatNode:
    raise IndexError(i)


def _no_field(i: int, name: str) -> MatNode:
    raise IndexError((i, name))
