"""``refineseg.predict``: images, folders, rasters and videos into a folder of results.

In: the options of the command line. Out: files, and a :class:`~refineseg.predict.folder.file_run.FilesResult`. Checks
come first; PyTorch is loaded after them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refineseg.api.predict_words import SCORING, file_options, words_of
from refineseg.api.words import Words, as_path, check_call
from refineseg.errors import ConfigError, MissingExtraError, NoInputError
from refineseg.files.writing import write_json
from refineseg.terminal.applicability import is_batch
from refineseg.terminal.arguments import check_not_input, check_outputs, check_word
from refineseg.terminal.value_types import check_types

if TYPE_CHECKING:
    from refineseg.batch.job import BatchJob
    from refineseg.batch.report import AuditReport, BatchReport
    from refineseg.predict.folder.file_run import FilesResult
    from refineseg.predict.folder.follower import Follower

_MOST_THREADS = 4  # of a worker, where the call does not say: more help small networks little
_OF_FILES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npz", ".geojson", ".gpkg", ".mp4", ".mkv")
_IO_THREADS = 16  # of a process that waits for a network


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
        given = check_types(predict, given)
        given["inputs"] = inputs = _listed(inputs)
        given["asked"] = asked = check_call("predict", predict, given, without=("inputs", "out", "asked", "follower"))
    if is_batch(given):
        return _batch(given)
    return _predicted(given)


def _listed(inputs: Any) -> list[str | Path]:  # noqa: ANN401 - whatever a program gives
    """Inputs of a call as a list; images in memory are refused."""
    listed = [inputs] if isinstance(inputs, str | Path) or not isinstance(inputs, Iterable) else list(inputs)
    wrong = next((part for part in listed if not isinstance(part, str | Path)), None)
    if wrong is not None:
        raise ConfigError(
            f"expected paths or addresses as inputs, got {type(wrong).__name__}; refineseg.Predictor predicts images "
            "in memory"
        )
    return listed


def _predicted(given: Mapping[str, Any]) -> FilesResult:
    from refineseg.predict.views.scoring_views import check_scoring

    words = words_of(given)
    scoring: Any = {**{name: given[name] for name in SCORING}, "scales": words["scales"]}
    check_scoring(words["model"], **scoring)
    out, areas, json_file = Path(given["out"]), as_path(given["areas"]), as_path(given["json_file"])
    check_outputs({"--areas": areas, "--json": json_file}, {"--out": out})
    if out.suffix.lower() in _OF_FILES and not out.is_dir():
        raise ConfigError(f"expected --out FOLDER, got {out}, which is named like a file; name a folder")

    # from here on NumPy is there
    from refineseg.predict.folder.plan import plan_files
    from refineseg.predict.raster.headers import is_raster
    from refineseg.predict.views.tiling import TilingOptions

    files = file_options(given, words, areas)
    inputs = [given["inputs"]] if isinstance(given["inputs"], str | Path) else given["inputs"]
    tile = {"tile": words["tile"], "memory": words["memory"], "overlap": given["overlap"]}
    tiling = TilingOptions.parse(mode=given["tile_mode"], **tile)
    if given["part"] and not is_raster(Path(str(inputs[0]))):
        raise ConfigError(
            f"expected --part with a folder, a bucket or a raster, got the image {inputs[0]}; leave it out"
        )
    if not inputs:
        raise NoInputError("expected at least one image, folder or video, got none")
    endings = tuple(files.outputs.endings.values())
    plan = plan_files(inputs, out, endings=endings)
    for option, path in (("--areas", areas), ("--json", json_file)):
        plan.check_no_result(option, path, endings)
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


def _batch(given: Mapping[str, Any]) -> BatchReport | AuditReport:
    """Predict a folder or a bucket, or audit its results.

    Raises:
        RefinesegError: Options that are wrong, or do not fit each other; nothing has been written then.
    """
    from refineseg.api.quiet import QuietFollower

    follower, json_file = given["follower"] or QuietFollower(), as_path(given["json_file"])
    check_outputs({"--json": json_file}, {})
    if given["engine"] is not None:
        check_word("engine", given["engine"], ("ray",))
    for package, purpose in [("pyarrow", "keep a manifest")] + [("ray", "predict with --engine ray")] * bool(
        given["engine"]
    ):
        if find_spec(package) is None:
            raise MissingExtraError(package, extra="ray", purpose=purpose)
    source, out = _source(given), str(given["out"])
    report: BatchReport | AuditReport
    if given["audit"]:
        from refineseg.batch.run import audit_batch

        report = audit_batch(source, out)
    else:
        report = _batch_predicted(given, source, out, follower)
    for line in report.lines():
        follower.result(line)
    if json_file is not None:
        write_json(json_file, report.to_json())
    return report


def _source(given: Mapping[str, Any]) -> str:
    """The one folder or address of images.

    Raises:
        ConfigError: Several, or no folder.
    """
    inputs = [given["inputs"]] if isinstance(given["inputs"], str | Path) else list(given["inputs"])
    source = str(inputs[0]) if len(inputs) == 1 else ""
    if not source or ("://" not in source and not Path(source).is_dir()):
        raise ConfigError(
            f"expected one folder or address of images with --engine, --part, --audit or a bucket, got "
            f"{', '.join(map(str, inputs)) or 'none'}; predict single images, rasters and videos without them"
        )
    return source


def _batch_predicted(given: Mapping[str, Any], source: str, out: str, follower: Any) -> BatchReport:  # noqa: ANN401
    from refineseg.predict.views.scoring_views import check_scoring

    words = words_of(given)
    scoring: Any = {**{name: given[name] for name in SCORING}, "scales": words["scales"]}
    with_ray = given["engine"] == "ray"
    device = scoring["device"]
    if with_ray:
        scoring["device"] = "cpu"  # of this process, which only opens the model
        if device != "cpu" and scoring["backend"] == "auto":
            scoring["backend"] = "torch"
    check_scoring(words["model"], **scoring)

    from refineseg.batch.engine import OneProcess
    from refineseg.batch.run import check_before, run_batch
    from refineseg.batch.work import BatchEngine, BatchModel

    job = _job(given, words, scoring, source=source, out=out)
    check_before(job)
    engine: BatchEngine = OneProcess()
    if with_ray:
        from refineseg.batch.ray_engine import RayEngine, check_address

        if given["address"] is not None:
            check_address(given["address"])
        engine = RayEngine(given["address"], given["workers"], device)
    model = BatchModel(job)
    return run_batch(_identified(job, model.backend), model, engine, follower=follower)


def _job(given: Mapping[str, Any], words: Mapping[str, Any], scoring: Any, *, source: str, out: str) -> BatchJob:  # noqa: ANN401
    from refineseg.batch.job import BatchJob
    from refineseg.batch.keys import Part
    from refineseg.networks.model_names import SHIPPED
    from refineseg.predict.options import PredictorOptions
    from refineseg.predict.stream import StreamOptions
    from refineseg.predict.views.tiling import TilingOptions

    files = file_options(given, words, None)
    tile = {"tile": words["tile"], "memory": words["memory"], "overlap": given["overlap"]}
    tiling = TilingOptions.parse(mode=given["tile_mode"], **tile)
    threads, workers = given["threads"], given["workers"]
    if threads is not None and threads < 1:
        raise ConfigError(f"expected at least one thread, got {threads}")
    with_ray, remote = given["engine"] == "ray", "://" in source + out
    if threads is None:
        import torch

        threads = torch.get_num_threads()
        threads = max(1, min(_MOST_THREADS, threads // (workers or 1))) if with_ray else threads
    options = StreamOptions(workers=None if with_ray else workers)
    return BatchJob(
        source.rstrip("/") if "://" in source else str(Path(source).resolve()),
        out.rstrip("/") if "://" in out else str(Path(out).resolve()),
        words["model"] if words["model"] in SHIPPED else str(Path(words["model"]).resolve()),
        PredictorOptions.parse(**scoring, crf=given["crf"], tiling=tiling),
        files.outputs,
        files.rasters.reading,
        "",
        given["batch_size"] or 1,
        threads,
        (_IO_THREADS if remote else options.num_threads) if options.workers is None else options.workers,
        Part.parse(given["part"]) if given["part"] else Part(),
        given["retry_failed"],
    )


def _identified(job: BatchJob, backend: str) -> BatchJob:
    """With the runtime that was chosen, and the hash of the model file and of what changes a result."""
    from refineseg.batch.job import model_id
    from refineseg.networks.model_names import model_file
    from refineseg.runtimes.opened_file import file_digest
    from refineseg.runtimes.table import is_exported

    options = replace(job.options, backend=backend)
    path = Path(job.model) if is_exported(job.model) else model_file(job.model)
    return replace(job, options=options, model_id=model_id(file_digest(path), options, job.reading))
