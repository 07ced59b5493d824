"""Images and masks as bytes of a file, and files of them.

In: arrays. Images are ``(H, W, 3)`` uint8 RGB, masks ``(H, W)`` integers. Out: bytes, or a complete file.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from refineseg.class_info import ClassInfo
from refineseg.errors import ImageError
from refineseg.files.writing import written_beside

_ENDINGS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}


def encoded(image: Image.Image, options: Mapping[str, Any]) -> memoryview:
    """A Pillow image as the bytes of a file.

    Args:
        image: Pillow image.
        options: Options of Pillow's ``save``, with ``format``.
    """
    buffer = io.BytesIO()  # given a file, Pillow's JPEG encoder takes no notice when a full disk takes half of it
    image.save(buffer, **options)
    return buffer.getbuffer()


def encode_mask(mask: NDArray[Any], class_info: ClassInfo, *, software: str | None = None) -> memoryview:
    """A mask as a palette PNG: pixel value = class index, colours for viewers. More than 256 values: 16-bit grey.

    Args:
        mask: Mask, ``(H, W)`` integers.
        class_info: Classes, which give the colours; void and everything above the classes is black.
        software: What is named in the file as its maker; None: nothing.

    Raises:
        ImageError: The mask holds values that do not fit in it.
    """
    dtype = class_info.mask_dtype
    most = np.iinfo(dtype).max
    low, high = int(mask.min(initial=0)), int(mask.max(initial=0))
    if low < 0 or high > most:
        raise ImageError(f"expected mask values 0..{most} to write a mask, got {low}..{high}")
    image = Image.fromarray(mask.astype(dtype))
    if dtype == np.uint8:
        black = [0] * 3 * (256 - class_info.num_classes)  # a full palette keeps the file at 8 bits per pixel
        image.putpalette([c for colour in class_info.palette for c in colour] + black)
    # Rows of masks are runs of one value: looking for runs alone is three times as fast, and files are as small.
    texts = PngInfo()
    if software is not None:
        texts.add_text("Software", software)
    return encoded(image, {"format": "PNG", "compress_type": zlib.Z_RLE, "pnginfo": texts})


def write_mask(path: Path, mask: NDArray[Any], class_info: ClassInfo) -> None:
    """Write a mask as :func:`encode_mask` makes it.

    Args:
        path: Path ending in ``.png``.
        mask: Mask, ``(H, W)`` integers.
        class_info: Classes, which give the colours.

    Raises:
        OutputError: The file cannot be written.
        ImageError: The mask holds values that do not fit in it.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from refineseg.class_info import LabelTable
        >>> from refineseg.images.files import read_mask
        >>> classes = ClassInfo(("sky", "road"))
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "mask.png"
        ...     write_mask(path, np.array([[0, 1, 255]]), classes)
        ...     read_mask(path, table=LabelTable.identity(classes), ignore_index=255)
        array([[  0,   1, 255]], dtype=uint8)
    """
    try:
        content = encode_mask(mask, class_info)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    with written_beside(path) as temporary:
        temporary.write_bytes(content)


def encode_image(image: NDArray[np.uint8] | Image.Image, ending: str = ".jpg", *, quality: int = 92) -> memoryview:
    """An image as the bytes of a JPEG or PNG file.

    Args:
        image: Pixels ``(H, W, 3)`` RGB, or a Pillow image of them.
        ending: Ending of the file's name: ``.jpg``, ``.jpeg`` or ``.png``.
        quality: Quality of a JPEG, 1..95.

    Raises:
        ImageError: Another ending.
    """
    if ending.lower() not in _ENDINGS:
        raise ImageError(f"expected a file name ending in {', '.join(_ENDINGS)}, got {ending or 'none'}")
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    return encoded(picture, {"format": _ENDINGS[ending.lower()], "quality": quality})


def write_image(
    path: Path,
    image: NDArray[np.uint8] | Image.Image,
    *,
    quality: int = 92,
    valid: NDArray[np.bool_] | None = None,
) -> None:
    """Write an image as :func:`encode_image` makes it, by the name's ending.

    Args:
        path: Path ending in ``.jpg``, ``.jpeg`` or ``.png``.
        image: Pixels ``(H, W, 3)`` RGB, or a Pillow image of them.
        quality: Quality of a JPEG, 1..95.
        valid: ``(H, W)``, which pixels of a PNG hold data; the others are transparent. None: all.

    Raises:
        OutputError: The file cannot be written.
        ImageError: Another ending.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from refineseg.images.files import read_rgb
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "red.png"
        ...     write_image(path, np.full((2, 3, 3), (255, 0, 0), np.uint8))
        ...     read_rgb(path)[0, 0].tolist()
        [255, 0, 0]
    """
    if path.suffix.lower() not in _ENDINGS:
        raise ImageError(f"expected a file name ending in {', '.join(_ENDINGS)}, got {path}")
    if valid is not None:
        image = Image.fromarray(np.dstack([np.asarray(image), 255 * valid.astype(np.uint8)]))
    with written_beside(path) as temporary:
        temporary.write_bytes(encode_image(image, path.suffix, quality=quality))


def save_image(path: Path, image: Image.Image, options: Mapping[str, Any]) -> None:
    """Write a Pillow image beside and then renamed.

    Args:
        path: Path of the file; its ending does not decide.
        image: Pillow image.
        options: Options of Pillow's ``save``, with ``format``.

    Raises:
        OutputError: The file cannot be written.
    """
    content = encoded(image, options)
    with written_beside(path) as temporary:
        temporary.write_bytes(content)
