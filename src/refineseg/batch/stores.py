"""Where images come from and results go: a local folder or an address, with the same few verbs.

In: a folder or an address. Out: a :class:`Store`. What is written is read back before the writer goes on: of an address
the size and the MD5 that the storage tells (where it tells none, the bytes), of a folder the bytes.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from refineseg.data.storage.objects import Mark, list_pages, object_mark, read_object, remove_object, write_object
from refineseg.data.storage.remote import check_address, is_remote
from refineseg.errors import ConfigError, DatasetError, ImageError, OutputError
from refineseg.files.special import special_kind
from refineseg.files.writing import written_beside

_PAGE = 1000
_NOT_LISTED = ("http", "https", "rtsp", "rtmp", "udp", "tcp")


class Store(Protocol):
    """A folder of named contents."""

    place: str

    def pages(self, under: str = "") -> Iterator[list[tuple[str, Mark]]]:
        """Names and marks of everything below a folder in here; nothing where there is no such folder."""

    def read(self, name: str) -> bytes:
        """A content; FileNotFoundError where there is none."""

    def mark(self, name: str) -> Mark | None:
        """The mark of a content now; None where there is none."""

    def write(self, name: str, content: bytes | memoryview) -> Mark:
        """Write a content whole, and compare what is there with it."""

    def remove(self, name: str) -> None:
        """Remove a content."""


class RemoteStore:
    """Objects below an address.

    Args:
        place: Address.
    """

    def __init__(self, place: str) -> None:
        self.place = place

    def _url(self, name: str) -> str:
        return f"{self.place}/{name}" if name else self.place

    def pages(self, under: str = "") -> Iterator[list[tuple[str, Mark]]]:
        """See :class:`Store`."""
        start = f"{under}/" if under else ""
        try:
            for page in list_pages(self._url(under)):
                yield [(start + name, mark) for name, mark in page]
        except FileNotFoundError as error:
            if not under:
                raise DatasetError(
                    f"expected a folder or bucket, but there is no {self.place} ({error}); check its name"
                ) from error

    def read(self, name: str) -> bytes:
        """See :class:`Store`."""
        return read_object(self._url(name))

    def mark(self, name: str) -> Mark | None:
        """See :class:`Store`."""
        return object_mark(self._url(name))

    def write(self, name: str, content: bytes | memoryview) -> Mark:
        """See :class:`Store`.

        Raises:
            OutputError: It cannot be written, or another content is there afterwards.
        """
        url = self._url(name)
        try:
            write_object(url, content)
            there = object_mark(url)
        except FileNotFoundError as error:
            raise OutputError(f"expected to write {url}, but there is no such bucket ({error}); make it") from error
        except DatasetError as error:
            raise OutputError(str(error)) from error
        same = there is not None and there.size == len(content)
        if there is None or not same or (there.md5 != _md5(content) and self.read(name) != bytes(content)):
            raise OutputError(
                f"expected the {len(content)} bytes that were written in {url}, got {there}; does something else write "
                "there?"
            )
        return there

    def remove(self, name: str) -> None:
        """See :class:`Store`."""
        remove_object(self._url(name))


_NOWHERE = Mark(0, "")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or into a closed folder
        return False


class LocalStore:
    """Files below a folder.

    Args:
        place: Folder.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self._root = Path(place)

    def pages(self, under: str = "") -> Iterator[list[tuple[str, Mark]]]:
        """See :class:`Store`; folders that are links are followed once."""
        page: list[tuple[str, Mark]] = []
        folders, seen = [under], {os.path.realpath(self._root / under)}
        while folders:
            folder = folders.pop()
            try:
                entries = os.scandir(self._root / folder)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise DatasetError(f"expected a folder of images, but {self._root / folder}: {error}") from error
            with entries:
                for entry in entries:
                    name = f"{folder}/{entry.name}" if folder else entry.name
                    if _is_folder(entry):
                        real = os.path.realpath(entry.path) if entry.is_symlink() else ""
                        if not real or real not in seen:
                            seen |= {real} - {""}
                            folders.append(name)
                    elif (mark := self.mark(name)) is not None or entry.is_symlink():
                        page.append((name, mark or _NOWHERE))  # a link that leads nowhere fails as an input
                    if len(page) == _PAGE:
                        yield page
                        page = []
        yield page

    def read(self, name: str) -> bytes:
        """See :class:`Store`."""
        path = self._root / name
        kind = special_kind(path)
        if kind is not None:
            raise ImageError(f"expected an image file, got {path}: it is {kind}, which is never opened")
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            if path.is_symlink():
                raise ImageError(f"expected an image file, got {path}, a link that leads nowhere") from error
            raise
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise ImageError(f"expected an image file, got {path}, a link that leads to itself") from error
            if not isinstance(error, PermissionError):
                raise
            if os.access(path.parent, os.R_OK | os.X_OK):  # this file alone is closed
                raise ImageError(f"expected an image file that may be read, got {path}: {error}") from error
            raise

    def mark(self, name: str) -> Mark | None:
        """See :class:`Store`."""
        try:
            found = os.stat(self._root / name)  # noqa: PTH116 - very often
        except OSError:
            return None
        return Mark(found.st_size, str(found.st_mtime_ns))

    def write(self, name: str, content: bytes | memoryview) -> Mark:
        """See :class:`Store`.

        Raises:
            OutputError: It cannot be written, or another content is there afterwards.
        """
        path = self._root / name
        with written_beside(path) as temporary:
            temporary.write_bytes(content)
        mark = self.mark(name)
        if mark is None or path.read_bytes() != bytes(content):
            raise OutputError(f"expected the bytes that were written in {path}, got others; is the disk damaged?")
        return mark

    def remove(self, name: str) -> None:
        """See :class:`Store`."""
        (self._root / name).unlink(missing_ok=True)


def open_store(place: str) -> Store:
    """The store of a folder or an address.

    Raises:
        ConfigError: An address that holds a password or a query, or of a kind that cannot be listed.
    """
    if not is_remote(place):
        return LocalStore(place)
    address = check_address(place)
    scheme = address.partition("://")[0]
    if scheme in _NOT_LISTED:
        raise ConfigError(
            f"expected a folder or an address such as s3://bucket/images, got {address}; what lies behind {scheme}:// "
            "cannot be listed: copy the images"
        )
    return RemoteStore(address)


def is_as_listed(content: bytes, listed: Mark, store: Store, name: str) -> bool:
    """Whether what was read is what was listed: its MD5 proves it, else the storage is asked once more.

    With a key of its own for encryption (SSE-KMS), S3 tells something that looks like an MD5 and is none.
    """
    if listed.size is not None and listed.size != len(content):
        return False
    return (listed.md5 is not None and listed.md5 == _md5(content)) or store.mark(name) == listed


def _md5(content: bytes | memoryview) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
