"""MATLAB files: up to version 7 by our own reader, and version 7.3, which is HDF5.

In: a path. Out: variables, or an open HDF5 file, for which the extra ``mat`` is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from refineseg.errors import DatasetError, ModelFileError, RefinesegError, told
from refineseg.files.hdf5 import hdf5_tools
from refineseg.files.mat_level5 import read_level5
from refineseg.files.mat_nodes import MatCell, MatNode, MatNumbers, MatStruct, MatText, damaged
from refineseg.images.files import first_names

_DEEPEST = 32  # the deepest of the data sets' own, PASCAL-Part's, has six


def load_mat(path: Path, variables: Sequence[str], *, fields: Sequence[str] | None = None) -> dict[str, Any]:
    """Variables of a MATLAB file up to version 7, without axes of length 1.

    Args:
        path: The file.
        variables: Their names; all must be there.
        fields: Fields of the variables that are read, where these are structs; the others are None. None: all are read.

    Returns:
        Name -> array, number or text; a cell array is an object array, a struct array a structured one of objects.

    Raises:
        DatasetError: The file is missing or damaged, of version 7.3, or lacks a variable.
    """
    if not path.is_file():
        raise DatasetError(f"expected a MATLAB file, but there is no {path}")
    try:
        content = path.read_bytes()
        if content[124:128] not in (b"\x00\x01IM", b"\x01\x00MI"):
            newer = b"\x89HDF\r\n\x1a\n" in (content[:8], content[512:520])
            got, advice = ("version 7.3", ", or save it with -v7") if newer else ("something else", "")
            raise DatasetError(f"expected a MATLAB file of version 5 to 7, got {got}: {path}; unpack it again{advice}")
        found = read_level5(memoryview(content), path, as_stored=True)
        absent = [name for name in variables if name not in found.names]
        if absent:
            raise DatasetError(f"expected the variables {', '.join(absent)} in {path}, got {first_names(found.names)}")
        return {name: _value(found.field(0, name), path, fields=fields) for name in variables}
    except (OSError, ModelFileError) as error:
        raise DatasetError(f"expected a MATLAB file, got {path}: {error}; unpack it again") from error


def _value(node: MatNode, path: Path, *, fields: Sequence[str] | None = None, depth: int = 0) -> Any:  # noqa: ANN401
    """A node as an array without axes of length 1, a number, or a text; None for what no data set has."""
    if depth > _DEEPEST:
        raise damaged(path, f"where values are nested in each other more than {_DEEPEST} times")
    if isinstance(node, MatText):
        return node.value
    if isinstance(node, MatNumbers):
        values = np.squeeze(node.read())
        return values.item() if values.size == 1 else values if values.size else values.reshape(-1)
    if isinstance(node, MatCell):
        elements = np.empty(node.size, object)
        for i in range(node.size):
            elements[i] = _value(node.element(i), path, depth=depth + 1)
        return elements[0] if node.size == 1 else elements
    if isinstance(node, MatStruct):
        rows = np.empty(node.size, [(name, object) for name in node.names])
        for name in node.names if fields is None else [name for name in fields if name in node.names]:
            for i in range(node.size):
                rows[name][i] = _value(node.field(i, name), path, depth=depth + 1)
        return rows.reshape(()) if node.size == 1 else rows
    return None


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """A MATLAB file of version 7.3, opened for reading.

    Opening reads only its first bytes, so it is opened anew for each entry: nothing to close, and nothing in the data
    set that another process could not have.

    Raises:
        DatasetError: The file is missing or damaged, or an entry cannot be read inside the block.
        MissingExtraError: h5py is not installed.
    """
    h5py = hdf5_tools(path)
    if not path.is_file():
        raise DatasetError(f"expected a MATLAB file, but there is no {path}")
    try:
        with h5py.File(path, "r", locking="best-effort") as file:
            yield file
    except RefinesegError:
        raise
    except Exception as error:  # a damaged file makes the HDF5 library raise anything
        raise DatasetError(
            f"expected a MATLAB file of version 7.3 (HDF5), got {path}: {told(error)}; download it again"
        ) from error
