"""How a video is read, smoothed and written.

In: Python values or the command line's words. Out: :class:`VideoOptions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from refineseg.errors import ConfigError

VideoKind = Literal["overlay", "mask"]

STATIC_BELOW = 10.0
"""Grey levels (of 255) that a static pixel may change by from one frame to the next: above the noise of cameras."""

CUT_ABOVE = 30.0
"""Mean change of all pixels, in grey levels, above which two frames belong to different scenes."""


@dataclass(frozen=True)
class VideoOptions:
    """How a video is read, smoothed and written.

    Args:
        kinds: What to write: ``overlay``, ``mask``.
        smooth: Weight of the past in the moving average of probabilities, 0 (none) to 1; see
            :class:`~refineseg.predict.video.smoothing.Smoother`.
        static_below: Grey levels (of 255) by which a static pixel changes less.
        cut_above: Mean change in grey levels that means another scene.
        frame_rate: Frame rate of image sequences, frames per second.
        seconds: Stop after so much of the source; None: at its end.
        live: Drop frames that come too fast, the oldest first; None: for cameras and streams, never for files.
        frame_shares: Write ``STEM_shares.csv``: the share of each class in every frame.
        opacity: Opacity of the overlay, 0 to 1.
        legend: Name the classes below the overlay.
        quality: Quality of the overlay: H.264's constant rate factor, 0 (best) to 51.
        queue: Frames that may wait between two workers.

    Raises:
        ConfigError: A value that cannot be.
    """

    kinds: tuple[VideoKind, ...] = ("overlay",)
    smooth: float = 0.0
    static_below: float = STATIC_BELOW
    cut_above: float = CUT_ABOVE
    frame_rate: float = 25.0
    seconds: float | None = None
    live: bool | None = None
    frame_shares: bool = False
    opacity: float = 0.5
    legend: bool = True
    quality: int = 20
    queue: int = 4

    def __post_init__(self) -> None:
        known = get_args(VideoKind)
        if not self.kinds or not set(self.kinds) <= set(known):
            got = ", ".join(self.kinds) or "none"
            raise ConfigError(f"expected kinds of {', '.join(known)} for a video, got {got}")
        for name, value, low, high in (
            ("smooth", self.smooth, 0.0, 1.0),
            ("static_below", self.static_below, 0.0, 256.0),
            ("cut_above", self.cut_above, 0.0, 256.0),
            ("frame_rate", self.frame_rate, 0.001, 10_000.0),
            ("seconds", 0.0 if self.seconds is None else self.seconds, 0.0, float("inf")),
            ("opacity", self.opacity, 0.0, 1.0),
            ("quality", self.quality, 0, 51),
            ("queue", self.queue, 1, 1000),
        ):
            if not low <= value <= high:
                raise ConfigError(f"expected {name} between {low:g} and {high:g}, got {value}")

    @classmethod
    def parse(
        cls,
        *,
        save: str = "overlay",
        smooth: float = 0.0,
        frame_rate: float = 25.0,
        seconds: float | None = None,
        live: str = "auto",
        frame_shares: bool = False,
        legend: bool = True,
    ) -> VideoOptions:
        """From the words of the command line.

        Args:
            save: Kinds with commas.
            smooth: As above.
            frame_rate: As above.
            seconds: As above.
            live: ``auto``, ``yes`` or ``no``.
            frame_shares: As above.
            legend: As above.

        Raises:
            ConfigError: A word or value that cannot be.
        """
        choices = {"auto": None, "yes": True, "no": False}
        if live not in choices:
            raise ConfigError(f"expected live to be {', '.join(choices)}, got {live!r}")
        words = [word.strip() for word in save.split(",") if word.strip()]
        kinds = tuple(kind for kind in get_args(VideoKind) if kind in words)
        unknown = [word for word in words if word not in kinds]
        if unknown or not kinds:
            known = ", ".join(get_args(VideoKind))
            raise ConfigError(f"expected --save with some of {known} for a video, got {save!r}")
        return cls(
            legend=legend,
            kinds=kinds,
            smooth=smooth,
            frame_rate=frame_rate,
            seconds=seconds,
            live=choices[live],
            frame_shares=frame_shares,
        )
