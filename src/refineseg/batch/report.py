"""The numbers of a batch prediction, from its manifest; and the audit, which compares manifest, images and results.

In: a job and the folder of results. Out: :class:`BatchReport` and :class:`AuditReport`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refineseg.batch.keys import Listed, Part, is_image, is_text, key_hash, short_hash
from refineseg.batch.manifest import FOLDER, Manifest, State
from refineseg.batch.stores import LocalStore, Store
from refineseg.class_info import ClassInfo
from refineseg.data.storage.objects import Mark
from refineseg.predict.folder.file_run import shares_line
from refineseg.predict.outputs.areas import Areas

_MOST_LISTED = 100  # failures and faults in a report; the manifest has all
_COLUMNS = ("key", "cause", "reason", "outputs", "areas", "height", "width")


@dataclass(repr=False)
class BatchReport:
    """What became of a batch prediction.

    Args:
        class_info: The classes.
        part: Inputs of this call, as I/N.
        listed: What was found.
        done: Images predicted by this call.
        failed: Images among the inputs whose row is a failure, also of earlier calls.
        outputs: Files of all images that are done, also of earlier calls.
        causes: Number of failures by their cause, also of images that are gone.
        failures: The first failures, a message each.
        seconds: Duration from the first image to the last row.
        total: Areas of the classes in all images that are done.
        means: Mean seconds of an image by what took them.
        setting: How it was computed: engine, workers, threads, batch size.
    """

    class_info: ClassInfo
    part: str
    listed: Listed
    done: int
    failed: int
    outputs: int
    causes: dict[str, int]
    failures: list[str]
    seconds: float
    total: Areas
    means: dict[str, float]
    setting: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<BatchReport {self.done} done, {self.listed.kept} there already, {self.failed} failed>"

    @property
    def is_clean(self) -> bool:
        """Whether no image has failed."""
        return not self.failed

    def lines(self) -> list[str]:
        """What to say at the end."""
        rate = f"{self.done / self.seconds:.3g} images per s" if self.done and self.seconds else "nothing to do"
        counts = f"{self.done} images done, {self.listed.kept} recorded before, {self.failed} failed"
        return [f"{counts}; {rate}", f"{self.outputs} results: {shares_line(self.total, self.class_info)}"]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "classes": list(self.class_info.names),
            "part": self.part,
            "inputs": self.listed.inputs,
            "left_out": self.listed.others,
            "done": self.done,
            "there_already": self.listed.kept,
            "failed": self.failed,
            "outputs": self.outputs,
            "causes": self.causes,
            "failures": self.failures,
            "seconds": self.seconds,
            "images_per_second": self.done / self.seconds if self.seconds else 0.0,
            "total": self.total.to_json(),
            "mean_seconds": self.means,
            "setting": self.setting,
        }


def report_of(
    manifest: Manifest, class_info: ClassInfo, *, part: Part, listed: Listed, done: int, seconds: float
) -> BatchReport:
    """The report, from the rows that hold.

    Args:
        manifest: Manifest.
        class_info: The classes.
        part: Inputs of this call.
        listed: What was found.
        done: Images predicted by this call.
        seconds: Seconds that it took.
    """
    causes: Counter[str] = Counter()
    failures: list[str] = []
    total = Areas(0, np.zeros(class_info.num_classes, np.int64))
    outputs, times, count = 0, Counter[str](), 0
    names = ("read_s", "decode_s", "model_s", "encode_s", "write_s")
    for table in manifest.latest(manifest.state(), (*_COLUMNS, *names)):
        for start in range(0, len(table), 1000):
            for row in table.slice(start, 1000).to_pylist():
                if row["cause"]:
                    causes[row["cause"]] += 1
                    if len(failures) < _MOST_LISTED:
                        failures.append(f"{row['key']}: {row['reason']}")
                    continue
                outputs, count = outputs + len(row["outputs"]), count + 1
                if len(row["areas"]) == class_info.num_classes:
                    total = total.plus(Areas(row["height"] * row["width"], np.array(row["areas"], np.int64)))
                times.update({name: row[name] or 0.0 for name in names})
    means = {name: times[name] / max(1, count) for name in names}
    failed = sum(causes.values())
    return BatchReport(
        class_info, str(part), listed, done, failed, outputs, dict(causes), failures, seconds, total, means
    )


@dataclass
class AuditReport:
    """What an audit found: each number but the first two should be 0.

    Args:
        inputs: Number of images now.
        outputs: Number of results that the manifest names.
        missing: Number of results that are not there.
        differing: Number of results with another content.
        unnamed: Number of files among the results that the manifest does not name.
        without_row: Number of images without a row.
        outdated: Number of images that have changed since their row.
        failed: Number of images that have failed.
        gone: Number of rows whose image is not there any more.
        faults: The first of them, a message each.
    """

    inputs: int = 0
    outputs: int = 0
    missing: int = 0
    differing: int = 0
    unnamed: int = 0
    without_row: int = 0
    outdated: int = 0
    failed: int = 0
    gone: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether every image has its results, and nothing else is there."""
        numbers = {name: value for name, value in asdict(self).items() if name not in ("inputs", "outputs", "faults")}
        return not any(numbers.values())

    def lines(self) -> list[str]:
        """What to say."""
        numbers = {name: value for name, value in asdict(self).items() if name != "faults"}
        counts = ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in numbers.items())
        return [counts, *self.faults]

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    def found(self, what: str, message: str) -> None:
        """Count a fault."""
        setattr(self, what, getattr(self, what) + 1)
        if len(self.faults) < _MOST_LISTED:
            self.faults.append(f"{what.replace('_', ' ')}: {message}")


def audit(source: Store, out: Store) -> AuditReport:
    """Compare images, manifest and results; each list is read once, and of a local folder every result.

    Args:
        source: Images.
        out: Results.

    Raises:
        DatasetError: Something cannot be listed or read.
    """
    report = AuditReport()
    state, manifest = Manifest(out).state(), Manifest(out)
    seen = _check_inputs(source, manifest, state, report)
    report.gone = int((~seen).sum())
    if report.gone:
        report.faults.append(f"gone: {report.gone} rows of images that are not there any more")
    hashes, marks = _outputs_there(out)
    named = np.zeros(len(hashes), bool)
    for row in _rows(manifest, state):
        if row["cause"]:
            report.found("failed", f"{row['key']}: {row['reason']}")
        for output in row["outputs"]:
            report.outputs += 1
            place = int(np.searchsorted(hashes, np.array(key_hash(output["key"]), "S16")))
            if place == len(hashes) or hashes[place] != np.array(key_hash(output["key"]), "S16"):
                report.found("missing", output["key"])
                continue
            named[place] = True
            if isinstance(out, LocalStore):
                same = hashlib.sha256(out.read(output["key"])).hexdigest() == output["sha256"]
            else:
                same = marks[place] == short_hash(output["size"], output["etag"])
            if not same:
                report.found("differing", output["key"])
    if not named.all():
        for page in out.pages():
            for name, _ in page:
                if _is_result(name) and not named[np.searchsorted(hashes, np.array(key_hash(name), "S16"))]:
                    report.found("unnamed", name)
    return report


def _check_inputs(source: Store, manifest: Manifest, state: State, report: AuditReport) -> NDArray[np.bool_]:
    """Which rows have an image; images without a row, or with another mark than theirs, are told."""
    listed = np.zeros(len(state.hashes), np.uint64)
    seen = np.zeros(len(state.hashes), bool)
    for page in source.pages():
        images = [(name, mark) for name, mark in page if is_image(name) and is_text(name)]
        report.inputs += len(images)
        for (name, mark), place in zip(images, state.places([key_hash(name) for name, _ in images]), strict=True):
            if place < 0:
                report.found("without_row", name)
            else:
                seen[place], listed[place] = True, _content(mark)
    for row in _rows(manifest, state):
        place = int(state.places([key_hash(row["key"])])[0])
        if seen[place] and listed[place] != _content(Mark(row["size"], row["etag"])):
            report.found("outdated", row["key"])
    return seen


def _content(mark: Mark) -> int:
    return short_hash(mark.size, mark.version)


def _rows(manifest: Manifest, state: State) -> Iterator[dict[str, Any]]:
    for table in manifest.latest(state, ("key", "cause", "reason", "outputs", "size", "etag")):
        for start in range(0, len(table), 1000):
            yield from table.slice(start, 1000).to_pylist()


def _is_result(name: str) -> bool:
    return not name.startswith(f"{FOLDER}/") and "/.refineseg-" not in f"/{name}" and is_text(name)


def _outputs_there(out: Store) -> tuple[NDArray[np.bytes_], NDArray[np.uint64]]:
    """Hashes of the names of all results, in order, and of their contents."""
    hashes, marks = [np.zeros(0, "S16")], [np.zeros(0, np.uint64)]
    for page in out.pages():
        there = [(name, mark) for name, mark in page if _is_result(name)]
        hashes.append(np.array([key_hash(name) for name, _ in there], "S16"))
        marks.append(np.array([_content(mark) for _, mark in there], np.uint64))
    names, contents = np.concatenate(hashes), np.concatenate(marks)
    order = np.argsort(names)
    return names[order], contents[order]
