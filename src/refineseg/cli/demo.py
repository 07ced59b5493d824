"""``refineseg demo``: wiring only, heavy imports inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from refineseg.cli.app import app


@app.command()
def demo(out: Annotated[Path, typer.Argument(help="Folder.", metavar="OUT")]) -> None:
    """Write the page."""
