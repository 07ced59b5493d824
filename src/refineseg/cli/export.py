"""``refineseg export``: wiring only, heavy imports inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from refineseg.cli.app import ModelFile, app, messages
from refineseg.printing import print_lines


@app.command()
def export(
    out: Annotated[Path, typer.Option(help="The file to write: .onnx, .xml (and .bin beside it), .pt2, .aoti.pt2.")],
    model: ModelFile = "camvid",
    file_format: Annotated[str, typer.Option("--format", help="onnx, openvino, torch or inductor.")] = "onnx",
    outputs: Annotated[str, typer.Option(help="What the file gives: class_map, logits, or both with a comma.")] = (
        "class_map"
    ),
    size: Annotated[
        str | None, typer.Option(help="HEIGHTxWIDTH, for one size only; by default any.", metavar="HxW")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="float32; or int8, with --format openvino: 8-bit convolutions, --calibrate.")
    ] = "float32",
    device: Annotated[
        str, typer.Option(help="With --format inductor: what it is compiled for, here: cpu, cuda.")
    ] = "cpu",
    calibrate: Annotated[
        str | None, typer.Option(help="NAME:ROOT; images for the ranges of feature maps, with --precision int8.")
    ] = None,
    calibrate_split: Annotated[str, typer.Option(help="Of the images to calibrate with.")] = "train",
    images: Annotated[int, typer.Option(help="How many to calibrate with, evenly spaced.")] = 128,
    accept: Annotated[
        str | None, typer.Option(help="NAME:ROOT; compare file and model on these images, and refuse what differs.")
    ] = None,
    split: Annotated[str, typer.Option(help="Of the images to accept by.")] = "val",
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing: accept (or refuse) the file that is already there.")
    ] = False,
    agreement: Annotated[
        float | None, typer.Option(help="Least share of equal pixels, 0..1; 0.9999, of int8 0.95.")
    ] = None,
    drift: Annotated[float | None, typer.Option(help="Most that mIoU may change, 0..1; 0.001, of int8 0.005.")] = None,
) -> None:
    """Write a model for another runtime: uint8 pixels in, class map or logits out, classes and licence inside."""
    from dataclasses import replace

    from refineseg.acceptance import Tolerance
    from refineseg.backends.opening import read_description
    from refineseg.benchmark import parse_size
    from refineseg.errors import ConfigError
    from refineseg.exporting import (
        ExportOptions,
        accept_file,
        calibration_images,
        export_accepted,
        export_file,
        write_acceptance,
    )
    from refineseg.segmenter import load

    if check and accept is None:
        raise ConfigError("expected --accept NAME:ROOT with --check, got none: a file is checked on images")
    if precision not in ("float32", "int8"):
        raise ConfigError(f"expected --precision float32 or int8 of an exported file, got {precision!r}")
    if (precision == "int8") != (calibrate is not None) and not check:
        raise ConfigError("expected --precision int8 and --calibrate NAME:ROOT together, got one of them")
    size_hw = None if size is None else parse_size(size)
    calibration: tuple[Any, ...] = ()
    if calibrate is not None and not check:
        calibration = calibration_images(calibrate, split=calibrate_split, num_images=images, size_hw=size_hw)
    options = ExportOptions.parse(file_format, outputs, size_hw, calibration=calibration, device=device)
    segmenter = load(model)
    if accept is None:
        export_file(segmenter, out, options)
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
