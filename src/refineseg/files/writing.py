"""Files that are written beside and then renamed, so that what has its name is complete; what to say where that fails.

In: the path that a file is to have. Out: a temporary path in the same folder, which takes that name at the end; one
:class:`~refineseg.errors.OutputError` for each way to fail. A process that is killed leaves its temporary files; the
next one that writes into the same folder removes them, by the process named in them.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from refineseg.errors import OutputError, RefinesegError
from refineseg.files.special import special_kind

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a disk says that takes no more of a file."""


def _umask() -> int:
    mask = os.umask(0o077)  # it cannot be asked for without being set
    os.umask(mask)
    return mask


NEW_FILE_MODE = 0o666 & ~_umask()
"""Rights of a file as this process makes it; those of temporary files are narrower."""

_TEMPORARY = re.compile(r"\.refineseg-([0-9a-f]{8})-([0-9]{1,9})-[a-z0-9_]{8}(\.[^/]*)?", re.DOTALL)
_LONGEST_SUFFIX = 16
_ABANDONED_S = (
    24 * 3600.0
)  # of processes that cannot be asked whether they live: nothing takes that long between writes
_SWEPT: set[str] = set()  # folders that this process has looked into


def write_error(path: Path, error: Exception, *, shown: str = "") -> OutputError:
    """What to say of a file or folder that cannot be written.

    Args:
        path: The file that was to be written, not a temporary name.
        error: What the system or a library said.
        shown: Names for the message, where it may have been one of several files.

    Returns:
        An error whose ``no_room`` says whether the disk takes no more; raise it from ``error``.
    """
    if isinstance(error, OutputError):
        return error
    words = f"expected to write {shown or path}, but"
    reason = str(error).strip() or type(error).__name__
    if not isinstance(error, OSError):
        return OutputError(f"{words} it could not be stored ({reason}); choose a folder with room, or make room")
    reason, number = error.strerror or reason, error.errno
    if number in NO_ROOM:
        return OutputError(
            f"{words} there is no room left ({reason}); choose a folder with room, or make room", no_room=True
        )
    if number in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENOTEMPTY):
        for there in (path, *path.parents):
            if there.is_dir() and there == path:
                return OutputError(f"{words} {path} exists and is a folder; choose another name")
            if there != path and there.exists() and not there.is_dir():
                return OutputError(f"{words} {there} exists and is a file; choose a folder that can be written to")
    return OutputError(f"{words} {reason}; choose a folder that can be written to")


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turn every failure to write in a block into the error that names ``path``.

    What fails in reading another file stays as it is.

    Raises:
        OutputError: The file cannot be written.
    """
    try:
        yield
    except OSError as error:
        if _is_of_another(error, path):
            raise
        raise write_error(path, error) from error


def _is_of_another(error: OSError, path: Path) -> bool:
    """Whether an error names a file that is neither in the folder of ``path`` nor a folder that it lies in."""
    if not isinstance(error.filename, str | bytes):
        return False
    there, wanted = Path(os.path.abspath(os.fsdecode(error.filename))), Path(os.path.abspath(path))  # noqa: PTH100
    return not (there.is_relative_to(wanted.parent) or wanted.is_relative_to(there))


@contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """A temporary file next to ``path`` that takes its place only when the block ends without an error.

    Raises:
        OutputError: The file cannot be written.
    """
    with storing(path):
        _refuse_special(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, once=True)
        suffix = path.suffix if len(os.fsencode(path.suffix)) <= _LONGEST_SUFFIX else ""
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=_own_prefix(), suffix=suffix)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            temporary.chmod(NEW_FILE_MODE)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """A temporary folder next to ``path``, on the same disk, for several files that are to be moved from it together.

    Raises:
        OutputError: A file cannot be written.
    """
    with storing(path):
        _refuse_special(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, once=True)
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=_own_prefix()))
        try:
            yield folder
        except RefinesegError as error:  # names the file as it will be called
            lines = error.args
            error.args = tuple(str(line).replace(f"{folder}", f"{path.parent}") for line in lines)
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(folder: Path, *, once: bool = False) -> None:
    """Remove temporary files that processes which no longer run have left in a folder.

    Nothing is removed but names that :func:`written_beside` and :func:`folder_beside` give, and of those none of a
    process that runs. Of another machine's (or container's) processes, which cannot be asked, only what has not
    changed for a day is removed.

    Args:
        folder: Folder that is looked through; its subfolders are left alone.
        once: Do nothing where this process has looked into the folder before.
    """
    key = os.path.abspath(folder)  # noqa: PTH100 - texts
    if once and key in _SWEPT:
        return
    _SWEPT.add(key)
    try:
        with os.scandir(folder) as entries:
            found = [(entry.path, match) for entry in entries if (match := _TEMPORARY.fullmatch(entry.name))]
    except OSError:
        return
    for name, match in found:
        try:
            if _is_left(name, here=match[1] == _own_machine(), process=int(match[2])):
                if os.path.isdir(name) and not os.path.islink(name):  # noqa: PTH112, PTH114 - texts
                    shutil.rmtree(name, ignore_errors=True)
                else:
                    os.unlink(name)  # noqa: PTH108
        except OSError:
            continue  # another process was faster


def _is_left(name: str, *, here: bool, process: int) -> bool:
    """Whether nobody can be writing a temporary file any more."""
    if here and sys.platform != "win32":  # where asking would end the process
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        except OSError:  # it runs, and is somebody else's
            return False
        return False
    return os.lstat(name).st_mtime < time.time() - _ABANDONED_S


@cache
def _own_machine() -> str:
    """What numbers of processes belong to: this machine, or this container on it."""
    try:
        space = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 - not a file's name
    except OSError:
        space = ""
    import socket  # imported late: only to write

    return hashlib.sha256(f"{socket.gethostname()} {space}".encode()).hexdigest()[:8]


def _own_prefix() -> str:
    return f".refineseg-{_own_machine()}-{os.getpid()}-"


def _refuse_special(path: Path) -> None:
    kind = special_kind(path)
    if kind is None and os.path.realpath(path.parent) == "/dev":  # a link there, such as stdout
        kind = "a device"
    if kind is not None:
        raise OutputError(f"expected to write {path}, but it is {kind}; choose the name of a file")


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401 - JSON
    """Write plain values, beside and then renamed.

    Raises:
        OutputError: The file cannot be written.
    """
    with written_beside(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1), encoding="utf-8")
