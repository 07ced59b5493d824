"""Of which inputs the results in a folder were made, so that ``--resume`` keeps none of an image that was replaced.

In: jobs, before and after they are done. Out: ``.refineseg.inputs.jsonl`` in the folder of results, a line for each
image: its result, its length and times, and a checksum of its content. A file whose times are others but whose content
is the same, as in a copy of a folder, is the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from pathlib import Path
from typing import Any

from refineseg.errors import DatasetError
from refineseg.files.archives import file_mark
from refineseg.predict.folder.plan import FileJob

INPUTS_RECORD = ".refineseg.inputs.jsonl"

Times = tuple[int, int, int]
"""Bytes, and nanoseconds of the last change of the content and of the file."""


def file_times(path: str) -> Times | None:
    """By what a file is known to be untouched without reading it; None where it lies in a zip file or is gone."""
    try:
        found = os.stat(path)  # noqa: PTH116 - a hundred thousand times
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


class InputsRecord:
    """The record of one folder of results; its methods may be called from several threads.

    Args:
        out: The folder.
        resume: Go on with the record that is there; else it begins anew.
    """

    def __init__(self, out: Path, *, resume: bool) -> None:
        self._path, self._start = out / INPUTS_RECORD, os.path.join(out, "")  # noqa: PTH118 - texts
        self._known: dict[str, tuple[Times | None, str]] = {}
        self._lock = threading.Lock()
        if resume:
            self._read()
        else:
            self._path.unlink(missing_ok=True)

    def _read(self) -> None:
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            return
        for line in lines:
            try:
                target, times, mark = json.loads(line)
                known = None if times is None else tuple(map(int, times))
                if known is None or len(known) == 3:
                    self._known[str(target)] = (known, str(mark))
            except (ValueError, TypeError):  # the last line of a killed run
                continue

    def is_unchanged(self, job: FileJob, *, made_ns: int) -> bool:
        """Whether a result is of its input as it is now.

        Args:
            job: The input and its result.
            made_ns: When the result was made; it decides where nothing is recorded of the input.
        """
        now, known = file_times(job.source), self._known.get(self._key(job))
        if known is None:
            return now is None or max(now[1:]) <= made_ns
        times, mark = known
        if now is not None and now == times:
            return True
        if now is not None and times is not None and now[0] != times[0]:
            return False
        return _mark(job.source) == mark

    def add(self, job: FileJob, read_at: Times | None) -> None:
        """Note that a result is made; without room for that, its time will have to tell.

        Args:
            job: The input and its result.
            read_at: The input's times before it was read; where they are others now, nobody knows what was read.
        """
        mark = _mark(job.source)
        if mark is None or file_times(job.source) != read_at:
            return
        line: list[Any] = [self._key(job), read_at, mark]
        with self._lock, contextlib.suppress(OSError), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _key(self, job: FileJob) -> str:
        return job.target.removeprefix(self._start)


def _mark(source: str) -> str | None:
    try:
        return file_mark(Path(source), whole=True)
    except (OSError, DatasetError):
        return None
