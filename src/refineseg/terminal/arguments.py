"""What can be said of a call before anything is computed: names, files that are read, files that are written.

In: words of the command line. Out: nothing, or an error that says what was expected, what was got, what to do. Nothing
here imports a heavy package, and nothing that is checked here is made or changed.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Real
from pathlib import Path

from refineseg.errors import ConfigError
from refineseg.files.special import special_kind

_MOST_NEIGHBOURS = 2000
"""Names of a folder that are compared with one that is not there."""
_LEAST_BYTES = 4096
"""Room that a file system must have left for a result."""
LONGEST_NAME = 255
"""Bytes that a file system takes in a name."""
_LONGEST_PATH = 4000
"""Bytes of a whole path; systems take 4096, with the name of a temporary file in it."""
_OWN_BEGINNINGS = {
    "--json": re.compile(rb'\{\n "'),
    "--html": re.compile(rb"<!doctype html>", re.IGNORECASE),
    "--areas": re.compile(rb'image,pixels,|\{"classes": \[.*\],\n "images": \['),
}
"""How the results of this package begin that are written to a file of any name."""
_OWN_RECORDS = ("run.json", "data.json", ".refineseg.json")
_LONGEST_BEGINNING = 1 << 16
_DEVICE = re.compile(r"auto|(cpu|cuda|mps|xpu)(:\d{1,2})?")


def nearest(name: str, known: Iterable[str], *, most: int = 3, cutoff: float = 0.6) -> list[str]:
    """The few known names that are most like a wrong one, case left aside; often none.

    Example:
        >>> nearest("Cityscape", ["voc", "cityscapes", "camvid"])
        ['cityscapes']
    """
    by_key: dict[str, str] = {}
    for text in known:
        by_key.setdefault(text.casefold(), text)
    key = name.casefold()
    found = difflib.get_close_matches(key, by_key, n=most, cutoff=cutoff)
    if len(key) > 2:  # a part of a long name, of which a ratio says little
        found += [k for k in by_key if k not in found and (k.startswith(key) or key in re.split(r"[_.]", k))]
    return [by_key[k] for k in found[:most]]


def hint(name: str, known: Iterable[str], *, listed: str) -> str:
    """The end of a message about a name that is not known: the near ones, else where all are listed.

    Args:
        name: The wrong one.
        known: The right ones.
        listed: What to do for all of them, for instance "`refineseg models` lists them".
    """
    near = nearest(name, known)
    return f"near: {', '.join(near)}" if near else listed


def near_files(path: Path, *, endings: tuple[str, ...] = ()) -> str:
    """``; near: ...`` with the names in the folder of a missing file that are most like its own; often empty."""
    try:
        with os.scandir(path.parent) as entries:
            names = [entry.name for entry, _ in zip(entries, range(_MOST_NEIGHBOURS), strict=False)]
    except OSError:
        return ""
    near = nearest(path.name, (name for name in names if name.endswith(endings or "")), cutoff=0.7)
    return f"; near: {', '.join(str(path.parent / name) for name in near)}" if near else ""


def check_word(what: str, word: str, known: Sequence[str]) -> str:
    """A word that is one of a few.

    Raises:
        ConfigError: It is not; the message has all of them, and the near ones.
    """
    if not isinstance(word, str):
        raise ConfigError(f"expected a text as {what}, one of {', '.join(known)}, got {type(word).__name__}")
    if word not in known:
        near = nearest(word, known)
        advice = f"; near: {', '.join(near)}" if near else ""
        article = "an" if what[0] in "aeiou" else "a"
        raise ConfigError(f"expected {article} {what} of {', '.join(known)}, got {word!r}{advice}")
    return word


def check_device_name(name: str) -> None:
    """Whether a device could be meant; whether it is there, PyTorch alone can say.

    Raises:
        ConfigError: No device is called so.
    """
    if not isinstance(name, str) or not _DEVICE.fullmatch(name):
        raise ConfigError(
            f"expected a device of this machine (cpu, cuda, cuda:1, mps), got {name!r}; use auto, which takes what is "
            "there"
        )


def parse_size(text: str) -> tuple[int, int]:
    """``HEIGHTxWIDTH`` -> (height, width).

    Raises:
        ConfigError: Not two numbers of at least 1 with an x between them.

    Example:
        >>> parse_size("480x640")
        (480, 640)
    """
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if match is None:
        raise ConfigError(f"expected a size HEIGHTxWIDTH in pixels, for instance 480x640, got {text!r}")
    return int(match[1]), int(match[2])


def check_number(
    option: str,
    value: int | float | None,
    *,
    least: int | float | None = None,
    above: int | float | None = None,
    most: int | float | None = None,
) -> None:
    """Whether a number lies where it must; None: none was given.

    Raises:
        ConfigError: It does not, or it is no number.
    """
    if value is None:
        return
    _check_real(option, value)
    if least is not None and not value >= least:
        raise ConfigError(f"expected {option} of at least {least:g}, got {value:g}")
    if most is not None and not value <= most:
        raise ConfigError(f"expected {option} of at most {most:g}, got {value:g}")
    if above is not None and not value > above:
        raise ConfigError(f"expected {option} above {above:g}, got {value:g}")


def _check_real(option: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ConfigError(f"expected {option} as a number, got {value!r:.80} of type {type(value).__name__}")


def check_input_file(option: str, path: Path | None, *, what: str = "a file") -> None:
    """Whether a file that is to be read is there; None: none was given.

    Raises:
        ConfigError: It is not, or it is a folder, or it must not be read.
    """
    if path is None:
        return
    if _is(path, "dir"):
        raise ConfigError(f"expected {what} as {option}, got {path}, which is a folder; name a file in it")
    if not _is(path, "exists"):
        raise ConfigError(f"expected {what} as {option}, but there is no {path}{near_files(path)}")
    kind = special_kind(path)
    if kind is not None:
        raise ConfigError(f"expected {what} as {option}, got {path}, which is {kind} and never opened; name another")
    if not os.access(path, os.R_OK):
        raise ConfigError(f"expected {what} as {option} that can be read, got {path}; allow it: chmod +r {path}")


def check_outputs(files: Mapping[str, Path | None], folders: Mapping[str, Path | None] | None = None) -> None:
    """Whether every result can be written where it was asked for; nothing is made.

    Args:
        files: Option -> the file it names; None: not given.
        folders: Option -> the folder it names, which need not be there yet.

    Raises:
        ConfigError: A folder where a file is to be written, or the reverse; a place that cannot be written to, or has
            no room left; or two options that name one file.
    """
    seen: dict[str, str] = {}
    for option, path in files.items():
        if path is None:
            continue
        if _is(path, "dir"):
            raise ConfigError(f"expected {option} FILE, got {path}, which is a folder; name a file in it")
        if _is(path, "exists") and not _is(path, "file"):
            raise ConfigError(f"expected {option} FILE, got {path}, which is a device or a pipe; name an ordinary file")
        if option in _OWN_BEGINNINGS and not _is_replaceable(option, path):
            raise ConfigError(
                f"expected {option} as a new file or an earlier result, got {path}, which is another file and would be "
                "lost; name another"
            )
        other = seen.setdefault(os.path.realpath(path), option)
        if other != option:
            raise ConfigError(f"expected different files as {other} and {option}, got {path} twice; name another")
        _check_place(option, path, path.parent)
    for option, path in (folders or {}).items():
        if path is None:
            continue
        above = next((seen[str(place)] for place in _with_parents(path) if str(place) in seen), None)
        if above is not None:
            raise ConfigError(f"expected {above} FILE apart from {option} FOLDER, got {path} below it; name another")
        _check_place(option, path, path)


def _is_replaceable(option: str, path: Path) -> bool:
    """Whether a result may take the place of what a path names: nothing, an empty file, or such a result."""
    if not _is(path, "file") or not os.access(path, os.R_OK):
        return True  # what cannot be written to is refused with its own words
    if path.name in _OWN_RECORDS or path.name.endswith(".acceptance.json"):
        return False
    with path.open("rb") as file:
        begin = file.read(_LONGEST_BEGINNING)
    return not begin or bool(_OWN_BEGINNINGS[option].match(begin))


def check_not_input(option: str, path: Path | None, inputs: Iterable[str | Path]) -> None:
    """Whether a result would take the place of something that is read.

    Raises:
        ConfigError: It would.
    """
    if path is None or not _is(path, "exists"):
        return
    for other in inputs:
        if str(other) and os.path.realpath(other) == os.path.realpath(path):
            raise ConfigError(f"expected {option} apart from the inputs, got {path}, which is one; name another file")


def _with_parents(path: Path) -> Iterator[Path]:
    real = Path(os.path.realpath(path))
    yield real
    yield from real.parents


def _is(path: Path, kind: str) -> bool:
    """Whether a path is there, a file, a folder; False where it cannot be looked at."""
    try:
        return {"exists": path.exists, "file": path.is_file, "dir": path.is_dir}[kind]()
    except (OSError, ValueError):  # a part of it is a file, it must not be searched, or a name is too long
        return False


def _check_place(option: str, path: Path, folder: Path) -> None:
    """Whether files can be made in a folder, or the folder itself where it is not there."""
    kind = "FILE" if folder != path else "FOLDER"
    whole = os.path.abspath(path) if "\0" not in str(path) else ""  # noqa: PTH100 - as below
    too_long = len(os.fsencode(whole)) > _LONGEST_PATH or any(
        len(os.fsencode(part)) > LONGEST_NAME for part in path.parts
    )
    if not whole or too_long:
        raise ConfigError(
            f"expected {option} {kind}, got {str(path)[:60]!r}..., whose name is too long or no name; choose another"
        )
    place = Path(os.path.abspath(folder))  # noqa: PTH100 - links and .. are the system's to follow
    while not os.path.lexists(place):
        place = place.parent
    if not _is(place, "dir"):
        is_file = "exists and is a file" if _is(place, "file") else "is no folder"
        raise ConfigError(f"expected {option} {kind}, got {path}, but {place} {is_file}; choose another")
    error = _write_error(place)
    if error is not None and error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise ConfigError(
            f"expected room for {option} {path}, but there is no room left in {place}; free some, or choose another "
            "place"
        )
    if error is not None:
        raise ConfigError(
            f"expected to write {option} {path}, but {place} cannot be written to ({error.strerror}); choose a folder "
            "that can be written to"
        )


def _write_error(folder: Path) -> OSError | None:
    """Why no file can be made in a folder; None: one can. The file of the trial never has a name where that is known.

    A permission says too little: the administrator has all of them, a system's folders take no files of anybody.
    """
    try:
        room = os.statvfs(folder)
        if room.f_blocks and room.f_bavail * room.f_frsize < _LEAST_BYTES:
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if not os.access(folder, os.W_OK | os.X_OK):
            return OSError(errno.EACCES, os.strerror(errno.EACCES))
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error
