"""HDF5 files, which MATLAB files of version 7.3 are: the door to h5py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from refineseg.errors import MissingExtraError


def hdf5_tools(path: Path) -> Any:  # noqa: ANN401 - h5py is optional and untyped
    """The package ``h5py``.

    Args:
        path: File that is to be read, for the message.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import h5py  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError("h5py", extra="mat", purpose=f"read the MATLAB 7.3 file {path}") from error
    return h5py
