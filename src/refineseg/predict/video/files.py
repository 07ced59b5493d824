"""Video files, streams and cameras, decoded and encoded by PyAV. The only file that imports av.

In: paths, addresses, camera numbers; frames to write. Out: frames upright and as RGB with the source's times; H.264 in
mp4, and masks without loss as FFV1 in Matroska.

What is broken is counted (:class:`~refineseg.predict.video.sources.Faults`) and left out, as in any player.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refineseg.devices import free_memory
from refineseg.errors import ImageError, MissingExtraError
from refineseg.files.made_by import MADE_BY
from refineseg.files.special import special_kind
from refineseg.predict.video.sources import (
    Faults,
    Frame,
    SoundPacket,
    StreamInfo,
    VideoSource,
    camera_device,
    display_matrix,
    scaled,
    upright,
)
from refineseg.predict.video.times import FrameTimes

_PATIENCE_S = 10.0  # a network source that is silent for longer has ended
_MOST_FAILURES = 50  # in a row: the file's structure, not its frames, is damaged
_USUAL_RATE = Fraction(25)
_SOUND_IN_MP4 = ("aac", "mp3", "ac3", "eac3", "alac", "opus", "flac")
_ALWAYS_THERE, _PIXEL_BYTES = 10**9, 120  # of all frames in memory at once; measured: 118 of 6000x6000 pixels
_LISTS = ("concat", "hls", "dash", "sdp")  # formats that name other files
_OWN_CLOCK = ("mpegts", "mpeg")  # formats whose clock begins anywhere
_BT709, _LIMITED, _FULL = 1, 1, 2  # Source: ITU-T H.273; FFmpeg's AVColorRange


def _av() -> ModuleType:
    """The module ``av``.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise MissingExtraError("av", extra="video", purpose="read and write videos") from error
    found: ModuleType = av
    return found


class VideoReader:
    """Reads a video file, an address or a camera.

    Args:
        source: What to read.
        live: Whether it sends at its own pace; None: cameras, streams, and web addresses without a known length do.
        with_sound: Read the sound too, if it can be copied.

    Raises:
        ImageError: It cannot be opened, or holds no video.
        MissingExtraError: PyAV is not installed.
    """

    def __init__(self, source: VideoSource, *, live: bool | None = None, with_sound: bool = True) -> None:
        self._errors = _av().FFmpegError
        self._local = source.kind == "file"
        self._container = _opened(source)
        names = self._local and self._container.format.name in _LISTS  # whatever its own name says
        if names or not self._container.streams.video:
            self._container.close()
            what = "is a list of other files" if names else "holds no pictures"
            raise ImageError(f"expected a video, got {source.shown}, which {what}; replace or remove it")
        self._video = self._container.streams.video[0]
        self._bound_pixels(source)
        rate = Fraction(self._video.average_rate or self._video.guessed_rate or _USUAL_RATE)
        if live is None:
            streaming = source.kind == "address" and not source.name.startswith("http")
            live = streaming or source.kind == "camera" or (source.kind == "address" and not self._container.duration)
        aspect = self._video.sample_aspect_ratio or Fraction(1)
        base = self._video.time_base or 1 / rate
        end_s = None if live else self._end_s()
        self._info = StreamInfo(base, rate, self._video.frames or None, end_s, live, aspect)
        starts = self._container.format.name in _OWN_CLOCK and self._container.start_time
        self._times = FrameTimes(base, rate, begin=None if live else round((starts or 0) / 10**6 / base))
        self._packets = self._frames = self._end = self._left_out = 0
        self._size_hw: tuple[int, int] | None = None
        self.faults = Faults()
        self._audio = self._copied_sound() if with_sound and not live else None

    @property
    def info(self) -> StreamInfo:
        """Known before the first frame."""
        return self._info

    @property
    def sound(self) -> Any:  # noqa: ANN401 - PyAV's stream
        """The sound that an mp4 can hold as it is."""
        return self._audio

    def items(self, stop: threading.Event) -> Iterator[Frame | SoundPacket]:
        """Frames and sound in order, until the end or ``stop``."""
        for packet in self._demuxed():
            if stop.is_set():
                return
            if packet.stream is not self._video:
                if packet.pts is not None and packet.dts is not None:
                    shift = round(self._times.shift * self._info.time_base / packet.time_base)
                    packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                    yield SoundPacket(packet, float(packet.pts * packet.time_base))
                continue
            self._count(packet)
            for decoded in self._decoded(packet):
                if decoded.is_corrupt:
                    self._broken("damaged data", decoded.pts)
                else:
                    self._frames += 1
                    yield self._frame(decoded)
        if self.faults.broken and not self._info.live:  # a broken one takes others with it, of which nothing is heard
            self.faults.broken = max(self.faults.broken, self._packets - self._frames)
        self.faults.notes += self._times.notes
        self._check_complete()

    def close(self) -> None:
        """Let the source go."""
        self._container.close()

    def _demuxed(self) -> Iterator[Any]:
        streams = [self._video] if self._audio is None else [self._video, self._audio]
        failures = 0
        while failures < _MOST_FAILURES:
            try:
                for packet in self._container.demux(streams):
                    failures = 0
                    yield packet
                return
            except self._errors as error:
                if not self._local:
                    silent = isinstance(error, _av().ExitError)
                    reason = f"nothing came for {_PATIENCE_S:g} s" if silent else _reason(error)
                    self.faults.failures.append(f"the source stopped: {reason}")
                    return
                failures += 1
                self._broken(_reason(error), self._times.stamp)
        self.faults.failures.append(f"gave up after {_MOST_FAILURES} failures in a row")

    def _count(self, packet: Any) -> None:  # noqa: ANN401 - PyAV's
        if packet.is_discard or (packet.pts is not None and not packet.size):
            self._left_out += 1  # an edit begins after it (a trimmed film), or it repeats the frame before
        elif packet.size:
            self._packets += 1
            if packet.pts is not None:
                self._end = max(self._end, packet.pts + (packet.duration or self._times.step))

    def _decoded(self, packet: Any) -> list[Any]:  # noqa: ANN401 - PyAV's
        try:
            return list(packet.decode())
        except self._errors as error:
            self._broken(_reason(error), packet.pts)
            return []

    def _frame(self, decoded: Any) -> Frame:  # noqa: ANN401 - PyAV's
        stored = decoded.to_ndarray(format="rgb24")
        matrix = display_matrix(decoded)
        image = np.ascontiguousarray(upright(stored, matrix))
        size_hw = image.shape[0], image.shape[1]
        if self._size_hw is None:
            self._size_hw = size_hw
            if matrix[0] == 0 == matrix[3]:  # lying pixels stand now
                self._info = replace(self._info, aspect=1 / self._info.aspect)
        elif size_hw != self._size_hw:
            self.faults.resized += 1
            image = scaled(image, self._size_hw)
        return Frame(image, self._times.next(decoded.pts))

    def _broken(self, reason: str, time: int | None) -> None:
        if self._frames or not self._info.live:  # whoever joins a stream between two key frames waits for the next
            self.faults.add_broken(reason, where=self._times.place(time))

    def _bound_pixels(self, source: VideoSource) -> None:
        """No larger frames than there is memory for; a small file may declare frames of gigabytes.

        Raises:
            ImageError: The video declares larger ones.
        """
        coder, most = self._video.codec_context, max(free_memory(), _ALWAYS_THERE) // _PIXEL_BYTES
        if coder is not None and coder.width * coder.height > most:
            self._container.close()
            size = f"{coder.height}x{coder.width} in {source.shown}"
            raise ImageError(f"expected frames of at most {most} pixels, as the memory allows, got {size}; shrink them")
        if coder is not None:
            coder.options = {**coder.options, "max_pixels": str(most)}  # they may grow on the way

    def _end_s(self) -> float | None:
        """When the last frame should end: the earliest of what the container and its video stream announce."""
        ends = []
        if self._container.duration:
            from_0 = "matroska" in self._container.format.name  # whose duration counts what is before the first frame
            ends.append((self._container.duration + (0 if from_0 else self._container.start_time or 0)) / 1e6)
        if self._video.duration and self._video.time_base:
            ends.append(float((self._video.duration + (self._video.start_time or 0)) * self._video.time_base))
        return min(ends, default=None)

    def _check_complete(self) -> None:
        """A file that was cut short ends earlier than it says; one with lost pieces has fewer frames, or gaps."""
        if self._info.live or self.faults.failures:
            return
        end_s = float(self._end * self._info.time_base)
        alone = bool(self._video.duration) or len(self._container.streams) == 1
        tolerance_s = max(0.3, float(3 / self._info.rate)) if alone else max(2.0, 0.05 * (self._info.end_s or 0))
        known = self._info.num_frames
        lost = self._times.missing if known is None else known - self._frames - self._left_out
        lost -= self.faults.broken  # those are told already
        due_s = self._info.end_s
        if due_s is not None and end_s < due_s - tolerance_s:
            self.faults.failures.append(f"expected frames up to {due_s:.2f} s, but they end at {end_s:.2f} s")
        elif lost > 0:
            what = "1 frame is" if lost == 1 else f"{lost} frames are"
            self.faults.failures.append(f"{what} missing, of which nothing is left")

    def _copied_sound(self) -> Any:  # noqa: ANN401 - PyAV's stream
        sound = self._container.streams.audio
        if not sound:
            return None
        if len(sound) > 1:
            self.faults.notes.append(f"of {len(sound)} sound tracks the first is kept")
        codec = sound[0].codec_context.name if sound[0].codec_context else "an unknown codec"
        if not codec.startswith(_SOUND_IN_MP4):
            self.faults.notes.append(f"the sound ({codec}) is left out: an mp4 cannot hold it as it is")
            return None
        return sound[0]


def _opened(source: VideoSource) -> Any:  # noqa: ANN401 - PyAV's container
    av = _av()
    try:
        if source.kind == "camera":
            name, form = camera_device(source.name)
            return av.open(name, format=form, metadata_errors="replace")
        if source.kind == "address":
            options = {"rtsp_transport": "tcp"} if source.name.startswith("rtsp") else {}
            timeout = (_PATIENCE_S, _PATIENCE_S)
            return av.open(source.name, options=options, timeout=timeout, metadata_errors="replace")
        path = Path(source.name)
        if not path.exists():
            raise ImageError(f"expected a video, but there is no {path}")
        if (kind := special_kind(path)) is not None:
            raise ImageError(f"expected a video, got {path}, which is {kind}; a camera is given by its number alone")
        if path.is_file() and path.stat().st_size == 0:
            raise ImageError(f"expected a video, got {path}, which is empty (0 bytes); replace or remove it")
        # absolute, because a colon in a name would be taken for an address
        return av.open(str(path.resolve()), metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        reason = _reason(error)
        if source.kind == "camera":
            raise ImageError(
                f"expected a camera number {source.name}, but {name} cannot be opened: {reason}; "
                "connect one, or give a file or address"
            ) from error
        if source.kind == "address":
            reason += "; check address and network"
            raise ImageError(f"expected a stream at {source.shown}, but: {reason}") from error
        raise ImageError(
            f"expected a video, got {source.name}, which is damaged, cut short, or of an unknown kind: {reason}; "
            "replace or remove it"
        ) from error


def _reason(error: Any) -> str:  # noqa: ANN401 - PyAV's or Python's own
    return str(error.strerror or error)


class VideoWriter:
    """Writes frames of one size as a video file.

    ``.mp4``: H.264, yuv420p in BT.709 colours, which everything plays; both sides must be even. ``.mkv``: masks as FFV1
    with one grey value per class id, the codec of film archives: lossless, intra only (a damaged frame harms no other)
    and with checksums. Its values are read back bit for bit, at any size; its times are rounded to milliseconds, as
    Matroska keeps them.

    Every way to fail is an OSError.

    Args:
        path: Ending in ``.mp4`` or ``.mkv``.
        size_hw: Height and width of all frames.
        info: Facts of the source, for times.
        sound: The source's sound, to be copied; None: none.
        quality: Quality of H.264, as its constant rate factor: 0 best to 51.
        wide: Masks of 16 bits.
        classes: Kept as the tag ``CLASSES`` of a mask file.

    Raises:
        OSError: The file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        *,
        size_hw: tuple[int, int],
        info: StreamInfo,
        sound: Any = None,  # noqa: ANN401 - PyAV's stream
        quality: int = 20,
        wide: bool = False,
        classes: str = "",
    ) -> None:
        self._av = _av()
        self._grey = "gray16le" if wide else "gray"
        self._base, self._lossless = info.time_base, path.suffix == ".mkv"
        self.sound_failure: str | None = None
        with self._said():
            # the index in front lets players start before they have the whole file
            options = {} if self._lossless else {"movflags": "+faststart"}
            self._container = self._av.open(str(path), "w", options=options)
            self._container.metadata.update({"CLASSES": classes} if self._lossless else {"comment": MADE_BY})
            self._stream = self._video_stream(size_hw, info, quality)
            self._sound = None if sound is None else self._container.add_stream_from_template(sound)

    def _video_stream(self, size_hw: tuple[int, int], info: StreamInfo, quality: int) -> Any:  # noqa: ANN401 - PyAV's
        # without B-frames, with which mp4 declares too short a duration where the rate varies
        film = {"preset": "veryfast", "crf": str(quality), "bf": "0"}
        masks = {"level": "3", "g": "1", "slices": "4", "slicecrc": "1"}
        stream = self._container.add_stream(
            "ffv1" if self._lossless else "libx264",
            rate=info.rate.limit_denominator(65535),
            options=masks if self._lossless else film,
        )
        stream.height, stream.width = size_hw
        stream.pix_fmt = self._grey if self._lossless else "yuv420p"
        stream.time_base = info.time_base
        coder = stream.codec_context
        coder.time_base = info.time_base
        coder.sample_aspect_ratio = info.aspect
        coder.color_range = _FULL if self._lossless else _LIMITED
        if not self._lossless:
            coder.colorspace = coder.color_primaries = coder.color_trc = _BT709
        return stream

    @contextmanager
    def _said(self) -> Iterator[None]:
        try:
            yield
        except self._av.FFmpegError as error:
            if isinstance(error, OSError):
                raise
            raise OSError(_reason(error)) from error

    def write(self, pixels: NDArray[Any], time: int) -> None:
        """Append a frame.

        Args:
            pixels: ``(H, W, 3)`` uint8 RGB, or a mask ``(H, W)``.
            time: Time in the source's units.
        """
        if self._lossless:
            frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), self._grey)
            frame.color_range = _FULL
        else:
            rgb = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
            frame = rgb.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
        frame.pts, frame.time_base = time, self._base
        with self._said():
            self._container.mux(self._stream.encode(frame))

    def write_sound(self, item: SoundPacket) -> None:
        """Append a piece of sound; sound that does not fit is given up, the pictures go on."""
        if self._sound is None or self.sound_failure is not None:
            return
        item.packet.stream = self._sound
        try:
            self._container.mux(item.packet)
        except self._av.FFmpegError as error:
            if isinstance(error, OSError):
                raise
            self.sound_failure = f"the sound is incomplete: {_reason(error)}"

    def finish(self) -> None:
        """Write what is still held back; only then is the file complete."""
        with self._said():
            self._container.mux(self._stream.encode(None))
            self._container.close()

    def abandon(self) -> None:
        """Close after a failure; the file is not complete."""
        try:
            self._container.close()
        except (self._av.FFmpegError, OSError):
            return
