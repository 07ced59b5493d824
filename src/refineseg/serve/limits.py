"""What a request may cost: bytes, pixels, frames, time and memory, all checked before anything is decoded.

In: what an upload declares. Out: nothing, or a :class:`~refineseg.errors.RequestError` that says the limit.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from refineseg.errors import ConfigError, RequestError
from refineseg.images.files import read_image_size

UPLOAD = Path("the upload")
"""The name of an uploaded image in messages; no file of a client's naming is ever opened."""

_PIXEL_BYTES = 16  # of a picture while it is decoded: up to four bands of 16 bits, Pillow's copy, and RGB
_SCORE_BYTES = 8  # of a pixel and class: logits and probabilities
_MOST_SCANS = 200  # of a progressive JPEG, each of which decodes all pixels again; programs write about ten


@dataclass(frozen=True)
class RequestLimits:
    """What one request, and all of them together, may cost.

    Args:
        max_bytes: Most bytes of an upload.
        max_pixels: Most pixels of an image, at the largest of the scales that are asked for.
        max_frames: Most pictures in one file, of which the first is read.
        upload_s: Seconds in which an upload must have arrived.
        request_s: Seconds from the complete upload to its result.
        max_waiting: Most images that wait or are worked on; more are refused until there is room.
        memory_bytes: Memory for uploads and decoded images together.

    Raises:
        ConfigError: A limit that is not above 0.
    """

    max_bytes: int = 32_000_000
    max_pixels: int = 32_000_000
    max_frames: int = 64
    upload_s: float = 20.0
    request_s: float = 60.0
    max_waiting: int = 128
    memory_bytes: int = 2_000_000_000

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ConfigError(f"expected a limit {name} above 0, got {value}")

    def check_declared_bytes(self, num_bytes: int) -> None:
        """Whether an upload of so many bytes is taken.

        Raises:
            RequestError: It is larger.
        """
        if num_bytes > self.max_bytes:
            raise RequestError(
                f"expected an image file of at most {self.max_bytes} bytes, got {num_bytes} or more; shrink or "
                "compress the image",
                status=413,
            )

    def check_image(self, content: bytes, scales: Sequence[float]) -> tuple[int, int]:
        """Height and width of an uploaded image, by its header alone.

        Args:
            content: All bytes of the file.
            scales: Scales at which it will be predicted.

        Raises:
            ImageError: No image.
            RequestError: More pixels, pictures or scans than are taken.
        """
        height, width = read_image_size(UPLOAD, content=content)
        pixels = int(height * width * max(1.0, *(scale * scale for scale in scales)))
        if pixels > self.max_pixels:
            at_scale = "" if pixels == height * width else f" ({pixels} at the largest scale)"
            raise RequestError(
                f"expected an image of at most {self.max_pixels} pixels, got {height}x{width}{at_scale}; shrink or cut "
                "the image",
                status=413,
            )
        frames = num_tiff_pages(content, most=self.max_frames)
        if frames > self.max_frames:
            raise RequestError(
                f"expected a file of at most {self.max_frames} pictures, got more; send the one that is meant alone",
                status=413,
            )
        if content[:2] == b"\xff\xd8" and content.count(b"\xff\xda") > _MOST_SCANS:
            raise RequestError(
                f"expected a JPEG of at most {_MOST_SCANS} scans, got more; save it as a usual JPEG", status=413
            )
        return height, width

    def check_whole(self, size_hw: tuple[int, int], num_bytes: int) -> None:
        """Whether the network can see an image whole, which is not cut into tiles.

        Args:
            size_hw: Height and width.
            num_bytes: Bytes that it needs then, see :meth:`~refineseg.predict.predictor.Predictor.whole_bytes`.

        Raises:
            RequestError: It needs more memory than there is.
        """
        if num_bytes > self.memory_bytes:
            most = size_hw[0] * size_hw[1] * self.memory_bytes // num_bytes
            raise RequestError(
                f"expected an image of at most {most} pixels where it is not cut into tiles (with scales, mirror "
                f"images or another backend than torch), got {size_hw[0]}x{size_hw[1]}; shrink or cut the image",
                status=413,
            )


def num_tiff_pages(content: bytes, *, most: int) -> int:
    """Number of pages of a TIFF file, counted no further than one above ``most``; 0 for other files.

    Pillow would follow a chain of millions of empty pages, or one that leads back to its beginning.
    """
    order = {b"II*\0": "<", b"MM\0*": ">", b"II+\0": "<", b"MM\0+": ">"}.get(content[:4])
    if order is None:
        return 0
    big = content[2:3] == b"+" or content[3:4] == b"+"
    place_form, count_form, entry_bytes = (f"{order}Q", f"{order}Q", 20) if big else (f"{order}I", f"{order}H", 12)
    pages = 0
    try:
        (place,) = struct.unpack_from(place_form, content, 8 if big else 4)
        while place and pages <= most:
            (entries,) = struct.unpack_from(count_form, content, place)
            pages += 1
            place += struct.calcsize(count_form) + entries * entry_bytes
            (place,) = struct.unpack_from(place_form, content, place)
    except (struct.error, OverflowError):  # the chain leads out of the file, which decoding will tell
        return pages
    return pages


def memory_needed(size_hw: tuple[int, int], *, num_classes: int, scored: bool) -> int:
    """Bytes that an image takes from decoding to its result.

    Args:
        size_hw: Height and width, at the largest scale.
        num_classes: Classes of the model.
        scored: Whether probabilities are computed.
    """
    return size_hw[0] * size_hw[1] * (_PIXEL_BYTES + (_SCORE_BYTES * num_classes if scored else 0))


class MemoryBudget:
    """Bytes that requests have reserved; safe in threads.

    Args:
        total: Bytes that there are.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._reserved = 0
        self._lock = threading.Lock()

    @property
    def reserved(self) -> int:
        """Bytes that are reserved now."""
        return self._reserved

    def take(self, num_bytes: int) -> None:
        """Reserve bytes.

        Raises:
            RequestError: There are not so many, now or ever.
        """
        if num_bytes > self._total:
            raise RequestError(
                f"expected an image that {self._total} bytes of memory suffice for, got one that needs {num_bytes}; "
                "shrink the image, or ask for less",
                status=413,
            )
        with self._lock:
            if self._reserved + num_bytes > self._total:
                raise RequestError(
                    "expected room in the memory, but the images of other requests fill it; try again",
                    status=429,
                    retry_after_s=2,
                )
            self._reserved += num_bytes

    def give(self, num_bytes: int) -> None:
        """Give reserved bytes back."""
        with self._lock:
            self._reserved -= num_bytes


class Reservation:
    """What one request has reserved; all of it is given back at once, and only once.

    Args:
        budget: Where it reserves.
    """

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._held = 0

    def grow(self, num_bytes: int) -> None:
        """Reserve more.

        Raises:
            RequestError: There is no room.
        """
        self._budget.take(num_bytes)
        self._held += num_bytes

    def release(self) -> None:
        """Give everything back."""
        held, self._held = self._held, 0
        self._budget.give(held)
