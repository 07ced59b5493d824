"""Files of a remote folder, kept on the local disk up to a number of bytes; concurrent processes share them.

In: the address of a folder (``s3://bucket/prefix``). Out: a :class:`Mirror`, a local folder of the same names. The
remote folder is listed once; each file is an empty stand-in until :meth:`Mirror.fetch` brings its content.

Any number of processes may share a cache. What is held, how large it is and when it was last used stands in an SQLite
file, so that they agree on one budget. A file takes its name only when it is complete; a killed process leaves at most
an unfinished download in a folder of its own, which is overwritten or removed later.
"""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock, Timeout

from refineseg.data.storage.remote_access import RemoteFile, remote_address, remote_call, remote_facts
from refineseg.errors import ConfigError, DatasetError

FOLDER_VARIABLE, BUDGET_VARIABLE = "REFINESEG_CACHE", "REFINESEG_CACHE_GB"
_DEFAULT_GB = 50
_GRACE_S = 30.0  # a process that has just been given a file needs time to open it
_WAIT_S = 120.0
_ABANDONED_S = 3600.0
_SLOTS = 256
_ASKED, _TO_ASK = "=", "?"  # before a version that the server told, because the list did not
_ABSENT, _RESERVED, _HELD = 0, 1, 2
_TABLES = (
    "CREATE TABLE files (path TEXT PRIMARY KEY, remote TEXT, size INTEGER, version TEXT, "
    "state INTEGER DEFAULT 0, used REAL)",
    "CREATE INDEX by_use ON files (state, used)",
    "CREATE TABLE total (bytes INTEGER NOT NULL)",
    "INSERT INTO total VALUES (0)",
)


@dataclass(frozen=True)
class CacheOptions:
    """Where files from remote folders are kept, and how many bytes of them.

    Args:
        folder: Shared by all data sets, runs and processes that name it.
        max_bytes: Most bytes of all files together; the longest unused go first.
        grace_s: Files used in the last so many seconds stay; a process that finds no room waits that long.
    """

    folder: Path
    max_bytes: int
    grace_s: float = _GRACE_S

    @classmethod
    def from_environment(cls) -> CacheOptions:
        """``REFINESEG_CACHE`` (by default ``~/.cache/refineseg``) and ``REFINESEG_CACHE_GB`` (by default 50).

        Raises:
            ConfigError: The second is no positive number.
        """
        default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "refineseg"
        text = os.environ.get(BUDGET_VARIABLE, str(_DEFAULT_GB))
        try:
            max_bytes = int(float(text) * 1e9)
        except (ValueError, OverflowError):
            max_bytes = 0
        if max_bytes <= 0:
            raise ConfigError(f"expected a positive number of gigabytes in {BUDGET_VARIABLE}, got {text!r}")
        return cls(Path(os.environ.get(FOLDER_VARIABLE) or default).absolute(), max_bytes)


def _same_by_list(file: RemoteFile, size: int | None, version: str) -> bool:
    """Whether a listing, as far as it tells, names the file that is known."""
    known = "" if version.startswith((_ASKED, _TO_ASK)) else version
    return known == file.version and file.size in (None, size)


class Mirror:
    """A local folder with the names of a remote one, whose files are brought when they are used.

    Args:
        url: URL of the remote folder, without a slash at the end.
        options: The cache.
    """

    def __init__(self, url: str, options: CacheOptions) -> None:
        self.url, self.options = url, options
        label = re.sub(r"[^A-Za-z0-9._-]+", "_", url)[:80]
        self._name = f"{label}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
        self.root = options.folder / self._name / "files"
        self._whole_only = False

    def update(self, listing: Mapping[str, RemoteFile], *, base: str) -> None:
        """Bring the local names up to date: stand-ins for new files, none for vanished ones, changed ones anew.

        Args:
            listing: Path -> file.
            base: Address the paths are relative to.

        Raises:
            DatasetError: The local disk does not take them.
        """
        try:
            for folder in (self.root, self.options.folder / "unfinished"):
                folder.mkdir(parents=True, exist_ok=True)
            self._remove_unfinished()
            with FileLock(self.options.folder / self._name / "lock"):
                self._update(listing, base)
        except OSError as error:
            raise DatasetError(
                f"expected to keep the names of {self.url} in {self.root}, but {error}; choose another folder by "
                f"{FOLDER_VARIABLE}"
            ) from error

    def _update(self, listing: Mapping[str, RemoteFile], base: str) -> None:
        with self._index() as index:
            prefix = f"{self._name}/files/"
            rows = index.execute(
                "SELECT path, size, version, state FROM files WHERE path >= ? AND path < ?",
                (prefix, prefix + "\U0010ffff"),
            ).fetchall()
            known = {path[len(prefix) :]: (size, version, state) for path, size, version, state in rows}
            for name, (size, version, state) in known.items():
                file = listing.get(name)
                if file is not None and _same_by_list(file, size, version):
                    if not file.version and state == _HELD:  # the list tells too little: its server will be asked
                        again = _TO_ASK + version[1:]
                        index.execute("UPDATE files SET version = ? WHERE path = ?", (again, prefix + name))
                    continue
                if state != _ABSENT:
                    self._drop(index, prefix + name, size or 0)
                if file is None:
                    index.execute("DELETE FROM files WHERE path = ?", (prefix + name,))
                    (self.root / name).unlink(missing_ok=True)
                else:
                    index.execute(
                        "UPDATE files SET size = ?, version = ? WHERE path = ?",
                        (file.size, file.version, prefix + name),
                    )
            made: set[PurePosixPath] = set()
            for name, file in listing.items():
                parent = PurePosixPath(name).parent
                if parent not in made:
                    (self.root / parent).mkdir(parents=True, exist_ok=True)
                    made.add(parent)
                if name not in known:
                    (self.root / name).write_bytes(b"")
                    index.execute(
                        "INSERT INTO files (path, remote, size, version) VALUES (?, ?, ?, ?)",
                        (prefix + name, remote_address(base, name), file.size, file.version),
                    )

    def fetch(self, path: str) -> None:
        """Bring the content of a local file unless it is there; folders and unknown names are left alone.

        Args:
            path: In :attr:`root`.

        Raises:
            DatasetError: The remote file vanished or changed, cannot be read, or does not fit into the cache.
        """
        key = self._key(path)
        if self._use(key) is False:
            self._bring(key, lambda fs, address, target: fs.get_file(address, str(target)))

    def fetch_part(self, path: str, start: int, size: int) -> bytes:
        """Some bytes of a file, from the local copy if there is one, else brought and kept on their own.

        Args:
            path: In :attr:`root`.
            start: First byte.
            size: How many.

        Raises:
            DatasetError: As :meth:`fetch`, or the file is not in the listing.
        """
        key = self._key(path)
        if self._whole_only:
            self.fetch(path)
        if self._use(key):
            with Path(path).open("rb") as file:
                file.seek(start)
                return file.read(size)
        with self._index() as index:
            row = index.execute("SELECT remote, version FROM files WHERE path = ?", (key,)).fetchone()
            if row is None:
                raise DatasetError(f"expected a file, but there is no {self.url}/{os.path.relpath(path, self.root)}")
            digest = hashlib.sha256(f"{row[0]}\n{row[1]}\n{start}\n{size}".encode()).hexdigest()
            part = f"{self._name}/parts/{digest[:2]}/{digest}"
            index.execute(
                "INSERT OR IGNORE INTO files (path, remote, size, version) VALUES (?, ?, ?, '')", (part, row[0], size)
            )
        local = self.options.folder / part
        if not self._use(part):
            self._bring(part, partial(self._download_part, start=start, size=size))
        return local.read_bytes()

    def _download_part(self, fs: Any, address: str, target: Path, *, start: int, size: int) -> None:  # noqa: ANN401
        content: bytes = fs.cat_file(address, start=start, end=start + size)
        if len(content) > size:  # a simple web server, which sends all of a file whatever it is asked for
            self._whole_only, content = True, content[start : start + size]
        target.write_bytes(content)

    def size_of(self, path: str) -> int | None:
        """Bytes of the remote file, if the listing tells, and None once the content is here."""
        key = self._key(path)
        with self._index() as index:
            row = index.execute("SELECT size, state FROM files WHERE path = ?", (key,)).fetchone()
        return None if row is None or row[1] == _HELD else row[0]

    def _key(self, path: str) -> str:
        """The name of a local file in the table."""
        return f"{self._name}/files/{os.path.relpath(path, self.root)}"

    def _use(self, key: str) -> bool | None:
        """Note that a file is used now, so that it stays: True if it is here; None if it is none of ours."""
        with self._index() as index:
            row = index.execute("SELECT state, size, version, remote FROM files WHERE path = ?", (key,)).fetchone()
            if row is None:
                return None
            try:
                held = row[0] == _HELD and (self.options.folder / key).stat().st_size == row[1]
            except FileNotFoundError:
                held = False
            if held:
                index.execute("UPDATE files SET used = ? WHERE path = ?", (time.time(), key))
        return self._is_current(key, *row[1:]) if held and row[2].startswith(_TO_ASK) else bool(held)

    def _is_current(self, key: str, size: int, version: str, url: str) -> bool:
        """Ask the server, once after each listing, whether a file that is here is still the one there."""
        now = remote_facts(url)
        same = now.version in ("", version[1:]) and now.size in (None, size)
        with self._index() as index:
            if same:
                index.execute("UPDATE files SET version = ? WHERE path = ?", (_ASKED + version[1:], key))
            else:
                self._drop(index, key, size)
        return same

    def _bring(self, key: str, download: Callable[[Any, str, Path], Any]) -> None:
        """Download beside, then rename; of several processes that want the same file one downloads it."""
        slot = int(hashlib.sha256(key.encode()).hexdigest(), 16) % _SLOTS
        unfinished = self.options.folder / "unfinished" / f"{slot:03d}"
        with FileLock(unfinished.with_suffix(".lock")):
            if self._use(key):
                return
            with self._index() as index:
                url, size, version = index.execute(
                    "SELECT remote, size, version FROM files WHERE path = ?", (key,)
                ).fetchone()
            try:
                if size is None or version.startswith((_ASKED, _TO_ASK)):
                    told = remote_facts(url)
                    size = told.size
                    version = _ASKED + told.version if version[:1] in ("", _ASKED, _TO_ASK) else version
                self._reserve(key, url, size or 0)
                unfinished.unlink(missing_ok=True)
                remote_call("read", url, lambda fs, address: download(fs, address, unfinished))
                found = unfinished.stat().st_size
                if size is not None and found != size:
                    raise DatasetError(
                        f"expected {size} bytes in {url}, as listed, got {found}: it changed or was cut; start again"
                    )
                self._reserve(key, url, found)
                (self.options.folder / key).parent.mkdir(parents=True, exist_ok=True)
                unfinished.replace(self.options.folder / key)
            except FileNotFoundError as error:
                raise DatasetError(f"expected {url}, which was listed, but it is gone; restore it") from error
            except OSError as error:
                raise DatasetError(
                    f"expected to keep {url} in {self.options.folder}, but {error}; make room, or choose another "
                    f"folder by {FOLDER_VARIABLE}"
                ) from error
            finally:
                unfinished.unlink(missing_ok=True)
            with self._index() as index:
                index.execute(
                    "UPDATE files SET state = ?, used = ?, version = ? WHERE path = ?",
                    (_HELD, time.time(), version, key),
                )

    def _reserve(self, key: str, url: str, size: int) -> None:
        """Count a file's bytes before they are on the disk, and make room for them."""
        most = self.options.max_bytes
        if size > most:
            raise DatasetError(
                f"expected {url} to fit into the cache of {most} bytes, got {size}; set {BUDGET_VARIABLE} to more "
                "gigabytes"
            )
        end = time.monotonic() + _WAIT_S + 2 * self.options.grace_s
        while time.monotonic() < end:
            with self._index() as index:
                before, state = index.execute("SELECT size, state FROM files WHERE path = ?", (key,)).fetchone()
                counted = (before or 0) if state != _ABSENT else 0
                excess = index.execute("SELECT bytes FROM total").fetchone()[0] - counted + size - most
                if excess > 0:
                    excess -= self._evict(index, key, excess)
                if excess <= 0:
                    index.execute("UPDATE total SET bytes = bytes + ?", (size - counted,))
                    index.execute(
                        "UPDATE files SET state = ?, size = ?, used = ? WHERE path = ?",
                        (_RESERVED, size, time.time(), key),
                    )
                    return
            time.sleep(0.05)
        raise DatasetError(
            f"expected room for {url} in the cache of {most} bytes, but the other files are in use; set "
            f"{BUDGET_VARIABLE} to more gigabytes, or use fewer --workers"
        )

    def _evict(self, index: sqlite3.Connection, spared: str, wanted: int) -> int:
        """Remove the longest unused files until so many bytes are free; how many were freed."""
        now, freed = time.time(), 0
        victims = index.execute(
            "SELECT path, size FROM files WHERE path != ? AND (state = ? AND used < ? OR state = ? AND used < ?) "
            "ORDER BY used",
            (spared, _HELD, now - self.options.grace_s, _RESERVED, now - _ABANDONED_S),
        )
        for path, size in victims.fetchall():
            if freed >= wanted:
                break
            self._drop(index, path, size)
            freed += size
        return freed

    def _drop(self, index: sqlite3.Connection, key: str, size: int) -> None:
        """Put the empty stand-in back. Who has the file open keeps it: it is replaced, not cut."""
        path = self.options.folder / key
        if key.partition("/")[2].startswith("parts/"):
            path.unlink(missing_ok=True)
            index.execute("DELETE FROM files WHERE path = ?", (key,))
        else:
            beside = self.options.folder / "unfinished" / f"empty-{os.getpid()}-{threading.get_ident()}"
            beside.write_bytes(b"")
            path.parent.mkdir(parents=True, exist_ok=True)
            beside.replace(path)
            index.execute("UPDATE files SET state = ? WHERE path = ?", (_ABSENT, key))
        index.execute("UPDATE total SET bytes = bytes - ?", (size,))

    def _remove_unfinished(self) -> None:
        """What killed processes left; downloads that go on are locked."""
        for path in (self.options.folder / "unfinished").iterdir():
            if path.suffix != ".lock" and path.name.isdigit():
                try:
                    with FileLock(path.with_suffix(".lock"), timeout=0):
                        path.unlink(missing_ok=True)
                except Timeout:
                    continue

    @contextmanager
    def _index(self) -> Iterator[sqlite3.Connection]:
        """The table of files, in one transaction. Opened anew each time: connections do not survive a fork."""
        path = self.options.folder / "index.sqlite"
        try:
            with closing(sqlite3.connect(path, timeout=300, isolation_level=None)) as connection:
                connection.execute("PRAGMA synchronous = OFF")  # safe when a process dies; the files can be had again
                connection.execute("BEGIN IMMEDIATE")
                if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'total'").fetchone():
                    for statement in _TABLES:
                        connection.execute(statement)
                yield connection
                connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise DatasetError(
                f"expected the table of kept files in {path}, but {error}; remove the folder {self.options.folder}, "
                "its files will be brought again"
            ) from error
