"""PNG files written byte by byte, for the kinds Pillow does not write: what a test reads is then independent of it."""

import struct
import zlib
from pathlib import Path

GREY, RGB, PALETTE = 0, 2, 3


def write_raw_png(
    path: Path,
    width: int,
    height: int,
    *,
    bits: int,
    kind: int,
    rows: bytes,
    palette: bytes = b"",
    transparent: int | None = None,
) -> None:
    """``rows`` are the packed samples of all rows, without filter bytes (each row starts at a byte)."""
    stride = len(rows) // height if height else 0
    filtered = b"".join(b"\0" + rows[i * stride : (i + 1) * stride] for i in range(height) if stride)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))]
    chunks += [(b"PLTE", palette)] if palette else []
    chunks += [] if transparent is None else [(b"tRNS", struct.pack(">H", transparent))]
    chunks += [(b"IDAT", zlib.compress(filtered)), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks))


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
