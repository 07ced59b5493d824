"""``refineseg doctor``: wiring only, heavy imports inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from refineseg.cli.app import app, messages, write_json


@app.command()
def doctor(
    data: Annotated[str, typer.Argument(help="NAME:ROOT, for instance folder:pictures.", metavar="NAME:ROOT")],
    fix: Annotated[
        Path | None, typer.Option(help="Write a repaired copy into this new folder; the originals stay as they are.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with pictures there.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all findings there.")] = None,
) -> None:
    """Examine every file of a data set; exit status 1 where there are errors or warnings."""
    from refineseg.doctor.examination import examine
    from refineseg.doctor.summary import progress_bar, summary_lines

    console = messages()
    with progress_bar(console, "examining") as report:
        examination = examine(data, report=report)
    for line in summary_lines(examination):
        print(line)
    if json_file is not None:
        write_json(json_file, examination.to_json())
    if not examination.healthy:
        raise typer.Exit(1)
