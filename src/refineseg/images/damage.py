"""Image files that do not hold what they declare: bombs, and files whose pixels end before the image does.

In: an image that Pillow has opened, and its file. Out: nothing, or an error. Decoders fill with grey or black what a
file does not say; such a file is refused and never becomes a picture. No honest file is refused, however flat.

Sources: JPEG (ITU T.81, annexes B, F and G), deflate (RFC 1951), PNG (W3C), JPEG 2000 (ITU T.800, annex A).
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refineseg.errors import ImageError
from refineseg.files.archives import read_bytes

_JPEG_PIXELS_PER_BYTE = 512  # a block of 8 x 8 pixels takes at least one bit: the shortest Huffman code there is
_DEFLATE_BYTES_PER_BYTE = 1032  # a run of 258 bytes takes at least two bits
_GREY = 128  # what JPEG decoders show where a file says nothing
_CHUNK = 1 << 24
_SCAN, _END, _PROGRESSIVE = 0xDA, b"\xd9", (0xC2, 0xCA)  # JPEG's markers; progressive: Huffman, arithmetic
_JUNK = bytes(range(1, 251)) * 8  # no 0xff, which would be a marker


def check_plausible(path: Path, kind: str, size_hw: tuple[int, int], num_bytes: int, *, bits: int) -> None:
    """Whether a file of so many bytes can hold so many pixels at all, were they all of one colour.

    Args:
        path: File, for messages.
        kind: JPEG or PNG; of others nothing is known: a WebP of 200 bytes may be a white picture of any size.
        size_hw: Height and width that the file declares.
        num_bytes: Size of the file in bytes.
        bits: Number of bits of a pixel of a PNG.

    Raises:
        ImageError: It cannot.
    """
    height, width = size_hw
    least = {
        "JPEG": height * width / _JPEG_PIXELS_PER_BYTE,
        "PNG": height * (1 + width * bits / 8) / _DEFLATE_BYTES_PER_BYTE,
    }.get(kind, 0.0)
    if num_bytes < least:
        raise ImageError(
            f"expected an image, got {path}, whose {num_bytes} bytes declare {height}x{width} pixels: a decompression "
            f"bomb, or damaged: even pixels of one colour need {int(least)} bytes; replace or remove it"
        )


def check_ended(image: Image.Image, path: Path, content: bytes | None) -> None:
    """Whether the file has all pixels of an image that Pillow has loaded and not turned.

    A JPEG in several scans must have all of them: without the last ones it would be a picture of fewer details.

    Args:
        image: Loaded.
        path: Its file.
        content: The file's bytes where they do not lie there.

    Raises:
        ImageError: It has not.
    """
    checks = {"JPEG": _jpeg_ended_early, "MPO": _jpeg_ended_early, "PNG": _png_ended_early, "JPEG2000": _tiles_missing}
    if image.format in checks and checks[image.format](image, path, content):
        raise ImageError(
            f"expected a whole image, got {path}, whose pixels end before the image does: the file is truncated or "
            "damaged; replace or remove it"
        )


def _last_row(image: Image.Image) -> NDArray[Any]:
    width, height = image.size
    row: NDArray[Any] = np.asarray(image.crop((0, height - 1, width, height)))[0]
    return row


def _jpeg_ended_early(image: Image.Image, path: Path, content: bytes | None) -> bool:
    """Whether the decoder ran out of data: then it would take more, and what it shows would be another image."""
    if image.info.get("progressive") and _lacks_scans(read_bytes(path) if content is None else content):
        return True
    if np.abs(_last_row(image)[-1].astype(np.int32) - _GREY).max() > 2:
        return False
    data = read_bytes(path) if content is None else content
    with Image.open(io.BytesIO(_with_more(data)), formats=("JPEG",)) as longer:
        longer.load()
        return not np.array_equal(np.asarray(longer), np.asarray(image))


def _segments(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """The segments of a JPEG file up to the end of the image: code, content, and where it ends, its scan included."""
    place = 2  # a pattern with \xff+ would take quadratic time for a long run of fill bytes
    while (marker := re.compile(rb"\xff([^\x00\xff])").search(data, place)) is not None and marker[1] != _END:
        place = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
        content = data[marker.end() + 2 : place]
        if marker[1][0] == _SCAN:
            following = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]").search(data, place)
            place = len(data) if following is None else place + len(data[place : following.start()].rstrip(b"\xff"))
        yield marker[1][0], content, place


def _with_more(data: bytes) -> bytes:
    """A JPEG file with more bytes after the end of each scan, which a decoder that has all pixels skips."""
    parts, place = [data[:2]], 2
    for code, _, end in _segments(data):
        parts += [data[place:end], _JUNK] if code == _SCAN else [data[place:end]]
        place = end
    return b"".join(parts) + data[place:]


def _lacks_scans(data: bytes) -> bool:
    """Whether the scans of a JPEG leave out bits of its coefficients; programs write all of them in the end."""
    missing: dict[int, NDArray[np.int64]] = {}  # component -> bits of each coefficient that are still to come
    for code, content, _ in _segments(data):
        if code in _PROGRESSIVE:
            missing = {content[6 + 3 * i]: np.full(64, 14) for i in range(content[5])}
        elif code == _SCAN:
            count = content[0]
            first, last, bits = content[1 + 2 * count : 4 + 2 * count]
            for component in content[1 : 1 + 2 * count : 2]:
                missing[component][first : last + 1] = bits & 15
    return any(bits.any() for bits in missing.values())


def _png_ended_early(image: Image.Image, path: Path, content: bytes | None) -> bool:
    """Whether rows are missing, which Pillow leaves black."""
    if _last_row(image).any() or image.info.get("interlace"):
        return False
    data = read_bytes(path) if content is None else content
    width, height, bits, kind = struct.unpack(">IIBB", data[16:26])
    missing: int = height * (1 + -(-width * bits * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind] // 8))
    unpacker, place = zlib.decompressobj(), 8
    while missing > 0 and place + 8 <= len(data):
        (length,), name = struct.unpack(">I", data[place : place + 4]), data[place + 4 : place + 8]
        if name == b"IDAT":
            missing -= _unpacked_length(unpacker, data[place + 8 : place + 8 + length])
        place += 12 + length
    return bool(missing > 0)


def _unpacked_length(unpacker: Any, packed: bytes) -> int:  # noqa: ANN401 - zlib's object has no public type
    total = 0
    while packed and not unpacker.eof:
        total += len(unpacker.decompress(packed, _CHUNK))
        packed = unpacker.unconsumed_tail
    return total


def _tiles_missing(image: Image.Image, path: Path, content: bytes | None) -> bool:
    """Whether a JPEG 2000 codestream lacks tiles, which are shown black."""
    data = read_bytes(path) if content is None else content
    place = data.find(b"\xff\x4f\xff\x51")
    if place < 0:
        return False
    right, bottom, _, _, width, height, left, top = struct.unpack(">8I", data[place + 8 : place + 40])
    wanted: int = -(-(right - left) // width) * -(-(bottom - top) // height)
    found, place = set(), place + 2
    while wanted > 1 and place + 12 <= len(data) and data[place : place + 2] != b"\xff\xd9":
        if data[place : place + 2] != b"\xff\x90":  # of the main header
            place += 2 + int.from_bytes(data[place + 2 : place + 4], "big")
            continue
        index, length = struct.unpack(">HI", data[place + 4 : place + 10])
        found.add(index)
        place = place + length if length else len(data)
    return bool(wanted > 1 and len(found) < wanted)
