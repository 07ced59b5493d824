"""Objects of a remote folder one by one: listed in pages, read, written and removed; nothing is cached.

In: ``s3://bucket/prefix``, ``gs://...`` or another address that fsspec knows. Out: names, :class:`Mark` and bytes. On
S3 a page has a thousand names, however many there are; elsewhere fsspec lists a folder at once.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from refineseg.data.storage.remote_access import remote_call, version_of

_PAGE = 1000
_MD5 = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Mark:
    """By what a content is known without reading it.

    Args:
        size: Number of bytes; None: the storage does not tell.
        version: Text that changes when the content does, as far as the storage tells.
        md5: MD5 of the content in hexadecimal digits, where the storage tells.
    """

    size: int | None
    version: str
    md5: str | None = None


def _mark(info: Mapping[str, Any]) -> Mark:
    # one file system may tell one time as a number in a listing, and as a date of a file
    plain = {name: value.timestamp() if isinstance(value, datetime) else value for name, value in info.items()}
    size, version = info.get("size"), version_of(plain).strip('"')
    md5 = version if _MD5.fullmatch(version) else None
    if md5 is None and isinstance(info.get("md5Hash"), str):  # Google's
        md5 = base64.b64decode(info["md5Hash"]).hex()
    return Mark(None if size is None else int(size), version, md5)


def list_pages(url: str) -> Iterator[list[tuple[str, Mark]]]:
    """Every object below a folder, by its name relative to it, in pages.

    Raises:
        FileNotFoundError: There is no such bucket or folder.
        DatasetError: It cannot be listed.
    """
    kind: str = remote_call("list", url, lambda fs, _: type(fs).__name__)
    yield from (_s3_pages if kind == "S3FileSystem" else _walked_pages)(url)


def _s3_pages(url: str) -> Iterator[list[tuple[str, Mark]]]:
    def page(token: str | None) -> Callable[[Any, str], Any]:
        def ask(fs: Any, address: str) -> Any:  # noqa: ANN401 - fsspec has no types
            bucket, key, _ = fs.split_path(address)
            more = {} if token is None else {"ContinuationToken": token}
            prefix = f"{key.rstrip('/')}/" if key else ""
            found = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=_PAGE, **fs.req_kw, **more)
            return len(prefix), found

        return ask

    token: str | None = None
    while True:
        start, found = remote_call("list", url, page(token))
        objects = found.get("Contents", ())
        yield [(one["Key"][start:], _mark({**one, "size": one["Size"]})) for one in objects if one["Key"][start:]]
        if not found.get("IsTruncated"):
            return
        token = found["NextContinuationToken"]


def _walked_pages(url: str) -> Iterator[list[tuple[str, Mark]]]:
    def ask(fs: Any, address: str) -> Any:  # noqa: ANN401 - fsspec has no types
        fs.invalidate_cache()  # listings of all folders would stay in memory
        return fs.ls(address, detail=True)

    base: str = remote_call("list", url, lambda _, address: address).rstrip("/")
    folders = [url.rstrip("/")]
    while folders:
        folder = folders.pop()
        page = []
        for info in remote_call("list", folder, ask):
            name = str(info["name"])[len(base) + 1 :]
            if info["type"] == "directory":
                folders.append(f"{url.rstrip('/')}/{name.rstrip('/')}")
            elif name:
                page.append((name, _mark(info)))
            if len(page) == _PAGE:
                yield page
                page = []
        yield page


def read_object(url: str) -> bytes:
    """The content.

    Raises:
        FileNotFoundError: There is no such object.
        DatasetError: It cannot be read.
    """
    content: bytes = remote_call("read", url, lambda fs, address: fs.cat_file(address))
    return content


def object_mark(url: str) -> Mark | None:
    """What the storage says of an object now; None: there is none.

    Raises:
        DatasetError: It cannot be asked.
    """

    def ask(fs: Any, address: str) -> Mark:  # noqa: ANN401 - fsspec has no types
        fs.invalidate_cache()
        return _mark(fs.info(address))

    try:
        found: Mark = remote_call("read", url, ask)
    except FileNotFoundError:
        return None
    return found


def write_object(url: str, content: bytes | memoryview) -> None:
    """Write an object whole: readers see the one before, or this one.

    Raises:
        FileNotFoundError: There is no such bucket.
        DatasetError: It cannot be written.
    """
    remote_call("write", url, lambda fs, address: fs.pipe_file(address, bytes(content)))


def remove_object(url: str) -> None:
    """Remove an object; it may be gone already.

    Raises:
        DatasetError: It cannot be removed.
    """
    try:
        remote_call("remove", url, lambda fs, address: fs.rm_file(address))
    except FileNotFoundError:
        return
