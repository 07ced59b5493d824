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
    from refineseg.doctor.findings import printable
    from refineseg.doctor.summary import progress_bar, summary_lines

    console = messages()
    if fix is not None:
        from refineseg.data.datasets import parse_data
        from refineseg.doctor.repair import check_target, repair

        check_target(*parse_data(data), fix)
    with progress_bar(console, "examining") as report:
        examination = examine(data, report=report)
    for line in summary_lines(examination):
        print(line)
    value = examination.to_json()
    if fix is not None:
        with progress_bar(console, "repairing") as report:
            repaired = repair(examination, fix, report=report)
        for line in repaired.lines():
            print(printable(line))
        value["repair"] = repaired.to_json()
    if html is not None:
        from refineseg.doctor.report import html_page
        from refineseg.images import written_beside

        with written_beside(html) as temporary:
            temporary.write_text(html_page(examination), encoding="utf-8")
        print(f"page: {html}")
    if json_file is not None:
        write_json(json_file, value)
    if not examination.healthy:
        raise typer.Exit(1)
