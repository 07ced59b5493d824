"""The one place that prints: results on stdout, messages, tables and progress bars.

In: texts, rich's tables. Out: lines on stdout and stderr; every text is made
:func:`~refineseg.terminal.printable.printable`, nothing in it is taken for markup. A text becomes one line; several
lines are several arguments, and a cell or caption of several lines of our own is a rich ``Text``.
"""

from __future__ import annotations

import io
import logging
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import IO, Any, Literal, TextIO, cast

from rich.console import Console, JustifyMethod, OverflowMethod
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.style import Style
from rich.text import Text

from refineseg.terminal.printable import duration, printable

_TABLE_WIDTH = 100  # where stdout is no terminal
_SILENT_S = 10.0  # between two lines of a count there

Loudness = Literal["quiet", "usual", "verbose"]
"""How much is said: results and problems only; progress and the first few of many equal lines; everything."""

MOST_LINES = 10
"""Equal lines (results of files, notes) before the rest is only counted."""

_LOUDNESS: ContextVar[Loudness] = ContextVar("loudness", default="usual")


def set_loudness(loudness: Loudness) -> None:
    """Say so much from now on."""
    _LOUDNESS.set(loudness)


def loudness() -> Loudness:
    """How much is said in this call."""
    return _LOUDNESS.get()


def summed_up(lines: Sequence[str], *, most: int = MOST_LINES) -> list[str]:
    """The first of many lines, and how many more there are; all of them where everything is said.

    Example:
        >>> summed_up(["a", "b", "c", "d"], most=2)
        ['a', 'b', 'and 2 more; -v shows them all']
    """
    if loudness() == "verbose" or len(lines) <= most + 1:  # a line that says "and 1 more" saves nothing
        return list(lines)
    return [*lines[:most], f"and {len(lines) - most} more; -v shows them all"]


class Terminal(Console):
    """A rich console for foreign text: no markup, no emoji codes, and every text in a table, too, is printable.

    It overrides the one method that turns a text into what rich shows, so that no caller can forget anything.

    Args:
        stderr: Write to stderr, else to stdout.
        file: Write there instead.
        width: Width in characters; None: the terminal's.
        quiet: Write nothing.
    """

    def __init__(
        self, *, stderr: bool = False, file: io.TextIOBase | None = None, width: int | None = None, quiet: bool = False
    ) -> None:
        super().__init__(
            stderr=stderr,
            file=cast(IO[str] | None, file),
            width=width,
            quiet=quiet,
            markup=False,
            emoji=False,
            highlight=False,
        )

    def render_str(
        self,
        text: str,
        *,
        style: str | Style = "",
        justify: JustifyMethod | None = None,
        overflow: OverflowMethod | None = None,
        emoji: bool | None = None,
        markup: bool | None = None,
        highlight: bool | None = None,
        highlighter: Callable[[str | Text], Text] | None = None,
    ) -> Text:
        """What rich shows of a text; it asks here for every line, title, caption and cell."""
        return Text(printable(text), style=style, justify=justify, overflow=overflow)

    def tell(self, *lines: object) -> None:
        """Lines of progress, which are left out where only results and problems are asked for."""
        if loudness() != "quiet":
            self.say(*lines)

    def say(self, *lines: object, style: str = "") -> None:
        """Lines, each as long as it is.

        Args:
            lines: Foreign text is welcome.
            style: Style of all of them, for instance ``red``.
        """
        for line in lines:
            self.print(Text(printable(line), style=style), soft_wrap=True)


def messages() -> Terminal:
    """Stderr."""
    return Terminal(stderr=True)


def tables() -> Terminal:
    """stdout; wide enough for a table where it is no terminal."""
    is_terminal = getattr(sys.stdout, "isatty", bool)()  # a process may have no stdout at all
    return Terminal() if is_terminal else Terminal(width=_TABLE_WIDTH)


def print_lines(*lines: object) -> None:
    """Results as lines on stdout, at once also for a pipe; above a progress bar, where one is shown."""
    for line in lines:
        print(printable(line), flush=True)


def warn(message: object) -> None:
    """A warning through the logger ``refineseg``, which writes to stderr unless a program says otherwise."""
    logging.getLogger("refineseg").warning("%s", printable(message))


class _Description(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Of the task."""
        return Text(printable(task.description))


class Column(ProgressColumn):
    """A text of a progress bar.

    Args:
        form: As for ``str.format``, of rich's ``task``.
    """

    def __init__(self, form: str) -> None:
        super().__init__()
        self._form = form

    def render(self, task: Task) -> Text:
        """As the form says."""
        return Text(printable(self._form.format(task=task)))


def progress_bar(
    console: Console | None,
    *columns: ProgressColumn,
    described: bool = True,
    transient: bool = True,
    period_s: float = 30.0,
) -> Progress:
    """A progress bar, shown on a terminal only.

    Args:
        console: Terminal; None: nothing is shown.
        columns: What it shows; by default a bar, the count and the time left.
        described: Begin with the task's description.
        transient: Leave nothing behind.
        period_s: Seconds by which the time left is estimated.
    """
    shown = columns or (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(
        *([_Description()] if described else []),
        *shown,
        console=console or Terminal(quiet=True),
        transient=transient,
        speed_estimate_period=period_s,
        disable=console is None or not console.is_terminal or loudness() == "quiet",
    )


@contextmanager
def counting(console: Console | None, what: str, things: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, lines now and then elsewhere, and a count that becomes a note of an interruption.

    Args:
        console: Terminal; None: nothing is shown.
        what: What is being done, such as ``evaluating``.
        things: What is counted, in the plural.

    Yields:
        A function to call with (done, in all).
    """
    counts = (0, 0)
    begun = said = time.monotonic()
    teller = console if isinstance(console, Terminal) and not console.is_terminal else None
    with progress_bar(console) as bar:
        task = bar.add_task(what, total=None)

        def report(done: int, total: int) -> None:
            nonlocal counts, said
            counts = (done, total)
            bar.update(task, completed=done, total=total)
            now = time.monotonic()
            if teller is not None and now - said >= _SILENT_S and 0 < done < total:
                said = now
                left = duration((now - begun) * (total - done) / done)
                teller.tell(f"{what}: {done} of {total} {things}, {left} left")

        try:
            yield report
        except KeyboardInterrupt as stop:
            if counts[1]:
                stop.add_note(f"{what}: {counts[0]} of {counts[1]} {things} are done")
            raise


def guard_terminal() -> None:
    """Make warnings and tracebacks of this process printable, and never fail on what the terminal cannot encode."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal of ASCII must not end a run
    warnings.showwarning = _show_warning
    sys.excepthook = _show_error
    threading.excepthook = _show_thread_error


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    messages().say(f"{filename}:{lineno}: {category.__name__}: {' '.join(str(message).split())}")


def _show_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    for part in traceback.format_exception(kind, error, trace):
        messages().say(*part.rstrip("\n").split("\n"))


def _show_thread_error(args: Any) -> None:  # noqa: ANN401 - threading.ExceptHookArgs, which typeshed makes awkward
    if args.exc_type is not SystemExit and args.exc_value is not None:
        _show_error(args.exc_type, args.exc_value, args.exc_traceback)
