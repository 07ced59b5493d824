"""Where frames come from: what a source's name means, and image sequences.

In: a path, pattern, address or camera number. Out: :class:`VideoSource`; for sequences a :class:`FrameReader`, the
interface that :mod:`refineseg.predict.video.files` fulfils for everything else.
"""

from __future__ import annotations

import math
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from refineseg.errors import ConfigError, ImageError
from refineseg.files.archives import list_folder
from refineseg.files.special import has_file, has_folder
from refineseg.images.files import IMAGE_SUFFIXES, UNREAD_SUFFIXES, find_images, read_rgb

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts", ".wmv", ".flv"),
    *(".3gp", ".ogv", ".vob", ".mxf", ".y4m", ".mjpeg", ".mjpg", ".h264", ".264", ".h265", ".265", ".hevc"),
)
"""File name endings that are taken as videos (any case)."""

LIVE_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "rtp", "udp", "tcp", "srt")
"""Addresses that send at their own pace."""

_ADDRESS = re.compile(rf"^({'|'.join((*LIVE_SCHEMES, 'https', 'http'))}):/+", re.IGNORECASE)
_NUMBER = re.compile(r"%0?(\d{0,3})d")
_MOST_LEFT_OUT = 1_000_000  # numbers between two images: half a day at 25 frames per second
SourceKind = Literal["file", "address", "camera", "sequence"]


@dataclass(frozen=True)
class VideoSource:
    """What a name stands for.

    Args:
        kind: A file, an address, a camera, or images that are frames.
        name: The path or pattern, the address, or the camera's number.
        stem: Stem of the names of results.
    """

    kind: SourceKind
    name: str
    stem: str

    @property
    def shown(self) -> str:
        """The name for messages and results: an address without user name and password."""
        return re.sub(r"^(\w+://)[^/?#]*@", r"\1", self.name) if self.kind == "address" else self.name


def find_source(source: str | Path) -> VideoSource:
    """What a path, pattern, address or number means; a folder is a sequence of images.

    Raises:
        ConfigError: An address that is none.

    Example:
        >>> find_source("rtsp://10.0.0.7/door").stem, find_source("walk/frame_%05d.png").kind, find_source("0").stem
        ('door', 'sequence', 'camera0')
    """
    text = str(source)
    if address := _ADDRESS.match(text):  # of a Path, which has lost a slash, too
        text = f"{address[1].lower()}://{text[address.end() :]}"
        try:
            parts = urlsplit(text)
        except ValueError as error:
            raise ConfigError(f"expected an address such as rtsp://10.0.0.7/door, got another: {error}") from error
        return VideoSource("address", text, Path(parts.path).stem or (parts.hostname or "stream"))
    if text.isdecimal() and not (has_file(text) or has_folder(text)):
        return VideoSource("camera", text, f"camera{text}")
    path = Path(text)
    if has_folder(path) or (_NUMBER.search(path.name) and not has_file(path)):
        stem = path.resolve().name if has_folder(path) else _NUMBER.sub("", path.stem).strip("_-. ") or "frames"
        return VideoSource("sequence", text, stem)
    return VideoSource("file", text, path.stem)


def is_video(source: str | Path) -> bool:
    """Whether a source is to be read as a video: by its ending, as an address, a camera's number or a pattern.

    A folder is not (it may hold anything); it can still be given to ``predict_video``, as a sequence of images.

    Example:
        >>> is_video("clip.MP4"), is_video("frame_%05d.png"), is_video("image.jpg")
        (True, True, False)
    """
    found = find_source(source)
    if found.kind == "file":
        return found.name.lower().endswith(VIDEO_SUFFIXES)
    return found.kind != "sequence" or not has_folder(found.name)


def is_picture_address(source: str | Path) -> bool:
    """Whether a web address names a picture, which is no video of one frame.

    Example:
        >>> is_picture_address("https://host/photo.JPG?size=2"), is_picture_address("http://host/video.mp4")
        (True, False)
    """
    found = find_source(source)
    return found.kind == "address" and urlsplit(found.name).path.lower().endswith((*IMAGE_SUFFIXES, *UNREAD_SUFFIXES))


def camera_device(number: str) -> tuple[str, str]:
    """Name and format by which FFmpeg opens a camera.

    Raises:
        ConfigError: On Windows.
    """
    if sys.platform == "darwin":
        return number, "avfoundation"
    if sys.platform == "win32":
        raise ConfigError(
            "expected a camera on Linux or macOS, got Windows, where cameras have no numbers; "
            "let the camera's program serve an address and give that"
        )
    return f"/dev/video{number}", "v4l2"


@dataclass(frozen=True)
class StreamInfo:
    """What is known of a source before its first frame.

    Args:
        time_base: Seconds per unit of the frames' times.
        rate: Frames per second, as announced.
        num_frames: As announced; None: unknown.
        end_s: Time at which the last frame should end; None: unknown.
        live: It does not wait: frames that come too fast must be dropped.
        aspect: Width of a pixel in heights.
    """

    time_base: Fraction
    rate: Fraction
    num_frames: int | None
    end_s: float | None
    live: bool
    aspect: Fraction = Fraction(1)


@dataclass(frozen=True)
class Frame:
    """One frame.

    Args:
        image: ``(H, W, 3)`` uint8 RGB, upright.
        time: Time in units of the source's time base; it grows from frame to frame.
    """

    image: NDArray[np.uint8]
    time: int


@dataclass(frozen=True)
class SoundPacket:
    """A piece of compressed sound, to be copied as it is.

    Args:
        packet: PyAV's.
        start_s: Time at which it sounds.
    """

    packet: Any
    start_s: float


class Faults:
    """What was wrong with a source's frames."""

    def __init__(self) -> None:
        self.broken = 0
        self.resized = 0
        self.notes: list[str] = []
        self.first_broken: str | None = None
        self.failures: list[str] = []

    def add_broken(self, reason: str, *, where: str) -> None:
        """Count a frame that could not be decoded; the first is remembered with its reason."""
        self.broken += 1
        self.first_broken = self.first_broken or f"{where}: {reason}"


@runtime_checkable
class FrameReader(Protocol):
    """Reads one source once, from its start to its end."""

    faults: Faults

    @property
    def info(self) -> StreamInfo:
        """Known before the first frame."""

    @property
    def sound(self) -> Any:  # noqa: ANN401 - PyAV's stream
        """What an output needs to copy the sound; None: there is none to copy."""

    def items(self, stop: threading.Event) -> Iterator[Frame | SoundPacket]:
        """Frames and sound in order, until the end or ``stop``; frames have the size of the first."""

    def close(self) -> None:
        """Let the source go."""


def scaled(image: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """An image at another size, bilinear with a filter where it shrinks."""
    return np.array(Image.fromarray(image).resize((size_hw[1], size_hw[0]), Image.Resampling.BILINEAR))  # writable


def upright(image: NDArray[np.uint8], matrix: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Turn and mirror an image as its display matrix says.

    Args:
        image: ``(H, W, 3)`` as stored.
        matrix: a, b, c, d of x' = a x + c y, y' = b x + d y; x to the right, y down.

    Returns:
        A view; matrices that are no quarter turns change nothing.

    Source: ISO/IEC 14496-12, the matrix of a track header.
    """
    a, b, c, d = matrix
    if a and d and not b and not c:
        return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    if b and c and not a and not d:
        return image.transpose(1, 0, 2)[:: -1 if b < 0 else 1, :: -1 if c < 0 else 1]
    return image


class SequenceReader:
    """Image files as frames.

    A pattern (``frame_%05d.png``) stands for the files of that form, in the order of their numbers; frame number n
    comes at (n - smallest number) / rate seconds, so gaps stay gaps. A folder stands for all images in it and its
    subfolders, in the order of their names with numbers as numbers, one after the other. Images of another size than
    the first are scaled to it.

    Args:
        name: Pattern or folder.
        rate: Frames per second.

    Raises:
        ImageError: There is no such image.
    """

    def __init__(self, name: str, *, rate: Fraction) -> None:
        path = Path(name)
        is_folder = has_folder(path)
        self._files = list(enumerate(sorted(find_images(path), key=_natural))) if is_folder else _numbered(path)
        self.faults = Faults()
        for entry, what in (list_folder(path).left_out if is_folder else {}).items():
            self.faults.add_broken(what, where=entry)
        if not self._files:
            raise ImageError(f"expected images as frames, but there is no {'image in ' if is_folder else ''}{name}")
        missing = self._files[-1][0] - self._files[0][0] + 1 - len(self._files)
        if missing:
            self.faults.notes.append(f"{missing} numbers are missing in the sequence; their time is left empty")
        end_s = float((self._files[-1][0] - self._files[0][0] + 1) / rate)
        self._info = StreamInfo(1 / rate, rate, len(self._files), end_s, live=False)

    @property
    def info(self) -> StreamInfo:
        """Known before the first frame."""
        return self._info

    @property
    def sound(self) -> None:
        """Images have none."""

    def items(self, stop: threading.Event) -> Iterator[Frame | SoundPacket]:
        """The frames; images that cannot be read are counted and left out."""
        size_hw: tuple[int, int] | None = None
        for number, path in self._files:
            if stop.is_set():
                return
            try:
                image = read_rgb(path)
            except ImageError as error:
                self.faults.add_broken(str(error), where=path.name)
                continue
            size_hw = size_hw or (image.shape[0], image.shape[1])
            if image.shape[:2] != size_hw:
                self.faults.resized += 1
                image = scaled(image, size_hw)
            yield Frame(image, number - self._files[0][0])

    def close(self) -> None:
        """Nothing is held open."""


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """A key that sorts numbers in names as numbers."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", str(path)) if part]


def _numbered(pattern: Path) -> list[tuple[int, Path]]:
    before, width, after = _NUMBER.split(pattern.name, maxsplit=1)
    form = re.compile(re.escape(before) + rf"(\d{{{int(width or 1)},}})" + re.escape(after))
    try:
        found = [(form.fullmatch(path.name), path) for path in pattern.parent.iterdir()]
    except OSError as error:
        raise ImageError(f"expected a folder of images, but {pattern.parent} cannot be listed: {error}") from error
    files = sorted((int(match[1]), path) for match, path in found if match)
    for (number, path), (following, other) in pairwise(files):
        if number == following:
            raise ImageError(
                f"expected one image for each number, got {path.name} and {other.name} in {pattern.parent}; "
                "remove one, or give the folder, whose images follow each other"
            )
        if following - number > _MOST_LEFT_OUT:
            raise ImageError(
                f"expected numbers of frames, got {path.name} and {other.name} in {pattern.parent}, which are too far "
                "apart; if they are times, give the folder, whose images follow each other"
            )
    return files


def display_matrix(decoded: Any) -> tuple[int, int, int, int]:  # noqa: ANN401 - PyAV's
    """How a frame is to be turned, see :func:`upright`."""
    try:
        known = list(decoded.side_data)
    except ValueError:  # PyAV knows no name for one of them, and gives none
        turn = math.radians(decoded.rotation)
        cos, sin = round(65536 * math.cos(turn)), round(65536 * math.sin(turn))
        return cos, -sin, sin, cos
    for data in known:
        if data.type.name == "DISPLAYMATRIX":
            a, b, _, c, d = np.frombuffer(bytes(data), np.int32)[:5].tolist()
            return a, b, c, d
    return 1, 0, 0, 1
