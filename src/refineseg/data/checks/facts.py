"""Look at one image and its mask once, and keep the few facts that all checks need.

In: files. Out: :class:`CaseFacts` of about a kilobyte, so that any number of files fits into memory. Nothing a file
holds raises here: what cannot be read is a fact, too.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refineseg.data.checks.endings import ends_as_it_should, png_outline
from refineseg.errors import DatasetError, ImageError
from refineseg.files.archives import openable
from refineseg.images.decoding import is_one_of_many
from refineseg.images.files import HeaderReadable, mask_codes, mask_values, read_image_size, read_rgb

Form = Literal["index", "palette", "colour", "jpeg", "classes"]
"""What a mask file holds; ``classes``: class indices given by a reader."""

SIGNATURE_SIDE = 16
"""Images are compared as 16x16 RGB copies."""

_MOST_VALUES = 4096  # different values of one mask that are kept; no class table is longer
_ORIENTATION = 0x0112
_UNREADABLE = (OSError, EOFError, SyntaxError, ValueError, TypeError, KeyError, IndexError, struct.error, zlib.error)
_RANGE_UNKNOWN = ("F", "I")  # of pixels of 32 bits only their values tell whether they can be read
_ALIGNMENT_SIDE = 64
_NOISE = 24  # channels of a grey pixel of a JPEG file differ by less
_UNCLEAR = 0.05  # share of the pixels of a JPEG mask that may be neither dark nor bright: the borders of its areas
_BETTER = 0.1  # share of the variance of colour that the mask must explain more when it is not turned


@dataclass(frozen=True)
class ImageFacts:
    """An image.

    Args:
        problem: Why it cannot be read; empty where it can.
        hw: Height and width as it is shown.
        stored_hw: As stored, before EXIF turns it.
        orientation: EXIF, 1 where there is none.
        largest: The largest value of an image of 16 bits, -1 for others.
        smallest: The smallest value of such an image; below 0 where values have a sign.
        digest: Digest of the decoded pixels.
        signature: ``(16, 16, 3)`` uint8; None where it cannot be read.
        one_of_many: Whether the file holds further pictures, which are not read.
    """

    problem: str = ""
    hw: tuple[int, int] = (0, 0)
    stored_hw: tuple[int, int] = (0, 0)
    orientation: int = 1
    largest: int = -1
    smallest: int = 0
    digest: bytes = b""
    signature: NDArray[np.uint8] | None = None
    one_of_many: bool = False


@dataclass(frozen=True)
class MaskFacts:
    """A mask.

    Args:
        problem: Why it cannot be read; empty where it can.
        kind: The finding that a problem is.
        form: What the file holds.
        hw: Height and width.
        counts: Pixels of each value, or of each colour as 0xRRGGBB, the most frequent first.
        distinct: How many different values; ``counts`` may hold fewer.
        palette: Colours of the values that occur, for palette masks.
    """

    problem: str = ""
    kind: str = "unreadable_mask"
    form: Form = "index"
    hw: tuple[int, int] = (0, 0)
    counts: Mapping[int, int] = field(default_factory=dict)
    distinct: int = 0
    palette: Mapping[int, int] = field(default_factory=dict)

    @property
    def two_levels(self) -> tuple[int, int] | None:
        """Dark and bright pixels of a JPEG mask whose pixels are close to black and white; None for others."""
        if self.form != "jpeg" or self.distinct > len(self.counts):
            return None
        levels = [0, 0, 0, 0]
        for code, count in self.counts.items():
            levels[brightness(code) // 64] += count
        return (levels[0] + levels[1], levels[2] + levels[3]) if self._is_clear(levels) else None

    def _is_clear(self, levels: Sequence[int]) -> bool:
        parts = {code: (code >> 16, (code >> 8) & 255, code & 255) for code in self.counts}
        coloured = sum(self.counts[code] for code, rgb in parts.items() if max(rgb) - min(rgb) > _NOISE)
        return levels[1] + levels[2] + coloured <= _UNCLEAR * sum(levels)

    @property
    def index_counts(self) -> Mapping[int, int] | None:
        """Pixels of each value, also of colour masks whose channels are equal; None for other colours and JPEG."""
        if self.form in ("index", "palette"):
            return self.counts
        if self.form == "colour" and all(code == (code & 255) * 0x010101 for code in self.counts):
            return {code & 255: count for code, count in self.counts.items()}
        return None


def brightness(code: int) -> int:
    """Mean of the three channels of a colour 0xRRGGBB, 0..255."""
    return ((code >> 16) + ((code >> 8) & 255) + (code & 255)) // 3


@dataclass(frozen=True)
class CaseFacts:
    """An image and its mask.

    Args:
        image: None where there is none.
        mask: None where there is none.
        fits_stored: The mask follows the image as it is stored, not as EXIF shows it, although both have its size.
    """

    image: ImageFacts | None
    mask: MaskFacts | None
    fits_stored: bool = False


@dataclass(frozen=True)
class Header:
    """What Pillow knows of a file before it decodes it."""

    format: str
    mode: str
    size_hw: tuple[int, int]
    orientation: int
    sixteen_bit: bool
    palette: tuple[int, ...]
    in_scans: bool = False
    one_of_many: bool = False


def inspect_pair(image: Path | None, mask: Path | None, *, decode: bool) -> CaseFacts:
    """The facts of an image file and its mask file; never raises for what is in a file.

    Args:
        image: None where there is none.
        mask: None where there is none.
        decode: Decode every image. Otherwise only those that their headers or ends make suspicious are decoded; the
            facts then have no digest and no signature.
    """
    pixels = None
    if image is None:
        found = None
    elif decode:
        found, pixels = inspect_image(image)
    else:
        found = glance_at_image(image)
    labels = None if mask is None else inspect_mask(mask)
    fits_stored = False
    sound = found and labels and not (found.problem or labels.problem)
    if sound and image and mask and found and labels and found.orientation != 1 and labels.hw == found.hw:
        if pixels is None:  # only turned images are worth the time
            found, pixels = inspect_image(image)
        fits_stored = pixels is not None and _fits_stored(pixels, found, mask)
    return CaseFacts(found, labels, fits_stored)


def glance_at_image(path: Path) -> ImageFacts:
    """The facts of an image file that its header and its end tell; what they leave in doubt is decoded.

    A file in a remote folder is not fetched for this: only its header is looked at.
    """
    try:
        if isinstance(path, HeaderReadable):
            hw = read_image_size(path)
            return ImageFacts("", hw, hw)
        outline = png_outline(path)
        if outline is not None and not outline.is_turned:
            return ImageFacts("", outline.hw, outline.hw)
        hw = read_image_size(path)
        header = read_header(path)
        told_by_end = header.mode not in _RANGE_UNKNOWN and not header.in_scans  # one of its scans may be missing
        if not told_by_end or not ends_as_it_should(path, header.format):
            read_rgb(path)
    except (ImageError, DatasetError) as error:
        return ImageFacts(str(error))
    except _UNREADABLE as error:
        return ImageFacts(_unreadable(path, error))
    return ImageFacts("", hw, header.size_hw, header.orientation, one_of_many=header.one_of_many)


def _unreadable(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"expected an image, but there is no {path}"
    return f"expected a readable image, got {path}: {error}"


def inspect_image(path: Path) -> tuple[ImageFacts, NDArray[np.uint8] | None]:
    """The facts of an image file, and its pixels for further looks."""
    try:
        pixels = read_rgb(path)
        outline = None if isinstance(path, HeaderReadable) else png_outline(path)
        header = read_header(path, is_upright=outline is not None and not outline.is_turned)
    except (ImageError, DatasetError) as error:
        return ImageFacts(str(error)), None
    except _UNREADABLE as error:
        return ImageFacts(_unreadable(path, error)), None
    smallest, largest = _value_range(path) if header.sixteen_bit else (0, -1)
    hw = (pixels.shape[0], pixels.shape[1])
    facts = image_facts(pixels, hw, header.size_hw, header.orientation, largest)
    return replace(facts, smallest=smallest, one_of_many=header.one_of_many), pixels


def image_facts(
    pixels: NDArray[np.uint8], hw: tuple[int, int], stored_hw: tuple[int, int], orientation: int, largest: int
) -> ImageFacts:
    """The facts of an image that is decoded."""
    digest = hashlib.blake2b(
        np.ascontiguousarray(pixels).tobytes(), digest_size=16, person=f"{hw[0]}x{hw[1]}".encode()[:16]
    )
    signature = _shrunk(pixels, SIGNATURE_SIDE)
    return ImageFacts("", hw, stored_hw, orientation, largest, digest=digest.digest(), signature=signature)


def _shrunk(pixels: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BOX))


def read_header(path: Path, *, is_upright: bool = False) -> Header:
    """What a file says of itself; it must be known to be an image already.

    Args:
        path: The file.
        is_upright: Do not look for an orientation, for which Pillow unpacks a whole PNG file.
    """
    with Image.open(openable(path)) as image:
        width, height = image.size
        orientation = image.getexif().get(_ORIENTATION, 1) if not is_upright and image.format != "TIFF" else 1
        stored = str(image.tile[0][3]) if image.tile else ""
        return Header(
            str(image.format),
            image.mode,
            (height, width),
            orientation if orientation in range(1, 9) else 1,
            image.mode.startswith("I") or ";16" in stored,
            tuple(image.getpalette() or ()) if image.mode == "P" else (),
            bool(image.info.get("progressive")),
            is_one_of_many(image),
        )


def _value_range(path: Path) -> tuple[int, int]:
    """The extreme values of a 16-bit image; Pillow opens 16-bit colour by its high bytes only."""
    with Image.open(openable(path)) as image:
        image.load()
        values = np.asarray(image)
        return (int(values.min()), int(values.max())) if image.mode.startswith("I") else (0, 65535)


def inspect_mask(path: Path) -> MaskFacts:
    """The facts of a mask file."""
    try:
        outline = None if isinstance(path, HeaderReadable) else png_outline(path)
        known = outline is not None and not outline.is_turned
        hw = outline.hw if outline is not None and known else read_image_size(path)
        header = read_header(path, is_upright=True)
        if header.format in ("JPEG", "MPO"):
            counts, distinct = _colour_counts(read_rgb(path))
            return MaskFacts(form="jpeg", hw=hw, counts=counts, distinct=distinct)
        if header.mode in ("RGB", "RGBA"):
            counts, distinct = _code_counts(mask_codes(path)[0])  # by the reader's own rules
            return MaskFacts(form="colour", hw=hw, counts=counts, distinct=distinct)
        values = mask_values(path)
    except (ImageError, DatasetError) as error:
        return MaskFacts(str(error))
    except _UNREADABLE as error:
        return MaskFacts(f"expected a readable mask, got {path}: {error}")
    kept = dict(list(values.items())[:_MOST_VALUES])
    palette = {}
    if header.mode == "P":
        rgb = header.palette
        palette = {v: (rgb[3 * v] << 16) | (rgb[3 * v + 1] << 8) | rgb[3 * v + 2] for v in kept if 3 * v + 2 < len(rgb)}
    form: Form = "palette" if header.mode == "P" else "index"
    return MaskFacts(form=form, hw=hw, counts=kept, distinct=len(values), palette=palette)


def _colour_counts(rgb: NDArray[np.uint8]) -> tuple[dict[int, int], int]:
    """Colours as 0xRRGGBB with their pixels, the most frequent first, and how many there are."""
    red, green, blue = (rgb[..., i].astype(np.int32) for i in range(3))
    return _code_counts((red << 16) | (green << 8) | blue)


def _code_counts(found: NDArray[Any]) -> tuple[dict[int, int], int]:
    codes, counts = np.unique(found, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_MOST_VALUES]
    return dict(zip(codes[order].tolist(), counts[order].tolist(), strict=True)), len(codes)


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn stored pixels as EXIF says they are shown.

    Args:
        pixels: ``(H, W, ...)``.
        orientation: 1..8.

    Example:
        >>> upright(np.array([[1, 2, 3], [4, 5, 6]]), 6).tolist()
        [[4, 1], [5, 2], [6, 3]]

    Source: EXIF 2.3, tag Orientation.
    """
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)  # 5
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def as_stored(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Undo :func:`upright`."""
    return upright(pixels, {6: 8, 8: 6}.get(orientation, orientation))  # the others undo themselves


def _fits_stored(pixels: NDArray[np.uint8], image: ImageFacts, mask: Path) -> bool:
    """Whether a mask explains the colours of the image better in the orientation in which it is stored."""
    try:
        with Image.open(openable(mask)) as file:
            classes = file if file.mode in ("P", "L", "1", "RGB") or file.mode.startswith("I") else file.convert("RGB")
            small = np.asarray(classes.resize((_ALIGNMENT_SIDE, _ALIGNMENT_SIDE), Image.Resampling.NEAREST))
    except _UNREADABLE:
        return False
    labels = (
        small.reshape(_ALIGNMENT_SIDE, _ALIGNMENT_SIDE, -1).astype(np.int64)
        @ (np.array([65536, 256, 1])[: 1 if small.ndim == 2 else 3])
    )
    shown = _shrunk(pixels, _ALIGNMENT_SIDE).astype(np.float64)
    stored = as_stored(shown, image.orientation)
    return _explained(stored, labels) > max(_explained(shown, labels) + _BETTER, 1.5 * _explained(shown, labels))


def _explained(pixels: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Share of the variance of colour that lies between the classes, 0..1."""
    flat, codes = pixels.reshape(-1, 3), np.unique(labels, return_inverse=True)[1].ravel()
    counts = np.bincount(codes)
    total = float(((flat - flat.mean(axis=0)) ** 2).sum())
    means = np.stack([np.bincount(codes, weights=flat[:, i]) / counts for i in range(3)], axis=1)
    between = float((counts[:, None] * (means - flat.mean(axis=0)) ** 2).sum())
    return between / total if total > 0 else 0.0
