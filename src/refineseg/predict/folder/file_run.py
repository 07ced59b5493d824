"""One run over many image files: what waits to be written, what is counted, what is said.

In: jobs and a predictor. Out: result files, and in the order of the jobs lines and rows of areas; failures. Lines,
failures and progress are told to a :class:`~refineseg.predict.folder.follower.Follower`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from refineseg.class_info import ClassInfo
from refineseg.errors import OutputError, RefinesegError
from refineseg.images.files import mask_values
from refineseg.predict.folder.follower import Advance, Follower
from refineseg.predict.folder.plan import FileJob
from refineseg.predict.folder.records import InputsRecord, Times, file_times, made_ns
from refineseg.predict.outputs.areas import Areas, AreaTable
from refineseg.predict.outputs.kinds import Outputs, write_prediction
from refineseg.predict.raster.headers import is_raster
from refineseg.predict.stream import Item, StreamOptions, file_threads, predicted
from refineseg.prediction import Prediction
from refineseg.terminal.printable import duration, short

if TYPE_CHECKING:  # which load PyTorch
    from refineseg.predict.array_predictor import AnyPredictor
    from refineseg.predict.folder.proofs import Prover

_SMALLEST_SHARE = 0.0005
_WAITING_BYTES = 256 * 2**20  # of predictions that wait to be written; a larger one is written alone
_BYTES_MADE = 6  # per pixel while writing: Pillow's copy of an overlay has 4, the file's bytes 2
_MOST_NOTED = 5
_MOST_REFUSED = 10  # images in a row that such a disk did not take


@dataclass(repr=False)
class FilesResult:
    """What became of all files.

    Args:
        class_info: The classes.
        done: Images predicted and written now.
        resumed: Results that were there already.
        failures: A message for each file that failed, and for what stopped the run.
        seconds: From the first image to the last result; the model's loading is not in it.
        total: Areas of all images; of resumed ones where a table was asked for.
        others: What became of rasters and videos, as plain values.
        proofs: Largest differences, where they were asked for.
        backend: The runtime that predicted, where the call left it open.
    """

    class_info: ClassInfo
    done: int = 0
    resumed: int = 0
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0
    total: Areas | None = None
    others: list[dict[str, Any]] = field(default_factory=list)
    proofs: list[dict[str, Any]] = field(default_factory=list)
    backend: str = "torch"

    def __repr__(self) -> str:
        counts = [f"{self.done} done"] + [f"{self.resumed} there already"] * bool(self.resumed)
        counts += [f"{len(self.failures)} failed"] * bool(self.failures)
        counts += [f"{len(self.others)} rasters and videos"] * bool(self.others)
        shares = "" if self.total is None else shares_line(self.total, self.class_info)
        return f"<FilesResult {', '.join(counts)}{': ' * bool(shares)}{shares}>"

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "classes": list(self.class_info.names),
            "done": self.done,
            "resumed": self.resumed,
            "failures": self.failures,
            "seconds": self.seconds,
            "images_per_second": self.done / self.seconds if self.seconds else 0.0,
            "total": None if self.total is None else self.total.to_json(),
            "others": self.others,
            "proofs": self.proofs,
        }


def shares_line(areas: Areas, class_info: ClassInfo) -> str:
    """``sky 40.1 %, road 30.0 %``: largest first, without what rounds to nothing, the unknown last."""
    shares = np.array(areas.shares)
    order = [int(i) for i in np.argsort(-shares, kind="stable") if shares[i] >= _SMALLEST_SHARE]
    parts = [f"{short(class_info.names[i])} {100 * shares[i]:.1f} %" for i in order]
    unknown = areas.unknown / max(1, areas.pixels)
    return ", ".join(parts + ([f"unknown {100 * unknown:.1f} %"] if unknown >= _SMALLEST_SHARE else []))


class FileRun:
    """One call of ``predict``.

    Args:
        class_info: The classes.
        outputs: What to write.
        follower: Whom to tell results, failures, notes and progress.
        count_resumed: Count the masks of results that are there already.
        prover: Checks images that are cut; None: nothing is checked.
    """

    def __init__(
        self,
        class_info: ClassInfo,
        *,
        outputs: Outputs,
        follower: Follower,
        count_resumed: bool = False,
        prover: Prover | None = None,
    ) -> None:
        self.result = FilesResult(class_info)
        self.rasters: list[FileJob] = []
        self.scaled = False  # whether any image had not 8 bits
        self._outputs, self.follower, self._count_resumed = outputs, follower, count_resumed
        self.prover = prover
        self.table = AreaTable(class_info)  # where areas go; this one only sums them
        # Of each: its place among the jobs, bytes that wait (0: its results were there before), areas.
        self._waiting: deque[tuple[int, int, Future[Areas]]] = deque()
        self._settled: dict[int, tuple[Areas, bool] | None] = {}  # and whether they are new; came before their turn
        self._next = self._refused = 0
        self._jobs: Sequence[FileJob] = ()
        self._record: InputsRecord | None = None
        self._changed = 0

    def fail(self, message: str) -> None:
        """Say and remember it."""
        self.result.failures.append(message)
        self.follower.failed(message)

    def images(
        self,
        jobs: Sequence[FileJob],
        predictor: AnyPredictor,
        *,
        options: StreamOptions,
        since_ns: int | None,
        record: InputsRecord | None = None,
    ) -> None:
        """Predict and write all images that are not done; rasters among them are left in ``rasters``.

        Args:
            jobs: The files.
            predictor: The model.
            options: Batches and threads.
            since_ns: Results at least as new are done, unless their input has changed; None: nothing is done.
            record: Record of the inputs of results; None: none is kept.
        """
        self._jobs, self._record = jobs, record
        places: list[int] = []  # of the jobs that are predicted, in the order in which they are taken
        times: dict[int, Times | None] = {}  # of their inputs, before they are read
        with (
            file_threads(options) as pool,
            Advance(self.follower, what="images", total=len(jobs)) as progress,
        ):
            paths = self._to_predict(jobs, since_ns=since_ns, pool=pool, places=places, times=times, progress=progress)
            for item in predicted(paths, predictor, options=options, pool=pool, set_aside=is_raster):
                place = places[item.index]
                read_at = times.pop(place)
                self.scaled = self.scaled or item.scaled
                for note in item.notes:
                    self.follower.noted(note)
                if item.prediction is None:
                    self._without_prediction(item, jobs[place])
                    self._settle_as(place, None)
                    progress.advance()
                else:
                    if self.prover is not None:
                        self.prover.image(jobs[place].source, item.prediction.image)
                    size = _size_bytes(item.prediction, self._outputs)
                    self._make_room(size, progress, most=4 * options.num_threads)
                    future = pool.submit(self._write, item.prediction, jobs[place], read_at)
                    self._waiting.append((place, size, future))
                    self._make_room(0, progress, most=4 * options.num_threads)  # before another large one is read
                if self._refused >= _MOST_REFUSED:
                    break
            while self._waiting:
                self._settle_first(progress)
            self.result.seconds += progress.seconds
            if self._refused >= _MOST_REFUSED:
                left = len(jobs) - self.result.done - self.result.resumed - len(self.result.failures)
                self.fail(
                    f"stopped: the disk did not take the results of {self._refused} images in a row; {left} images are "
                    "left: make room and run the same command again with --resume"
                )
            elif len(jobs) - len(self.rasters) > 1:
                self._summary(progress)

    def row(self, name: str, areas: Areas, *, silent: bool = False) -> None:
        """A row of the table for one input, and unless silent a line."""
        if not silent:
            self.follower.result(f"{name}: {shares_line(areas, self.result.class_info)}")
        self.table.add(name, areas)

    def how_far(self, total: int) -> str:
        """What a run that is broken off says; nothing is being written any more.

        Args:
            total: Inputs of the call.
        """
        new = sum(size > 0 and _is_written(future) for _, size, future in self._waiting)
        done = self.result.done + new + self.result.resumed + len(self.result.others)
        return f"{done} of {total} files are done, {total - done} are left"

    def finish(self) -> FilesResult:
        """The result, with the total of all rows."""
        self.result.total = self.table.total
        self.result.proofs = [] if self.prover is None else self.prover.results
        return self.result

    def _to_predict(
        self,
        jobs: Sequence[FileJob],
        *,
        since_ns: int | None,
        pool: ThreadPoolExecutor,
        places: list[int],
        times: dict[int, Times | None],
        progress: Advance,
    ) -> Iterator[Path]:
        """Paths of the files without results, found as they are needed."""
        for place, job in enumerate(jobs):
            if since_ns is None or not self._is_done(job, since_ns=since_ns):
                places.append(place)
                times[place] = file_times(job.source)
                yield Path(job.source)
                continue
            self.result.resumed += 1
            progress.leave_out()
            if self._count_resumed:
                classes = self.result.class_info
                self._waiting.append((place, 0, pool.submit(_count, Path(f"{job.target}.png"), classes)))
                self._make_room(0, progress, most=1000)
            else:
                self._settle_as(place, None)

    def _is_done(self, job: FileJob, *, since_ns: int) -> bool:
        """Whether every result of a file is there, and of the file as it is now."""
        made = made_ns(job, endings=self._outputs.endings.values(), since_ns=since_ns)
        if made is None or self._record is None or self._record.is_unchanged(job, made_ns=made):
            return made is not None
        self._changed += 1
        if self._changed <= _MOST_NOTED:
            self.follower.noted(f"{job.source} or its result has changed since: it is predicted anew")
        return False

    def _write(self, prediction: Prediction, job: FileJob, read_at: Times | None) -> Areas:
        finished = self._outputs.finished(prediction)
        write_prediction(finished, Path(job.target), self._outputs, name=Path(job.source).name)
        if self._record is not None:
            self._record.add(job, read_at)
        return Areas(finished.mask.size, finished.areas)

    def _without_prediction(self, item: Item, job: FileJob) -> None:
        if item.error is None:
            self.rasters.append(job)
        else:
            self.fail(f"skipped: {item.error}")

    def _make_room(self, size: int, progress: Advance, *, most: int) -> None:
        """Wait for the oldest results while too many wait to be written."""
        while self._waiting and (
            self._waiting[0][2].done()
            or len(self._waiting) > most
            or sum(waiting for _, waiting, _ in self._waiting) + size > _WAITING_BYTES
        ):
            self._settle_first(progress)

    def _settle_first(self, progress: Advance) -> None:
        place, size, future = self._waiting.popleft()
        try:
            areas = future.result()
        except (RefinesegError, OSError) as error:
            self.fail(f"skipped: {self._jobs[place].source}: {error}")
            hopeless = isinstance(error, OutputError) and error.no_room
            self._refused = self._refused + 1 if hopeless else 0
            self._settle_as(place, None)
            progress.advance()
            return
        if size:
            self._refused = 0
            self.result.done += 1
            progress.advance()
        self._settle_as(place, (areas, size > 0))

    def _settle_as(self, place: int, settled: tuple[Areas, bool] | None) -> None:
        """Lines and rows in the order of the jobs."""
        self._settled[place] = settled
        while self._next in self._settled:
            ready = self._settled.pop(self._next)
            if ready is not None:
                areas, new = ready
                self.row(self._jobs[self._next].source, areas, silent=not new)
            self._next += 1

    def _summary(self, progress: Advance) -> None:
        result = self.result
        rate = result.done / max(progress.seconds, 1e-9)
        text = f"{result.done} images in {duration(progress.seconds)}" + (f", {rate:.3g} per s" if result.done else "")
        text += f"; {result.resumed} were there already" if result.resumed else ""
        text += f"; {self._changed} had changed" if self._changed else ""
        text += f"; {len(result.failures)} failed" if result.failures else ""
        self.follower.said(text)


def _is_written(future: Future[Areas]) -> bool:
    return future.done() and not future.cancelled() and future.exception() is None


def _size_bytes(prediction: Prediction, outputs: Outputs) -> int:
    """Of a prediction that waits, and of what is made of it while it is written."""
    arrays = (prediction.image, prediction.mask, prediction.probabilities, prediction.confidence)
    pixels = prediction.mask.size
    made = _BYTES_MADE * pixels
    if prediction.probabilities is not None and outputs.needs_probabilities:
        made = max(made, prediction.probabilities.nbytes)  # a half, and its packed bytes
    return sum(array.nbytes for array in arrays if array is not None) + made


def _count(path: Path, class_info: ClassInfo) -> Areas:
    """Areas of a mask that was written before."""
    counts = mask_values(path)
    areas = np.array([counts.get(index, 0) for index in range(class_info.num_classes)], np.int64)
    return Areas(sum(counts.values()), areas)
