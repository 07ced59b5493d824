"""The command line with one fault at a chosen moment: a full disk, a lost permission, a folder that is gone, a signal.

A moment is the beginning of a temporary file or folder below OUT, or a renaming there: Python tells both to an audit
hook, so no test waits for any time. Each call is a fork of one process that has imported PyTorch, and has no rights
above those of the files' owner. Run as a program: a line of JSON for each call on stdin, one for each result on stdout.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

KILLED = "killed in a file"
TORN_AFTER = 16  # bytes that a file may get when the disk is full


class Call(NamedTuple):
    """What a call of the command line came to.

    Args:
        status: Exit status; negative: number of the signal that ended it.
        said: What it printed.
        moments: A letter for each moment it came to: b, a file or folder is begun, or r, it is renamed.
    """

    status: int
    said: str
    moments: str


class Caller:
    """Starts the process that forks, and asks it for calls."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "1000"}
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def call(self, place: Path, words: list[str], fault: str = "", moment: int = -1) -> Call:
        """Call the command line.

        Args:
            place: Its current folder, with the folder ``out``.
            words: Its arguments.
            fault: Name in ``FAULTS``; empty: none.
            moment: When, from 0.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([str(place), words, fault, moment]), file=self._process.stdin, flush=True)
        return Call(*json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=60)


def _limit_files() -> None:
    """A write beyond fails, or with ``KILLED`` the kernel ends the process at it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (TORN_AFTER, TORN_AFTER))


FAULTS: dict[str, Callable[[Path, Path], object]] = {  # folder OUT, folder of the file
    "full disk": lambda out, folder: _limit_files(),
    "permission lost": lambda out, folder: [path.chmod(0o555) for path in {out, folder}],
    "folder gone": lambda out, folder: shutil.rmtree(out),
    "SIGTERM": lambda out, folder: os.kill(os.getpid(), signal.SIGTERM),
    "SIGKILL": lambda out, folder: os.kill(os.getpid(), signal.SIGKILL),
    KILLED: lambda out, folder: _limit_files(),
}


class _Moments:
    """An audit hook that counts moments and makes the fault happen at one of them."""

    def __init__(self, out: Path, fault: str, moment: int, counter: int) -> None:
        self.out, self.fault, self.moment, self.counter, self.count = out, fault, moment, counter, 0

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if event not in ("tempfile.mkstemp", "tempfile.mkdtemp", "os.rename"):
            return
        path = Path(os.fsdecode(os.fspath(arguments[0]))).absolute()  # type: ignore[call-overload]
        if path.is_relative_to(self.out):
            now, self.count = self.count, self.count + 1
            os.write(self.counter, b"r" if event == "os.rename" else b"b")
            if now == self.moment:
                FAULTS[self.fault](self.out, path.parent)


def _give_up_rights() -> None:
    """To the superuser, too, a folder without the permission to write is one."""
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()  # version 3 of capset(2)
    if ctypes.CDLL(None, use_errno=True).capset(header, none):
        raise OSError(ctypes.get_errno(), "capset")


def _child(place: str, words: list[str], fault: str, moment: int, pipe: int, counter: int) -> None:
    from refineseg import cli

    _give_up_rights()
    os.chdir(place)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, file in ((0, nothing), (1, pipe), (2, pipe)):
        os.dup2(file, number)
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
    if fault == KILLED:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
    sys.addaudithook(_Moments(Path(place, "out"), fault, moment, counter))
    sys.argv = ["refineseg", *words]
    try:
        cli.main()
    except SystemExit as end:
        code = end.code
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def _forked(place: str, words: list[str], fault: str, moment: int) -> Call:
    (reading, writing), (counted, counter) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.close(counted)
        try:
            _child(place, words, fault, moment, writing, counter)
        finally:  # an error that nobody caught: Python would show it at the end of the process
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
            os._exit(70)
    os.close(writing)
    os.close(counter)
    with open(reading, "rb") as said, open(counted, "rb") as moments:  # noqa: PTH123 - numbers of files
        text, letters = said.read().decode(), moments.read().decode()
    return Call(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text, letters)


if __name__ == "__main__":
    import torch

    import refineseg.cli
    import refineseg.evaluate.measuring
    import refineseg.export.files
    import refineseg.predict.predictor
    import refineseg.training.run  # noqa: F401 - imported once, for all forks

    torch.set_num_threads(1)
    for line in sys.stdin:
        print(json.dumps(_forked(*json.loads(line))), flush=True)
