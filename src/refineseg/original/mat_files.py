"""Opening a MATLAB file of version 5, 6, 7 (level 5) or 7.3 (HDF5).

In: a ``.mat`` file. Out: its variables as nodes (:mod:`refineseg.files.mat_nodes`).

A file is treated as hostile: declared sizes are compared with what the file can hold before memory is taken, links out
of the file are not followed, nothing recurses, and nothing in a file is ever executed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from refineseg.errors import MissingExtraError, ModelFileError
from refineseg.files.mat_level5 import read_level5
from refineseg.files.mat_nodes import MatFile, damaged
from refineseg.files.special import refuse_special
from refineseg.original.mat_hdf5 import open_hdf5

_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


@contextlib.contextmanager
def open_mat(path: Path) -> Iterator[MatFile]:
    """Open a MATLAB file; its nodes are valid inside the ``with`` block.

    Raises:
        ModelFileError: No such file, not a MATLAB file of version 5 to 7.3, or damaged. Nodes raise it as well, when
            they are read.
        MissingExtraError: A 7.3 file without the package h5py.
    """
    try:
        refuse_special(path)
        with path.open("rb") as file:
            head = file.read(128)
            signatures = [head[:8]]
            for offset in (512, 1024, 2048, 4096):
                file.seek(offset)
                signatures.append(file.read(8))
    except OSError as error:
        raise ModelFileError(f"expected a readable MATLAB file, got {path}: {error}; check the path") from error
    try:
        if _HDF5_SIGNATURE in signatures:
            with open_hdf5(path) as opened:
                yield opened
        elif head[124:128] in (b"\x00\x01IM", b"\x01\x00MI"):
            yield MatFile(read_level5(np.memmap(path, np.uint8, "r").data, path), None)
        else:
            raise ModelFileError(
                f"expected a MATLAB file of version 5 to 7.3, got {path}, which begins with {head[:16]!r}; "
                "save it in MATLAB with save(..., '-v7.3')"
            )
    except (ModelFileError, MissingExtraError):
        raise
    except Exception as error:  # a damaged file makes the HDF5 library and the decoders raise anything
        raise damaged(path, f"which cannot be read ({type(error).__name__}: {str(error)[:200]})") from error
