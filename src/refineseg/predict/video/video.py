"""Videos in, videos of overlays and masks out; decoding, the network and encoding work at the same time.

In: a file, a stream's address, a camera's number, or a sequence of images, and a predictor. Out: ``STEM.mp4`` (H.264,
classes painted over the frames, the sound copied), ``STEM_mask.mkv`` (FFV1, one grey value per class id, lossless),
``STEM_shares.csv`` if asked for, and a :class:`VideoResult`. Four workers hand frames on through channels of a few
frames each: decode, predict (the calling thread), finish (smoothing, counting, painting), encode. So the slowest, which
is the network, sets the rate, and memory does not grow with the video's length.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from refineseg.errors import ConfigError, ImageError
from refineseg.files.writing import write_error, written_beside
from refineseg.predict.video.files import VideoReader
from refineseg.predict.video.options import VideoKind, VideoOptions
from refineseg.predict.video.run import FramePredictor, VideoRun
from refineseg.predict.video.sources import (
    FrameReader,
    SequenceReader,
    VideoSource,
    find_source,
    is_picture_address,
    is_video,
)

__all__ = ["VideoKind", "VideoOptions", "VideoResult", "is_video", "predict_video"]

_ENDINGS: dict[str, str] = {"overlay": ".mp4", "mask": "_mask.mkv", "shares": "_shares.csv"}


@dataclass(frozen=True)
class VideoResult:
    """What became of a video.

    Args:
        source: As given.
        paths: Files written.
        frames: Predicted and written.
        dropped: Came faster than they could be predicted (live sources only).
        broken: Could not be decoded.
        resized: Had another size than the first frame and were scaled to it.
        cuts: Changes of the scene.
        size_hw: Height and width of the masks.
        rate: Frames per second of the source, as announced.
        seconds: Seconds from the first packet to the last file.
        network_s: Seconds of the network among those, within the predictor.
        flicker_before: Label changes per static pixel and pair of frames in the network's masks; None: nothing static.
        flicker_after: The same in the smoothed masks.
        shares: Class name -> share of all pixels.
        notes: What to know: sound left out, gaps.
        failures: What went wrong; empty where all is well.
    """

    source: str
    paths: tuple[Path, ...]
    frames: int
    dropped: int
    broken: int
    resized: int
    cuts: int
    size_hw: tuple[int, int]
    rate: float
    seconds: float
    network_s: float
    flicker_before: float | None
    flicker_after: float | None
    shares: dict[str, float]
    notes: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()

    @property
    def fps(self) -> float:
        """Frames per second of the whole pipeline."""
        return self.frames / self.seconds

    @property
    def network_fps(self) -> float:
        """Frames per second if nothing but the predictor had taken time."""
        return self.frames / max(self.network_s, 1e-9)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "source": self.source,
            "paths": [str(path) for path in self.paths],
            "frames": self.frames,
            "dropped": self.dropped,
            "broken": self.broken,
            "resized": self.resized,
            "cuts": self.cuts,
            "size_hw": list(self.size_hw),
            "rate": self.rate,
            "seconds": self.seconds,
            "fps": self.fps,
            "network_fps": self.network_fps,
            "flicker": {"before": self.flicker_before, "after": self.flicker_after},
            "shares": self.shares,
            "notes": list(self.notes),
            "failures": list(self.failures),
        }

    def summary(self) -> str:
        """One line for people."""
        parts = [f"{self.frames} frames", f"{self.fps:.1f} frames/s (network alone {self.network_fps:.1f})"]
        parts += [f"{self.dropped} dropped"] if self.dropped else []
        if self.flicker_before is not None and self.flicker_after is not None:
            parts.append(
                f"flicker {self.flicker_before:.5f}"
                + (f" -> {self.flicker_after:.5f}" if self.flicker_after != self.flicker_before else "")
            )
        largest = sorted(self.shares.items(), key=lambda item: -item[1])
        parts += [f"{name} {100 * share:.1f} %" for name, share in largest if share >= 0.0005]
        return ", ".join(parts)


def _targets(source: VideoSource, stem: Path, options: VideoOptions) -> dict[str, Path]:
    """The files to write, by kind, for a source that is a video."""
    if is_picture_address(source.name):
        raise ImageError(
            f"expected a video or a stream at an address, got {source.shown}, which is a picture; download it and give "
            "the file"
        )
    kinds = [*options.kinds, *(["shares"] if options.frame_shares else [])]
    targets = {kind: stem.with_name(stem.name + _ENDINGS[kind]) for kind in kinds}
    for target in targets.values():
        if source.kind == "file" and target.resolve() == Path(source.name).resolve():
            raise ConfigError(
                f"expected results apart from the source, but {target} is the source; choose another folder"
            )
    return targets


def _failures(name: str, reader: FrameReader, run: VideoRun) -> tuple[str, ...]:
    faults, found = reader.faults, []
    if faults.broken:
        what = "1 broken frame was" if faults.broken == 1 else f"{faults.broken} broken frames were"
        found.append(f"{name}: {what} left out, the first {faults.first_broken}; the rest is done")
    found += [f"{name}: {failure}; what could be decoded is done" for failure in faults.failures]
    return (*found, *(f"{name}: {failure}" for failure in run.failures))


def predict_video(
    source: str | Path,
    target_stem: Path,
    predictor: FramePredictor,
    *,
    options: VideoOptions | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> VideoResult:
    """Predict every frame of a video.

    Times are the source's, so a variable rate stays variable (those of a broadcast begin at 0, and recordings that were
    joined follow each other); rotation is applied; frames whose size changes are
    scaled to the first one's before the network sees them. Frames that cannot be decoded are left out, counted and
    reported in ``failures``; so is a file that ends too early. Files never lose frames for speed; live sources do, the
    oldest first, when more than ``options.queue`` wait, and Ctrl-C ends them properly. Results appear under their names
    only when all are complete.

    Args:
        source: A video file, an address (``rtsp://``, ``http://``, ``tcp://``, ...), the number of a camera, a pattern
            of images (``frame_%05d.png``), or a folder of images.
        target_stem: Where results go, without an ending.
        predictor: Predicts each frame, at the frame's size.
        options: How; None: the defaults.
        progress: Called with the frames done and, where known, how many there are.

    Raises:
        ImageError: The source cannot be opened or has no frame that can be decoded, or results cannot be written;
            nothing is under the results' names then.
        ConfigError: A result would overwrite the source, or an address is none.
        MissingExtraError: PyAV is not installed.
    """
    options = options or VideoOptions()
    found = find_source(source)
    targets = _targets(found, target_stem, options)
    start = time.perf_counter()
    reader: FrameReader
    if found.kind == "sequence":
        reader = SequenceReader(found.name, rate=Fraction(options.frame_rate).limit_denominator(1001))
    else:
        reader = VideoReader(found, live=options.live, with_sound="overlay" in options.kinds)
    try:
        with ExitStack() as files:
            temporary = {kind: files.enter_context(written_beside(path)) for kind, path in targets.items()}
            run = VideoRun(found.shown, reader, predictor, options=options, paths=temporary)
            try:
                run.run(progress)
            except OSError as error:
                names = ", ".join(map(str, targets.values()))
                raise write_error(next(iter(targets.values())), error, shown=names) from error
            if not run.frames:
                reason = reader.faults.first_broken or next(iter(reader.faults.failures), None)
                raise ImageError(
                    f"expected frames in {found.shown}, got none that can be decoded"
                    + (f": {reason}" if reason else "")
                )
    finally:
        reader.close()
    faults = reader.faults
    return VideoResult(
        source=found.shown,
        paths=tuple(targets.values()),
        frames=run.frames,
        dropped=run.dropped,
        broken=faults.broken,
        resized=faults.resized,
        cuts=run.cuts,
        size_hw=run.size_hw,
        rate=float(reader.info.rate),
        seconds=time.perf_counter() - start,
        network_s=run.network_s,
        flicker_before=run.before.score,
        flicker_after=run.after.score,
        shares=run.shares,
        notes=(*faults.notes, *run.notes),
        failures=_failures(found.shown, reader, run),
    )
