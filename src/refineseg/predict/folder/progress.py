"""How far a long prediction is: a bar on a terminal, a line now and then elsewhere; always rate and time left.

In: how many are done. Out: lines on a console (stderr).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn

from refineseg.terminal.printing import Column, Terminal, progress_bar

_SILENT_S = 30.0  # between two lines where there is no terminal


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    Example:
        >>> duration(8.25), duration(200.0), duration(7500.0)
        ('8.2 s', '3 min 20 s', '2 h 5 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


class Advance:
    """Counts up to a total; use as a context manager.

    Args:
        console: Where it is shown.
        what: What is counted, in the plural.
        total: How many there are.
        clock: Seconds; a test brings its own.
    """

    def __init__(
        self, console: Terminal, *, what: str, total: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console, self._what, self._total, self._clock = console, what, total, clock
        self._bar = progress_bar(
            console, BarColumn(), MofNCompleteColumn(), Column("{task.fields[rate]}"), TimeRemainingColumn()
        )
        self._task = self._bar.add_task(what, total=total, rate="")
        self.done = 0
        self._start = self._shown = clock()

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return self._clock() - self._start

    @property
    def rate(self) -> float:
        """Done per second."""
        return self.done / max(self.seconds, 1e-9)

    def leave_out(self, count: int = 1) -> None:
        """Some are done already: neither rate nor time left knows of them."""
        self._total -= count
        self._bar.update(self._task, total=self._total)

    def advance(self, count: int = 1) -> None:
        """Some more are done."""
        self.done += count
        rate = f"{self.rate:.3g} per s"
        self._bar.update(self._task, completed=self.done, rate=rate)
        now = self._clock()
        if not self._console.is_terminal and now - self._shown >= _SILENT_S and self.done < self._total:
            self._shown = now
            left = duration((self._total - self.done) / max(self.rate, 1e-9))
            text = f"{self.done} of {self._total} {self._what}, {rate}, {left} left"
            self._console.say(text)

    def __enter__(self) -> Advance:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


class Fraction:
    """How far one large thing is, 0 to 1; use as a context manager and call it.

    Args:
        console: Where it is shown.
        what: Its name.
        clock: Seconds; a test brings its own.
    """

    def __init__(self, console: Terminal, *, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._what, self._clock = console, what, clock
        self._bar = progress_bar(console, BarColumn(), Column("{task.percentage:.0f} %"), TimeRemainingColumn())
        self._task = self._bar.add_task(what, total=1.0)
        self._first: float | None = None  # what was done before, in a run that is resumed
        self._start = self._shown = clock()

    def __call__(self, done: float) -> None:
        """So much of it is done."""
        self._first = done if self._first is None else self._first
        self._bar.update(self._task, completed=done)
        now = self._clock()
        if not self._console.is_terminal and now - self._shown >= _SILENT_S and done > self._first:
            self._shown = now
            left = duration((now - self._start) * (1 - done) / (done - self._first))
            text = f"{self._what}: {100 * done:.1f} %, {left} left"
            self._console.say(text)

    def __enter__(self) -> Fraction:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
