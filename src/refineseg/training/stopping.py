"""Ending a run before its last epoch: by Ctrl-C or SIGTERM between two steps, or by a time limit between two epochs."""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from types import FrameType, TracebackType
from typing import Any, NoReturn

from refineseg.training import ranks

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_FINISH_S = 3.0  # the last checkpoint and the report
_REMEMBERED = 20  # epochs; among them are some with a measurement, and the one that compiled is forgotten


class StoppedBySignal(BaseException):
    """The user, or the system, wants the run to end; no error, hence no ``Exception``.

    Args:
        number: Number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.name = signal.Signals(number).name
        self.number = number

    def exit_like_it(self) -> NoReturn:
        """End as programs do after this signal: ``KeyboardInterrupt``, or exit status 128 + its number."""
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt from self
        raise SystemExit(128 + self.number) from self


class StopSignals:
    """Notes Ctrl-C and SIGTERM inside its ``with`` block; :meth:`check` raises them where it does no harm.

    A second signal acts at once. Outside of the main thread, where Python allows no handlers, it does nothing.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = number
        self._restore()

    def check(self) -> None:
        """Raise what came to this process, or to another one of the run.

        Raises:
            StoppedBySignal: A signal came.
        """
        if number := ranks.most(self._received or 0):
            raise StoppedBySignal(number)


def scores_of(history: Sequence[Mapping[str, Any]]) -> list[float]:
    """The mean IoU of each measurement that tells which model is better.

    If the truth shows one class alone, none does: a model that finds nothing has 100 %.

    Args:
        history: One entry for each epoch, with ``mean_iou`` where it was measured.
    """
    scores = (entry["mean_iou"] for entry in history if "mean_iou" in entry and not entry.get("one_class"))
    return [score for score in scores if score == score]  # no number: no pixel had a label


def is_no_longer_better(history: Sequence[Mapping[str, Any]], patience: int | None) -> bool:
    """Whether the last measurements of a run have not been better than the best before them.

    Args:
        history: One entry for each epoch, with ``mean_iou`` where it was measured.
        patience: How many measurements; None: never.

    Example:
        >>> is_no_longer_better([{"mean_iou": 0.5}, {}, {"mean_iou": 0.4}, {"mean_iou": 0.5}], 2)
        True
    """
    scores = scores_of(history)
    return patience is not None and len(scores) > patience and max(scores[-patience:]) <= max(scores[:-patience])


class TimeLimit:
    """Whether another epoch still fits.

    Args:
        seconds: From now; None: no limit.
    """

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds
        self._epochs: deque[float] = deque(maxlen=_REMEMBERED)

    def epoch_took(self, seconds: float) -> None:
        """Note how long an epoch took, with its measurement and files."""
        self._epochs.append(seconds)

    @property
    def left_s(self) -> float:
        """Seconds left."""
        return float("inf") if self._end is None else self._end - time.monotonic()

    @property
    def is_up(self) -> bool:
        """Whether an epoch as long as the longest of the last ones would end too late, with some time to spare.

        Before the first epoch it never is: a call always gets further.
        """
        return bool(self._epochs) and self.left_s < 1.1 * max(self._epochs) + _FINISH_S
