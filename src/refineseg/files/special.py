"""What is no file: FIFOs, sockets and devices, which are never opened, because that may wait for ever."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_SPECIAL = {
    **{stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"},
    **{stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"},
}


def special_kind(path: str | Path) -> str | None:
    """What a path is that is never opened, because that may wait for ever; None for files, folders and nothing.

    Example:
        >>> special_kind("/dev/null"), special_kind(__file__), special_kind("there is nothing")
        ('a device', None, None)
    """
    try:
        return _SPECIAL.get(stat.S_IFMT(os.stat(path).st_mode))  # noqa: PTH116 - texts too
    except (OSError, ValueError):
        return None


def has_folder(path: str | Path) -> bool:
    """Whether a folder is there and can be looked at; ``Path.is_dir`` raises where a folder above is closed.

    Example:
        >>> has_folder("/"), has_folder("x" * 300)
        (True, False)
    """
    try:
        return (Path(path) if isinstance(path, str) else path).is_dir()
    except OSError:
        return False


def has_file(path: str | Path) -> bool:
    """Whether a file is there and can be looked at; ``Path.is_file`` raises where a folder above is closed."""
    try:
        return (Path(path) if isinstance(path, str) else path).is_file()
    except OSError:
        return False


def refuse_special(path: Path) -> None:
    """Refuse what is no file, before anything waits for it.

    Raises:
        OSError: A FIFO, a socket or a device.
    """
    kind = special_kind(path)
    if kind is not None:
        raise OSError(f"it is {kind}, which is never opened")
