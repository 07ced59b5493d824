"""``refineseg.predict`` with an engine, a part, an audit or a bucket: batch prediction.

In: the options of the command line. Out: results with their manifest, and a report. Checks come first; PyTorch is
loaded after them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refineseg.api.predict import SCORING, file_options, words_of
from refineseg.api.words import as_path
from refineseg.errors import ConfigError, MissingExtraError
from refineseg.files.writing import write_json
from refineseg.terminal.arguments import check_outputs, check_word

if TYPE_CHECKING:
    from refineseg.batch.job import BatchJob
    from refineseg.batch.report import AuditReport, BatchReport

_MOST_THREADS = 4  # of a worker, where the call does not say: more help small networks little
_IO_THREADS = 16  # of a process that waits for a network


def predict_batch(given: Mapping[str, Any]) -> BatchReport | AuditReport:
    """Predict a folder or a bucket, or audit its results.

    Raises:
        RefinesegError: Options that are wrong, or do not fit each other; nothing has been written then.
    """
    from importlib.util import find_spec

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
        report = _predicted(given, source, out, follower)
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


def _predicted(given: Mapping[str, Any], source: str, out: str, follower: Any) -> BatchReport:  # noqa: ANN401
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

    from refineseg.batch.run import RayOptions, check_before, run_batch
    from refineseg.batch.work import Network

    job = _job(given, words, scoring, source=source, out=out)
    check_before(job)
    if with_ray and given["address"] is not None:
        from refineseg.batch.ray_engine import check_address

        check_address(given["address"])
    network = Network(job)
    job = _identified(job, network.backend)
    ray = RayOptions(given["address"], given["workers"], device) if with_ray else None
    return run_batch(job, network, follower=follower, ray=ray)


def _job(given: Mapping[str, Any], words: Mapping[str, Any], scoring: Any, *, source: str, out: str) -> BatchJob:  # noqa: ANN401
    from refineseg.batch.job import BatchJob
    from refineseg.batch.keys import Part
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
        words["model"] if not Path(words["model"]).exists() else str(Path(words["model"]).resolve()),
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
