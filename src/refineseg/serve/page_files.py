"""The files of the page, in memory: those of the package, and the sample pictures, which are drawn.

In: nothing. Out: name -> content; no other file can be reached through the service.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from refineseg.errors import ConfigError, RefinesegError
from refineseg.files.archives import decoded
from refineseg.files.foreign_text import parse_json
from refineseg.serve.samples import STREETS, sample_picture

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".json": "application/json",
}

SAMPLES, RUNTIME, MODELS = "samples/", "runtime/", "models/"
"""Folders of the page: the sample pictures; of a static page also ONNX Runtime Web and the models."""

SETTINGS = "settings.json"
ENGINE = "browser"
"""What the settings of a static page say of who computes."""


@dataclass(frozen=True)
class PageFile:
    """A file of the page.

    Args:
        content: Bytes.
        content_type: Media type.
    """

    content: bytes
    content_type: str

    @property
    def etag(self) -> str:
        """A tag that changes with the content."""
        return f'"{hashlib.sha256(self.content).hexdigest()[:20]}"'


def package_files() -> dict[str, PageFile]:
    """The files of the page by their address; ``settings.json`` and the samples are apart."""
    found = {}
    for entry in resources.files("refineseg.serve").joinpath("page").iterdir():
        ending = "." + entry.name.rpartition(".")[2]
        if ending in _TYPES:
            found[entry.name] = PageFile(entry.read_bytes(), _TYPES[ending])
    return found


def settings_file(values: Mapping[str, Any]) -> PageFile:
    """What the page reads first.

    Args:
        values: Values with ``engine``: ``http``, or ``browser`` and what that needs.
    """
    samples = [{"file": f"{SAMPLES}{name}", "title": street.title} for name, street in STREETS.items()]
    return PageFile(json.dumps({**values, "samples": samples}).encode(), _TYPES[".json"])


def check_page_folder(folder: Path) -> None:
    """Whether a static page can be written without the loss of other files; those of an earlier page may be lost.

    Raises:
        ConfigError: Another file has the name of one of the page's.
    """
    with suppress(OSError, ValueError, RefinesegError):
        settings = parse_json(decoded((folder / SETTINGS).read_bytes()))
        if isinstance(settings, dict) and settings.get("engine") == ENGINE:
            return
    for name in (*package_files(), SETTINGS, SAMPLES, RUNTIME, MODELS):
        if (folder / name).exists():
            raise ConfigError(
                f"expected a folder without files that have the names of the page's, got {folder / name}, which "
                "`refineseg demo` did not write; choose another folder, or move it away"
            )


class ServedFiles:
    """The files of the page as the service sends them; samples are drawn when they are first asked for."""

    def __init__(self) -> None:
        self._files = {**package_files(), SETTINGS: settings_file({"engine": "http"})}

    @property
    def addresses(self) -> list[str]:
        """Addresses of all files, without the slash in front; the empty one is the page itself."""
        return ["", *self._files, *(f"{SAMPLES}{name}" for name in STREETS)]

    def find(self, address: str) -> PageFile:
        """A file by its address, one of :attr:`addresses`."""
        if address.startswith(SAMPLES):
            return PageFile(sample_picture(address.removeprefix(SAMPLES)), _TYPES[".png"])
        return self._files[address or "index.html"]
