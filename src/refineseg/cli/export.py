"""``refineseg export``: wiring only, heavy imports inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from refineseg.cli.app import ModelFile, messages, verb
from refineseg.cli.completion import data_sets
from refineseg.terminal.printing import print_lines

Format = Annotated[
    str | None,
    typer.Option("--format", help="Format of the file: onnx, openvino or torch; by default that of its ending."),
]
Outputs = Annotated[str, typer.Option(help="Outputs of the file: class_map, logits, or both separated by a comma.")]
Size = Annotated[
    str | None,
    typer.Option(help="Only size that the file takes, as HEIGHTxWIDTH; by default any size.", metavar="HxW"),
]
Precision = Annotated[
    str,
    typer.Option(help="Precision: float32, or int8 (8-bit convolutions; needs an .xml file and --calibrate)."),
]
Calibrate = Annotated[
    str | None,
    typer.Option(
        help="Data set as NAME:ROOT whose images set the ranges of feature maps, with --precision int8.",
        metavar="NAME:ROOT",
        autocompletion=data_sets,
    ),
]
CalibrateAgreement = Annotated[
    float,
    typer.Option(
        help="Share of the pixels of calibration images, 0..1, whose class 8 bits must keep; layers that change more "
        "stay in floating point. 0: all layers get 8 bits."
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
    file_format: Format = None,
    outputs: Outputs = ("class_map"),
    size: Size = None,
    precision: Precision = "float32",
    calibrate: Calibrate = None,
    calibrate_split: Annotated[str, typer.Option(help="Split of the calibration images.")] = "train",
    images: Annotated[int, typer.Option(help="Number of calibration images, evenly spaced in the split.")] = 128,
    calibrate_agreement: CalibrateAgreement = 0.98,
    accept: Accept = None,
    split: Annotated[
        str, typer.Option(help="Split of the images for --accept; held_out is what a run held out.")
    ] = "val",
    check: Annotated[
        bool, typer.Option("--check", help="Check the file that is there; only the report is written.")
    ] = False,
    agreement: Agreement = None,
    drift: Drift = None,
) -> None:
    """Write a model as a file for another runtime.

    The file takes uint8 pixels and gives the class map or logits; classes and licence are inside.
    """
    given: Any = dict(locals())
    from refineseg.api.export import export as write_model

    found = write_model(**given, console=messages()).acceptance
    if found is None:
        print_lines(f"exported: {out}", "not compared with the model; add --accept NAME:ROOT")
    else:
        _tell(found, out, precision)


def _tell(found: Any, out: Path, precision: str) -> None:  # noqa: ANN401 - Acceptance, which would be a heavy import
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
        if precision == "int8":
            messages().say(
                "--calibrate-agreement nearer to 1 keeps more layers in floating point; --drift accepts more"
            )
        raise typer.Exit(1)
    print_lines(f"accepted: {out}")
