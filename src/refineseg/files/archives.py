"""Zip files read in place: a path may go on inside a zip file as if that were a folder.

In: paths such as ``photos.zip/images/a.jpg``; ordinary files and folders work the same way. Out: names and bytes.
Nothing is ever written, so a hostile archive cannot fill the disk; what it could do to memory is bounded by
:data:`MOST_UNPACKED`. A zip file's table of contents is read once per process.

Source: the zip format, APPNOTE.TXT 6.3.10 by PKWARE. Python's ``zipfile`` reads its table of contents.
"""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from refineseg.errors import DatasetError
from refineseg.files.special import has_file, has_folder, refuse_special, special_kind

MOST_BYTES = 1 << 30
"""Largest single file read, unpacked: one gibibyte, some 350 megapixels of RGB or a JSON of a million outlines."""

_MARKED_WHOLE = 1 << 20  # bytes of a file whose mark sums up all of them; of a larger one three pieces are enough
_MARKED_PIECE = 1 << 18
MOST_UNPACKED = 1 << 29
"""Largest file of a zip file, unpacked: all of COCO's outlines are a JSON of 470 MB."""

_BOMB_BYTES, _BOMB_RATIO = 1 << 26, 200  # larger and packed more tightly than that, no picture and no JSON is
_STEP = 1 << 20
_PACKED_KINDS = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
_ENCRYPTED = 0x1
_DEFLATED = 8
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_SHOWN = 3
_MOST_VISITS = 256  # of one folder by different names


@dataclass(frozen=True)
class _Member:
    """One file of an archive: where its packed bytes begin, how many, and what they must become."""

    offset: int
    packed: int
    size: int
    method: int
    crc: int


@dataclass(frozen=True)
class _Index:
    members: dict[str, _Member]
    folders: frozenset[str]


def locate(path: Path) -> tuple[Path, str] | None:
    """The zip file a path goes through, and the path inside it; None for ordinary files and folders.

    Only files whose name ends in ``.zip`` count.

    Example:
        >>> locate(Path(__file__)) is None
        True
    """
    for above in (path, *path.parents):
        if has_folder(above):
            return None
        if has_file(above):
            inner = path.relative_to(above).as_posix()
            return (above, "" if inner == "." else inner) if above.suffix.lower() == ".zip" else None
    return None


def is_folder(path: Path) -> bool:
    """True for a folder, a zip file, or a folder in one.

    Raises:
        DatasetError: The zip file cannot be used.
    """
    located = None if has_folder(path) else locate(path)
    return has_folder(path) if located is None else located[1] in _index(located[0]).folders


def is_file(path: Path) -> bool:
    """True for a file, also inside a zip file; a zip file itself is a folder.

    Raises:
        DatasetError: The zip file cannot be used.
    """
    located = locate(path)
    return has_file(path) if located is None else located[1] in _index(located[0]).members


@dataclass(frozen=True)
class Listing:
    """What a folder and its subfolders hold, by paths relative to it.

    Args:
        files: All files, sorted.
        left_out: Every other entry -> what it is: a link that leads nowhere, a FIFO, a folder that cannot be listed.
    """

    files: tuple[str, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)


def list_folder(folder: Path) -> Listing:
    """Every file in a folder (or zip file) and its subfolders, and what is no file.

    Links are followed, those back to a folder that they lie in excepted; hidden names and a Mac's ``__MACOSX`` are
    left out unsaid.

    Raises:
        OSError: There is no such folder, or it cannot be listed.
        DatasetError: The zip file cannot be used, or links lead to one folder in hundreds of ways.
    """
    located = locate(folder)
    if located is None:
        return _walk(os.fspath(folder))
    start = f"{located[1]}/" if located[1] else ""
    return Listing(tuple(sorted(n[len(start) :] for n in _index(located[0]).members if n.startswith(start))))


def list_files(folder: Path) -> tuple[str, ...]:
    """The files of :func:`list_folder` alone.

    Raises:
        OSError: There is no such folder, or it cannot be listed.
        DatasetError: The zip file cannot be used, or links lead to one folder in hundreds of ways.
    """
    return list_folder(folder).files


def subfolders(folder: Path) -> tuple[str, ...]:
    """Names of the folders in a folder (or zip file), sorted, hidden ones left out; empty where it is not there.

    Raises:
        DatasetError: The zip file cannot be used.
    """
    located = locate(folder)
    if located is None:
        if not has_folder(folder):
            return ()
        return tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."))
    parent = PurePosixPath(located[1])
    inside = (PurePosixPath(name) for name in _index(located[0]).folders if name)
    return tuple(sorted(name.name for name in inside if name.parent == parent))


def read_bytes(path: Path) -> bytes:
    """The content of a file, also inside a zip file.

    Raises:
        FileNotFoundError: It is not there.
        OSError: It cannot be read.
        DatasetError: It is larger than :data:`MOST_BYTES` (:data:`MOST_UNPACKED` in a zip file), or the zip file is
            damaged.
    """
    located = locate(path)
    if located is not None and located[1]:
        member = _index(located[0]).members.get(located[1])
        if member is None:
            raise FileNotFoundError(f"no {located[1]} in {located[0]}")
        return _unpacked(*located, member)
    refuse_special(path)
    if path.stat().st_size > MOST_BYTES:
        raise DatasetError(f"expected a file of at most {MOST_BYTES} bytes, got {path.stat().st_size} in {path}")
    return path.read_bytes()


def read_text(path: Path) -> str:
    """Text of a file, also inside a zip file: UTF-8, or UTF-16 with a byte order mark, which is left out.

    Raises:
        DatasetError: It cannot be read, or is neither.
    """
    try:
        return decoded(read_bytes(path))
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"expected a UTF-8 text file, got {path}: {error}") from error


def decoded(content: bytes) -> str:
    """UTF-8 text, or UTF-16 with a byte order mark, as some programs of Windows write it.

    Raises:
        UnicodeDecodeError: It is neither.

    Example:
        >>> decoded("a".encode("utf-16")), decoded("a".encode("utf-8-sig"))
        ('a', 'a')
    """
    return content.decode("utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")


def openable(path: Path) -> Path | io.BytesIO:
    """What to give to a library that opens files: the path, or for a file in a zip file its content.

    Raises:
        FileNotFoundError: The zip file has no such file.
        OSError: It is a FIFO, a socket or a device.
        DatasetError: The zip file cannot be used.
    """
    located = locate(path)
    if located is not None and located[1]:
        return io.BytesIO(read_bytes(path))
    refuse_special(path)
    return path


def file_mark(path: Path, *, whole: bool = False) -> str:
    """By what a file, also inside a zip file, is known again: its length and a checksum of its content.

    Args:
        path: The file.
        whole: Sum up all of a large file, and not only its beginning, middle and end.

    Raises:
        FileNotFoundError: It is not there.
        OSError: It cannot be read.
        DatasetError: The zip file cannot be used.
    """
    located = locate(path)
    if located is not None and located[1]:
        member = _index(located[0]).members.get(located[1])
        if member is None:
            raise FileNotFoundError(f"no {located[1]} in {located[0]}")
        return f"{member.size}-{member.crc:08x}"
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        crc = 0
        if whole or size <= _MARKED_WHOLE:
            while block := file.read(_MARKED_WHOLE):
                crc = zlib.crc32(block, crc)
        else:
            for start in (0, (size - _MARKED_PIECE) // 2, size - _MARKED_PIECE):
                file.seek(start)
                crc = zlib.crc32(file.read(_MARKED_PIECE), crc)
    return f"{size}-{crc:08x}"


def _walk(root: str) -> Listing:
    files: list[str] = []
    left_out: dict[str, str] = {}
    visits: Counter[str] = Counter()
    waiting: list[tuple[str, str, frozenset[str]]] = [(root, "", frozenset())]
    while waiting:
        folder, start, above = waiting.pop()
        real = os.path.realpath(folder)
        if real in above:  # a link back to a folder it lies in
            continue
        visits[real] += 1
        if visits[real] > _MOST_VISITS:  # ten folders with links to each other have a million names
            raise DatasetError(
                f"expected folders whose links do not lead to each other, but in {root} links lead to {real} in more "
                f"than {_MOST_VISITS} ways; give folders without such links"
            )
        try:
            with os.scandir(folder) as entries:
                found = [entry for entry in entries if not entry.name.startswith(".") and entry.name != "__MACOSX"]
        except OSError as error:
            if not start:
                raise
            left_out[start[:-1]] = f"a folder that cannot be listed ({error.strerror or error})"
            continue
        for entry in found:
            name = start + entry.name
            try:
                if entry.is_dir():
                    waiting.append((entry.path, f"{name}/", above | {real}))
                elif entry.is_file():
                    files.append(name)
                else:
                    left_out[name] = special_kind(entry.path) or "a link to nothing"
            except OSError as error:  # a link that leads in a circle, or where nobody may look
                left_out[name] = f"a link that leads to no file ({error.strerror or error})"
    return Listing(tuple(sorted(files)), dict(sorted(left_out.items())))


def _index(path: Path) -> _Index:
    found = path.stat()
    return _read_index(os.fspath(path), found.st_mtime_ns, found.st_size)


@lru_cache(maxsize=8)
def _read_index(path: str, _changed_ns: int, _size: int) -> _Index:
    """The table of contents of one state of a zip file."""
    try:
        with zipfile.ZipFile(path) as archive:
            listed = [info for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError, EOFError, struct.error) as error:
        raise DatasetError(f"expected a zip file, got {path}: {error}; pack it again, or unpack it") from error
    listed = [info for info in listed if not _hidden(_name(info))]
    names = [_name(info) for info in listed]
    _refuse(path, [n for n in names if _leaves(n)], "names inside the archive", "leave it", "pack it again")
    links = [_name(info) for info in listed if stat.S_ISLNK(info.external_attr >> 16)]
    _refuse(path, links, "files", "are links", "pack the files themselves")
    encrypted = [_name(info) for info in listed if info.flag_bits & _ENCRYPTED]
    _refuse(path, encrypted, "files without a password", "are encrypted", "decrypt it, or unpack it")
    other = [_name(info) for info in listed if info.compress_type not in (0, _DEFLATED)]
    _refuse(path, other, "files stored or deflated", "are packed in another way", "pack it again, or unpack it")
    too_large = [f"{_name(info)} ({info.file_size} bytes)" for info in listed if info.file_size > MOST_UNPACKED]
    _refuse(path, too_large, f"files of at most {MOST_UNPACKED} bytes", "are larger", "unpack it if you trust it")
    bombs = [
        f"{_name(info)} ({info.compress_size} bytes become {info.file_size})"
        for info in listed
        if info.file_size > max(_BOMB_BYTES, _BOMB_RATIO * info.compress_size)
    ]
    _refuse(path, bombs, "files that were worth packing", "are decompression bombs", "unpack it if you trust it")
    tidy = [PurePosixPath(name).as_posix() for name in names]
    twice = [name for name, count in Counter(tidy).items() if count > 1]
    _refuse(path, twice, "every name once", "are there twice", "pack it again")
    if tidy and all(name.lower().endswith(_PACKED_KINDS) for name in tidy):
        _refuse(path, tidy, "images and labels", "are archives themselves", "give one of them, unpacked from it")
    members = {
        name: _Member(info.header_offset, info.compress_size, info.file_size, info.compress_type, info.CRC)
        for name, info in zip(tidy, listed, strict=True)
    }
    parents = {PurePosixPath(name).parent for name in members}
    folders = {above.as_posix() for parent in parents for above in (parent, *parent.parents)}
    return _Index(members, frozenset({"", *folders} - {"."}))


def _name(info: zipfile.ZipInfo) -> str:
    return info.filename.replace("\\", "/")  # some programs of Windows write it so


def _hidden(name: str) -> bool:
    return any(part == "__MACOSX" or (part.startswith(".") and part not in (".", "..")) for part in name.split("/"))


def _leaves(name: str) -> bool:
    return name.startswith("/") or re.match(r"[A-Za-z]:", name) is not None or ".." in name.split("/")


def _refuse(path: str, names: Sequence[str], expected: str, got: str, advice: str) -> None:
    if names:
        shown = ", ".join(map(repr, names[:_SHOWN])) + (f" and {len(names) - _SHOWN} more" * (len(names) > _SHOWN))
        raise DatasetError(f"expected {expected} in {path}, but {len(names)} {got}: {shown}; {advice}")


def _unpacked(archive: Path, name: str, member: _Member) -> bytes:
    """One file, never more bytes than declared; opened anew, because reading processes share no file position."""
    try:
        with archive.open("rb") as file:
            file.seek(member.offset)
            mark, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
            if mark != b"PK\x03\x04":
                raise ValueError("no file begins where the table of contents says")
            file.seek(name_bytes + extra_bytes, os.SEEK_CUR)
            if file.tell() + member.packed > archive.stat().st_size:
                raise ValueError("the archive ends too early")
            content = _inflated(file, member) if member.method == _DEFLATED else file.read(member.packed)
        if len(content) != member.size:
            amount = "more" if len(content) > member.size else "fewer"
            raise ValueError(f"it holds {amount} bytes than the {member.size} declared")
        if zlib.crc32(content) != member.crc:
            raise ValueError("its checksum is another")
    except (OSError, ValueError, zlib.error, struct.error) as error:
        raise DatasetError(f"expected to unpack {name} of {archive}, but {error}; pack or download it again") from error
    return content


def _inflated(file: BinaryIO, member: _Member) -> bytes:
    """At most one byte more than declared, unpacked a step at a time: memory is the file's size and no more."""
    unpacker, found, left = zlib.decompressobj(-zlib.MAX_WBITS), io.BytesIO(), member.packed
    while left and not unpacker.eof and found.tell() <= member.size:
        packed = file.read(min(_STEP, left))
        left -= len(packed)
        while packed and found.tell() <= member.size:
            found.write(unpacker.decompress(packed, min(_STEP, member.size + 1 - found.tell())))
            packed = unpacker.unconsumed_tail
    return found.getvalue()
