"""Data sets in remote folders: paths that every reader can use as if the files lay on the disk.

In: ``s3://bucket/prefix``, ``gs://...``, ``https://...`` or any other address that fsspec knows. Out: a
:class:`RemotePath`. Its folders and names are there at once, and a file is brought when something opens it: the
operating system asks a path for its name then (``os.fspath``), and that is where the file is fetched. So Pillow, scipy,
h5py and ``open`` work without knowing of it.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Generator
from pathlib import Path, PosixPath
from typing import Any

from refineseg.data.storage.mirror import CacheOptions, Mirror
from refineseg.data.storage.remote_access import (
    LIST_NAME,
    RemoteFile,
    check_names,
    list_remote,
    remote_address,
    remote_call,
    without_secrets,
)
from refineseg.errors import ConfigError, DatasetError
from refineseg.files.foreign_text import parse_json

INDEX_NAME = "index.json"
"""Describes shards, in their root and in the folder of each split."""

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://")
HEADER_BYTES = 16384
"""Of a remote file, to learn what it is without fetching it."""

_MIRRORS: dict[str, tuple[Mirror, str]] = {}
"""Local folder -> its mirror and the address of the folder, of all remote folders this process has opened."""

_OPENING = threading.Lock()


class RemotePath(PosixPath):
    """A file or folder in a remote folder. It prints as its address; what opens it gets a local copy.

    Made by :func:`open_root`; everything below is ``root / "name"`` as with any path. ``is_file``, ``is_dir``,
    ``exists`` and listing fetch nothing.
    """

    def _local(self) -> str:
        return super().__str__()

    def _mirror(self) -> tuple[Mirror, str, str] | None:
        """The mirror, its address, and the path in it."""
        local = self._local()
        for folder, (mirror, url) in _MIRRORS.items():
            if local == folder or local.startswith(folder + os.sep):
                return mirror, url, local[len(folder) + 1 :]
        return None

    def __str__(self) -> str:
        found = self._mirror()
        return self._local() if found is None else f"{found[1]}/{found[2]}".rstrip("/")

    def __fspath__(self) -> str:
        local, found = self._local(), self._mirror()
        if found is not None and not os.path.isdir(local):  # noqa: PTH112 - the plain path, which fetches nothing
            found[0].fetch(local)
        return local

    def __reduce__(
        self,
    ) -> tuple[Callable[..., RemotePath], tuple[Any, ...]]:  # a process that is started anew has no mirrors
        found = self._mirror()
        if found is None:
            return (RemotePath, (self._local(),))
        return (_reopened, (found[0].url, found[0].options, found[1], found[2]))

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """True where the remote folder has such a file."""
        return Path(self._local()).is_file()

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """True where the remote folder has such a folder."""
        return Path(self._local()).is_dir()

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """True where the remote folder has such a file or folder."""
        return Path(self._local()).exists()

    def iterdir(self) -> Generator[RemotePath, None, None]:
        """Everything in the folder."""
        return (self / entry.name for entry in Path(self._local()).iterdir())

    def glob(self, pattern: str) -> Generator[RemotePath, None, None]:
        """Everything below the folder that fits a pattern."""
        return (self / entry.relative_to(self._local()) for entry in Path(self._local()).glob(pattern))

    def rglob(self, pattern: str) -> Generator[RemotePath, None, None]:
        """Everything below the folder whose end fits a pattern."""
        return (self / entry.relative_to(self._local()) for entry in Path(self._local()).rglob(pattern))

    def resolve(self, strict: bool = False) -> RemotePath:
        """The path itself."""
        return self

    def absolute(self) -> RemotePath:
        """The path itself."""
        return self

    def read_part(self, start: int, size: int) -> bytes:
        """Some bytes of the file, without fetching the rest.

        Raises:
            DatasetError: They cannot be read.
        """
        found = self._mirror()
        if found is None:
            raise DatasetError(f"expected a file in a remote folder, got {self}")
        return found[0].fetch_part(self._local(), start, size)

    def read_header(self) -> bytes | None:
        """The first 16 KiB of a larger file whose content is not here; None: read it whole."""
        found = self._mirror()
        size = None if found is None else found[0].size_of(self._local())
        return None if size is None or size <= HEADER_BYTES else self.read_part(0, HEADER_BYTES)


def _reopened(url: str, options: CacheOptions, shown: str, inside: str) -> RemotePath:
    """A path in another process: that which made it has listed the remote folder."""
    mirror = Mirror(url, options)
    _MIRRORS.setdefault(str(mirror.root), (mirror, shown))
    return RemotePath(mirror.root, inside)


def is_remote(root: str) -> bool:
    """True for addresses, ``s3://...``; False for paths.

    Example:
        >>> is_remote("s3://bucket/voc"), is_remote("C:/voc"), is_remote("data:voc")
        (True, False, False)
    """
    return _ADDRESS.match(root) is not None


def check_address(text: str) -> str:
    """An address without the slash at its end.

    Raises:
        ConfigError: It names no place, or holds a user name, a password or a query, which would end up in files and
            messages.
    """
    scheme, _, place = text.rstrip("/").partition("://")
    if not place.strip("/"):
        raise ConfigError(
            f"expected an address such as s3://bucket/prefix, got {text}; say what lies after {scheme}://"
        )
    text = f"{scheme}://{place}"
    if "@" in text.split("://", 1)[1].split("/")[0] or "?" in text or "#" in text:
        raise ConfigError(
            f"expected a plain address without user, password and query, got {without_secrets(text)}; credentials "
            "are read from the environment and the configuration files of s3fs and gcsfs"
        )
    return text


def open_root(root: str | Path, *, options: CacheOptions | None = None) -> Path:
    """The root of a data set: a path as it is, an address as a :class:`RemotePath`.

    The remote folder is listed once per process. On a web server the list is the file ``files.txt`` in the folder (one
    relative path per line), or ``index.json`` where the folder holds shards.

    Args:
        root: A path or an address.
        options: The cache; None: as the environment says.

    Raises:
        ConfigError: An address that holds a user name, a password or a query, or of an unknown kind.
        DatasetError: The folder is not there, or cannot be listed.
        MissingExtraError: The package for this kind of address is not installed.
    """
    if not is_remote(str(root)):
        return Path(root)
    text = check_address(str(root))
    if os.name != "posix":
        raise ConfigError(f"expected a folder, got {text}: remote folders are read on Linux and macOS only")
    with _OPENING:
        known = {url: Path(folder) for folder, (_, url) in _MIRRORS.items()}
        if text in known:
            return RemotePath(known[text])
        listing = _web_listing(text) if text.startswith("http") else list_remote(text)
        url, _, name = text.rpartition("/") if set(listing) == {""} else (text, "", "")
        mirror = Mirror(text, options or CacheOptions.from_environment())
        # with a name the address is that of a file, for instance a zip file
        mirror.update({name: listing[""]} if name else listing, base=url)
        _MIRRORS[str(mirror.root)] = (mirror, url)
        return RemotePath(mirror.root, name)


def forget_remotes() -> None:
    """List remote folders anew when they are opened next; paths opened before must not be used any more."""
    _MIRRORS.clear()


def _web_listing(url: str) -> dict[str, RemoteFile]:
    """The files a web server's list names."""
    try:
        text = remote_call("read", f"{url}/{LIST_NAME}", lambda fs, address: fs.cat_file(address)).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"expected UTF-8 text in {url}/{LIST_NAME}, got {error}") from error
    except FileNotFoundError:
        return _shards_listing(url)
    files = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        name, _, size = line.partition("\t")
        if size and not (size.isdecimal() and len(size) < 20):
            raise DatasetError(f"expected 'path' or 'path<TAB>bytes' on each line of {url}/{LIST_NAME}, got {line!r}")
        files[name.removeprefix("./")] = RemoteFile(int(size) if size else None, size)
    if not files:
        raise DatasetError(f"expected a path on each line of {url}/{LIST_NAME}, got no line")
    check_names(files, url)
    return files


def _shards_listing(url: str) -> dict[str, RemoteFile]:
    """The files of shards, from their index files."""

    def read(name: str) -> Any:  # noqa: ANN401 - JSON
        check_names({name: None}, url)
        content = remote_call("read", remote_address(url, name), lambda fs, address: fs.cat_file(address))
        files[name.removeprefix("./")] = RemoteFile(len(content), "")
        return parse_json(content.decode("utf-8"))

    files: dict[str, RemoteFile] = {}
    try:
        for split in read(INDEX_NAME)["splits"]:
            for shard in read(f"{split}/{INDEX_NAME}")["shards"]:
                files[f"{split}/{shard['file']}"] = RemoteFile(int(shard["bytes"]), str(shard["sha256"]))
    except FileNotFoundError as error:
        raise DatasetError(
            f"expected {LIST_NAME} in {url}, the list of its files (one relative path per line; a web server cannot be "
            f"listed), or the {INDEX_NAME} of shards, got neither; write it: find . -type f > {LIST_NAME}"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"expected the index of shards in {url}/{INDEX_NAME}, got another file ({error!r:.200})"
        ) from error
    check_names(files, url)
    return files
