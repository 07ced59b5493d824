"""The four workers of a video: decode, predict, finish, encode.

In: an open source, a predictor and the files to write. Out: those files, and what was counted on the way.
"""

from __future__ import annotations

import csv
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from refineseg.class_info import ClassInfo
from refineseg.devices import is_out_of_memory
from refineseg.errors import ImageError
from refineseg.images.inputs import seen_by
from refineseg.predict.video.files import VideoWriter
from refineseg.predict.video.options import VideoOptions
from refineseg.predict.video.overlay import FramePainter
from refineseg.predict.video.pipeline import Channel, Workers
from refineseg.predict.video.smoothing import FlickerScore, Motion, Smoother
from refineseg.predict.video.sources import Frame, FrameReader, SoundPacket
from refineseg.prediction import Prediction

_MOST_WAITING = 10_000  # pieces of sound, some minutes; a video whose pictures start later loses older sound


@runtime_checkable
class FramePredictor(Protocol):
    """What predicts a frame: a :class:`~refineseg.predict.predictor.Predictor`."""

    @property
    def class_info(self) -> ClassInfo:
        """The classes of the masks."""

    def __call__(self, image: NDArray[np.uint8], *, probabilities: bool = False) -> Prediction:
        """Predict one image."""


@dataclass(frozen=True)
class _Predicted:
    """A frame with what the network says of it."""

    frame: Frame
    prediction: Prediction


@dataclass(frozen=True)
class _Finished:
    """A frame ready to be encoded."""

    time: int
    mask: NDArray[Any]
    overlay: NDArray[np.uint8] | None


class VideoRun:
    """One video on its way through the workers.

    Args:
        name: Name of the source, for messages.
        reader: The source.
        predictor: The network.
        options: How.
        paths: Temporary files by kind.
    """

    def __init__(
        self,
        name: str,
        reader: FrameReader,
        predictor: FramePredictor,
        *,
        options: VideoOptions,
        paths: dict[str, Path],
    ) -> None:
        self._name, self._reader, self._predictor = name, reader, predictor
        self._options, self._paths = options, paths
        self._decoded: Channel[Frame | SoundPacket] = Channel(options.queue)
        # probabilities of many classes are large
        self._predicted: Channel[_Predicted | SoundPacket] = Channel(1 if options.smooth > 0 else options.queue)
        self._finished: Channel[_Finished | SoundPacket] = Channel(options.queue)
        self._stop = threading.Event()
        self._motion = Motion(static_below=options.static_below, cut_above=options.cut_above)
        self.before, self.after = FlickerScore(), FlickerScore()
        self._counts = np.zeros(predictor.class_info.num_classes, np.int64)
        self.frames = self.dropped = 0
        self.network_s = 0.0
        self.size_hw = (0, 0)
        self.notes: list[str] = []
        self.failures: list[str] = []

    @property
    def cuts(self) -> int:
        """Changes of the scene so far."""
        return self._motion.cuts

    @property
    def shares(self) -> dict[str, float]:
        """Class name -> share of all pixels so far."""
        shares = self._counts / max(int(self._counts.sum()), 1)
        return dict(zip(self._predictor.class_info.names, shares.tolist(), strict=True))

    def run(self, progress: Callable[[int, int | None], None] | None) -> None:
        """All workers, to the end; Ctrl-C ends a live source and is raised for others."""
        with Workers(self._decoded, self._predicted, self._finished) as workers:
            for job in (self._read, self._finish, self._encode):
                workers.start(job)
            try:
                self._predict(progress)
            except KeyboardInterrupt:
                self._stop.set()
                if not self._reader.info.live:
                    raise
                self._decoded.cancel()
                self.notes.append("ended by Ctrl-C")
            self._predicted.end()

    def _read(self) -> None:
        info, seconds = self._reader.info, self._options.seconds
        end_s: float | None = None
        for item in self._reader.items(self._stop):
            start_s = item.start_s if isinstance(item, SoundPacket) else float(item.time * info.time_base)
            if end_s is None and seconds is not None and isinstance(item, Frame):
                end_s = start_s + seconds - float(info.time_base) / 2  # half a unit: decimal seconds are not exact
            if end_s is not None and start_s >= end_s:
                if isinstance(item, Frame):
                    break
                continue
            if info.live:
                self.dropped += self._decoded.put_newest(item)
            else:
                self._decoded.put(item)
        self._decoded.end()

    def _predict(self, progress: Callable[[int, int | None], None] | None) -> None:
        done, num_channels = 0, getattr(self._predictor, "num_channels", 3)  # a user's own predictor sees RGB
        for item in self._decoded:
            if isinstance(item, SoundPacket):
                self._predicted.put(item)
                continue
            start = time.perf_counter()
            try:
                prediction = self._predictor(seen_by(item.image, num_channels), probabilities=self._options.smooth > 0)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                height, width = item.image.shape[:2]
                raise ImageError(
                    f"{self._name}: not enough memory for {height}x{width} pixels; shrink the video"
                ) from error
            self.network_s += time.perf_counter() - start
            self._predicted.put(_Predicted(item, prediction))
            done += 1
            if progress is not None:
                progress(done, self._reader.info.num_frames)

    def _finish(self) -> None:
        options, classes = self._options, self._predictor.class_info
        smoother, painter = Smoother(options.smooth), None
        with self._shares_file() as write_shares:
            for item in self._predicted:
                if isinstance(item, SoundPacket):
                    self._finished.put(item)
                    continue
                image, prediction = item.frame.image, item.prediction
                static = self._motion.static(image)
                mask = prediction.mask
                self.before.update(mask, static)
                if prediction.probabilities is not None:
                    mask = smoother.mask(prediction.probabilities, static).astype(mask.dtype)
                self.after.update(mask, static)
                counts = np.bincount(mask.ravel(), minlength=classes.num_classes)[: classes.num_classes]
                self._counts += counts
                write_shares(item.frame.time, counts / mask.size)
                if painter is None:
                    self.size_hw = mask.shape[0], mask.shape[1]
                    painter = FramePainter(classes, self.size_hw, opacity=options.opacity, with_legend=options.legend)
                overlay = painter.paint(image, mask) if "overlay" in self._paths else None
                self._finished.put(_Finished(item.frame.time, mask, overlay))
                self.frames += 1
        self._finished.end()

    @contextmanager
    def _shares_file(self) -> Iterator[Callable[[int, NDArray[np.float64]], None]]:
        path, base = self._paths.get("shares"), self._reader.info.time_base
        if path is None:
            yield lambda time, shares: None
            return
        with path.open("w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(["frame", "time_s", *self._predictor.class_info.names])
            numbers = iter(range(1 << 62))

            def write(time: int, shares: NDArray[np.float64]) -> None:
                rows.writerow([next(numbers), f"{float(time * base):.6f}", *(f"{share:.6f}" for share in shares)])

            yield write

    def _encode(self) -> None:
        writers: dict[str, VideoWriter] = {}
        waiting: list[SoundPacket] = []  # sound from before the first frame, whose size the files need
        try:
            for item in self._finished:
                if isinstance(item, SoundPacket):
                    if writers:
                        _write_sound(writers, item)
                    elif len(waiting) < _MOST_WAITING:
                        waiting.append(item)
                    continue
                if not writers:
                    self._open_writers(writers, item)
                    for packet in waiting:
                        _write_sound(writers, packet)
                for kind, writer in writers.items():
                    writer.write(
                        item.overlay if kind == "overlay" and item.overlay is not None else item.mask, item.time
                    )
            for kind in list(writers):
                writers[kind].finish()
                failure = writers.pop(kind).sound_failure
                self.failures += [failure] if failure else []
        finally:
            for writer in writers.values():
                writer.abandon()

    def _open_writers(self, writers: dict[str, VideoWriter], first: _Finished) -> None:
        classes = self._predictor.class_info
        if first.overlay is not None:
            writers["overlay"] = VideoWriter(
                self._paths["overlay"],
                size_hw=(first.overlay.shape[0], first.overlay.shape[1]),
                info=self._reader.info,
                sound=self._reader.sound,
                quality=self._options.quality,
            )
        if "mask" in self._paths:
            writers["mask"] = VideoWriter(
                self._paths["mask"],
                size_hw=(first.mask.shape[0], first.mask.shape[1]),
                info=self._reader.info,
                wide=first.mask.dtype != np.uint8,
                classes=json.dumps(classes.to_json()),
            )


def _write_sound(writers: dict[str, VideoWriter], item: SoundPacket) -> None:
    if "overlay" in writers:
        writers["overlay"].write_sound(item)
