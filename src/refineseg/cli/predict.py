"""``refineseg predict``: wiring only, heavy imports inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from refineseg.cli.app import (
    BackendName,
    Crf,
    Device,
    Enlargement,
    Flip,
    Model,
    Precision,
    Protocol,
    Scales,
    given_options,
    messages,
    verb,
)
from refineseg.cli.interruption import goes_on_with, this_call_with
from refineseg.devices import keep_freed_memory
from refineseg.errors import NoInputError
from refineseg.terminal.applicability import is_batch

_WRITTEN, _LARGE, _MANY = "What is written", "Large images", "Many files"
_BEYOND = "Beyond one machine"
_PIXELS, _RASTERS, _VIDEOS = "Pixels of images and rasters", "Rasters", "Videos"

Inputs = Annotated[
    list[str],
    typer.Argument(help="Images, folders, rasters, videos, addresses, or camera numbers.", metavar="INPUT..."),
]
Out = Annotated[str, typer.Option(help="Folder for the results; the folder structure of the inputs is kept.")]
Save = Annotated[
    str,
    typer.Option(
        help="Results, separated by commas: mask, overlay, probabilities, confidence, polygons.",
        rich_help_panel=_WRITTEN,
    ),
]
Legend = Annotated[
    bool, typer.Option("--legend/--no-legend", help="Name the classes below overlays.", rich_help_panel=_WRITTEN)
]
UnknownBelow = Annotated[
    float | None,
    typer.Option(help="Confidence below which pixels become void, for instance 0.6.", rich_help_panel=_WRITTEN),
]
AreasFile = Annotated[
    Path | None,
    typer.Option(help="File for pixels and shares of all classes: .csv or .json.", rich_help_panel=_WRITTEN),
]
JsonFile = Annotated[
    Path | None, typer.Option("--json", help="File for all numbers, as JSON.", rich_help_panel=_WRITTEN)
]
Classes = Annotated[
    str | None,
    typer.Option(
        help="Classes in probabilities and polygons, separated by commas; by default all.", rich_help_panel=_WRITTEN
    ),
]
ProbabilityFormat = Annotated[
    str,
    typer.Option(
        help="Format of probabilities: npz, or tiff (a 16-bit page per class, 65535 = 1).", rich_help_panel=_WRITTEN
    ),
]
ConfidenceFormat = Annotated[
    str,
    typer.Option(
        help="Format of the confidence: png8 (255 = 1), png16 (65535 = 1), tiff8, or tiff16.", rich_help_panel=_WRITTEN
    ),
]
PolygonFormat = Annotated[str, typer.Option(help="Format of polygons: geojson or coco.", rich_help_panel=_WRITTEN)]
Simplify = Annotated[
    float, typer.Option(help="Largest distance that borders of polygons may move, in pixels.", rich_help_panel=_WRITTEN)
]
SmallestArea = Annotated[
    float, typer.Option(help="Area in pixels below which a polygon joins a neighbour.", rich_help_panel=_WRITTEN)
]
Tile = Annotated[
    str,
    typer.Option(
        help="Tiles: auto (only where the image does not fit into memory), N (of N pixels), or off.",
        rich_help_panel=_LARGE,
    ),
]
TileMode = Annotated[
    str,
    typer.Option(
        help="Kind of tiles: exact (same result as the whole image), or blend (overlapping tiles, averaged).",
        rich_help_panel=_LARGE,
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        help="Memory for everything together, for instance 4GB; by default half of the free memory.",
        rich_help_panel=_LARGE,
    ),
]
Overlap = Annotated[int, typer.Option(help="Overlap of blended tiles, in pixels.", rich_help_panel=_LARGE)]
Prove = Annotated[
    bool,
    typer.Option(
        "--prove", help="Compare a random piece with the prediction of the whole image.", rich_help_panel=_LARGE
    ),
]
Resume = Annotated[
    bool | None,
    typer.Option(
        "--resume/--no-resume",
        help="Keep results of the same model; by default images are predicted again and rasters are continued.",
        rich_help_panel=_MANY,
    ),
]
BatchSize = Annotated[
    int | None, typer.Option(help="Number of images of one size in a batch; by default chosen.", rich_help_panel=_MANY)
]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Number of threads that read and write files; with Ray, of processes with the model.",
        rich_help_panel=_MANY,
    ),
]
Engine = Annotated[
    str | None, typer.Option(help="Engine for many processes and machines: ray.", rich_help_panel=_BEYOND)
]
Address = Annotated[
    str | None,
    typer.Option(help="Address of a Ray cluster, host:port; by default this machine.", rich_help_panel=_BEYOND),
]
PartOption = Annotated[
    str | None,
    typer.Option(
        "--part",
        help="Part I/N of the images, or of one raster, I from 1 to N; N calls, at any time and place, take each once.",
        rich_help_panel=_BEYOND,
    ),
]
Threads = Annotated[
    int | None, typer.Option(help="Number of threads that each process computes with.", rich_help_panel=_BEYOND)
]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Predict images again that failed before.", rich_help_panel=_BEYOND)
]
Audit = Annotated[
    bool,
    typer.Option("--audit", help="Compare images, manifest and results, and predict nothing.", rich_help_panel=_BEYOND),
]
Bands = Annotated[
    str | None, typer.Option(help="Bands that the model sees, counted from 1: 4,3,2.", rich_help_panel=_PIXELS)
]
Percentiles = Annotated[
    str,
    typer.Option(
        help="Percentiles that become black and white where pixels have more than 8 bits, for instance 2,98; auto "
        "takes 2,98, but keeps 16 bits that use their whole range; none does not scale.",
        rich_help_panel=_PIXELS,
    ),
]
ValueRange = Annotated[
    str | None,
    typer.Option(
        help="Values that become black and white, in place of percentiles, for instance 0,10000.",
        rich_help_panel=_PIXELS,
    ),
]
Nodata = Annotated[
    str | None,
    typer.Option(
        help="Value of pixels without data, in place of the one that the file declares.", rich_help_panel=_PIXELS
    ),
]
Overviews = Annotated[
    bool, typer.Option("--overviews/--no-overviews", help="Add smaller copies for viewers.", rich_help_panel=_RASTERS)
]
Smooth = Annotated[
    float,
    typer.Option(
        help="Weight of earlier frames in each frame, 0 to 1; more means less flicker.", rich_help_panel=_VIDEOS
    ),
]
FrameRate = Annotated[
    float, typer.Option(help="Frames per second of image sequences (frame_%05d.png).", rich_help_panel=_VIDEOS)
]
Seconds = Annotated[
    float | None,
    typer.Option(help="Seconds of the video or stream to predict; by default all.", rich_help_panel=_VIDEOS),
]
Live = Annotated[
    str,
    typer.Option(
        help="Dropping of frames that come too fast: yes, no, or auto (for cameras and streams only).",
        rich_help_panel=_VIDEOS,
    ),
]


@verb(
    "refineseg predict photo.jpg --out masks",
    "refineseg predict pictures --out masks --backend auto",
    "refineseg predict scene.tif --out masks --save mask,polygons --memory 4GB",
    "refineseg predict drive.mp4 --out masks --smooth 0.5",
    "refineseg predict s3://bucket/images --out s3://bucket/masks --engine ray",
)
def predict(
    inputs: Inputs,
    out: Out,
    model: Model = "camvid",
    device: Device = "auto",
    precision: Precision = "float32",
    scales: Scales = "1",
    flip: Flip = False,
    protocol: Protocol = "light_weight",
    enlargement: Enlargement = None,
    crf: Crf = False,
    backend: BackendName = None,
    save: Save = "mask,overlay",
    legend: Legend = True,
    unknown_below: UnknownBelow = None,
    areas: AreasFile = None,
    json_file: JsonFile = None,
    classes: Classes = None,
    probability_format: ProbabilityFormat = "npz",
    confidence_format: ConfidenceFormat = "png8",
    polygon_format: PolygonFormat = "geojson",
    simplify: Simplify = 1.0,
    smallest_area: SmallestArea = 0.0,
    tile: Tile = "auto",
    tile_mode: TileMode = "exact",
    memory: Memory = None,
    overlap: Overlap = 128,
    prove: Prove = False,
    resume: Resume = None,
    batch_size: BatchSize = None,
    workers: Workers = None,
    engine: Engine = None,
    address: Address = None,
    part: PartOption = None,
    threads: Threads = None,
    retry_failed: RetryFailed = False,
    audit: Audit = False,
    bands: Bands = None,
    percentiles: Percentiles = "auto",
    value_range: ValueRange = None,
    nodata: Nodata = None,
    overviews: Overviews = True,
    smooth: Smooth = 0.0,
    frame_rate: FrameRate = 25.0,
    seconds: Seconds = None,
    live: Live = "auto",
) -> None:
    """Segment images, folders, rasters and videos.

    An image gives OUT/<name>.png (palette PNG, value = class id) and OUT/<name>_overlay.jpg, a raster <name>.tif, a
    video <name>.mp4.
    """
    given: Any = dict(locals())
    from refineseg.api.predict import predict as predict_files
    from refineseg.predict.folder.file_run import FilesResult, shares_line
    from refineseg.terminal.following import TerminalFollower

    if memory is None:  # a bound that somebody gives is kept, rather than made use of
        keep_freed_memory()
    follower = TerminalFollower(messages())
    try:
        batch = is_batch(given)
        with goes_on_with(lambda: "" if batch else this_call_with("--resume", instead_of="--no-resume")):
            result = predict_files(**given, asked=given_options(), follower=follower)
    except NoInputError as error:
        messages().say(*error.args, style="red")
        raise typer.Exit(1) from error
    if not isinstance(result, FilesResult):
        messages().say(f"results: {out}" if not audit else f"audited: {out}")
        raise typer.Exit(0 if result.is_clean else 1)
    if result.total is not None:
        follower.summary(shares_line(result.total, result.class_info))
    if result.done or result.others or result.resumed:
        messages().say(f"results: {out}")
    if json_file is not None:
        messages().say(f"numbers: {json_file}")
    if result.failures:
        raise typer.Exit(1)
