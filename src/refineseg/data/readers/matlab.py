"""MATLAB files: the door to scipy (up to version 7), and version 7.3, which is HDF5.

In: a path. Out: variables, or an open HDF5 file. Both packages come with the extra ``mat``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from refineseg.errors import DatasetError, MissingExtraError
from refineseg.files.hdf5 import hdf5_tools
from refineseg.images.files import first_names

_BROKEN = (OSError, EOFError, ValueError, TypeError, KeyError, IndexError)
"""What scipy raises on damaged files, besides its own MatReadError."""


def load_mat(path: Path, variables: Sequence[str]) -> dict[str, Any]:
    """Variables of a MATLAB file up to version 7, without axes of length 1.

    Args:
        path: The file.
        variables: Their names; all must be there.

    Returns:
        Name -> array; a cell array of strings is an object array of ``str``, a struct array a structured one.

    Raises:
        DatasetError: The file is missing or damaged, of version 7.3, or lacks a variable.
        MissingExtraError: scipy is not installed.
    """
    try:
        import scipy.io  # type: ignore[import-untyped]
        from scipy.io.matlab import MatReadError  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError("scipy", extra="mat", purpose=f"read {path.name}") from error
    if not path.is_file():
        raise DatasetError(f"expected a MATLAB file, but there is no {path}")
    try:
        found = scipy.io.loadmat(path, squeeze_me=True, variable_names=list(variables), appendmat=False)
        absent = [name for name in variables if name not in found]
        present = [name for name, _, _ in scipy.io.whosmat(path)] if absent else []
    except NotImplementedError as error:
        raise DatasetError(
            f"expected a MATLAB file up to version 7, got version 7.3: {path}; unpack the original, or save it with -v7"
        ) from error
    except (*_BROKEN, MatReadError) as error:
        raise DatasetError(f"expected a MATLAB file, got {path}: {error}; unpack it again") from error
    if absent:
        raise DatasetError(f"expected the variables {', '.join(absent)} in {path}, got {first_names(present)}")
    return {name: found[name] for name in variables}


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
    except OSError as error:
        raise DatasetError(
            f"expected a MATLAB file of version 7.3 (HDF5), got {path}: {error}; download it again"
        ) from error
