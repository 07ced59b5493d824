"""Shards: a data set as a few tar files with an index; read as the data set they were made from.

``ROOT/index.json`` names the data set and its splits, ``ROOT/SPLIT/index.json`` the classes, the samples and where each
lies in ``ROOT/SPLIT/shard-000000.tar``. The tar files follow the convention of WebDataset: ``KEY.jpg`` (the image, most
often the original file; ``KEY.image.png`` for a PNG) followed by ``KEY.png`` (the class indices), so that others
can stream them. Here samples are read in any order, by offset, so that training on shards is the same, bit for bit, as
training on the original files.

In: the folder, which may be remote. Out: a data set.

Source: the WebDataset file format specification (tar files, samples are files of the same name up to the first dot).
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refineseg.class_info import ClassInfo, LabelTable
from refineseg.data.samples.sources import SourceDataset
from refineseg.data.storage.remote import INDEX_NAME, RemotePath
from refineseg.errors import ConfigError, DatasetError
from refineseg.files.foreign_text import parse_json
from refineseg.images.files import first_names, read_mask, read_rgb

FORMAT, VERSION = "refineseg shards", 1
COLUMNS = ("name", "key", "shard", "image_type", "image_at", "image_bytes", "image_crc")
MASK_COLUMNS = ("mask_at", "mask_bytes", "mask_crc", "mask_type", "height", "width")
_MARK = '{"format": "refineseg shards"'


@dataclass(frozen=True)
class Member:
    """Where a file lies in a tar file.

    Args:
        shard: Number of the shard, from 0.
        name: In the tar file.
        start: First byte of its content.
        size: Bytes.
        crc: CRC-32 of the content.
    """

    shard: int
    name: str
    start: int
    size: int
    crc: int


@dataclass(frozen=True)
class ShardSource:
    """Reads images and masks out of tar files; for :class:`~refineseg.data.samples.sources.SourceDataset`.

    Args:
        shards: The tar files.
        columns: Column of the index -> one value per sample.
        class_info: The classes.
    """

    shards: tuple[Path, ...]
    columns: dict[str, list[Any]] = field(repr=False)
    class_info: ClassInfo

    def image(self, index: int) -> NDArray[np.uint8]:
        """``(H, W, 3)`` uint8 RGB."""
        member = self._member(index, "image", str(self.columns["image_type"][index]))
        path = self.shards[member.shard] / member.name
        return read_rgb(path, content=self._content(member))

    def image_hw(self, index: int) -> tuple[int, int]:
        """Height and width, from the index."""
        return self.columns["height"][index], self.columns["width"][index]

    def image_mark(self, index: int) -> str:
        """The mark of the image, from the index: that of its file, where this is stored and has 1 MiB at most."""
        size, crc = self.columns["image_bytes"][index], self.columns["image_crc"][index]
        return f"{size}-{crc:08x}" if isinstance(crc, int) else ""  # of a damaged index reading says more

    def image_header(self, index: int) -> tuple[tuple[int, int], str] | None:
        """Height and width of the image, and the ending of its file, from the index."""
        height, width = (self.columns[side][index] for side in ("height", "width"))
        if not isinstance(height, int) or not isinstance(width, int):
            return None  # of a damaged index reading says more
        return (height, width), "." + str(self.columns["image_type"][index]).rpartition(".")[2]

    def mask(self, index: int) -> NDArray[Any] | None:
        """``(H, W)`` class indices and ``ignore_index``."""
        kind = self.columns["mask_type"][index]
        if kind is None:
            return None
        member = self._member(index, "mask", ".png")
        path, table = self.shards[member.shard] / member.name, LabelTable.identity(self.class_info, void_values=())
        mask = read_mask(path, table=table, ignore_index=self.class_info.ignore_index, content=self._content(member))
        return mask.astype(np.dtype(kind), copy=False)

    def _member(self, index: int, what: str, suffix: str) -> Member:
        columns = self.columns
        start, size, crc = (columns[f"{what}_{column}"][index] for column in ("at", "bytes", "crc"))
        return Member(columns["shard"][index], columns["key"][index] + suffix, start, size, crc)

    def _content(self, member: Member) -> bytes:
        path = self.shards[member.shard]
        if isinstance(path, RemotePath):
            content = path.read_part(member.start, member.size)
        else:
            try:
                with path.open("rb") as file:
                    file.seek(member.start)
                    content = file.read(member.size)
            except OSError as error:
                raise DatasetError(
                    f"expected to read {member.name} of {path}, but {error}; restore the shard"
                ) from error
        if len(content) != member.size or zlib.crc32(content) != member.crc:
            raise DatasetError(
                f"expected the {member.size} bytes of {member.name} in {path} that its index describes, got others; "
                "copy the shard again, or write the shards again"
            )
        return content


def is_sharded(root: Path) -> bool:
    """True for a folder of shards."""
    path = root / INDEX_NAME
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_MARK)) == _MARK.encode()


def read_index(path: Path) -> dict[str, Any]:
    """An index file.

    Raises:
        DatasetError: It is damaged, or of a newer version.
    """
    try:
        index = parse_json(path.read_text(encoding="utf-8"))
        version = index["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"expected the index of shards in {path}, got {error!r:.200}; write the shards again"
        ) from error
    if version != VERSION:
        raise DatasetError(f"expected shards of version {VERSION} in {path}, got {version!r}; update refineseg")
    return dict(index)


def sharded_data(root: Path) -> str:
    """The name of the data set that shards were made from.

    Raises:
        DatasetError: There are no shards in the folder.
    """
    if not is_sharded(root):
        raise DatasetError(
            f"expected shards in {root}, but it has no {INDEX_NAME} of theirs; write them with: "
            "refineseg shard NAME:ROOT --split SPLIT --out FOLDER"
        )
    return _root_index(root)[0]


def shard_splits(root: Path) -> tuple[str, ...]:
    """The splits of shards, in the order they were written."""
    return _root_index(root)[1]


def _root_index(root: Path) -> tuple[str, tuple[str, ...]]:
    index = read_index(root / INDEX_NAME)
    try:
        return str(index["source"]), tuple(map(str, index["splits"]))
    except (KeyError, TypeError) as error:
        raise DatasetError(
            f"expected the index of shards in {root / INDEX_NAME}, got {error!r}; write the shards again"
        ) from error


def open_shards(root: Path, split: str) -> SourceDataset:
    """One split of shards: the same samples, names, classes and notes as in the data set they were made from.

    Args:
        root: The folder with ``index.json``.
        split: One of those in it.

    Raises:
        DatasetError: No such split, or files that do not belong to each other.
    """
    sharded_data(root)
    splits = shard_splits(root)
    if split not in splits:
        raise DatasetError(
            f"expected a split of {', '.join(splits)} (those in {root}), got {split!r}; write it with: "
            f"refineseg shard NAME:ROOT --split {split} --out {root}"
        )
    folder = root / split
    index = read_index(folder / INDEX_NAME)
    try:
        columns = {name: list(index["samples"][name]) for name in (*COLUMNS, *MASK_COLUMNS)}
        files = [(str(shard["file"]), int(shard["bytes"])) for shard in index["shards"]]
        class_info = ClassInfo.from_json(index["class_info"])
        notes = tuple(map(str, index["notes"]))
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise DatasetError(
            f"expected the index of shards in {folder / INDEX_NAME}, got {error!r}; write the shards again"
        ) from error
    if len({len(column) for column in columns.values()}) != 1 or any(
        "/" in name or name[:1] == "." for name, _ in files
    ):
        raise DatasetError(
            f"expected the index of shards in {folder / INDEX_NAME}, got another; write the shards again"
        )
    absent = [name for name, _ in files if not (folder / name).is_file()]
    if absent:
        raise DatasetError(
            f"expected {len(files)} shards in {folder}, but {len(absent)} are absent: {first_names(absent)}; "
            "copy them too"
        )
    shards = tuple(folder / name for name, _ in files)
    for path, (_, size) in zip(shards, files, strict=True):
        if not isinstance(path, RemotePath) and os.stat(path).st_size != size:  # noqa: PTH116 - of a remote one it is known
            raise DatasetError(f"expected {size} bytes in {path}, got {path.stat().st_size}; copy it again")
    return SourceDataset(tuple(columns["name"]), ShardSource(shards, columns, class_info), class_info, notes)
