"""Times of the frames of a source: they grow from frame to frame, also where the source's clock does not.

In: times as the source has them. Out: times of the results, and how many frames are missing between them.
"""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

_CONSTANT = 0.8  # of the steps are equal: then the others are gaps
_JUMP_S, _JUMP_FRAMES = 1, 10  # back: the clock began anew (recordings that were joined), and no frame is late


class FrameTimes:
    """Gives frames their times, in units of the source's time base.

    A frame that comes late, or has the time of the one before, is put one unit behind that. Where the clock jumps back
    and stays there, the frames go on one step behind the last one.

    Args:
        base: Seconds per unit.
        rate: Frames per second, as announced.
        begin: Time of the source's clock that becomes 0; None: that of the first frame.
    """

    def __init__(self, base: Fraction, rate: Fraction, *, begin: int | None) -> None:
        self._base, self.step = base, max(1, round(1 / (rate * base)))
        self.shift, self._is_open = begin or 0, begin is None
        self.last: int | None = None
        self._jump = max(_JUMP_FRAMES * self.step, round(_JUMP_S / base))
        self._behind = self._jumps = 0
        self._steps: Counter[int] = Counter()

    def next(self, stamp: int | None) -> int:
        """The time of the next frame.

        Args:
            stamp: Its time by the source's clock; None: unknown.
        """
        last = self.last
        if last is None:
            if stamp is not None and self._is_open:
                self.shift = stamp
            self.last = 0 if stamp is None else stamp - self.shift
            return self.last
        time = last + self.step if stamp is None else stamp - self.shift
        self._behind = self._behind + 1 if time < last - self._jump else 0
        if self._behind > 1:  # one alone is a damaged one
            self.shift -= last + self.step - time
            time, self._behind = last + self.step, 0
            self._jumps += 1
        self.last = max(time, last + 1)
        self._steps[self.last - last] += 1
        return self.last

    @property
    def stamp(self) -> int | None:
        """The last frame's time by the source's clock; None: there is none yet."""
        return None if self.last is None else self.last + self.shift

    def place(self, stamp: int | None) -> str:
        """A time by the source's clock, in words."""
        return "at an unknown time" if stamp is None else f"at {float((stamp - self.shift) * self._base):.2f} s"

    @property
    def notes(self) -> list[str]:
        """What to know of the times."""
        often = "once" if self._jumps == 1 else f"{self._jumps} times"
        return [f"the clock jumps back {often}; what follows is joined on"] if self._jumps else []

    @property
    def missing(self) -> int:
        """How many frames are missing in the times so far, see :func:`missing_frames`."""
        return missing_frames(self._steps)


def missing_frames(steps: Counter[int]) -> int:
    """How many frames are missing in the times of a constant rate; at a variable rate there is no telling: 0.

    Args:
        steps: How often each step from a frame to the next occurs, in units of the time base.

    Example:
        >>> missing_frames(Counter({40: 20, 120: 1}))
        2
    """
    usual = max(steps, key=steps.__getitem__, default=0)
    slack = max(1, usual // 10)  # Matroska rounds times to milliseconds
    even = sum(count for step, count in steps.items() if abs(step - usual) <= slack)
    if even < _CONSTANT * sum(steps.values()):
        return 0
    return sum((round(step / usual) - 1) * count for step, count in steps.items() if step > usual + slack)
