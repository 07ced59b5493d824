"""What a run over files tells, while it goes on, to whoever follows it: a terminal, a service, a test.

In: how many are done, lines, failures. Out: calls of a :class:`Follower`; nothing here knows a console.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol


class Follower(Protocol):
    """Whoever follows a run; :class:`~refineseg.terminal.following.TerminalFollower` shows it to a person.

    All is told in the thread that runs; texts may hold foreign text.
    """

    def result(self, line: str, /) -> None:
        """A result of one input in words, in the order of the inputs."""

    def failed(self, message: str, /) -> None:
        """An input that is skipped, or what stops the run."""

    def noted(self, message: str, /) -> None:
        """What a user should know."""

    def said(self, message: str, /) -> None:
        """How long something took, when it is done."""

    def counted(self, what: str, done: int, total: int, /) -> None:
        """So many are done, of so many; what they are, in the plural."""

    def share(self, what: str, done: float, /) -> None:
        """How far one large thing is, 0 to 1; its name."""

    def ended(self) -> None:
        """What was counted or shared last has ended, well or not."""


class Advance:
    """Counts up to a total and tells it; use as a context manager.

    Args:
        follower: Whom to tell.
        what: What is counted, in the plural.
        total: How many there are.
        clock: Seconds; a test brings its own.
    """

    def __init__(
        self, follower: Follower, *, what: str, total: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._follower, self._what, self._total, self._clock = follower, what, total, clock
        self._done = 0
        self._start = clock()

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return self._clock() - self._start

    def leave_out(self) -> None:
        """One is done already: neither rate nor time left knows of it."""
        self._total -= 1
        self._follower.counted(self._what, self._done, self._total)

    def advance(self) -> None:
        """One more is done."""
        self._done += 1
        self._follower.counted(self._what, self._done, self._total)

    def __enter__(self) -> Advance:
        self._follower.counted(self._what, 0, self._total)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._follower.ended()


@contextmanager
def share_of(follower: Follower, what: str) -> Iterator[Callable[[float], None]]:
    """A function to call with how far one large thing is, 0 to 1."""
    try:
        yield lambda done: follower.share(what, done)
    finally:
        follower.ended()
