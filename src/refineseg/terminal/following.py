"""Shows a person what a run tells: a bar on a terminal, a line now and then elsewhere; always rate and time left.

In: what :class:`~refineseg.predict.folder.follower.Follower` describes. Out: results on stdout, the rest on a console.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TimeRemainingColumn

from refineseg.terminal.printable import duration
from refineseg.terminal.printing import MOST_LINES, Column, Terminal, loudness, print_lines, progress_bar

_SILENT_S = 30.0  # between two lines where there is no terminal


class TerminalFollower:
    """Follows a run on a terminal.

    Args:
        console: Where failures, notes and progress are shown.
        results: Whether results are printed on stdout.
        clock: Seconds; a test brings its own.
    """

    def __init__(self, console: Terminal, *, results: bool = True, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._results, self._clock = console, results, clock
        self._bar = progress_bar(None)
        self._running = False
        self._first = self._start = self._shown = 0.0
        self._loudness = loudness()
        self._counts = {"results": 0, "notes": 0}

    def result(self, line: str) -> None:
        """On stdout, the first ones."""
        if self._results and self._is_shown("results"):
            print_lines(line)

    def failed(self, message: str) -> None:
        """In red."""
        self._console.say(message, style="red")

    def noted(self, message: str) -> None:
        """In yellow, the first ones."""
        if self._loudness != "quiet" and self._is_shown("notes"):
            self._console.say(f"note: {message}", style="yellow")

    def said(self, message: str) -> None:
        """As it is."""
        if self._loudness != "quiet":
            self._console.say(message)

    def summary(self, total: str) -> None:
        """Say how many lines were not shown, and what all results come to, where some were not.

        Args:
            total: Total in words.
        """
        hidden = {what: count - MOST_LINES for what, count in self._counts.items() if count > MOST_LINES}
        if self._loudness == "verbose" or not hidden:
            return
        if "results" in hidden and self._results:
            print_lines(f"all inputs: {total}")
        left = " and ".join(f"{count} more {what}" for what, count in hidden.items())
        self.said(f"not shown: {left}; -v shows them all")

    def _is_shown(self, what: str) -> bool:
        self._counts[what] += 1
        return self._loudness == "verbose" or self._counts[what] <= MOST_LINES

    def counted(self, what: str, done: int, total: int) -> None:
        """So many are done, of so many."""
        if not self._running:
            self._begin(what, done, BarColumn(), MofNCompleteColumn(), Column("{task.fields[rate]}"))
        rate = f"{(done - self._first) / max(self._clock() - self._start, 1e-9):.3g} per s"
        left = self._advanced(done, total, rate)
        if left is not None:
            self.said(f"{done} of {total} {what}, {rate}, {left} left")

    def share(self, what: str, done: float) -> None:
        """So much of one large thing is done, 0 to 1."""
        if not self._running:
            self._begin(what, done, BarColumn(), Column("{task.percentage:.0f} %"))
        left = self._advanced(done, 1.0, "")
        if left is not None:
            self.said(f"{what}: {100 * done:.1f} %, {left} left")

    def ended(self) -> None:
        """Take the bar away."""
        self._bar.stop()
        self._running = False

    def _begin(self, what: str, done: float, *columns: ProgressColumn) -> None:
        self._bar = progress_bar(self._console, *columns, TimeRemainingColumn())
        self._bar.add_task(what, rate="")
        self._bar.start()
        self._first, self._running = done, True  # what an earlier run has done takes no time of this one
        self._start = self._shown = self._clock()

    def _advanced(self, done: float, total: float, rate: str) -> str | None:
        """Move the bar; elsewhere than on a terminal, the time that is left, now and then."""
        self._bar.update(self._bar.task_ids[0], completed=done, total=total, rate=rate)
        now = self._clock()
        if self._console.is_terminal or now - self._shown < _SILENT_S or not self._first < done < total:
            return None
        self._shown = now
        return duration((now - self._start) * (total - done) / (done - self._first))
