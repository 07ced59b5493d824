"""Image and mask files: read any photograph as RGB, read class indices.

In and out: arrays. Images are ``(H, W, 3)`` uint8 RGB, masks ``(H, W)`` integers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from refineseg.class_info import LabelTable, index_dtype
from refineseg.errors import ImageError, LabelError
from refineseg.files.archives import list_files
from refineseg.images.decoding import (
    FORMATS,
    HAS_HEIF,
    LOW_BYTES,
    LYING,
    Stored,
    declared_nodata,
    is_one_of_many,
    opened,
    stored,
    stored_as,
    turn_of,
    upright,
)
from refineseg.images.grey_steps import stretch_of
from refineseg.images.label_messages import no_colours_known, wrong_colours, wrong_values
from refineseg.images.reading import USUAL, Reading, as_channels, choose_bands, find_scaling, gathered, with_data

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".jp2"),
    ".j2k",
    *((".avif",) if "AVIF" in FORMATS else ()),
    *((".heic", ".heif") if HAS_HEIF else ()),
)
"""File name endings searched for in folders (any case)."""

UNREAD_SUFFIXES = tuple(
    {
        *(".avif", ".heic", ".heif", ".jxl", ".jpx", ".psd", ".tga", ".exr", ".hdr", ".pcx", ".dcm"),
        *(".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".orf", ".raf", ".rw2", ".pef", ".srw", ".xcf"),
    }
    - set(IMAGE_SUFFIXES)
)
"""Endings of pictures that are not read here."""

_LONGEST_SHOWN = 200  # characters of a name in a message
_OPAQUE = (".jpg", ".jpeg", ".bmp", ".ppm", ".pgm")  # kinds that know no transparency


@runtime_checkable
class HeaderReadable(Protocol):
    """A path whose file is not on this disk."""

    def read_header(self) -> bytes | None:
        """Its first bytes, without the rest; None: read the file as any other."""


def read_image_size(path: Path, *, content: bytes | None = None) -> tuple[int, int]:
    """Height and width as :func:`read_rgb` would return them, where possible from the file's header alone.

    Raises:
        ImageError: The file cannot be read as an image.
    """
    if content is None and isinstance(path, HeaderReadable) and (header := path.read_header()) is not None:
        try:
            return _size_of(path, header, whole=False)
        except ImageError:  # what tells the size comes later in the file
            content = path.read_bytes()
    return _size_of(path, content, whole=True)


def _size_of(path: Path, content: bytes | None, *, whole: bool) -> tuple[int, int]:
    with opened(path, content, whole=whole) as image:
        width, height = image.size
        if width == height or image.format == "TIFF":  # Pillow has exchanged a TIFF's sides already
            return height, width
        lying = turn_of(image, loaded=False) in LYING
        return (width, height) if lying else (height, width)


class Picture(NamedTuple):
    """An image as a network sees it.

    Args:
        image: ``(H, W, C)`` uint8.
        valid: ``(H, W)``, which pixels hold data; None: all.
        scaled: Whether its pixels had not 8 bits, or were given a range.
    """

    image: NDArray[np.uint8]
    valid: NDArray[np.bool_] | None
    scaled: bool = False


def read_picture(
    path: Path,
    *,
    reading: Reading = USUAL,
    num_channels: int = 3,
    content: bytes | None = None,
    noted: Callable[[str], None] | None = None,
) -> Picture:
    """Read an image of any common kind as a network sees it, by the one contract for all files.

    EXIF rotation is applied; grey, palette, CMYK and 1-bit images become RGB; of an animation the first frame is read.
    Pixels of more than 8 bits are scaled as :class:`~refineseg.images.reading.Reading` says. Transparent pixels keep
    the colour that the file has there, and hold no data.

    Args:
        path: JPEG, PNG, WebP, BMP, TIFF, GIF, PPM, PGM, JPEG 2000, AVIF or HEIC; it may lie inside a zip file.
        reading: Bands, scaling and nodata.
        num_channels: Number of channels of the model.
        content: The file's bytes where they do not lie there; the path is then a name for messages.
        noted: Called with what a user should know of a file that is read: that it holds more than one picture.

    Raises:
        ImageError: The file is missing, truncated, too large, no image, or has not the bands that are asked for.
        ConfigError: A reading that does not fit the file.
    """
    return as_picture(stored(path, content, noted=noted), reading, num_channels=num_channels)


def as_picture(found: Stored, reading: Reading, *, num_channels: int) -> Picture:
    """Stored pixels as a network sees them: the contract itself, for files and for images in memory.

    Args:
        found: Pixels, and what is known of them.
        reading: Bands, scaling and nodata.
        num_channels: Number of channels of the model.

    Raises:
        ImageError: They have not the bands that are asked for.
        ConfigError: A reading that does not fit them.
    """
    path = found.path
    bands = choose_bands(found.colours, reading.bands, num_channels=num_channels, path=path)
    every = tuple(range(1, len(found.colours) + 1))
    values = found.values if bands == every else found.values[[band - 1 for band in bands]]
    palette = found.palette if len(bands) == 1 else None
    inverted = found.inverted and bands == (1,)
    declared = [found.opaque, found.unmasked] + ([found.keyed] if reading.nodata is None else [])
    known = [part for part in declared if part is not None]
    valid = with_data(values, np.logical_and.reduce(known) if known else None, nodata=reading.nodata, palette=palette)

    scaling = None
    if palette is None:
        scaling = find_scaling(
            reading,
            dtype=values.dtype,
            num_bits=found.num_bits,
            num_bands=len(bands),
            path=path,
            samples=lambda: gathered(
                (values.shape[1], values.shape[2]),
                lambda top, left, bottom, right: (
                    values[:, top:bottom, left:right],
                    None if valid is None else valid[top:bottom, left:right],
                ),
            ),
        )
    image = as_channels(
        values, lambda: valid, num_channels=num_channels, scaling=scaling, palette=palette, inverted=inverted
    )
    valid = None if valid is None or valid.all() else valid
    return Picture(np.require(image, requirements=("C", "W")), valid, scaling is not None)


def read_rgb(
    path: Path, *, content: bytes | None = None, noted: Callable[[str], None] | None = None
) -> NDArray[np.uint8]:
    """The pixels of :func:`read_picture` alone, ``(H, W, 3)`` uint8 RGB, read in the usual way.

    Raises:
        ImageError: The file is missing, truncated, too large, or no image.
    """
    return read_picture(path, content=content, noted=noted).image


def read_opaque(path: Path, *, content: bytes | None = None) -> NDArray[np.bool_] | None:
    """Which pixels of :func:`read_picture` hold data; None: all. Files that say nothing of it are not decoded.

    Raises:
        ImageError: The file cannot be read.
    """
    if path.suffix.lower() in _OPAQUE:
        return None
    header = path.read_header() if content is None and isinstance(path, HeaderReadable) else None
    with opened(path, content if header is None else header, whole=header is None) as image:
        declared = "transparency" in image.info or declared_nodata(image) is not None
        if image.mode not in ("LA", "La", "PA", "RGBA", "RGBa", "F") and not declared:
            return None
    return read_picture(path, content=content).valid


def mask_codes(path: Path, content: bytes | None = None) -> tuple[NDArray[Any], bool]:
    """The values of a mask file as stored, or its colours as 0xRRGGBB; True for colours."""
    with opened(path, content) as image:
        if image.format in ("JPEG", "MPO"):
            raise LabelError(
                f"{path}: expected a lossless mask file, got JPEG, which blurs the values; export the masks as PNG"
            )
        if is_one_of_many(image):
            raise ImageError(
                f"expected a mask of one picture, got {path}, which holds several (an animation, or pages); save the "
                "one that is meant alone"
            )
        if stored_as(image) in LOW_BYTES:  # of which Pillow reads one byte
            raise ImageError(
                f"expected a mask of indices, a palette or 8-bit RGB colours, got colours of 16 bits in {path}; save "
                "it as an 8- or 16-bit grey PNG, or with colours of 8 bits"
            )
        stretch = stretch_of(image, stored_as(image))
        turned = upright(image, path, content)
        if turned.mode in ("RGB", "RGBA"):
            return _colour_codes(np.asarray(turned)), True
        if turned.mode in ("LA", "PA"):
            turned = turned.getchannel(0)
        elif turned.mode not in ("P", "L", "1") and not turned.mode.startswith("I"):
            raise ImageError(
                f"expected a mask of indices, a palette or RGB colours, got Pillow mode {turned.mode} in {path}; "
                "save it as an 8- or 16-bit grey PNG"
            )
        values = np.asarray(turned)
    if values.dtype.kind == "b":
        return values.astype(np.uint8), False
    return values if stretch == 1 else np.rint(values / stretch).astype(values.dtype), False


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
    codes, coloured = mask_codes(path)
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
    codes, coloured = mask_codes(path, content)
    if coloured and not table.colours:
        raise LabelError(no_colours_known(path, _counted(codes)))
    known = _coded(table) if coloured else table.values
    dtype = index_dtype(max([*known.values(), ignore_index]))
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
    """A few of many names for a message, of long ones the beginning."""
    shown = (name if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}..." for name in map(str, names[:most]))
    return ", ".join(shown) + (f" and {len(names) - most} more" if len(names) > most else "")
