"""The command line: one function per verb, wiring only; heavy imports are inside them.

Exit status 0: done; 1: some inputs failed, each named; 2: the call is wrong, with one message; 130 and 143: stopped by
Ctrl-C and SIGTERM. Of several processes (``torchrun``) each exits so; the first one speaks.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from typing import Any, NoReturn

import typer

from refineseg.cli.app import app
from refineseg.cli.interruption import Interruption
from refineseg.errors import ProcessError, RefinesegError
from refineseg.terminal.printable import printable
from refineseg.terminal.printing import guard_terminal, messages
from refineseg.training.launch import is_first_process

# The verbs register themselves; help shows them in this order.
# isort: off
from refineseg.cli import predict
from refineseg.cli import evaluate
from refineseg.cli import train
from refineseg.cli import reproduce
from refineseg.cli import card
from refineseg.cli import convert
from refineseg.cli import bench
from refineseg.cli import models
from refineseg.cli import datasets
from refineseg.cli import export
from refineseg.cli import doctor
from refineseg.cli import shard
from refineseg.cli import serve
from refineseg.cli import demo
# isort: on

__all__ = [
    "app",
    "bench",
    "card",
    "convert",
    "datasets",
    "demo",
    "doctor",
    "evaluate",
    "export",
    "main",
    "models",
    "predict",
    "reproduce",
    "serve",
    "shard",
    "train",
]

_UsageError: Any = typer.BadParameter.__mro__[1]  # of click, which newer typers bundle


def main() -> NoReturn:
    """Run the command line; deliberate errors become one message and exit status 2."""
    # PyTorch's threads spin while they wait, and on a busy machine they take the core of the thread they wait for. So
    # many turns cost nothing on an idle machine, where sleeping at once does (docs/experiments.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    guard_terminal()
    with Interruption() as stop:
        try:
            status = _status()
        except Exception:
            if stop.raised is None:
                raise
            status = _INTERRUPTED  # a library made an error of its own of the interruption
    if stop.raised is not None and status == _INTERRUPTED:
        if is_first_process():
            messages().say(*stop.raised.lines(sys.argv[1:]))
        status = stop.raised.status
    raise SystemExit(status)


_FIRST_SPEAKS_S = 5.0
_INTERRUPTED = 130  # what typer makes of a KeyboardInterrupt


def _leave_it_to_the_first() -> None:
    """Say nothing of what the first process says for all, and let it come to that: torchrun stops all once one ends."""
    with suppress(KeyboardInterrupt):
        time.sleep(_FIRST_SPEAKS_S)


def _status() -> int:
    """What the call exits with; what went wrong has been said."""
    try:
        return typer.main.get_command(app).main(standalone_mode=False) or 0
    except RefinesegError as error:
        if error.args and (is_first_process() or isinstance(error, ProcessError)):
            first, *more = error.args
            messages().say(f"refineseg: {first}", *more)
        else:
            _leave_it_to_the_first()
    except _UsageError as error:
        if sys.argv[1:]:  # else it is the help
            error.message = printable(error.message)
        if is_first_process():
            error.show()
        else:
            _leave_it_to_the_first()
    except KeyboardInterrupt:  # outside of the verb
        return _INTERRUPTED
    return 2
