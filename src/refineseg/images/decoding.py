"""Image files opened by Pillow: upright pixels as they are stored, and whether a file can hold what it declares.

In: a path, or bytes. Out: :class:`Stored`, the bands of an image in their own type.
"""

from __future__ import annotations

import importlib.util
import io
import math
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from refineseg.errors import DatasetError, ImageError
from refineseg.files.archives import openable
from refineseg.files.special import has_file, has_folder
from refineseg.images.damage import check_ended, check_plausible
from refineseg.images.grey_steps import grey_step, jpeg2000_stored
from refineseg.images.pillow_warnings import PillowWarnings

FORMATS = (
    *("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000"),
    *(("AVIF",) if importlib.util.find_spec("PIL.AvifImagePlugin") else ()),  # from Pillow 11.3 on
)
"""No others: Pillow's EPS runs a program. HEIC is read too where pillow-heif is installed."""

HAS_HEIF = importlib.util.find_spec("pillow_heif") is not None

_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # brands; Source: ISO/IEC 23008-12
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
LYING = (_UPRIGHT[5], _UPRIGHT[6], _UPRIGHT[7], _UPRIGHT[8])
"""Turns that exchange the sides."""

_PILLOW_WARNINGS = PillowWarnings()
_PLANAR = 284  # Source: TIFF 6.0, PlanarConfiguration; 2: band by band
_COLOURS = {
    "1": ("gray",),
    "L": ("gray",),
    "LA": ("gray", "alpha"),
    "P": ("palette",),
    "RGB": ("red", "green", "blue"),
    "RGBA": ("red", "green", "blue", "alpha"),
}
_CONVERTED = {"La": "LA", "RGBa": "RGBA", "PA": "RGBA"}
_TIFF_BITS, _PHOTOMETRIC, _MIN_IS_WHITE = 258, 262, 0
_SAMPLE_FORMAT, _SIGNED = 339, 2
_TIFF_STARTS = {  # how the place of the directory and the number of its entries are stored, and the bytes of an entry
    **{b"II*\0": ("<I", "<H", 12), b"MM\0*": (">I", ">H", 12)},
    **{b"II+\0": ("<4xQ", "<Q", 20), b"MM\0+": (">4xQ", ">Q", 20)},
}
_NODATA = 42113  # Source: GDAL's driver of GeoTIFF
_BITS = {  # of a pixel of a PNG, by Pillow's names of what is stored
    **{"1": 1, "P;1": 1, "L;2": 2, "P;2": 2, "L;4": 4, "P;4": 4, "I;16B": 16},
    **{"LA": 16, "LA;16B": 32, "RGB": 24, "RGB;16B": 48, "RGBA": 32, "RGBA;16B": 64},
}
_SWAPPED = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
LOW_BYTES = {  # of colours so stored Pillow reads the high byte alone; in the other order of bytes, the low one
    **{
        f"{colours};16{order}": f"{colours};16{other}"
        for colours in ("RGB", "RGBX", "RGBA")
        for order, other in _SWAPPED.items()
    },
    "LA;16B": "RGBA",  # both bytes of both
}


class Stored(NamedTuple):
    """The pixels of an image file, upright, as they are stored.

    Args:
        path: File, for messages.
        values: (B, H, W) of any real type; what is no grey, palette or RGB is converted to 8-bit RGB.
        colours: What each band is: gray, red, green, blue, alpha, palette.
        num_bits: Number of bits of a value.
        palette: (256, 4) colours and opacity of the values; None: they are no indices.
        keyed: Pixels that have not the one value that the file declares to be transparent; None: it declares none.
        unmasked: Pixels that a mask beside the values leaves; None: there is none.
        inverted: The smallest value of the first band is white.
    """

    path: Path
    values: NDArray[Any]
    colours: tuple[str, ...]
    num_bits: int
    palette: NDArray[np.uint8] | None = None
    keyed: NDArray[np.bool_] | None = None
    unmasked: NDArray[np.bool_] | None = None
    inverted: bool = False

    @property
    def opaque(self) -> NDArray[np.bool_] | None:
        """Which pixels have any opacity, by the file's alpha band; None: all."""
        if self.colours[-1] != "alpha":
            return None
        found: NDArray[np.bool_] = self.values[-1] > 0
        return found


def most_pixels() -> float:
    """The most pixels of an image that is read at once: Pillow's limit, which a program may change or take away."""
    return 2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else math.inf


@contextmanager
def opened(path: Path, content: bytes | None = None, *, whole: bool = True) -> Iterator[Image.Image]:
    """The first frame of an image file; every way to fail becomes an ImageError that names the file.

    Args:
        path: The file.
        content: Its bytes where they do not lie there.
        whole: The content is all of the file, not only its header.
    """
    try:
        source = openable(path) if content is None else io.BytesIO(content)
        with _PILLOW_WARNINGS.held_back(), _pillow_opened(source, path) as image:
            if 0 in image.size:
                raise ImageError(f"expected an image of at least one pixel, got {image.size} in {path}")
            if whole:
                num_bytes = source.getbuffer().nbytes if isinstance(source, io.BytesIO) else source.stat().st_size
                check_plausible(path, _kind(image), image.size[::-1], num_bytes, bits=_bits_of_pixel(image))
            yield image
    except FileNotFoundError as error:
        raise ImageError(f"expected an image file, but there is no {path}") from error
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"expected an image of at most {most_pixels()} pixels, got more in {path}; cut or shrink it first"
        ) from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"expected an image, got {path}, which is {_what_instead(path, content)}; "
            f"{', '.join(FORMATS)} are read: convert or remove it"
        ) from error
    except _UNREADABLE as error:
        reason = "it is a folder" if has_folder(path) else str(error) or type(error).__name__
        raise ImageError(f"expected a readable image, got {path}: {reason}; replace or remove it") from error


def _pillow_opened(source: Path | io.BytesIO, path: Path) -> Image.Image:
    try:
        return Image.open(source, formats=FORMATS)
    except UnidentifiedImageError:
        if isinstance(source, io.BytesIO):
            start = bytes(source.getbuffer()[:12])
        else:
            with source.open("rb") as file:
                start = file.read(12)
        if start[4:8] != b"ftyp" or start[8:] not in (*_HEIC, *(() if "AVIF" in FORMATS else (b"avif",))):
            raise
    try:
        importlib.import_module("pillow_heif").register_heif_opener()
    except ImportError as error:
        install = "Pillow 11.3 or later" if start[8:] == b"avif" else "the package pillow-heif"
        kind = "AVIF" if start[8:] == b"avif" else "HEIC"
        raise ImageError(
            f"expected an image that can be read here, got {path}, which is {kind}; install {install}, or convert it "
            "to JPEG"
        ) from error
    return Image.open(source, formats=("HEIF",))


def _what_instead(path: Path, content: bytes | None) -> str:
    is_empty = not content if content is not None else has_file(path) and path.stat().st_size == 0
    if ends := _ends_of_tiff(path, content):
        return "a TIFF that ends too early"
    if ends is not None:
        return "a TIFF whose bands or type of pixels are those of a raster: predict reads it; for others save it as RGB"
    return "empty (0 bytes)" if is_empty else "none, damaged, or of an unknown kind"


def _ends_of_tiff(path: Path, content: bytes | None) -> bool | None:
    """Whether a TIFF file ends before the list of what it holds; None: it is no TIFF file."""
    try:
        source = openable(path) if content is None else io.BytesIO(content)
        with source.open("rb") if isinstance(source, Path) else source as file:
            place, number, entry = _TIFF_STARTS[file.read(4)]
            file.seek(*struct.unpack(place, file.read(struct.calcsize(place))))
            (count,) = struct.unpack(number, file.read(struct.calcsize(number)))
            return bool(file.tell() + count * entry > file.seek(0, io.SEEK_END))
    except (struct.error, OverflowError):
        return True
    except (OSError, DatasetError, KeyError):
        return None


def _kind(image: Image.Image) -> str:
    is_jpeg = image.format == "MPO" or (image.format == "TIFF" and image.info.get("compression") == "jpeg")
    return "JPEG" if is_jpeg else str(image.format)


def stored_as(image: Image.Image) -> str:
    """Pillow's name of how the pixels of an image that is not loaded lie in the file; empty: unknown."""
    tiles = image.tile if isinstance(image, ImageFile.ImageFile) else []
    if isinstance(image, ImageFile.ImageFile) and tiles and image.format == "JPEG2000":
        return jpeg2000_stored(image)
    how = tiles[0][3] if tiles else ""
    return str(how[0] if isinstance(how, tuple) and how else how)


def _bits_of_pixel(image: Image.Image) -> int:
    return _BITS.get(stored_as(image), 8)


def turn_of(image: Image.Image, *, loaded: bool = True) -> Image.Transpose | None:
    """How to turn an image upright; an EXIF block that cannot be read says nothing.

    Args:
        image: Opened.
        loaded: Its pixels are decoded; False: they stay as they are, though a PNG may say behind them how to turn it.
    """
    try:
        exif = image.getexif() if loaded else Image.Image.getexif(image)  # that of a PNG decodes all pixels
        return _UPRIGHT.get(exif.get(_ORIENTATION, 1))
    except _UNREADABLE:
        return None


def upright(image: Image.Image, path: Path, content: bytes | None = None) -> Image.Image:
    """All pixels of an opened image, turned upright.

    Raises:
        ImageError: The pixels end before the image does.
    """
    image.load()  # first: Pillow turns TIFF files itself while it loads them
    check_ended(image, path, content)
    turn = turn_of(image)
    return image if turn is None else image.transpose(turn)


def is_one_of_many(image: Image.Image) -> bool:
    """Whether the file holds further pictures: an animation, or pages; previews inside photographs do not count."""
    try:
        return image.format in ("GIF", "WEBP", "PNG", "TIFF") and bool(getattr(image, "is_animated", False))
    except _UNREADABLE:
        return False


def stored(path: Path, content: bytes | None = None, *, noted: Callable[[str], None] | None = None) -> Stored:
    """The pixels of an image file as they are stored; of an animation, or of pages, the first.

    Args:
        path: It may lie inside a zip file.
        content: The file's bytes where they do not lie there; the path is then a name for messages.
        noted: Called with what a user should know: that the file holds more than one picture.

    Raises:
        ImageError: The file is missing, truncated, too large, or no image.
    """
    with opened(path, content) as image:
        if noted is not None and is_one_of_many(image):
            noted(f"{path} holds several pictures (an animation, or pages); only the first is read")
        how = stored_as(image)
        tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
        if tags.get(_SAMPLE_FORMAT, (1,))[0] == _SIGNED and tags.get(_TIFF_BITS, (8,))[0] == 8:  # read as unsigned
            raise ImageError(
                f"expected pixels without a sign, got 8 bits with one in {path}; `refineseg predict` and "
                "Predictor.raster read it"
            )
        if tags.get(_PLANAR) == 2 and tags.get(_TIFF_BITS, (8,))[0] > 8:  # which Pillow reads wrongly
            raise ImageError(
                f"expected 16-bit colours pixel by pixel, got {path}, which stores them band by band; save it otherwise"
            )
        turned = upright(image, path, content)
        key, kind = image.info.get("transparency", declared_nodata(image)), image.format
        inverted = _is_inverted(image)
    if how in LOW_BYTES:
        wide = _sixteen_bits(np.asarray(turned), _low_bytes(path, content, how), how)
        colours = ("gray", "alpha") if how.startswith("LA") else _COLOURS[turned.mode]
        keyed = None if key is None else (wide != np.array(key)).any(axis=2)
        return Stored(path, wide.transpose(2, 0, 1), colours, 16, keyed=keyed)
    return _as_stored(path, turned, how, key, kind)._replace(inverted=inverted)


def _is_inverted(image: Image.Image) -> bool:
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    return bool(tags.get(_PHOTOMETRIC) == _MIN_IS_WHITE)


def declared_nodata(image: Image.Image) -> float | None:
    """The value that a TIFF's pixels have in all bands where they hold no data (GDAL's tag); None: there is none."""
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) and image.mode != "P" else {}
    try:
        return float(str(tags[_NODATA]).strip("\0 "))
    except (KeyError, ValueError):
        return None


def held(image: Image.Image, path: Path) -> Stored:
    """The pixels of an image that Pillow has opened or made, upright, by the same rules.

    Args:
        image: Pillow image.
        path: Name for messages.

    Raises:
        ImageError: It has no pixels, cannot be decoded, or its file has 16-bit colours, of which Pillow keeps 8 bits.
    """
    if 0 in image.size:
        raise ImageError(f"expected an image of at least one pixel, got {image.size} in {path}")
    if stored_as(image) in LOW_BYTES:
        raise ImageError(
            f"expected 8-bit colours in {path}, got 16 bits, of which Pillow keeps 8; give the file's path"
        )
    try:
        turn = turn_of(image)
        turned = image if turn is None else image.transpose(turn)
        inverted = _is_inverted(image) and image.mode not in ("1", "L")  # which Pillow has turned into positives
        found = _as_stored(path, turned, "", image.info.get("transparency"), image.format)
        return found._replace(inverted=inverted)
    except _UNREADABLE as error:
        raise ImageError(f"expected a readable image, got {path}: {error}; replace it") from error


def _as_stored(path: Path, turned: Image.Image, how: str, key: Any, kind: str | None) -> Stored:  # noqa: ANN401
    """The bands of an upright image; ``key`` is what it declares to be transparent."""
    num_bits, palette, keyed = 8, None, None
    if turned.mode in _CONVERTED or (turned.mode not in (*_COLOURS, "I", "F") and not turned.mode.startswith("I;16")):
        turned, key = turned.convert(_CONVERTED.get(turned.mode, "RGB")), None
    colours, values = _COLOURS.get(turned.mode, ("gray",)), np.asarray(turned)
    if turned.mode.startswith("I;16") or (turned.mode == "I" and kind not in ("TIFF", None)):
        num_bits, values = 12 if how == "I;12" else 16, values.astype(np.uint16)
    elif turned.mode in ("I", "F"):
        num_bits = 32
    elif turned.mode == "P":
        palette = _palette(turned, key)
    if (step := grey_step(turned.mode, how)) is not None:
        values = values.astype(np.uint8) if turned.mode == "1" else values
        num_bits, values = step[0], values // values.dtype.type(step[1])
    if kind == "TIFF" and how.endswith(("I", "IR")):  # Pillow has turned them into positives
        values = np.uint8((1 << num_bits) - 1) - values
    if values.ndim == 2:
        values = values[:, :, None]
    if key is not None and palette is None and not isinstance(key, bytes):
        wanted = np.array(bool(key) if turned.mode == "1" else key)
        if values.dtype.kind == "f":  # in double precision, -3.4e+38 would be no pixel's value
            with np.errstate(over="ignore"):
                wanted = wanted.astype(values.dtype)
        keyed = (values != wanted).any(axis=2)
    return Stored(path, values.transpose(2, 0, 1), colours, num_bits, palette, keyed)


def _low_bytes(path: Path, content: bytes | None, how: str) -> NDArray[np.uint8]:
    with opened(path, content) as image:
        assert isinstance(image, ImageFile.ImageFile)
        image.tile = [
            tile._replace(args=(LOW_BYTES[how], *tile.args[1:]) if isinstance(tile.args, tuple) else LOW_BYTES[how])
            for tile in image.tile
        ]
        image.load()
        turn = turn_of(image)
        return np.asarray(image if turn is None else image.transpose(turn))


def _sixteen_bits(high: NDArray[np.uint8], low: NDArray[np.uint8], how: str) -> NDArray[np.uint16]:
    if how.startswith("LA"):
        high, low = low[:, :, ::2], low[:, :, 1::2]
    return high.astype(np.uint16) << np.uint16(8) | low


def _palette(image: Image.Image, key: object) -> NDArray[np.uint8]:
    """(256, 4) colours and opacities; ``key`` is one transparent index, or the opacities of the first ones."""
    table = np.zeros((256, 4), np.uint8)
    table[:, 3] = 255
    colours = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)[:256]
    table[: len(colours), :3] = colours
    if isinstance(key, bytes):
        opacities = np.frombuffer(key[:256], np.uint8)
        table[: len(opacities), 3] = opacities
    elif isinstance(key, int) and key < 256:
        table[key, 3] = 0
    return table
