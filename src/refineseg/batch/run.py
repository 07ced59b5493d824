"""Batch prediction from beginning to end: checks, engine, manifest, report.

In: a job. Out: results, the manifest, and a :class:`~refineseg.batch.report.BatchReport`, also as
``OUT/.refineseg/report-I-of-N.json``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Any

from refineseg.batch.job import BatchJob, begin, check_begun, check_places
from refineseg.batch.keys import Listed
from refineseg.batch.manifest import FOLDER, Manifest, ManifestRow, Recorder
from refineseg.batch.report import AuditReport, BatchReport, audit, report_of
from refineseg.batch.stores import open_store
from refineseg.batch.work import BatchEngine, BatchModel, Started
from refineseg.errors import DatasetError
from refineseg.predict.folder.follower import Follower

_MOST_TOLD = 20  # failures; the manifest has all
_TOLD_S = 10.0  # between two lines
_PASSES = 3
_STORAGE_FAILURES = 50  # in a row, after which it is the storage that fails and not an image


def check_before(job: BatchJob) -> None:
    """Ask for the first images and for the record of the results, before a model is opened.

    Raises:
        ConfigError: Folders in each other, or results of other images or options.
        DatasetError: The images cannot be listed, or there are none.
        OutputError: The results cannot be written.
    """
    check_places(job.source, job.out)
    source, out = open_store(job.source), open_store(job.out)
    if not any(source.pages()):
        raise DatasetError(f"expected images in {job.source}, found nothing there; check its name")
    begin(out, job.source, job.outputs)


def run_batch(job: BatchJob, model: BatchModel, engine: BatchEngine, *, follower: Follower) -> BatchReport:
    """Predict what has no row that holds.

    Args:
        job: What to do; :func:`check_before` has been called.
        model: The model of this process.
        engine: Where it is done.
        follower: Whom to tell failures and progress.

    Raises:
        ConfigError: A cluster that does not answer or has no room.
        DatasetError: The images cannot be listed, or the storage fails again and again.
        OutputError: The manifest cannot be written.
    """
    run = _BatchRun(job, follower)
    try:
        with engine.started(job, model) as started:
            run.all_of(started)
    except KeyboardInterrupt as stop:
        stop.add_note(f"{run.done} images are done and recorded")
        raise
    finally:
        run.recorder.flush()
        follower.ended()
    seconds, listed = run.seconds, run.listed or Listed()
    run.manifest.put_together()
    report = report_of(run.manifest, model.class_info, part=job.part, listed=listed, done=run.done, seconds=seconds)
    report.failed, report.setting = run.failed + listed.failed, run.setting
    name = f"{FOLDER}/report-{job.part.index}-of-{job.part.count}.json"
    open_store(job.out).write(name, json.dumps(report.to_json(), indent=1).encode())
    return report


class _BatchRun:
    """What a run counts and tells."""

    def __init__(self, job: BatchJob, follower: Follower) -> None:
        self._job, self._follower = job, follower
        self.manifest = Manifest(open_store(job.out), job.part)
        self.recorder = Recorder(self.manifest)
        self.listed: Listed | None = None
        self.done = self.failed = self._in_a_row = 0
        self._start = self._told = time.monotonic()
        self.setting: dict[str, Any] = {"threads": job.threads, "batch_size": job.batch_size}
        self.setting["backend"] = job.options.backend

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._start

    def all_of(self, started: Started) -> None:
        """All that is left, and then what was left out."""
        self.setting |= started.setting
        workers, gpus = started.setting["workers"], started.setting["gpus"]
        self._follower.said(
            f"{workers} worker{'s' * (workers > 1)} on {started.setting['device']}, {self._job.threads} threads each"
            f"{', with a GPU each' * bool(gpus)}"
        )
        self._start = time.monotonic()
        before = 0, 0
        for _ in range(_PASSES):
            before = self.done, self.failed
            self.take(started.first())
            self.recorder.flush()
            if self.listed is not None:  # else the process that listed has ended
                break
        listed = self.listed
        if started.again is not None:
            self.take(started.again())
        if listed is not None:
            self.listed = listed
            listed.kept, listed.failed = listed.kept - sum(before), listed.failed - before[1]

    def take(self, results: Iterable[list[Any]]) -> None:
        """Record rows as they come."""
        for items in results:
            rows = [item for item in items if isinstance(item, ManifestRow)]
            for item in items:
                if isinstance(item, Listed):
                    self.listed = item
            for row in rows:
                self._count(row)
            self.recorder.add(rows)
            if time.monotonic() - self._told > _TOLD_S:
                self._told = time.monotonic()
                failed = f", {self.failed} failed" * bool(self.failed)
                self._follower.said(f"{self.done} images done{failed}, {self.done / self.seconds:.3g} per s")

    def _count(self, row: ManifestRow) -> None:
        self._in_a_row = self._in_a_row + 1 if row.cause == "storage" else 0
        if not row.cause:
            self.done += 1
            return
        self.failed += 1
        if self.failed <= _MOST_TOLD:
            self._follower.failed(f"failed: {row.key}: {row.reason}")
        if self._in_a_row >= _STORAGE_FAILURES:
            raise DatasetError(
                f"stopped: the storage failed for {self._in_a_row} images in a row ({row.reason}); start again with "
                "--retry-failed when it answers"
            )


def audit_batch(source: str, out: str) -> AuditReport:
    """See :func:`~refineseg.batch.report.audit`.

    Raises:
        ConfigError: No results of a batch prediction.
        DatasetError: Something cannot be listed or read.
    """
    store = open_store(out)
    check_begun(store)
    return audit(open_store(source), store)
