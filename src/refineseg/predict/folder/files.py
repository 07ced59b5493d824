"""Predict files and folders of any size into a folder of results.

In: images, folders, rasters, videos. Out: the files of :mod:`refineseg.predict.outputs.kinds` for each image, those of
:mod:`refineseg.predict.raster.raster` and :mod:`refineseg.predict.video.video` for the rest, a line per input with the
share of each class, told to a :class:`~refineseg.predict.folder.follower.Follower`, and optionally one table of areas.

Image files are read and written in threads while the network works; whatever their number, a window of them is in
memory. The result of a file depends on that file alone; lines and rows stand in the order of the files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from refineseg.errors import OutputError
from refineseg.files.writing import remove_leftovers
from refineseg.predict.folder.file_options import FileOptions
from refineseg.predict.folder.file_run import FileRun, FilesResult
from refineseg.predict.folder.follower import Follower
from refineseg.predict.folder.plan import FilesPlan, plan_files
from refineseg.predict.folder.records import InputsRecord, begin_record, forget_elsewhere
from refineseg.predict.folder.single_inputs import SingleInputs
from refineseg.predict.options import PredictorOptions
from refineseg.predict.outputs.areas import area_table
from refineseg.predict.video.options import VideoKind
from refineseg.predict.views.tiling import TilingOptions
from refineseg.runtimes.opened_file import OpenedFile
from refineseg.terminal.applicability import check_inputs

if TYPE_CHECKING:  # which load PyTorch
    from refineseg.runtimes.open import OpenedModel


def unused_options(files: FileOptions, plan: FilesPlan, run: FileRun) -> Iterator[str]:
    """Options that are named and had no effect on some or all inputs, as is only known when these are opened."""
    asked, outputs = files.asked, files.outputs
    if "overviews" in asked and not run.rasters:
        yield "no input is a raster: --overviews and --no-overviews are for rasters"
    if "percentiles" in asked and not run.rasters and not run.scaled:
        yield "all images have 8-bit pixels: --percentiles is for pixels of more bits"
    if run.rasters and "polygon_format" in asked and outputs.polygon_format != "geojson":
        yield "polygons of rasters are GeoJSON: --polygon-format is for images"
    if run.rasters and "probability_format" in asked and outputs.probability_format != "tiff":
        yield "probabilities of rasters are a GeoTIFF: --probability-format is for images"
    if run.rasters and "confidence_format" in asked and outputs.confidence_format.startswith("png"):
        yield "the confidence of rasters is a GeoTIFF: of --confidence-format only the bits hold"
    others = [kind for kind in outputs.kinds if kind not in get_args(VideoKind)]
    if plan.videos and "save" in asked and others:
        yield f"videos have no {', '.join(others)}: these are for images and rasters"


def _begun(
    plan: FilesPlan, out: Path, identity: Callable[[], dict[str, Any]], *, resume: bool
) -> tuple[int | None, InputsRecord | None]:
    """Since when results are of this model and these options, and the record of their inputs; one file keeps none."""
    if len(plan.files) > 1 or resume:
        since_ns = begin_record(out, identity(), resume=resume)
        forget_elsewhere(plan.files, identity, own=out)
        return since_ns, InputsRecord(out, resume=since_ns is not None)
    forget_elsewhere(plan.files, identity, own=None)  # a later --resume of those runs predicts them anew
    return None, None


def _identity(opened: OpenedModel | OpenedFile, options: PredictorOptions, files: FileOptions) -> dict[str, Any]:
    """All that changes a result; results of another one are not taken for done."""
    return {
        "model": opened.digest,
        **{name: value for name, value in options.to_json().items() if name != "device"},
        **{name: value for name, value in asdict(files.outputs).items() if name not in ("kinds", "legend")},
        **({} if files.outputs.legend else {"legend": False}),  # so that records of earlier versions hold
        "reading": asdict(files.rasters.reading),
    }


def predict_files(
    inputs: Sequence[str | Path],
    out: Path,
    *,
    model: str,
    options: PredictorOptions,
    files: FileOptions,
    follower: Follower,
) -> FilesResult:
    """Predict every input; what cannot be read or written is named and skipped.

    Args:
        inputs: Image files, folders (or zip files) that are searched with their subfolders, rasters, videos.
        out: Where results go; the structure below an input folder is kept.
        model: A shipped name or a model file.
        options: How to predict.
        files: What to write.
        follower: Whom to tell lines, failures and progress.

    Raises:
        ConfigError: Results would overwrite each other or an input, classes that are none, or results to be resumed
            that another model made; nothing has been written then.
    """
    plan = plan_files(inputs, out, endings=files.outputs.endings.values())
    check_inputs(files.asked, plan.kinds)
    return predict_plan(plan, out, options.opened_for_images(model), options=options, files=files, follower=follower)


def predict_plan(
    plan: FilesPlan,
    out: Path,
    opened: OpenedModel | OpenedFile,
    *,
    options: PredictorOptions,
    files: FileOptions,
    follower: Follower,
) -> FilesResult:
    """The same with a model that is open already.

    Args:
        plan: What is to be done; made for the endings of ``files.outputs``.
        out: Where its results go.
        opened: The model.
        options: How to predict.
        files: What to write.
        follower: Whom to tell lines, failures and progress.

    Raises:
        ConfigError: Classes that are none, or results to be resumed that another model made; nothing has been written
            then.
    """
    check_inputs(files.asked, plan.kinds)
    options, class_info = replace(options, backend=opened.backend), opened.spec.class_info
    files.outputs.check(class_info)
    if opened.inner is None and files.asked & {"tile", "tile_mode", "memory", "overlap"}:
        opened.needs_inner("tiles and a bound of memory")
    predictor = options.image_predictor(opened)
    smoothed, stream = bool(plan.videos) and files.videos.smooth > 0, files.stream
    scored = bool(plan.files) and (stream.probabilities or stream.confidence)
    options.check_use(opened, scored=scored or smoothed, batch_size=files.batch_size)
    prover = None
    if files.prove:
        from refineseg.predict.folder.proofs import Prover

        inner, tiling = opened.needs_inner("--prove"), options.tiling or TilingOptions()
        prover = Prover(inner, predictor, tiling=tiling, generator=np.random.default_rng(), tell=follower.result)
    run = FileRun(
        class_info,
        outputs=files.outputs,
        follower=follower,
        count_resumed=files.areas is not None,
        prover=prover,
    )
    run.result.backend = opened.backend
    for message in plan.failures:
        run.fail(message)
    for message in plan.notes:
        follower.noted(message)
    try:
        since_ns, record = _begun(plan, out, lambda: _identity(opened, options, files), resume=bool(files.resume))
    except OutputError as error:
        run.fail(f"{error}; nothing was predicted")
        return run.finish()
    if files.resume and since_ns is None:
        follower.noted(f"{out} has no record of an earlier run: all files are predicted anew")
    for folder in {job.target.rpartition(os.sep)[0] for job in plan.files}:
        remove_leftovers(Path(folder))
    try:
        with area_table(files.areas, class_info) as table:
            run.table = table
            run.images(plan.files, predictor, options=files.stream, since_ns=since_ns, record=record)
            singles = SingleInputs(run, alone=len(plan.files) + len(plan.videos) == 1)
            if run.rasters:
                rasters = replace(files.rasters, resume=files.resume is not False)
                tiling = options.tiling or TilingOptions()
                singles.rasters(opened, options, outputs=files.outputs, tiling=tiling, rasters=rasters)
            if plan.videos and files.outputs.unknown_below is not None:
                follower.noted("videos keep the classes of all pixels: --unknown-below is for images and rasters")
            singles.videos(plan.videos, predictor, options=files.videos, kinds=files.outputs.kinds)
            for note in unused_options(files, plan, run):
                follower.noted(note)
    except KeyboardInterrupt as stop:
        stop.add_note(run.how_far(len(plan.files) + len(plan.videos)))
        raise
    except OutputError as error:  # of the table alone: all others cost their file's line
        run.fail(str(error))
    return run.finish()
