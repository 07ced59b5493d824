"""``refineseg doctor``: wiring only, heavy imports inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from refineseg.cli.app import DataArgument, DataOption, messages, one_data_set, verb, write_json
from refineseg.errors import ConfigError
from refineseg.terminal.arguments import check_outputs
from refineseg.terminal.printing import counting, print_lines


@verb("refineseg doctor --data folder:my_pictures", "refineseg doctor --data folder:my_pictures --fix")
def doctor(
    place: DataArgument = None,
    data: DataOption = None,
    fix: Annotated[bool, typer.Option("--fix", help="Write a repaired copy; the originals stay unchanged.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="New folder for the copy; by default ROOT_repaired beside ROOT.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="File for an HTML page with images.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for all findings, as JSON.")] = None,
) -> None:
    """Examine every file of a data set, and repair a copy.

    The exit status is 1 if there are errors or warnings.
    """
    from refineseg.data.datasets import parse_data
    from refineseg.doctor.examination import examine
    from refineseg.doctor.summary import summary_lines

    source = one_data_set(place, data)
    console = messages()
    if out is not None and not fix:
        raise ConfigError(f"expected --out with --fix, which writes there, got --out {out} alone")
    name, root = parse_data(source)
    check_outputs({"--html": html, "--json": json_file}, {"--out": out})
    target = out or Path()
    if fix:
        from refineseg.doctor.repair import check_target, default_target, repair

        target = out or default_target(root)
        check_outputs({}, {"--out": target})
        check_target(name, root, target)
    with counting(console, "examining", "samples") as report:
        examination = examine(source, report=report)
    print_lines(*summary_lines(examination))
    value = examination.to_json()
    if fix:
        with counting(console, "repairing", "samples") as report:
            repaired = repair(examination, target, report=report)
        print_lines(*repaired.lines())
        value["repair"] = repaired.to_json()
    if html is not None:
        from refineseg.doctor.report import html_page
        from refineseg.files.writing import written_beside

        with written_beside(html) as temporary:
            temporary.write_text(html_page(examination), encoding="utf-8")
        print_lines(f"page: {html}")
    if json_file is not None:
        write_json(json_file, value)
    if not examination.healthy:
        raise typer.Exit(1)
