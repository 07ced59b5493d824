"""Whether an image file is there to its end, by its last bytes: a file cut off in a copy is found without decoding it.

In: a file and its format. Out: True, or False where the end is missing or tells nothing; decoding it decides then.

Source: the ends of files as JPEG (ITU-T T.81, EOI), PNG (ISO 15948, IEND), GIF89a (trailer), JPEG 2000 (ISO 15444-1,
EOC) and the lengths that WebP (RIFF), BMP and TIFF 6.0 write in their heads.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO

from refineseg.archives import locate

_ENDS = {
    "JPEG": b"\xff\xd9",
    "MPO": b"\xff\xd9",
    "PNG": b"\x00\x00\x00\x00IEND\xaeB`\x82",
    "GIF": b"\x3b",
    "JPEG2000": b"\xff\xd9",
}
_STRIPS = {273: 279, 324: 325}  # TIFF: tags of offsets, and of the byte counts of what lies there
_TYPES = {3: "H", 4: "I", 16: "Q"}
_MOST_STRIPS = 1 << 20


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
