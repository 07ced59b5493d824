"""Image and mask files: read any photograph as RGB, read class indices, write palette PNG.

In and out: arrays. Images are ``(H, W, 3)`` uint8 RGB, masks ``(H, W)`` integers.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from refineseg.archives import list_files, openable
from refineseg.class_info import ClassInfo, LabelTable
from refineseg.errors import ImageError, LabelError
from refineseg.label_messages import no_colours_known, wrong_colours, wrong_values
from refineseg.pillow_warnings import PillowWarnings
from refineseg.writing import written_beside

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".jp2")
"""File name endings searched for in folders (any case)."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000")  # no others: Pillow's EPS runs a program
_UNREADABLE = (
    *(OSError, EOFError, MemoryError, SyntaxError, ValueError, OverflowError),
    *(IndexError, KeyError, TypeError, struct.error, zlib.error),
)  # what Pillow's decoders raise on damaged files
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # Source: EXIF 2.3, tag Orientation


@runtime_checkable
class HeaderReadable(Protocol):
    """A path whose file is not on this disk."""

    def read_header(self) -> bytes | None:
        """Its first bytes, without the rest; None: read the file as any other."""


_PILLOW_WARNINGS = PillowWarnings()


@contextmanager
def _opened(path: Path, content: bytes | None = None) -> Iterator[Image.Image]:
    """The first frame of an image file; every way to fail becomes an ImageError that names the file."""
    try:
        source = openable(path) if content is None else io.BytesIO(content)
        with _PILLOW_WARNINGS.held_back(), Image.open(source, formats=_FORMATS) as image:
            if 0 in image.size:
                raise ImageError(f"expected an image of at least one pixel, got {image.size} in {path}")
            yield image
    except FileNotFoundError as error:
        raise ImageError(f"expected an image file, but there is no {path}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"expected an image of at most {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels, got more in {path}; "
            "cut or shrink it first"
        ) from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"expected an image, got {path}, which is {_what_instead(path)}; "
            f"{', '.join(_FORMATS)} are read: convert or remove it"
        ) from error
    except _UNREADABLE as error:
        reason = "it is a folder" if path.is_dir() else str(error) or type(error).__name__
        raise ImageError(f"expected a readable image, got {path}: {reason}; replace or remove it") from error


def _what_instead(path: Path) -> str:
    return "empty (0 bytes)" if path.is_file() and path.stat().st_size == 0 else "none, damaged, or of an unknown kind"


def _turn(image: Image.Image) -> Image.Transpose | None:
    """How to turn an image upright; an EXIF block that cannot be read says nothing."""
    try:
        return _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except _UNREADABLE:
        return None


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # first: Pillow turns TIFF files itself while it loads them
    turn = _turn(image)
    return image if turn is None else image.transpose(turn)


def read_image_size(path: Path, *, content: bytes | None = None) -> tuple[int, int]:
    """Height and width as :func:`read_rgb` would return them, where possible from the file's header alone.

    Raises:
        ImageError: The file cannot be read as an image.
    """
    if content is None and isinstance(path, HeaderReadable) and (header := path.read_header()) is not None:
        try:
            return read_image_size(path, content=header)
        except ImageError:  # what tells the size comes later in the file
            content = path.read_bytes()
    with _opened(path, content) as image:
        width, height = image.size
        if width == height or image.format == "TIFF":  # Pillow has exchanged a TIFF's sides already
            return height, width
        lying = _turn(image) in (_UPRIGHT[5], _UPRIGHT[6], _UPRIGHT[7], _UPRIGHT[8])
        return (width, height) if lying else (height, width)


def _is_one_of_many(image: Image.Image) -> bool:
    """Whether the file holds further pictures: an animation, or pages; previews inside photographs do not count."""
    try:
        return image.format in ("GIF", "WEBP", "PNG", "TIFF") and bool(getattr(image, "is_animated", False))
    except _UNREADABLE:
        return False


def read_rgb(
    path: Path, *, content: bytes | None = None, noted: Callable[[str], None] | None = None
) -> NDArray[np.uint8]:
    """Read a photograph of any common kind as RGB.

    EXIF rotation is applied; grey, palette, CMYK and 1-bit images become RGB; alpha is dropped; of an animation the
    first frame is read. 16-bit grey is scaled from its full range (0..65535 becomes 0..255), whatever its content; of
    16-bit colour the high byte is read.

    Args:
        path: JPEG, PNG, WebP, BMP, TIFF, GIF, PPM, PGM or JPEG 2000; it may lie inside a zip file.
        content: The file's bytes where they do not lie there; the path is then a name for messages.
        noted: Called with what a user should know of a file that is read: that it holds more than one picture.

    Returns:
        ``(H, W, 3)`` uint8.

    Raises:
        ImageError: The file is missing, truncated, too large, no image, or holds floating-point pixels.
    """
    with _opened(path, content) as image:
        if noted is not None and _is_one_of_many(image):
            noted(f"{path} holds several pictures (an animation, or pages); only the first is read")
        upright = _upright(image)
        if upright.mode == "F":
            raise ImageError(
                f"expected an image of integer pixels, got floating-point pixels in {path}; "
                "their range is unknown, convert it to 8 or 16 bits first"
            )
        if not upright.mode.startswith("I"):
            return np.array(upright if upright.mode == "RGB" else upright.convert("RGB"))
        values = np.asarray(upright)
    return _sixteen_bit(values, path)


def _sixteen_bit(values: NDArray[Any], path: Path) -> NDArray[np.uint8]:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise ImageError(
            f"expected 16-bit pixels 0..65535, got {low}..{high} in {path}; convert it to 8 or 16 bits first"
        )
    grey = ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


_GREY_STEPS = {"L;2": 85, "L;4": 17}  # Pillow spreads 2- and 4-bit grey over 0..255; a mask's values are those stored


def _mask_codes(path: Path, content: bytes | None = None) -> tuple[NDArray[Any], bool]:
    """The values of a mask file as stored, or its colours as 0xRRGGBB; True for colours."""
    with _opened(path, content) as image:
        if image.format in ("JPEG", "MPO"):
            raise LabelError(
                f"{path}: expected a lossless mask file, got JPEG, which blurs the values; export the masks as PNG"
            )
        stored = image.tile[0][3] if isinstance(image, PngImagePlugin.PngImageFile) and image.tile else None
        step = _GREY_STEPS.get(str(stored), 1)
        upright = _upright(image)
        if upright.mode in ("RGB", "RGBA"):
            return _colour_codes(np.asarray(upright)), True
        if upright.mode in ("LA", "PA"):
            upright = upright.getchannel(0)
        elif upright.mode not in ("P", "L", "1") and not upright.mode.startswith("I"):
            raise ImageError(
                f"expected a mask of indices, a palette or RGB colours, got Pillow mode {upright.mode} in {path}; "
                "save it as an 8- or 16-bit grey PNG"
            )
        values = np.asarray(upright)
    return values.astype(np.uint8) // np.uint8(step) if values.dtype.kind == "b" or step > 1 else values, False


def _colour_codes(rgb: NDArray[np.uint8]) -> NDArray[np.int32]:
    red, green, blue = (rgb[..., i].astype(np.int32) for i in range(3))
    return (red << 16) | (green << 8) | blue


def _counted(codes: NDArray[Any]) -> list[tuple[int, int]]:
    """Values and how often they occur, the most frequent first."""
    if codes.dtype.kind == "u":
        counts = np.bincount(codes.ravel())
        values = np.flatnonzero(counts)
        counts = counts[values]
    else:
        values, counts = np.unique(codes, return_counts=True)
    return sorted(zip(values.tolist(), counts.tolist(), strict=True), key=lambda item: (-item[1], item[0]))


def mask_values(path: Path) -> dict[int, int]:
    """The values of an index mask as they are stored, with their pixel counts; no class table is applied.

    Raises:
        ImageError: The file cannot be read.
        LabelError: It holds colours, or is a JPEG.
    """
    codes, coloured = _mask_codes(path)
    if coloured:
        raise LabelError(no_colours_known(path, _counted(codes)))
    return dict(_counted(codes))


def read_mask(path: Path, *, table: LabelTable, ignore_index: int, content: bytes | None = None) -> NDArray[Any]:
    """Read a mask file as class indices.

    Palette and grey files are read as indices (a palette's colours are display only), RGB files by exact colour.

    Args:
        path: A PNG (or other lossless) mask.
        table: What its values and colours stand for.
        ignore_index: Void value of the result.
        content: As in :func:`read_rgb`.

    Returns:
        ``(H, W)`` class indices and ``ignore_index``; uint8 where they fit, else uint16.

    Raises:
        ImageError: The file cannot be read.
        LabelError: It is a JPEG, has colours where the table has none, or has values or colours that stand for no
            class; they are named with their pixel counts.
    """
    codes, coloured = _mask_codes(path, content)
    if coloured and not table.colours:
        raise LabelError(no_colours_known(path, _counted(codes)))
    known = _coded(table) if coloured else table.values
    dtype = np.dtype(np.uint8 if max([*known.values(), ignore_index]) <= 255 else np.uint16)
    classes = _translated(codes, known, dtype)
    if classes is None:
        found = _counted(codes)
        text = wrong_colours(path, found, table) if coloured else wrong_values(path, found, table, ignore_index)
        raise LabelError(text)
    return classes


def _coded(table: LabelTable) -> dict[int, int]:
    return {(red << 16) | (green << 8) | blue: index for (red, green, blue), index in table.colours.items()}


def _translated(codes: NDArray[Any], known: Mapping[int, int], dtype: np.dtype[Any]) -> NDArray[Any] | None:
    """The class of every code; None where one is unknown. This is most of the time of reading a mask."""
    if codes.dtype.kind == "u":  # 8 or 16 bits: look every pixel up
        size = 1 << (8 * codes.dtype.itemsize)
        legal, classes = np.zeros(size, np.bool_), np.zeros(size, dtype)
        for value, index in known.items():
            if value < size:
                legal[value], classes[value] = True, index
        return classes.take(codes) if legal.take(codes).all() else None
    keys = np.array(sorted(known), np.int32)  # colours: a table of all 2^24 would take longer to clear than to use
    places = np.searchsorted(keys, codes).clip(max=len(keys) - 1)
    if (keys.take(places) != codes).any():
        return None
    return np.array([known[key] for key in keys.tolist()], dtype).take(places)


def write_mask(path: Path, mask: NDArray[Any], class_info: ClassInfo) -> None:
    """Write a mask as a palette PNG: pixel value = class index, colours for viewers. More than 256 values: 16-bit grey.

    Args:
        path: Ending in ``.png``.
        mask: ``(H, W)`` integers.
        class_info: Gives the colours; void and everything above the classes is black.

    Raises:
        OutputError: The file cannot be written.
        ImageError: The mask holds values that do not fit in it.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> classes = ClassInfo(("sky", "road"))
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "mask.png"
        ...     write_mask(path, np.array([[0, 1, 255]]), classes)
        ...     read_mask(path, table=LabelTable.identity(classes), ignore_index=255)
        array([[  0,   1, 255]], dtype=uint8)
    """
    wide = class_info.num_classes > 255 or class_info.ignore_index > 255
    most = 65535 if wide else 255
    low, high = int(mask.min(initial=0)), int(mask.max(initial=0))
    if low < 0 or high > most:
        raise ImageError(f"expected mask values 0..{most} to write {path}, got {low}..{high}")
    if wide:
        image = Image.fromarray(mask.astype(np.uint16))
    else:
        image = Image.fromarray(mask.astype(np.uint8))
        black = [0] * 3 * (256 - class_info.num_classes)  # a full palette keeps the file at 8 bits per pixel
        image.putpalette([c for colour in class_info.palette for c in colour] + black)
    # Rows of masks are runs of one value: looking for runs alone is three times as fast, and files are as small.
    save_image(path, image, {"format": "PNG", "compress_type": zlib.Z_RLE})


def write_image(path: Path, image: NDArray[np.uint8] | Image.Image, *, quality: int = 92) -> None:
    """Write ``(H, W, 3)`` RGB as JPEG or PNG, by the name's ending.

    Args:
        path: Ending in ``.jpg``, ``.jpeg`` or ``.png``.
        image: The pixels, or a Pillow image of them.
        quality: Of a JPEG, 1..95.

    Raises:
        OutputError: The file cannot be written.
        ImageError: Another ending.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder) / "red.png"
        ...     write_image(path, np.full((2, 3, 3), (255, 0, 0), np.uint8))
        ...     read_rgb(path)[0, 0].tolist()
        [255, 0, 0]
    """
    kinds = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}
    if path.suffix.lower() not in kinds:
        raise ImageError(f"expected a file name ending in {', '.join(kinds)}, got {path}")
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    save_image(path, picture, {"format": kinds[path.suffix.lower()], "quality": quality})


def save_image(path: Path, image: Image.Image, options: Mapping[str, Any]) -> None:
    """Write a Pillow image beside and then renamed.

    Args:
        path: Its name; the ending does not decide.
        image: The picture.
        options: Of Pillow's ``save``, with ``format``.

    Raises:
        OutputError: The file cannot be written.
    """
    buffer = io.BytesIO()  # given a file, Pillow's JPEG encoder takes no notice when a full disk takes half of it
    image.save(buffer, **options)
    with written_beside(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def find_images(folder: Path) -> list[Path]:
    """Image files in a folder (or zip file) and its subfolders, sorted; links are followed, hidden names left out.

    Raises:
        ImageError: The folder cannot be listed; entries in it that are no files are left out.
    """
    try:
        return sorted(folder / name for name in list_files(folder) if name.lower().endswith(IMAGE_SUFFIXES))
    except OSError as error:
        raise ImageError(f"expected a folder of images, but {folder} cannot be listed: {error}") from error


def first_names(names: Sequence[object], *, most: int = 5) -> str:
    """A few of many names for a message."""
    return ", ".join(map(str, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")
