"""``refineseg evaluate``: wiring only, heavy imports inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from refineseg.cli.app import (
    BackendName,
    Crf,
    Data,
    Device,
    Enlargement,
    Flip,
    Model,
    Precision,
    Protocol,
    Scales,
    messages,
    tables,
    verb,
)
from refineseg.devices import keep_freed_memory
from refineseg.errors import ConfigError
from refineseg.terminal.arguments import check_input_file, check_not_input
from refineseg.terminal.printing import print_lines, summed_up


@verb(
    "refineseg evaluate --data camvid:CamVid --split test",
    "refineseg evaluate --model runs/first/best.safetensors \\\n  --data folder:my_pictures",
    "refineseg evaluate --data camvid:CamVid --pictures 8 --json numbers.json",
)
def evaluate(
    data: Data,
    model: Model = "camvid",
    split: Annotated[
        str, typer.Option(help="Split that is measured; train+val joins two, held_out is what a run held out.")
    ] = "val",
    json_file: Annotated[Path | None, typer.Option("--json", help="File for all numbers, as JSON.")] = None,
    pictures: Annotated[
        int, typer.Option(help="Number of worst images to draw: image, truth, prediction, errors.")
    ] = 0,
    legend: Annotated[bool, typer.Option("--legend/--no-legend", help="Name the colours below pictures.")] = True,
    out: Annotated[Path, typer.Option(help="Folder for the drawn images and the confusion matrix.")] = Path(
        "evaluation"
    ),
    submission: Annotated[
        Path | None,
        typer.Option(help="Folder for prediction files in the form of the benchmark's server; needs no masks."),
    ] = None,
    boundary: Annotated[
        bool, typer.Option("--boundary", help="Measure boundary IoU, too: the IoU of bands along contours.")
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option(help="JSON file of another evaluation to compare with; differing conditions are listed."),
    ] = None,
    device: Device = "auto",
    precision: Precision = "float32",
    scales: Scales = "1",
    flip: Flip = False,
    protocol: Protocol = "light_weight",
    enlargement: Enlargement = None,
    crf: Crf = False,
    backend: BackendName = None,
) -> None:
    """Measure a model on labelled images.

    The numbers are pixel and mean accuracy, mIoU, frequency-weighted IoU, and the IoU of each class.
    """
    given: Any = dict(locals())
    check_input_file("--against", given.pop("against"), what="a result of `refineseg evaluate --json`")
    from refineseg.api.evaluate import evaluate as measure
    from refineseg.evaluate.comparison import against_table, read_result

    other = None if against is None else read_result(against)
    if against is not None:
        check_not_input("--json", json_file, [against])
    keep_freed_memory()
    result = measure(**given, console=messages())
    _show(result, out, pictures=pictures)
    if json_file is not None:
        messages().say(f"numbers: {json_file}")
    if against is not None and other is not None:
        if result.matrix is None:
            raise ConfigError(f"expected a labelled split to compare with {against}, got {split} of {data}")
        tables().print(against_table(result.to_json(), other, name=str(against))[0])
    if submission is not None:
        print_lines(f"submission: {result.num_images} files below {submission}")


def _show(result: Any, out: Path, *, pictures: int) -> None:  # noqa: ANN401 - EvaluationResult, which would be a heavy import
    """Notes, tables and the protocol on stdout."""
    from refineseg.evaluate.comparison import published_lines
    from refineseg.evaluate.reports import metrics_table

    print_lines(*summed_up(result.notes))
    print_lines(result.how)
    if result.matrix is None:
        return
    title = f"{result.model} on {result.data} {result.split}, {result.num_images} images"
    tables().print(metrics_table(result.matrix, title=title, boundary=result.boundary))
    for name, counts in result.parts.items() if len(result.parts) > 1 else ():
        print_lines(f"{name}: {counts.num_images} images, mIoU {100 * counts.matrix.mean_iou:.2f} %")
    print_lines(f"measured: {result.protocol.describe()}")
    if result.warning:
        print_lines(result.warning)
    for line in published_lines(result.published, result.protocol):
        print_lines(line)
    print_lines(f"confusion matrix: {out / 'confusion_matrix.png'}")
    if pictures:
        print_lines(f"pictures of the worst images: {out / 'pictures'}")
