"""Remote files: the door to fsspec, which reads S3, Google Cloud Storage, web servers and more.

In: addresses such as ``s3://bucket/prefix``. Out: names, sizes and bytes; every way to fail is one error that names the
address and what to do. Credentials are found by the packages behind fsspec in their own ways (environment,
configuration files, ``AWS_ENDPOINT_URL`` for other servers than Amazon's) and are never part of an address.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from refineseg.errors import ConfigError, DatasetError, MissingExtraError

LIST_NAME = "files.txt"
"""On a web server, which cannot be listed: the list of the files, one path per line, or ``path<TAB>bytes``."""

_WEB = ("http", "https")
_LOCAL = ("file", "local")
_ATTEMPTS = 4
_LONGEST_PATH = 4096
_FIRST_PAUSE_S = 0.5
_EXTRAS = {"s3": ("s3fs", "remote"), "s3a": ("s3fs", "remote"), "gs": ("gcsfs", "gcs"), "gcs": ("gcsfs", "gcs")}
_VERSION_KEYS = (
    "ETag",
    "etag",
    "generation",
    "md5Hash",
    "LastModified",
    "Last-Modified",
    "updated",
    "mtime",
    "created",
)


def without_secrets(text: str) -> str:
    """Text without what may be a password or a signature in a web address.

    Example:
        >>> without_secrets("no https://ann:pw@host/a.png?sig=1 there")
        'no https://...@host/a.png?... there'
    """
    return re.sub(r"\?[^\s'\")]+", "?...", re.sub(r"//[^/@\s]*@", "//...@", text))


def _filesystem(url: str) -> Any:  # noqa: ANN401 - fsspec has no types
    """The file system of an address; fsspec keeps one per process and finds the credentials its own way."""
    import fsspec  # type: ignore[import-untyped]

    scheme = url.partition("://")[0]
    options: dict[str, Any] = {"get_client": _client_of_one_host} if scheme in _WEB else {}
    try:
        return fsspec.filesystem(scheme, skip_instance_cache=False, **options)
    except ImportError as error:
        package, extra = _EXTRAS.get(scheme, (f"fsspec needs for {scheme}://", "remote"))
        raise MissingExtraError(package, extra=extra, purpose=f"read {scheme}://") from error
    except (ValueError, TypeError) as error:  # the latter of kinds that want more than an address
        raise ConfigError(
            f"expected an address that fsspec knows (s3://, gs://, https://, ...), got {scheme}://"
        ) from error


async def _client_of_one_host(**options: Any) -> Any:  # noqa: ANN401 - fsspec's and aiohttp's
    """What asks web servers: it goes where it was sent by the user, and nowhere else."""
    import aiohttp

    redirects = aiohttp.TraceConfig()
    redirects.on_request_redirect.append(_refuse_another_host)
    return aiohttp.ClientSession(trace_configs=[redirects], **options)


async def _refuse_another_host(_session: Any, _context: Any, asked: Any) -> None:  # noqa: ANN401 - aiohttp's
    headers = asked.response.headers
    try:
        place = urlsplit(urljoin(str(asked.url), headers.get("Location") or headers.get("URI") or ""))
        same = _origin(place) == _origin(urlsplit(str(asked.url)))
    except ValueError:  # no address
        place, same = urlsplit(""), False
    if not same:
        raise DatasetError(
            f"expected {without_secrets(str(asked.url))} from its own server, but that sends to another host, port or "
            f"scheme: {without_secrets(place.geturl())[:200]!r}; give that address itself if you trust it"
        )


def _origin(address: SplitResult) -> tuple[str, str | None, int | None]:
    return address.scheme, address.hostname, address.port or {"http": 80, "https": 443}.get(address.scheme)


def _address(fs: Any, url: str) -> str:  # noqa: ANN401 - fsspec has no types
    """The address as the file system wants it."""
    return str(fs._strip_protocol(url))


def remote_call(what: str, url: str, call: Callable[[Any, str], Any]) -> Any:  # noqa: ANN401 - whatever is asked for
    """Ask a remote file system, several times where the network may be at fault.

    Args:
        what: What is done, for the message: "list", "read", "write".
        url: URL of the file or folder.
        call: Called with the file system and the address in its form.

    Raises:
        FileNotFoundError: It is not there.
        DatasetError: Access is refused, there are no credentials, or the network fails for longer.
        MissingExtraError: The package for this kind of address is not installed.
    """
    fs = _filesystem(url)
    for attempt in range(_ATTEMPTS):
        try:
            return call(fs, _address(fs, url))
        except (FileNotFoundError, DatasetError):
            raise
        except Exception as error:  # the packages behind fsspec raise errors of their own, without a common base
            reason = without_secrets(f"{type(error).__name__}: {error}")[:300]
            refused = isinstance(error, PermissionError) or "Credentials" in type(error).__name__
            if refused or attempt == _ATTEMPTS - 1:
                advice = (
                    "give credentials the way its tools read them (environment, configuration file), see the "
                    "documentation of s3fs or gcsfs"
                    if refused
                    else f"tried {_ATTEMPTS} times; check the network and the address, then start again"
                )
                raise DatasetError(f"expected to {what} {url}, but {reason}; {advice}") from error
            time.sleep(_FIRST_PAUSE_S * 2**attempt)
    raise AssertionError


@dataclass(frozen=True)
class RemoteFile:
    """A file in a remote folder.

    Args:
        size: Bytes; None: not known before it is asked for.
        version: Changes when the content does, as far as the file system tells.
    """

    size: int | None
    version: str


def remote_facts(url: str) -> RemoteFile:
    """Bytes and version of one file whose listing does not tell, as far as its server does.

    Raises:
        DatasetError: Access is refused, or the network fails for longer.
    """
    try:
        info = remote_call("read", url, lambda fs, address: fs.info(address))
    except FileNotFoundError:  # fsspec says so of web servers that do not answer, too; the download will tell
        return RemoteFile(None, "")
    return RemoteFile(None if info.get("size") is None else int(info["size"]), version_of(info))


def version_of(info: Mapping[str, Any]) -> str:
    """What changes when a file does, of what its file system tells; often an ETag."""
    return next((str(info[key]) for key in _VERSION_KEYS if info.get(key) is not None), "")


def remote_address(url: str, name: str) -> str:
    """Address of a file below a remote folder; on a web server, names are quoted.

    Example:
        >>> remote_address("https://host/data", "a b/ä.png"), remote_address("s3://bucket", "a b.png")
        ('https://host/data/a%20b/%C3%A4.png', 's3://bucket/a b.png')
    """
    return f"{url}/{quote(name) if url.startswith('http') else name}"


def _find(fs: Any, address: str) -> dict[str, dict[str, Any]]:  # noqa: ANN401 - fsspec has no types
    fs.invalidate_cache()  # a listing this process has made before may be out of date
    found: dict[str, dict[str, Any]] = fs.find(address, detail=True)
    return found


def list_remote(url: str) -> dict[str, RemoteFile]:
    """Every file below a remote folder, by its path relative to it; ``{"": file}`` where the address is a file.

    Raises:
        DatasetError: There is nothing, it cannot be listed, a name is no relative path, or a link of ``file://`` leads
            out of the folder.
    """
    try:
        base = remote_call("list", url, lambda _, address: address).rstrip("/")
        found = remote_call("list", url, _find)
    except FileNotFoundError as error:
        raise DatasetError(f"expected a folder or bucket, but there is no {url} ({error}); check its name") from error
    if url.partition("://")[0] in _LOCAL:
        _refuse_links_out(base, found)
    files = {}
    for address, info in found.items():
        name = address.rstrip("/") if address.rstrip("/") == base else address[len(base) + 1 :]
        if not address.endswith("/"):  # some tools mark folders by empty objects
            size = info.get("size")
            files["" if name == base else name] = RemoteFile(None if size is None else int(size), version_of(info))
    if not files:
        raise DatasetError(f"expected files below {url}, got none; check the bucket's and the folder's name")
    check_names(files, url)
    return files


def _refuse_links_out(base: str, addresses: Iterable[str]) -> None:
    root = os.path.realpath(base)
    for address in addresses:
        real = os.path.realpath(address)
        if real != root and not real.startswith(root.rstrip(os.sep) + os.sep):
            raise DatasetError(
                f"expected the files of {base} to lie in it, but {address} is a link to {real}; copy that file there, "
                "or give the folder as a path"
            )


def _is_path(name: str) -> bool:
    """Whether a name is UTF-8, and no longer than systems allow."""
    return len(name) <= _LONGEST_PATH and name.encode("utf-8", "ignore").decode("utf-8") == name


def check_names(names: Mapping[str, Any], url: str) -> None:
    """Refuse names that would not be a file below the local folder.

    Raises:
        DatasetError: Such a name, or one that is a file and a folder.
    """
    for name in names:
        parts = name.split("/")
        if name and (any(part in ("", ".", "..") for part in parts) or "\0" in name or not _is_path(name)):
            raise DatasetError(f"expected relative paths below {url}, got {name[:200]!r}; rename it")
        for end in range(1, len(parts)):
            if "/".join(parts[:end]) in names:
                raise DatasetError(
                    f"expected {'/'.join(parts[:end])!r} below {url} to be a file or a folder, got both; rename one"
                )
