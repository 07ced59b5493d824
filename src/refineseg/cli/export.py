"""``refineseg export``: wiring only, heavy imports inside."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from refineseg.cli.app import ModelFile, messages, verb
from refineseg.cli.completion import data_sets
from refineseg.errors import ConfigError
from refineseg.terminal.arguments import (
    LONGEST_NAME,
    check_input_file,
    check_number,
    check_outputs,
    check_word,
    parse_size,
)
from refineseg.terminal.printing import print_lines

Outputs = Annotated[str, typer.Option(help="Outputs of the file: class_map, logits, or both separated by a comma.")]
Size = Annotated[
    str | None,
    typer.Option(help="Only size that the file takes, as HEIGHTxWIDTH; by default any size.", metavar="HxW"),
]
Precision = Annotated[
    str,
    typer.Option(help="Precision: float32, or int8 (8-bit convolutions; needs --format openvino and --calibrate)."),
]
Calibrate = Annotated[
    str | None,
    typer.Option(
        help="Data set as NAME:ROOT whose images set the ranges of feature maps, with --precision int8.",
        metavar="NAME:ROOT",
        autocompletion=data_sets,
    ),
]
Accept = Annotated[
    str | None,
    typer.Option(
        help="Data set as NAME:ROOT on which file and model are compared; a file that differs is refused.",
        metavar="NAME:ROOT",
        autocompletion=data_sets,
    ),
]
Agreement = Annotated[
    float | None,
    typer.Option(help="Smallest accepted share of equal pixels, 0..1; by default 0.9999, for int8 0.95."),
]
Drift = Annotated[
    float | None, typer.Option(help="Largest accepted change of mIoU, 0..1; by default 0.001, for int8 0.005.")
]


@verb(
    "refineseg export --out camvid.onnx --accept camvid:CamVid",
    "refineseg export --format openvino --precision int8 \\\n  --calibrate camvid:CamVid --out camvid.xml",
)
def export(
    out: Annotated[Path, typer.Option(help="File to write: .onnx, .xml (with .bin beside it), or .pt2.")],
    model: ModelFile = "camvid",
    file_format: Annotated[str, typer.Option("--format", help="Format of the file: onnx, openvino or torch.")] = "onnx",
    outputs: Outputs = ("class_map"),
    size: Size = None,
    precision: Precision = "float32",
    calibrate: Calibrate = None,
    calibrate_split: Annotated[str, typer.Option(help="Split of the calibration images.")] = "train",
    images: Annotated[int, typer.Option(help="Number of calibration images, evenly spaced in the split.")] = 128,
    accept: Accept = None,
    split: Annotated[str, typer.Option(help="Split of the images for --accept.")] = "val",
    check: Annotated[
        bool, typer.Option("--check", help="Check the file that is already there, and write nothing.")
    ] = False,
    agreement: Agreement = None,
    drift: Drift = None,
) -> None:
    """Write a model as a file for another runtime.

    The file takes uint8 pixels and gives the class map or logits; classes and licence are inside.
    """
    if check and accept is None:
        raise ConfigError("expected --accept NAME:ROOT with --check, got none: a file is checked on images")
    check_word("precision", precision, ("float32", "int8"))
    if (precision == "int8") != (calibrate is not None) and not check:
        raise ConfigError("expected --precision int8 and --calibrate NAME:ROOT together, got one of them")
    check_number("--images", images, least=1)
    check_number("--agreement", agreement, least=0, most=1)
    check_number("--drift", drift, least=0, most=1)
    options = _options(file_format, outputs, size)
    _check_files(options, out, model, precision, check=check, accept=accept)
    _check_data((calibrate, calibrate_split), (accept, split))

    # from here on PyTorch is there
    from refineseg.export.acceptance import Tolerance
    from refineseg.export.files import accept_file, calibration_images, export_accepted, export_file, write_acceptance
    from refineseg.runtimes.open import read_description
    from refineseg.segmenter import load

    if calibrate is not None and not check:
        messages().tell(f"reading at most {images} images of {calibrate} {calibrate_split} to calibrate with")
        size_hw = options.size_hw
        calibration = calibration_images(calibrate, split=calibrate_split, num_images=images, size_hw=size_hw)
        options = replace(options, calibration=calibration)
    segmenter = load(model)
    if accept is None:
        export_file(segmenter, out, options, console=messages())
        print_lines(f"exported: {out}", "not compared with the model; add --accept NAME:ROOT")
        return
    tolerance = Tolerance.of(read_description(out).precision if check else precision)
    if agreement is not None:
        tolerance = replace(tolerance, agreement=agreement, worst_agreement=min(agreement, tolerance.worst_agreement))
    if drift is not None:
        tolerance = replace(tolerance, mean_iou_drift=drift)
    if check:
        found = accept_file(segmenter, out, data=accept, split=split, tolerance=tolerance, console=messages())
        write_acceptance(out, found)
    else:
        found = export_accepted(
            segmenter, out, options, data=accept, split=split, tolerance=tolerance, console=messages()
        )
    _tell(found, out)


def _options(file_format: str, outputs: str, size: str | None) -> Any:  # noqa: ANN401 - ExportOptions
    from refineseg.export.options import ExportOptions

    return ExportOptions.parse(file_format, outputs, None if size is None else parse_size(size))


def _check_files(
    options: Any,  # noqa: ANN401 - ExportOptions
    out: Path,
    model: str,
    precision: str,
    *,
    check: bool,
    accept: str | None,
) -> None:
    """The model, and the file that is written, or with ``check`` read."""
    from refineseg.export.options import REPORT_ENDING
    from refineseg.networks.model_names import model_file

    if check:
        check_input_file("--out", out, what="the exported file that is checked")
    else:
        options.check_path(out)
        options.check_precision(precision)
    model_file(model)
    report = None if accept is None else out.with_name(out.name + REPORT_ENDING)
    if report is not None and len(os.fsencode(report.name)) > LONGEST_NAME >= len(os.fsencode(out.name)):
        raise ConfigError(
            f"expected a name of at most {LONGEST_NAME - len(REPORT_ENDING)} bytes as --out with --accept, whose "
            f"report is written beside it as NAME{REPORT_ENDING}, got {len(os.fsencode(out.name))}; choose a shorter "
            "one"
        )
    check_outputs({"--out": out, "--accept": report})


def _check_data(*parts: tuple[str | None, str]) -> None:
    """Data and their splits, where they are given."""
    from refineseg.data.datasets import open_sources

    for data, split in parts:
        if data is not None:
            open_sources(data, split=split)


def _tell(found: Any, out: Path) -> None:  # noqa: ANN401 - Acceptance, which would be a heavy import
    """What the comparison found; status 1 where the file is refused."""
    print_lines(
        f"{100 * found.agreement:.4f} % of the pixels of {found.num_images} images agree; worst image: "
        f"{found.worst_image} ({100 * found.worst_agreement:.3f} %)"
    )
    if found.model_mean_iou is not None and found.file_mean_iou is not None:
        print_lines(f"mIoU: model {100 * found.model_mean_iou:.2f} %, file {100 * found.file_mean_iou:.2f} %")
    for complaint in found.complaints:
        messages().say(f"refused: {complaint}", style="red")
    if found.complaints:
        raise typer.Exit(1)
    print_lines(f"accepted: {out}")
