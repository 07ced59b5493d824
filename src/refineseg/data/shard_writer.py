"""Write shards (:mod:`refineseg.data.storage.shards`): any split of any data set as tar files with an index.

In: a data set. Out: files in a local or remote folder, the same bytes for the same data. Tar files are written around
the headers of the standard library's ``tarfile``: all that is needed beyond it is to know where each file begins, which
the package ``webdataset`` does not tell (it streams, in an order of its own; training needs a sample by its number).
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote_from_bytes

import numpy as np
from PIL import Image

from refineseg._version import __version__
from refineseg.data.checks.label_check import check_files
from refineseg.data.samples.sample import Dataset, Sample, image_file
from refineseg.data.storage.remote import INDEX_NAME, check_address, is_remote
from refineseg.data.storage.remote_access import remote_address, remote_call
from refineseg.data.storage.shards import COLUMNS, FORMAT, MASK_COLUMNS, VERSION
from refineseg.errors import DatasetError, ImageError
from refineseg.files.archives import read_bytes
from refineseg.files.foreign_text import parse_json
from refineseg.files.writing import written_beside
from refineseg.images.encoding import encode_mask
from refineseg.images.files import read_rgb

UNFINISHED_NAME = "unfinished.json"
"""The index so far, where writing was interrupted; the next call goes on from there."""

_ONLY_READ = ("http://", "https://", "ftp://")
_BLOCK = 512
_LONGEST_KEY = 80  # the oldest tar format, which every program reads, has room for 100 with the ending


@dataclass(frozen=True)
class ShardOptions:
    """How to write shards.

    Args:
        name: Name of the data set they are made from, a key of ``DATASETS``.
        split: Split that is written; also the name of its folder.
        shard_bytes: A tar file that has reached so many bytes gets no more samples.

    Raises:
        DatasetError: A size below 1, or a split that can be no folder.
    """

    name: str
    split: str
    shard_bytes: int = 256_000_000

    def __post_init__(self) -> None:
        if self.shard_bytes < 1:
            raise DatasetError(f"expected shards of at least 1 byte, got {self.shard_bytes}")
        if not re.fullmatch(r"\w[\w.-]*", self.split):
            raise DatasetError(f"expected a split whose name can be a folder's, got {self.split!r}; rename it")


def sample_key(index: int, name: str) -> str:
    """Name of a sample's files in a tar file: its number, and what of its name every program and disk can take.

    Example:
        >>> sample_key(7, "2007_000032"), sample_key(0, "../a b/ä.x")
        ('000007-2007_000032', '000000-%2E%2E%2Fa%20b%2F%C3%A4%2Ex')
    """
    escaped = quote_from_bytes(os.fsencode(name), safe="").replace(".", "%2E").replace("~", "%7E")
    return f"{index:06d}-{escaped}"[:_LONGEST_KEY]


def check_shard_target(out: str) -> None:
    """Whether shards can be written to an address; a folder is for others to check.

    Raises:
        DatasetError: Files of such an address can only be read, or not even that.
        ConfigError: It names no place, or holds a password.
    """
    if out.startswith(_ONLY_READ):
        raise DatasetError(f"expected a folder, or an address that can be written to (s3://, gs://), got {out}")
    if is_remote(out):
        check_address(out)


def write_shards(
    dataset: Dataset, out: str, options: ShardOptions, *, report: Callable[[int, int], None] | None = None
) -> int:
    """Write one split, or go on where writing it was interrupted.

    Images are stored as the original file where that holds exactly the sample's pixels, else as PNG; masks as palette
    PNG of the class indices (16-bit grey beyond 255 classes). Each file takes its name when it is complete, the index
    comes last.

    Args:
        dataset: The opened split.
        out: Folder or address; the split gets a folder in it.
        options: What is written.
        report: Called with (samples done, samples in all).

    Returns:
        How many tar files there are.

    Raises:
        DatasetError: The folder holds this split already, or shards of another data set, or cannot be written; or an
            image or a mask cannot be used, and nothing has been written then.
        LabelError: A mask holds other values than classes and void, or says other classes than are meant.
    """
    check_shard_target(out)
    target = _Target(check_address(out) if is_remote(out) else out)
    _check_root(target, options)
    if target.read(f"{options.split}/{INDEX_NAME}") is not None:
        raise DatasetError(f"expected no shards of {options.split} in {out}, but there are; choose another folder")
    request = _request(dataset, options)
    index = _begun(target, request, options.split) or _new_index(dataset, request)
    samples, shards = index["samples"], index["shards"]
    while len(samples["name"]) < len(dataset):
        name = f"shard-{len(shards):06d}.tar"
        with target.writing(f"{options.split}/{name}") as file:
            shards.append(_write_shard(file, name, dataset, index, options.shard_bytes, report))
        target.write(f"{options.split}/{UNFINISHED_NAME}", index)
    del index["request"]
    target.write(f"{options.split}/{INDEX_NAME}", index)
    root = parse_json((target.read(INDEX_NAME) or b"null").decode()) or {
        "format": FORMAT,
        "version": VERSION,
        "source": options.name,
        "splits": {},
    }
    root["splits"][options.split] = {"samples": len(dataset), "shards": len(shards)}
    target.write(INDEX_NAME, root)
    target.remove(f"{options.split}/{UNFINISHED_NAME}")
    return len(shards)


def _request(dataset: Dataset, options: ShardOptions) -> dict[str, Any]:
    """What must be equal for an interrupted writing to go on."""
    names = hashlib.sha256()
    for i in range(len(dataset)):
        names.update(os.fsencode(dataset.name(i)) + b"\0")
    return {
        "name": options.name,
        "split": options.split,
        "shard_bytes": options.shard_bytes,
        "samples": len(dataset),
        "names_sha256": names.hexdigest(),
        "class_info": dataset.class_info.to_json(),
        "data_mark": check_files(dataset).digest,
    }


def _check_root(target: _Target, options: ShardOptions) -> None:
    text = target.read(INDEX_NAME)
    if text is None:
        return
    try:
        index = parse_json(text.decode())
        found = index["source"] if index["format"] == FORMAT else None
    except (ValueError, KeyError, TypeError):
        found = None
    if found != options.name:
        raise DatasetError(
            f"expected a new folder or shards of {options.name} in {target.base}, got "
            f"{'another ' + INDEX_NAME if found is None else 'shards of ' + str(found)}; choose another folder"
        )


def _new_index(dataset: Dataset, request: dict[str, Any]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "source": {"name": request["name"], "split": request["split"], "refineseg": __version__},
        "class_info": dataset.class_info.to_json(),
        "notes": list(dataset.notes),
        "request": request,
        "shards": [],
        "samples": {column: [] for column in (*COLUMNS, *MASK_COLUMNS)},
    }


def _begun(target: _Target, request: dict[str, Any], split: str) -> dict[str, Any] | None:
    """The index of an interrupted writing of the same data."""
    text = target.read(f"{split}/{UNFINISHED_NAME}")
    if text is None:
        return None
    try:
        index: dict[str, Any] = parse_json(text.decode())
        begun = dict(index["request"])
        same = {"data_mark": request["data_mark"], **begun} == request  # earlier versions did not note the files
    except (ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise DatasetError(
            f"expected the same data and options as in {target.base}/{split}/{UNFINISHED_NAME}, where writing was "
            "interrupted, got others; remove that folder, or choose another"
        )
    return index


def _write_shard(
    file: BinaryIO,
    name: str,
    dataset: Dataset,
    index: dict[str, Any],
    shard_bytes: int,
    report: Callable[[int, int], None] | None,
) -> dict[str, Any]:
    """Samples from the next one on, until the tar file is large enough; its entry in the index."""
    samples, number = index["samples"], len(index["shards"])
    first = len(samples["name"])
    while len(samples["name"]) < len(dataset) and (file.tell() < shard_bytes or len(samples["name"]) == first):
        i = len(samples["name"])
        sample = dataset[i]
        key = sample_key(i, sample.name)
        suffix, image = _image_content(dataset, i, sample)
        row: dict[str, Any] = dict.fromkeys((*COLUMNS, *MASK_COLUMNS))
        row |= {"name": sample.name, "key": key, "shard": number, "image_type": suffix}
        row |= dict(zip(("height", "width"), sample.image.shape[:2], strict=True))
        row |= _add(file, key + suffix, image, "image")
        if sample.mask is not None:
            row["mask_type"] = sample.mask.dtype.str
            # WebDataset tells files of a sample apart by what follows the dot: a PNG image is KEY.image.png then
            row |= _add(file, key + ".png", encode_mask(sample.mask, dataset.class_info), "mask")
        for column, value in row.items():
            samples[column].append(value)
        if report is not None:
            report(i + 1, len(dataset))
    file.write(bytes(2 * _BLOCK))
    size = file.tell()
    file.seek(0)
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return {"file": name, "bytes": size, "sha256": digest.hexdigest(), "samples": len(samples["name"]) - first}


def _add(file: BinaryIO, name: str, content: bytes | memoryview, what: str) -> dict[str, int]:
    """Append a file to a tar file; where it is."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), 0o644
    file.write(info.tobuf(tarfile.USTAR_FORMAT))
    start = file.tell()
    file.write(content)
    file.write(bytes(-len(content) % _BLOCK))
    return {f"{what}_at": start, f"{what}_bytes": len(content), f"{what}_crc": zlib.crc32(content)}


def _image_content(dataset: Dataset, index: int, sample: Sample) -> tuple[str, bytes]:
    """Ending and content of the image's file: the original where it gives the same pixels, else a PNG."""
    path = image_file(dataset, index)
    if path is not None and re.fullmatch(r"\.[a-z0-9]{1,8}", path.suffix.lower()):
        content = read_bytes(path)
        try:
            same = np.array_equal(read_rgb(path, content=content), sample.image)
        except ImageError:
            same = False
        if same:
            suffix = path.suffix.lower()
            return (suffix if suffix != ".png" else ".image.png"), content
    packed = io.BytesIO()
    Image.fromarray(sample.image).save(packed, format="PNG")
    return ".image.png", packed.getvalue()


@dataclass(frozen=True)
class _Target:
    """A local or remote folder to write to."""

    base: str

    def read(self, name: str) -> bytes | None:
        """The content of a file; None where there is none."""
        try:
            if is_remote(self.base):
                content: bytes = remote_call(
                    "read", remote_address(self.base, name), lambda fs, address: fs.cat_file(address)
                )
                return content
            return (Path(self.base) / name).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, value: Any) -> None:  # noqa: ANN401 - JSON
        """Write JSON."""
        with self.writing(name) as file:
            file.write(json.dumps(value).encode())

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """A file that takes its name when the block ends without an error."""
        try:
            if not is_remote(self.base):
                path = Path(self.base) / name
                with written_beside(path) as temporary, temporary.open("w+b") as file:
                    yield file
                return
            with tempfile.NamedTemporaryFile() as temporary_file:
                yield temporary_file  # type: ignore[misc]
                temporary_file.flush()
                url = remote_address(self.base, name)
                remote_call("write", url, lambda fs, address: fs.put_file(temporary_file.name, address))
        except FileNotFoundError as error:
            raise DatasetError(f"expected to write to {self.base}, but there is no such place ({error})") from error
        except OSError as error:
            raise DatasetError(f"expected to write to {self.base}, but {error}; choose another folder") from error

    def remove(self, name: str) -> None:
        """Remove a file."""
        if is_remote(self.base):
            remote_call("write", remote_address(self.base, name), lambda fs, address: fs.rm_file(address))
        else:
            (Path(self.base) / name).unlink(missing_ok=True)
