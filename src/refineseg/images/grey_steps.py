"""Grey images of other than 8 and 16 bits: what Pillow multiplies their values by, and how they are got back.

In: a Pillow image that is not loaded, and how its pixels lie in the file. Out: bits and factor.
"""

from __future__ import annotations

from PIL import Image, ImageFile

_STEPS = {"L;2": (2, 85), "L;4": (4, 17)}  # beginning -> bits, and how Pillow spreads the values over 0..255
_J2K = "J2K;"
_J2K_HEAD = 2**16  # bytes within which a codestream begins; colour profiles lie before it
_SIZE = b"\xff\x4f\xff\x51"  # markers SOC and SIZ; source: ITU T.800, annex A
_DEPTH = 42  # bytes from them to the depth of the first component


def jpeg2000_stored(image: ImageFile.ImageFile) -> str:
    """``J2K;12`` for JPEG 2000 of 12 bits, by its header; 8 bits where that does not say."""
    assert image.fp is not None
    place = image.fp.tell()
    image.fp.seek(0)
    head = image.fp.read(_J2K_HEAD)
    image.fp.seek(place)
    start = head.find(_SIZE)
    return f"{_J2K}{(head[start + _DEPTH] & 0x7F) + 1 if 0 <= start < len(head) - _DEPTH else 8}"


def grey_step(mode: str, how: str) -> tuple[int, int] | None:
    """Bits of a grey image, and what Pillow multiplies its values by; None: they are as in the file.

    Args:
        mode: Pillow's mode.
        how: How the pixels lie in the file, see :func:`refineseg.images.decoding.stored_as`.

    Example:
        >>> grey_step("L", "L;4I")
        (4, 17)
        >>> grey_step("I;16", "J2K;12")
        (12, 16)
    """
    if how.startswith(_J2K):
        most = 16 if mode.startswith("I;16") else 8
        bits = min(int(how[len(_J2K) :]), most)  # Pillow keeps 8 of 9 bits
        return (bits, 2 ** (most - bits)) if mode == "L" or most == 16 else None
    return (1, 1) if mode == "1" else _STEPS.get(how[:3])


def stretch_of(image: Image.Image, how: str) -> float:
    """What Pillow multiplies the values of a grey image by that is not loaded: of few bits, or a PGM of any maximum."""
    tile = image.tile[0] if isinstance(image, ImageFile.ImageFile) and image.tile else None
    if tile is not None and tile.codec_name.startswith("ppm") and isinstance(tile.args, tuple):
        return (255 if image.mode == "L" else 65535) / int(tile.args[1])
    return (grey_step(image.mode, how) or (8, 1))[1]
