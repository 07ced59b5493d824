"""The page as a folder that any web server can send: models run inside the browser, and no picture leaves it.

In: models, and the files of ONNX Runtime Web. Out: a folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from refineseg.errors import ConfigError
from refineseg.export.files import export_file
from refineseg.export.options import ExportOptions
from refineseg.files.writing import written_beside
from refineseg.runtimes.graph import takes_any_size
from refineseg.segmenter import Segmenter
from refineseg.serve.page_files import (
    ENGINE,
    MODELS,
    RUNTIME,
    SAMPLES,
    SETTINGS,
    check_page_folder,
    package_files,
    settings_file,
)
from refineseg.serve.samples import STREETS, sample_picture

_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; style-src 'self'; "
    "img-src 'self' blob: data:; media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'"
)
_MOST_PIXELS = 2_000_000
"""Larger pictures are shrunk, since a browser gives a page at most 4 GB."""


def write_static_page(folder: Path, models: Mapping[str, Segmenter], runtime: Mapping[str, bytes]) -> None:
    """Write the folder; an earlier page is replaced.

    Args:
        folder: The folder; it is made.
        models: Name -> model, on the CPU.
        runtime: Files of :func:`~refineseg.serve.web_runtime.runtime_files`.

    Raises:
        ConfigError: A model that cannot be exported for all sizes, or other files with the names of the page's.
        OutputError: A file cannot be written.
    """
    check_page_folder(folder)
    for name, segmenter in models.items():  # all before the first export, so that no half folder is left
        if segmenter.spec.preprocessing.in_channels != 3:
            raise ConfigError(f"expected models of RGB images for a page, got {name}, which takes other channels")
        if not takes_any_size(segmenter):
            raise ConfigError(
                f"expected models of images of any size for a page, got {name}, which resizes images in front of the "
                "network; use `refineseg serve`"
            )
    described: list[dict[str, Any]] = []
    for name, segmenter in models.items():
        file = f"{MODELS}{name}.onnx"
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        export_file(segmenter, path, ExportOptions("onnx", ("class_map", "logits")))
        info = segmenter.class_info
        described.append(
            {
                "name": name,
                "file": quote(file),  # an address
                "licence": segmenter.spec.licence,
                "ignore_index": info.ignore_index,
                "classes": [
                    {"index": i, "name": text, "colour": list(colour)}
                    for i, (text, colour) in enumerate(zip(info.names, info.palette, strict=True))
                ],
            }
        )
    settings = {"engine": ENGINE, "models": described, "limits": {"pixels": _MOST_PIXELS}}
    files = {name: file.content for name, file in package_files().items()}
    files |= {f"{SAMPLES}{name}": sample_picture(name) for name in STREETS}
    files |= {f"{RUNTIME}{name}": content for name, content in runtime.items()}
    policy = f'<meta charset="utf-8">\n  <meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    page = files["index.html"].replace(b'<meta charset="utf-8">', policy.encode(), 1)
    files |= {SETTINGS: settings_file(settings).content, "index.html": page}
    for name, content in files.items():
        with written_beside(folder / name) as temporary:
            temporary.write_bytes(content)
