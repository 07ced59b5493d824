"""What is known of an earlier run in a folder of results, so that ``--resume`` keeps what is still right, and no more.

In: who makes results (model and options), jobs before and after they are done. Out: ``.refineseg.json``, whose results
they are, and ``.refineseg.inputs.jsonl``, a line for each image: its result, its length and times, and a checksum of
its content. A file whose times are others but whose content is the same, as in a copy of a folder, is the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from refineseg._version import __version__
from refineseg.errors import ConfigError, DatasetError
from refineseg.files.archives import file_mark
from refineseg.files.made_by import RECORD
from refineseg.files.special import has_file, refuse_special
from refineseg.files.writing import written_beside
from refineseg.predict.folder.plan import FileJob

INPUTS_RECORD = ".refineseg.inputs.jsonl"
"""Name of the record of what they were made of."""

Times = tuple[int, int, int]
"""Bytes, and nanoseconds of the last change of the content and of the file."""


def begin_record(out: Path, identity: Mapping[str, Any], *, resume: bool) -> int | None:
    """Write who makes the results in a folder, or check that it is the same as before.

    Args:
        out: The folder of results; made where it is not there.
        identity: JSON values: model and all options that change a result.
        resume: Go on with what is there.

    Returns:
        Results at least as new as this (nanoseconds since 1970) are of this model and these options; None: there are
        no such results.

    Raises:
        ConfigError: To be resumed, but begun with another model or other options; they are named.
        OutputError: The folder cannot be written.
    """
    path = out / RECORD
    plain = json.loads(json.dumps(dict(identity)))
    if resume:
        known = _read_record(path)
        if known is not None:
            differing = sorted(name for name in known.keys() | plain.keys() if known.get(name) != plain.get(name))
            if differing:
                raise ConfigError(
                    f"expected to go on with the results in {out}, but they were made with another "
                    f"{', '.join(differing)}; use the same, choose another --out, or leave --resume out to predict all "
                    "anew"
                )
            return path.stat().st_mtime_ns
    with written_beside(path) as temporary:
        record = {"format": 1, "version": __version__, "identity": plain}
        temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")
    return None


def is_of_another(out: Path, identity: Mapping[str, Any]) -> bool:
    """Whether a folder holds the record of a run with another model or other options."""
    known = _read_record(out / RECORD)
    return known is not None and known != json.loads(json.dumps(dict(identity)))


def _read_record(path: Path) -> dict[str, Any] | None:
    try:
        refuse_special(path)
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    identity = record.get("identity") if isinstance(record, dict) and record.get("format") == 1 else None
    return identity if isinstance(identity, dict) else None


def made_ns(job: FileJob, *, endings: Iterable[str], since_ns: int) -> int | None:
    """When the oldest result of a file was made; None where one is absent or too old. What has its name is complete."""
    try:
        times = [os.stat(f"{job.target}{ending}").st_mtime_ns for ending in endings]  # noqa: PTH116 - very often
    except OSError:
        return None
    oldest = min(times)
    return oldest if oldest >= since_ns else None


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
            except (ValueError, TypeError, RecursionError):  # the last line of a killed run
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
        """Note that a result is made, or that its input changed meanwhile; without room for that, its time must tell.

        Args:
            job: The input and its result.
            read_at: The input's times before it was read; where they are others now, nobody knows what was read.
        """
        mark = _mark(job.source)
        if mark is None or file_times(job.source) != read_at:
            self.forget(job)  # the result is newer than the change, so its time would tell that it is of it
            return
        line: list[Any] = [self._key(job), read_at, mark]
        with self._lock, contextlib.suppress(OSError), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def forget(self, job: FileJob) -> None:
        """Note that a result is not of this record's model and options, or will not be."""
        with self._lock, contextlib.suppress(OSError), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([self._key(job), None, ""]) + "\n")

    def _key(self, job: FileJob) -> str:
        return job.target.removeprefix(self._start)


def forget_elsewhere(jobs: Iterable[FileJob], identity: Callable[[], Mapping[str, Any]], *, own: Path | None) -> None:
    """Tell the records of other runs, in all folders that the results lie in, that these are not theirs any more.

    Args:
        jobs: What is to be done.
        identity: As in :func:`begin_record`; called where there is such a record.
        own: Folder whose record is this run's; None: it keeps none.
    """
    kept = None if own is None else os.path.abspath(own)  # noqa: PTH100 - texts
    above: dict[str, list[InputsRecord]] = {}  # of each folder of results
    for job in jobs:
        target = os.path.abspath(job.target)  # noqa: PTH100
        folder = os.path.dirname(target)  # noqa: PTH120
        if folder not in above:
            places = [place for place in (Path(folder), *Path(folder).parents) if str(place) != kept]
            others = [place for place in places if has_file(place / RECORD) and is_of_another(place, identity())]
            above[folder] = [InputsRecord(place, resume=True) for place in others]
        for record in above[folder]:
            record.forget(replace(job, target=target))


def _mark(source: str) -> str | None:
    try:
        return file_mark(Path(source), whole=True)
    except (OSError, DatasetError):
        return None
