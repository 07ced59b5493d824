"""``refineseg demo``: wiring only, heavy imports inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from refineseg.cli.app import messages, verb
from refineseg.errors import ConfigError
from refineseg.terminal.arguments import check_outputs
from refineseg.terminal.printing import print_lines


@verb("refineseg demo site", "refineseg demo site --model trees=runs/first/best.safetensors")
def demo(
    out: Annotated[Path, typer.Argument(help="Folder to write.", metavar="OUT")],
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Model of the page: a shipped name (camvid, camvid_nano, nyud, nyud_lite2), a model file, or "
            "NAME=FILE; repeat it for several. By default camvid.",
        ),
    ] = None,
    runtime: Annotated[
        Path | None,
        typer.Option(help="Folder node_modules with onnxruntime-web; by default npm fetches that package."),
    ] = None,
) -> None:
    """Write the page as a folder that needs no server.

    The page of `serve` runs the model inside the browser: no picture leaves the machine.
    """
    from refineseg.runtimes.table import check_installed, is_exported
    from refineseg.serve.naming import named_models

    for file in model or ():
        if is_exported(file):
            raise ConfigError(f"expected a shipped model or a .safetensors file, which is exported here, got {file}")
    named = named_models(model or ["camvid"])
    check_installed("onnxruntime")
    check_outputs({}, {"OUT": out})

    from refineseg.serve.page_files import check_page_folder
    from refineseg.serve.web_runtime import runtime_files

    check_page_folder(out)
    files = runtime_files(runtime)

    # from here on PyTorch is there
    from refineseg.segmenter import load
    from refineseg.serve.static_page import write_static_page

    loaded = {name: load(file) for name, file in named.items()}
    messages().say("exporting, which takes a minute")
    write_static_page(out, loaded, files)
    print_lines(f"page: {out / 'index.html'}", f"show it: python -m http.server --bind 127.0.0.1 --directory {out}")
