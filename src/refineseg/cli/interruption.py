"""Ctrl-C and SIGTERM: every verb ends in order, and the user is told what to do next.

In: signals. Out: an exception in the main thread, so that files close, threads end and nothing stays half written; and
lines for stderr. The work adds how far it came to the exception, as a note; a verb that can go on names its command.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_GOES_ON = ("reproduce", "shard")  # called again, they go on where they were


class Interrupted(KeyboardInterrupt):
    """A signal that ends the run; it is a ``KeyboardInterrupt`` also where it is SIGTERM.

    Args:
        number: Number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.command = ""  # that goes on; empty: none but the same

    @property
    def status(self) -> int:
        """What a process that this signal ended exits with."""
        return 128 + self.number

    def lines(self, arguments: list[str]) -> list[str]:
        """What to say.

        Args:
            arguments: Arguments of the command line, without the program.
        """
        name = "Ctrl-C" if self.number == signal.SIGINT else signal.Signals(self.number).name
        how_far: list[str] = getattr(self, "__notes__", [])[:1]  # of the innermost work, which knows most
        if self.command:
            first, *more = [*how_far, f"go on with: {self.command}"]
            return [f"refineseg: stopped by {name}: {first}", *more]
        goes_on = ": it goes on where it stopped" if arguments[:1] and arguments[0] in _GOES_ON else ""
        return [f"refineseg: stopped by {name}: {'; '.join([*how_far, f'run the same command again{goes_on}'])}"]


class Interruption:
    """Raises :class:`Interrupted` at a signal inside its ``with`` block; ``raised`` is what was raised."""

    def __init__(self) -> None:
        self.raised: Interrupted | None = None
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        self._before = {number: signal.signal(number, self._raise) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a reading process that inherited this: it ends as it would by itself
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.raised = self.raised or Interrupted(number)
        raise self.raised


def this_call_with(option: str, *, instead_of: str) -> str:
    """This call of the command line with an option more.

    Args:
        option: Added where it is not there.
        instead_of: Its opposite, which is taken out.
    """
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)  # behind it, everything is an input
    kept = [word for word in words[:end] if word not in (option, instead_of)]
    return shlex.join(["refineseg", *kept, option, *words[end:]])


@contextmanager
def goes_on_with(command: Callable[[], str]) -> Iterator[None]:
    """At an interruption inside the block, tell the command that goes on.

    Args:
        command: Asked then; an empty text: there is none but the same call again.
    """
    try:
        yield
    except Interrupted as stop:
        stop.command = command()
        raise
