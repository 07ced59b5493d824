"""Whether an image file is there to its end, by its last bytes: a file cut off in a copy is found without decoding it.

In: a file and its format. Out: True, or False where the end is missing or tells nothing; decoding it decides then.

Source: the ends of files as JPEG (ITU-T T.81, EOI), PNG (ISO 15948, IEND), GIF89a (trailer), JPEG 2000 (ISO 15444-1,
EOC) and the lengths that WebP (RIFF), BMP and TIFF 6.0 write in their heads.
"""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from refineseg.files.archives import locate

_ENDS = {
    "JPEG": b"\xff\xd9",
    "MPO": b"\xff\xd9",
    "PNG": b"\x00\x00\x00\x00IEND\xaeB`\x82",
    "GIF": b"\x3b",
    "JPEG2000": b"\xff\xd9",
}
_PNG_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0dIHDR"
_PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_PNG_TURNING = (b"Raw profile type exif", b"XML:com.adobe.xmp")  # texts in which an orientation may stand
_PLAUSIBLE = 200  # pixels for each byte
_STRIPS = {273: 279, 324: 325}  # TIFF: tags of offsets, and of the byte counts of what lies there
_TYPES = {3: "H", 4: "I", 16: "Q"}
_MOST_STRIPS = 1 << 20


@dataclass(frozen=True)
class PngOutline:
    """What the chunks of a PNG file say without being unpacked.

    Args:
        hw: Height and width as stored.
        is_turned: It may hold an orientation; only such a file must be asked how it is shown.
    """

    hw: tuple[int, int]
    is_turned: bool


def png_outline(path: Path) -> PngOutline | None:
    """The outline of a PNG file that is whole; None for other files. Pillow would unpack all of it to look for EXIF.

    Raises:
        OSError: It cannot be read.
    """
    if locate(path) is not None:
        return None
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(33)
        if start[:16] != _PNG_START or len(start) < 33 or zlib.crc32(start[12:29]) != int.from_bytes(start[29:]):
            return None
        width, height = struct.unpack(">II", start[16:24])
        if not width or not height or height * width > _PLAUSIBLE * size:  # a bomb, or flat: to be looked at properly
            return None
        is_turned = False
        while len(head := file.read(8)) == 8:
            length, name = int.from_bytes(head[:4]), head[4:]
            if name == b"IEND":
                return PngOutline((height, width), is_turned) if file.tell() + 4 == size else None
            end = file.tell() + length + 4
            is_turned |= name == b"eXIf" or (name in _PNG_TEXTS and file.read(21).startswith(_PNG_TURNING))
            if end > size:
                return None
            file.seek(end)
    return None


def ends_as_it_should(path: Path, kind: str) -> bool:
    """Whether the file has the end that its format wants.

    Args:
        path: The file; of one in a zip file all bytes have been compared with their checksum already.
        kind: Pillow's name of the format.

    Raises:
        OSError: It cannot be read.
    """
    if locate(path) is not None:
        return True
    size = path.stat().st_size
    with path.open("rb") as file:
        if kind in _ENDS:
            end = _ENDS[kind]
            file.seek(max(0, size - len(end)))
            return file.read() == end
        head = file.read(16)
        if kind == "WEBP":
            return head[:4] == b"RIFF" and size >= 8 + int.from_bytes(head[4:8], "little")
        if kind == "BMP":
            return size >= int.from_bytes(head[2:6], "little") > 0
        if kind == "TIFF":
            return _tiff_is_whole(file, head, size)
    return False


def _tiff_is_whole(file: BinaryIO, head: bytes, size: int) -> bool:
    """Whether every strip or tile of the first picture lies in the file; BigTIFF is left to the decoder."""
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    if order is None or struct.unpack(order + "H", head[2:4])[0] != 42:
        return False
    try:
        file.seek(struct.unpack(order + "I", head[4:8])[0])
        (count,) = struct.unpack(order + "H", file.read(2))
        table = file.read(12 * count)
        entries = {}
        for at in range(0, 12 * count, 12):
            tag, kind, number = struct.unpack(order + "HHI", table[at : at + 8])
            if tag in (*_STRIPS, *_STRIPS.values()):
                entries[tag] = _tiff_values(file, order, kind, number, table[at + 8 : at + 12])
    except (struct.error, KeyError, OSError, ValueError):
        return False
    found = [(entries[tag], entries[counts]) for tag, counts in _STRIPS.items() if tag in entries and counts in entries]
    return bool(found) and all(
        len(starts) == len(sizes) and all(start + length <= size for start, length in zip(starts, sizes, strict=True))
        for starts, sizes in found
    )


def _tiff_values(file: BinaryIO, order: str, kind: int, number: int, inline: bytes) -> tuple[int, ...]:
    if number > _MOST_STRIPS:
        raise ValueError(number)
    layout = f"{order}{number}{_TYPES[kind]}"
    length = struct.calcsize(layout)
    if length > len(inline):
        file.seek(struct.unpack(order + "I", inline)[0], os.SEEK_SET)
        inline = file.read(length)
    return struct.unpack(layout, inline[:length])
