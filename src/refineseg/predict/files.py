"""Predict files and folders of any size into a folder of results.

In: images, folders, rasters, videos. Out: the files of :mod:`refineseg.predict.outputs` for each image, those of
:mod:`refineseg.predict.raster` and :mod:`refineseg.predict.video` for the rest, a line per input on stdout with the
share of each class, and optionally one table of all areas.

Image files are read and written in threads while the network works; whatever their number, a window of them is in
memory. The result of a file depends on that file alone; lines and rows stand in the order of the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from refineseg.errors import ConfigError, ImageError
from refineseg.predict.areas import area_table, check_areas_path
from refineseg.predict.file_run import FileRun, FilesResult
from refineseg.predict.model_opening import OpenedModel, file_digest
from refineseg.predict.outputs import Outputs
from refineseg.predict.plan import Plan, begin_record, make_plan, now_s, remove_leftovers
from refineseg.predict.predictor import PredictorOptions
from refineseg.predict.proofs import Prover
from refineseg.predict.rasters.job import model_digest
from refineseg.predict.rasters.options import RasterOptions
from refineseg.predict.single_inputs import SingleInputs
from refineseg.predict.streams import StreamOptions
from refineseg.predict.tiling import TilingOptions
from refineseg.predict.videos.options import VideoOptions
from refineseg.printing import Terminal


@dataclass(frozen=True)
class FileOptions:
    """What to write of every file, and how to go about it.

    Args:
        outputs: Kinds of results.
        areas: One table of all areas, ending in ``.csv`` or ``.json``; None: none.
        resume: Leave out files whose results are there already, made by the same model and options. None: images are
            predicted anew, but rasters that were broken off are continued.
        batch_size: Images of one size that the network sees together; None: chosen.
        workers: Threads that read and write; None: chosen.
        rasters: How rasters are read and written; of ``resume`` the one above holds.
        videos: How videos are read and written.
        prove: Check a random piece of each image that is cut against the prediction of the whole.

    Raises:
        ConfigError: A wrong ending of the table, or a table of resumed results without masks to count.
    """

    outputs: Outputs = field(default_factory=Outputs)
    areas: Path | None = None
    resume: bool | None = None
    batch_size: int | None = None
    workers: int | None = None
    rasters: RasterOptions = field(default_factory=RasterOptions)
    videos: VideoOptions = field(default_factory=VideoOptions)
    prove: bool = False

    def __post_init__(self) -> None:
        if self.areas is not None:
            check_areas_path(self.areas)
            if self.resume and "mask" not in self.outputs.kinds:
                raise ConfigError(
                    "expected masks among the results (--save mask) to count the areas of those that are resumed; "
                    "add mask, or leave out --areas or --resume"
                )
        StreamOptions(batch_size=self.batch_size, workers=self.workers)  # which refuses numbers below 1

    @property
    def stream(self) -> StreamOptions:
        """How image files go through the network."""
        return StreamOptions(
            batch_size=self.batch_size,
            workers=self.workers,
            probabilities=self.outputs.needs_probabilities,
            confidence=self.outputs.needs_confidence,
        )


def predict_files(
    inputs: Sequence[str | Path],
    out: Path,
    *,
    model: str,
    options: PredictorOptions,
    files: FileOptions,
    console: Terminal,
) -> FilesResult:
    """Predict every input; what cannot be read or written is named and skipped.

    Args:
        inputs: Image files, folders (or zip files) that are searched with their subfolders, rasters, videos.
        out: Where results go; the structure below an input folder is kept.
        model: A shipped name or a model file.
        options: How to predict.
        files: What to write.
        console: For failures and progress.

    Raises:
        ConfigError: Results would overwrite each other or an input, classes that are none, or results to be resumed
            that another model made; nothing has been written then.
    """
    plan = make_plan(inputs, out, endings=files.outputs.endings.values())
    return predict_plan(plan, out, options.opened(model), options=options, files=files, console=console)


def predict_plan(
    plan: Plan, out: Path, opened: OpenedModel, *, options: PredictorOptions, files: FileOptions, console: Terminal
) -> FilesResult:
    """The same with a model that is open already.

    Args:
        plan: What is to be done; made for the endings of ``files.outputs``.
        out: Where its results go.
        opened: The model.
        options: How to predict.
        files: What to write.
        console: For failures and progress.

    Raises:
        ConfigError: Classes that are none, or results to be resumed that another model made; nothing has been written
            then.
    """
    started = now_s()
    options, class_info = replace(options, backend=opened.backend), opened.spec.class_info
    files.outputs.check(class_info)
    predictor = options.predictor(opened.scorer)
    prover = None
    if files.prove:
        segmenter = opened.needs_segmenter("--prove")
        prover = Prover(segmenter, predictor, options, generator=np.random.default_rng())
    run = FileRun(
        class_info,
        outputs=files.outputs,
        console=console,
        count_resumed=files.areas is not None,
        prover=prover,
    )
    run.result.backend = opened.backend
    for message in plan.failures:
        run.fail(message)
    identity = {
        "model": file_digest(opened.source) if isinstance(opened.source, Path) else model_digest(opened.source),
        **{name: value for name, value in options.to_json().items() if name != "device"},
        **{name: value for name, value in asdict(files.outputs).items() if name != "kinds"},
    }
    since_ns = None
    try:
        if len(plan.files) > 1 or files.resume:
            since_ns = begin_record(out, identity, resume=bool(files.resume))
    except ImageError as error:
        run.fail(f"{error}; nothing was predicted")
        return run.finish()
    if files.resume and since_ns is None:
        run.note(f"{out} has no record of an earlier run: all files are predicted anew")
    if files.resume:
        remove_leftovers({Path(job.target).parent for job in plan.files}, before_s=started)
    try:
        with area_table(files.areas, class_info) as table:
            run.table = table
            run.images(plan.files, predictor, options=files.stream, since_ns=since_ns)
            singles = SingleInputs(run, console, alone=len(plan.files) + len(plan.videos) == 1)
            if run.rasters:
                rasters = replace(files.rasters, resume=files.resume is not False)
                tiling = options.tiling or TilingOptions()
                singles.rasters(opened, options, outputs=files.outputs, tiling=tiling, rasters=rasters)
            if plan.videos and files.outputs.unknown_below is not None:
                run.note("videos keep the classes of all pixels: --unknown-below is for images and rasters")
            singles.videos(plan.videos, predictor, options=files.videos, kinds=files.outputs.kinds)
    except KeyboardInterrupt as stop:
        stop.add_note(run.how_far(len(plan.files) + len(plan.videos)))
        raise
    except ImageError as error:  # of the table alone: all others cost their file's line
        run.fail(str(error))
    return run.finish()
