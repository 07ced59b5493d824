"""A prediction of hours that may be killed at any moment: its journal, and one file per finished tile.

In: what the job is (JSON values), arrays of finished tiles. Out: the same after any kill. Everything is written beside
and renamed when it is complete, so a file under its own name is whole; what a tile's file holds is checked when it is
read (every zip member has its checksum). The folder is removed when the results stand under their names.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from refineseg.errors import ImageError, OutputError
from refineseg.files.writing import write_error
from refineseg.predict.views.tiling import Region

PIECE_ROWS = 512
"""Rows in which tiles are stored and results written; a multiple of the height of a result's blocks."""

_JOURNAL = "job.json"
_FORMAT = 1
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # of some network disks
_STILL_OPEN = (errno.ENOTEMPTY, errno.EBUSY)  # NFS keeps a file that is removed and open under another name
_END_BYTES = 1 << 16


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Says of every failure to write what it was about.

    Raises:
        OutputError: The disk is full, read-only, gone.
    """
    try:
        yield
    except (OSError, OutputError) as error:
        said = write_error(path, error)
        text = f"{said}, and run the same command again: finished tiles are kept"
        raise OutputError(text, no_room=said.no_room) from error


def pieces(region: Region) -> list[tuple[int, Region]]:
    """A region cut at every multiple of :data:`PIECE_ROWS` of the whole image: number of the piece, and its region.

    Example:
        >>> [(number, piece.height) for number, piece in pieces(Region(500, 0, 1030, 9))]
        [(0, 12), (1, 512), (2, 6)]
    """
    found = []
    for number in range(region.top // PIECE_ROWS, -(-region.bottom // PIECE_ROWS)):
        top, bottom = max(region.top, number * PIECE_ROWS), min(region.bottom, (number + 1) * PIECE_ROWS)
        found.append((number, Region(top, region.left, bottom, region.right)))
    return found


def file_facts(path: Path) -> dict[str, Any]:
    """What tells a file from another, without reading gigabytes: name, length, time, and a digest of both ends.

    Raises:
        ImageError: It cannot be read.
    """
    try:
        facts = path.stat()
        with path.open("rb") as file:
            digest = hashlib.sha256(file.read(_END_BYTES))
            file.seek(max(0, facts.st_size - _END_BYTES))
            digest.update(file.read(_END_BYTES))
    except OSError as error:
        raise ImageError(f"expected a raster, but {path} cannot be read: {error.strerror or error}") from error
    return {"name": path.name, "bytes": facts.st_size, "time_ns": facts.st_mtime_ns, "digest": digest.hexdigest()}


class RasterJob:
    """The folder of a job beside its result.

    Several processes may share it, each with its part of the tiles. The first one begins the journal while the others
    wait; whichever finds that no tile is missing waits until it is alone, and writes the results.

    Args:
        target: The result's path; the folder is ``.NAME.parts`` beside it.
        part: Number of this process from 1 on, and number of processes.
    """

    def __init__(self, target: Path, part: tuple[int, int] = (1, 1)) -> None:
        self.folder = target.parent / f".{target.name}.parts"
        self.is_shared = part[1] > 1
        self._part = part
        self._journal: dict[str, Any] = {}
        self._locks: dict[str, TextIO] = {}

    def open(self, identity: Mapping[str, Any], *, resume: bool) -> bool:
        """Begin, or go on where the same job was broken off.

        Args:
            identity: All that decides the result: input, model, options. JSON values.
            resume: Go on with a job that is there; else it is removed first.

        Returns:
            Whether there was one to go on with.

        Raises:
            ImageError: There is one that differs in the named entries, or that another process works on, or the folder
                cannot be written.
        """
        plain = json.loads(json.dumps(dict(identity)))
        if self.is_shared:
            with writing(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
        if self.folder.is_dir():
            with writing(self.folder):
                self._hold()
        if not resume:
            self.remove()
        known = self._read()
        differing = [] if known is None else _differences(known["identity"], plain)
        if known is not None and (self.is_shared or not (differing and self.is_empty)):
            if differing:
                raise ImageError(
                    f"expected to go on with the unfinished job in {self.folder}, but it was begun with another "
                    f"{', '.join(differing)}; use the same, or begin anew with --no-resume (its finished tiles are "
                    "lost then)"
                )
            self._journal = known
            for left in () if self.is_shared else self.folder.glob("*.tmp*"):
                left.unlink(missing_ok=True)
            return True
        if not self.is_shared:
            self.remove()  # a folder without a journal was killed before its first tile
            with writing(self.folder):
                self.folder.mkdir(parents=True)
                self._hold()
        for path in self._costly():  # of a job whose removal was broken off; other parts would take them for theirs
            path.unlink(missing_ok=True)
        self._journal = {"format": _FORMAT, "identity": plain, "facts": {}}
        self._write()
        return False

    def _read(self) -> dict[str, Any] | None:
        path = self.folder / _JOURNAL
        try:
            journal = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
            return None
        except OSError as error:  # then nobody knows whether its tiles may be removed
            raise ImageError(
                f"expected to go on with the unfinished job in {self.folder}, but {path} cannot be read "
                f"({error.strerror or error}); run the same command again, or remove the folder"
            ) from error
        sound = isinstance(journal, dict) and all(isinstance(journal.get(key), dict) for key in ("identity", "facts"))
        return journal if sound and journal.get("format") == _FORMAT else None

    def _write(self) -> None:
        path = self.folder / _JOURNAL
        with writing(path):
            temporary = path.with_name(_JOURNAL + ".tmp")
            with temporary.open("w", encoding="utf-8") as file:
                json.dump(self._journal, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)

    @property
    def facts(self) -> Mapping[str, Any]:
        """What was found out once for the whole job, and must hold after a kill too."""
        facts: dict[str, Any] = self._journal["facts"]
        return facts

    def keep(self, name: str, value: object) -> None:
        """Write such a fact into the journal.

        Raises:
            ImageError: The journal cannot be written.
        """
        self._journal["facts"][name] = json.loads(json.dumps(value))
        self._write()

    def _hold(self) -> None:
        """Keep other processes away until :meth:`release`, or until this one ends in whatever way."""
        index, count = self._part
        if not self._locked("lock", alone=not self.is_shared):
            raise ImageError(
                f"expected to be alone with {self.folder}, but another process works on it; wait for it, or end it"
            )
        if self.is_shared:
            if not self._locked(f"part_{index}_of_{count}.lock"):
                self.release()
                raise ImageError(
                    f"expected one process with part {index}/{count} of {self.folder}, but another one has it; wait "
                    "for it, or end it"
                )
            self._locked("begin.lock", wait=True)

    def _locked(self, name: str, *, alone: bool = True, wait: bool = False) -> bool:
        """Hold a lock; False where another process does."""
        try:
            import fcntl
        except ImportError:  # Windows
            return True
        file = (self.folder / name).open("a+", encoding="utf-8")  # NFS shares only what can be read
        try:
            fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.close()
            return False
        except OSError as error:
            file.close()
            if error.errno not in _NO_LOCKS:
                raise
            return True
        self._locks[name] = file
        return True

    def begun(self) -> None:
        """Let the other parts begin: the journal holds all that is decided once."""
        if (lock := self._locks.pop("begin.lock", None)) is not None:
            lock.close()

    def take_over(self) -> bool:
        """Be alone with a job of which no tile is missing; False where another part has written the results."""
        if not self.is_shared:
            return True
        self.release()
        try:
            self._locked("lock", wait=True)
        except OSError:  # the folder is gone
            return False
        self.is_shared = self._read() is None
        return not self.is_shared

    def release(self) -> None:
        """Let other processes go on with the job."""
        for lock in self._locks.values():
            lock.close()
        self._locks.clear()

    @property
    def is_mine(self) -> bool:
        """Whether :meth:`open` succeeded."""
        return bool(self._journal)

    @property
    def is_empty(self) -> bool:
        """Whether nothing in the folder took long to compute."""
        return not self._costly()

    def _costly(self) -> list[Path]:
        return [path for pattern in ("tile_*.npz", "pixels.tif") for path in self.folder.glob(pattern)]

    @property
    def exists(self) -> bool:
        """Whether there is an unfinished job."""
        return self._read() is not None

    def has_plan(self, tiles: Sequence[Region]) -> bool:
        """Whether finished tiles are of this plan; it becomes the job's where there was none.

        Raises:
            ImageError: They are of another.
        """
        digest = hashlib.sha256(repr([(t.top, t.left, t.bottom, t.right) for t in tiles]).encode()).hexdigest()
        if self.facts.get("plan", digest) != digest:
            raise ImageError(
                f"expected the tiles of the unfinished job in {self.folder}, got a plan with others; use the same "
                "memory and version, or begin anew with --no-resume"
            )
        if "plan" in self.facts:
            return True
        self.keep("plan", digest)
        return False

    def remove(self) -> None:
        """Remove the folder and all that is in it.

        Raises:
            ImageError: It cannot be removed.
        """
        with writing(self.folder):
            if self.folder.exists():
                (self.folder / _JOURNAL).unlink(missing_ok=True)  # first: half a folder is no job
                try:
                    shutil.rmtree(self.folder)
                except OSError as error:
                    if error.errno not in _STILL_OPEN:
                        raise
                    self.release()
                    with contextlib.suppress(OSError):  # of others who wait for the lock: an empty folder stays
                        shutil.rmtree(self.folder)
        self.release()

    def _tile(self, index: int) -> Path:
        return self.folder / f"tile_{index:06d}.npz"

    def finished(self, tiles: Sequence[Region]) -> set[int]:
        """Indices of the tiles whose files are there and can be opened."""
        done = set()
        for index, tile in enumerate(tiles):
            try:
                with zipfile.ZipFile(self._tile(index)) as archive:
                    names = set(archive.namelist())
            except (OSError, zipfile.BadZipFile):
                continue
            if {_member("mask", number) for number, _ in pieces(tile)} <= names:
                done.add(index)
        return done

    def write_tile(self, index: int, layers: Iterable[tuple[str, int, NDArray[Any]]]) -> None:
        """Store a tile; it counts as finished once this returns.

        Args:
            index: Index of the tile.
            layers: Name, number of the piece (see :func:`pieces`), (h, w) values; consumed one by one.

        Raises:
            ImageError: It cannot be written.
        """
        path = self._tile(index)
        temporary = path.with_name(path.name + ".tmp")
        with writing(path), temporary.open("wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
                for layer, number, values in layers:
                    with archive.open(_member(layer, number), "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, np.ascontiguousarray(values), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)

    def read_piece(self, index: int, layer: str, number: int) -> NDArray[Any]:
        """A piece of a finished tile, (h, w).

        Raises:
            ImageError: The file is damaged.
        """
        path = self._tile(index)
        try:
            with zipfile.ZipFile(path) as archive, archive.open(_member(layer, number)) as member:
                values: NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise ImageError(
                f"expected a finished tile in {path}, but it is damaged ({error}); remove that file and run the same "
                "command again, which computes this tile anew"
            ) from error
        return values

    def read_rows(self, tiles: Sequence[Region], rows: Region, layer: str, *, dtype: np.dtype[Any]) -> NDArray[Any]:
        """One piece's rows of the whole image, gathered from all tiles; (h, W).

        Args:
            tiles: All of them.
            rows: One of the :func:`pieces` of the whole image.
            layer: Name of the layer.
            dtype: Type of the layer.
        """
        values = np.empty(rows.size_hw, dtype)
        number = rows.top // PIECE_ROWS
        for index, tile in enumerate(tiles):
            common = tile.intersection(rows)
            if common is not None:
                values[common.slices_in(rows)] = self.read_piece(index, layer, number)
        return values


def _member(layer: str, number: int) -> str:
    return f"{layer}_{number:06d}.npy"


def _differences(known: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in known.keys() | asked.keys() if known.get(name) != asked.get(name))
