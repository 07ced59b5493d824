"""By what a file is known again: its length and a checksum of its content, wherever it lies and whatever its time is.

In: a path, also in a zip file or a remote folder, or a sample of a data set. Out: a short text.
"""

from __future__ import annotations

import zlib
from pathlib import Path

from refineseg.data.samples.sample import Dataset, held_mark, image_file
from refineseg.data.storage.remote import HEADER_BYTES, RemotePath
from refineseg.errors import ImageError
from refineseg.files.archives import file_mark


def data_mark(path: Path) -> str:
    """The mark of an image or mask; of one in a remote folder that of its first bytes, so that it is not fetched.

    Raises:
        ImageError: It cannot be read.
        DatasetError: It cannot be read out of a zip file or a remote folder.
    """
    try:
        if not isinstance(path, RemotePath):
            return file_mark(path)
        head = path.read_header()
        if head is None:
            with path.open("rb") as file:
                head = file.read(HEADER_BYTES)
        return f"head-{zlib.crc32(head):08x}"
    except OSError as error:
        raise ImageError(f"expected a readable file, got {path}: {error}; replace or remove it") from error


def image_mark(dataset: Dataset, index: int) -> str:
    """The mark of the image of a sample; empty where it is no file and the data set holds none.

    Raises:
        ImageError: As :func:`data_mark`.
        DatasetError: As :func:`data_mark`.
    """
    path = image_file(dataset, index)
    return held_mark(dataset, index) if path is None else data_mark(path)
