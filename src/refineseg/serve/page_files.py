"""The files of the page, in memory: those of the package, and the sample pictures, which are drawn.

In: nothing. Out: name -> content; no other file can be reached through the service.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from refineseg.serve.samples import STREETS, sample_pictures

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".json": "application/json",
}


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


def page_files() -> dict[str, PageFile]:
    """All files by their address, without the slash in front."""
    found = {}
    for entry in resources.files("refineseg.serve").joinpath("page").iterdir():
        ending = "." + entry.name.rpartition(".")[2]
        if ending in _TYPES:
            found[entry.name] = PageFile(entry.read_bytes(), _TYPES[ending])
    for name, content in sample_pictures().items():
        found[f"samples/{name}"] = PageFile(content, _TYPES[".png"])
    found["settings.json"] = PageFile(settings_json({"engine": "http"}), _TYPES[".json"])
    return found


def settings_json(values: Mapping[str, Any]) -> bytes:
    """What the page reads first.

    Args:
        values: Values with ``engine``: ``http``, or ``browser`` and what that needs.
    """
    samples = [{"file": f"samples/{name}", "title": street.title} for name, street in STREETS.items()]
    return json.dumps({**values, "samples": samples}).encode()
