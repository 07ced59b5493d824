"""``refineseg.predict``: images, folders, rasters and videos into a folder of results.

In: the options of the command line. Out: files, and a :class:`~refineseg.predict.folder.file_run.FilesResult`. Checks
come first; PyTorch is loaded after them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refineseg.api.words import Words, as_path, as_words, named_options
from refineseg.errors import NoInputError
from refineseg.files.writing import write_json
from refineseg.terminal.applicability import check_options, is_batch
from refineseg.terminal.arguments import check_not_input, check_outputs

if TYPE_CHECKING:
    from refineseg.batch.report import AuditReport, BatchReport
    from refineseg.predict.folder.file_run import FilesResult
    from refineseg.predict.folder.follower import Follower

SCORING = ("precision", "scales", "protocol", "backend", "device", "flip", "enlargement")
"""Options of scoring."""


def predict(
    inputs: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    model: str | Path = "camvid",
    device: str = "auto",
    precision: str = "float32",
    scales: Words = "1",
    flip: bool = False,
    protocol: str = "light_weight",
    enlargement: float | None = None,
    crf: bool = False,
    backend: str | None = None,
    save: Words = "mask,overlay",
    legend: bool = True,
    unknown_below: float | None = None,
    areas: str | Path | None = None,
    json_file: str | Path | None = None,
    classes: Words | None = None,
    probability_format: str = "npz",
    confidence_format: str = "png8",
    polygon_format: str = "geojson",
    simplify: float = 1.0,
    smallest_area: float = 0.0,
    tile: str | int = "auto",
    tile_mode: str = "exact",
    memory: str | int | None = None,
    overlap: int = 128,
    prove: bool = False,
    resume: bool | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    engine: str | None = None,
    address: str | None = None,
    part: str | None = None,
    threads: int | None = None,
    retry_failed: bool = False,
    audit: bool = False,
    bands: Words | None = None,
    percentiles: Words = "auto",
    value_range: Words | None = None,
    nodata: str | float | None = None,
    overviews: bool = True,
    smooth: float = 0.0,
    frame_rate: float = 25.0,
    seconds: float | None = None,
    live: str = "auto",
    asked: frozenset[str] | None = None,
    follower: Follower | None = None,
) -> FilesResult | BatchReport | AuditReport:
    """Predict files into a folder; ``refineseg predict --help`` describes each option, which has the same name here.

    For predictions as values, without files, there is :class:`refineseg.Predictor`. ``follower`` is told of results,
    failures and progress; without one failures are logged as warnings. ``asked`` names the options that were given even
    though they have their usual values.

    Returns:
        What became of the inputs: how many are done, areas of the classes, a message for each failure. With an engine,
        a part or a bucket the report of a batch, and with ``audit`` what was found.

    Raises:
        NoInputError: None of the inputs can be predicted.
        RefinesegError: Options that are wrong, or do not fit each other; nothing has been written then.
    """
    given = dict(locals())
    if asked is None:
        given["asked"] = asked = named_options(predict, given) - {"inputs", "out", "asked", "follower"}
        names = {name: f"--{name.replace('_', '-')}" for name in asked}
        check_options("predict", names, {name: as_words(value) for name, value in given.items()})
    if is_batch(given):
        from refineseg.api.batch import predict_batch

        return predict_batch(given)
    return _predicted(given)


def words_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that may be words or values, as words."""
    names = ("model", "save", "classes", "scales", "tile", "memory", "bands", "percentiles", "value_range", "nodata")
    return {name: as_words(given[name]) for name in names}


def _predicted(given: Mapping[str, Any]) -> FilesResult:
    from refineseg.predict.views.scoring_views import check_scoring

    words = words_of(given)
    scoring: Any = {**{name: given[name] for name in SCORING}, "scales": words["scales"]}
    check_scoring(words["model"], **scoring)
    out, areas, json_file = Path(given["out"]), as_path(given["areas"]), as_path(given["json_file"])
    check_outputs({"--areas": areas, "--json": json_file}, {"--out": out})

    # from here on NumPy is there
    from refineseg.predict.folder.plan import plan_files
    from refineseg.predict.views.tiling import TilingOptions

    files = file_options(given, words, areas)
    inputs = [given["inputs"]] if isinstance(given["inputs"], str | Path) else given["inputs"]
    tile = {"tile": words["tile"], "memory": words["memory"], "overlap": given["overlap"]}
    tiling = TilingOptions.parse(mode=given["tile_mode"], **tile)
    plan = plan_files(inputs, out, endings=files.outputs.endings.values())
    for option, path in (("--areas", areas), ("--json", json_file)):
        check_not_input(option, path, (job.real for job in plan.files))
    if not plan.files and not plan.videos:
        raise NoInputError(*plan.failures)

    # from here on PyTorch is there, where the model needs it
    from refineseg.api.quiet import QuietFollower
    from refineseg.predict.folder.files import predict_plan
    from refineseg.predict.options import PredictorOptions

    how = PredictorOptions.parse(**scoring, crf=given["crf"], tiling=tiling)
    follower = given["follower"] or QuietFollower()
    result = predict_plan(plan, out, how.opened_for_images(words["model"]), options=how, files=files, follower=follower)
    if json_file is not None:
        options = {**how.to_json(), "backend": result.backend}
        write_json(json_file, {"model": words["model"], "options": options, **result.to_json()})
    return result


def file_options(given: Mapping[str, Any], words: Mapping[str, Any], areas: Path | None) -> Any:  # noqa: ANN401
    """What to write of every file, as far as it can be checked before PyTorch is there."""
    from refineseg.networks.model_names import classes_in, model_file
    from refineseg.predict.folder.file_options import FileOptions
    from refineseg.predict.outputs.kinds import Outputs
    from refineseg.predict.raster.options import RasterOptions
    from refineseg.predict.video.options import VideoOptions
    from refineseg.runtimes.table import is_exported

    named = ("probability_format", "confidence_format", "polygon_format", "unknown_below", "simplify", "smallest_area")
    of_files = {name: given[name] for name in (*named, "legend")}
    outputs = Outputs.parse(words["save"], classes=words["classes"], **of_files)
    class_info = None if is_exported(words["model"]) else classes_in(model_file(words["model"]))
    if class_info is not None:
        outputs.check(class_info)
    pixels = {name: words[name] for name in ("bands", "percentiles", "value_range", "nodata")}
    rasters = RasterOptions.parse(overviews=given["overviews"], **pixels)
    frames = {name: given[name] for name in ("smooth", "frame_rate", "seconds", "live", "legend")}
    many = {name: given[name] for name in ("resume", "batch_size", "workers", "prove", "asked")}
    return FileOptions(outputs, areas, rasters=rasters, videos=VideoOptions.parse(**frames), **many)
