"""Which files are rasters: what the first kilobytes of a file say, without unpacking a pixel.

In: a path. Out: whether it is predicted in windows (:mod:`refineseg.predict.raster.raster`) or read at once as a
photograph (:mod:`refineseg.images.files`).

Sources: TIFF 6.0 and its BigTIFF extension (tags, sample formats), OGC GeoTIFF 1.1 (tags 33550, 33922, 34264, 34735),
PNG's IHDR, JPEG's SOF markers, JPEG 2000's ihdr box and the GeoJP2 box.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from refineseg.files.special import refuse_special
from refineseg.images.decoding import most_pixels

RASTER_ONLY_SUFFIXES = (".vrt", ".img")
"""Endings of formats that only geographic information systems write."""

RASTER_SUFFIXES = (".tif", ".tiff", ".jp2", *RASTER_ONLY_SUFFIXES)
"""Endings whose files may be rasters whatever their size."""

_HEADER_BYTES = 1 << 16
_GEO_TAGS = {33550, 33922, 34264, 34735, 50844, 42113}  # GeoTIFF's, RPC coefficients, GDAL's nodata
_WORLD_FILES = tuple(case for name in (".tfw", ".tifw", ".tiffw", ".wld") for case in (name, name.upper()))
_COMPRESSION, _UNREAD_COMPRESSIONS = 259, {34712, 34887, 50001, 50002}  # JPEG 2000, LERC, WebP, JPEG XL
_WIDTH, _HEIGHT, _BITS, _COLOURS, _SAMPLES, _PLANAR, _EXTRA, _FORMAT = 256, 257, 258, 262, 277, 284, 338, 339
_MIN_IS_WHITE, _RGB, _CMYK = 0, 2, 5  # of PhotometricInterpretation
_UNSIGNED = (1, 4)  # of SampleFormat: unsigned integer, and undefined, which writers mean as that
_TYPE_CODES = {1: "B", 3: "H", 4: "I", 16: "Q"}
_GEOJP2 = bytes.fromhex("b14bf8bd083d4b43a5ae8cd7d5a6ce03")
_START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


def is_raster(path: Path, *, content: bytes | None = None) -> bool:
    """Whether a file is predicted as a raster, in windows.

    These are TIFF files with georeferencing or a nodata value, BigTIFF, TIFF of floating-point, signed or more than
    16-bit pixels, of more than four bands or others than grey, RGB, CMYK and opacity, TIFF that Pillow does not read,
    JPEG 2000 with georeferencing or colours of more than 8 bits, ``.vrt`` and ``.img``, and TIFF, JPEG, PNG and JPEG
    2000 with more pixels than are read at once. A file that cannot be read is none.

    Args:
        path: The file.
        content: Its bytes where they do not lie there.

    Example:
        >>> is_raster(Path("there is no such file.tif"))
        False
    """
    if path.suffix.lower() in RASTER_ONLY_SUFFIXES:
        return content is not None or path.is_file()
    try:
        if content is None:
            refuse_special(path)
        with path.open("rb") if content is None else io.BytesIO(content) as file:
            start = file.read(4)
            if start in (b"II*\0", b"MM\0*"):
                return _tiff_is_raster(file, "<" if start[:2] == b"II" else ">", path)
            if start in (b"II+\0", b"MM\0+"):
                return True
            if start.startswith(b"\xff\xd8\xff"):
                return _jpeg_pixels(file) > most_pixels()
            return _declares_raster(start + file.read(_HEADER_BYTES))
    except (OSError, struct.error):
        return False


def _declares_raster(header: bytes) -> bool:
    """Whether a PNG or JPEG 2000 file is a raster."""
    if header.startswith(b"\x89PNG"):
        width, height = struct.unpack(">II", header[16:24])
        return bool(width * height > most_pixels())
    if header.startswith(b"\0\0\0\x0cjP  "):
        place = header.find(b"ihdr")
        height, width, bands, bits = struct.unpack(">IIHB", header[place + 4 : place + 15]) if place > 0 else (0,) * 4
        placed, wide = _GEOJP2 in header or b"gml.root-instance" in header, bands >= 3 and bits & 0x7F >= 8
        return placed or wide or height * width > most_pixels()  # "bits" is one less than they are
    return False


@dataclass(frozen=True)
class _Tag:
    """One entry of a TIFF directory: its first value, 0 where that is no integer."""

    number: int
    value: int


def _tiff_is_raster(file: BinaryIO, order: str, path: Path) -> bool:
    tags = {tag.number: tag.value for tag in _tiff_tags(file, order)}
    bits, samples = tags.get(_BITS, 1), tags.get(_SAMPLES, 1)
    return (
        bool(_GEO_TAGS & tags.keys())
        or tags.get(_FORMAT, 1) not in _UNSIGNED
        or bits > 16
        or samples > 4
        or _has_other_bands(tags, order)
        or tags.get(_WIDTH, 0) * tags.get(_HEIGHT, 0) > most_pixels()
        or any(path.with_suffix(ending).is_file() for ending in _WORLD_FILES)
    )


def _has_other_bands(tags: dict[int, int], order: str) -> bool:
    """Whether there are bands that an image cannot have, or that lie as Pillow does not read them."""
    bits, samples, colours = tags.get(_BITS, 1), tags.get(_SAMPLES, 1), tags.get(_COLOURS, 0)
    planar = tags.get(_PLANAR, 1) == 2
    inverted = colours == _MIN_IS_WHITE
    unread = samples == 1 and (
        (bits == 12 and (inverted or order == ">")) or (bits == 16 and inverted and order == ">")
    )
    return (
        unread
        or bits not in ((1, 2, 4, 8, 12, 16) if samples == 1 else (8, 16))
        or tags.get(_COMPRESSION, 1) in _UNREAD_COMPRESSIONS
        or (samples == 2 and (bits > 8 or planar or colours == _MIN_IS_WHITE))
        or (samples > 2 and colours < _RGB)
        or (samples == 4 and colours != _CMYK and tags.get(_EXTRA, 1) == 0)  # 0: it is no opacity
        or (planar and (bits > 8 or (samples == 1 and (bits in (2, 4) or colours == _MIN_IS_WHITE))))
    )


def _tiff_tags(file: BinaryIO, order: str) -> list[_Tag]:
    (offset,) = struct.unpack(order + "I", file.read(4))
    file.seek(offset)
    (count,) = struct.unpack(order + "H", file.read(2))
    entries = file.read(12 * count)
    found = []
    for start in range(0, len(entries) - 11, 12):
        number, kind, values = struct.unpack(order + "HHI", entries[start : start + 8])
        code, value = _TYPE_CODES.get(kind), 0
        if code is not None:
            size = struct.calcsize(code)
            raw = entries[start + 8 : start + 12]
            if values * size > 4:  # then the field holds where they are
                file.seek(struct.unpack(order + "I", raw)[0])
                raw = file.read(size)
            (value,) = struct.unpack(order + code, raw[:size])
        found.append(_Tag(number, value))
    return found


def _jpeg_pixels(file: BinaryIO) -> int:
    """Width times height of the first frame; 0 where none is found."""
    file.seek(2)
    while True:
        marker = file.read(2)
        while marker[1:] == b"\xff":  # fill bytes
            marker = b"\xff" + file.read(1)
        if len(marker) < 2 or marker[0] != 0xFF or marker[1] == 0xD9:
            return 0
        (length,) = struct.unpack(">H", file.read(2))
        if marker[1] in _START_OF_FRAME:
            height, width = struct.unpack(">xHH", file.read(5))
            return int(height * width)
        file.seek(length - 2, 1)
