"""Measure a model on a labelled split, or predict an unlabelled one for a benchmark's server.

In: a predictor and a data set. Out: a :class:`~refineseg.evaluate.metrics.ConfusionMatrix`; optionally pictures and
the files of a submission.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from refineseg._version import __version__
from refineseg.class_info import ClassInfo
from refineseg.data.checks.label_check import check_files
from refineseg.data.datasets import DATASETS, ids_of, open_dataset, parse_sources
from refineseg.data.readers.transfer import grouped, transferred
from refineseg.data.samples.given import GIVEN, GivenData
from refineseg.data.samples.record import DataRecord
from refineseg.data.samples.run_record import RunRecord
from refineseg.data.samples.sample import Dataset
from refineseg.data.samples.sample_facts import SampleFacts
from refineseg.errors import ConfigError, DatasetError, LabelError
from refineseg.evaluate.boundary import BoundaryIoU
from refineseg.evaluate.comparison import KEY, Comparison, compare_published
from refineseg.evaluate.failures import CONFUSION, PICTURES, Failure, WorstImages, check_pictures
from refineseg.evaluate.measured_split import open_split, record_beside
from refineseg.evaluate.metrics import ConfusionMatrix
from refineseg.evaluate.predicting import class_table, predictions
from refineseg.evaluate.protocol import EVERY_CLASS, VOID_LEFT_OUT, Learned, MeasurementProtocol
from refineseg.evaluate.reports import draw_confusion
from refineseg.evaluate.submission import SUBMISSIONS, find_benchmark
from refineseg.evaluate.tally import Tally, TallyCounts
from refineseg.images.files import HeaderReadable
from refineseg.predict.options import PredictorOptions
from refineseg.runtimes.open import read_spec
from refineseg.segmenter import Segmenter
from refineseg.terminal.printing import Terminal, counting


@dataclass(frozen=True)
class EvaluationFiles:
    """What ``refineseg evaluate`` writes.

    Args:
        out: Folder of ``confusion_matrix.png`` and ``pictures/``; None: neither is drawn.
        pictures: How many of the worst images to draw: image, truth, prediction, errors.
        submission: Folder for the files of a benchmark's server; None: none.
        legend: Name the colours below each picture.

    Raises:
        ConfigError: A negative number of pictures, or pictures without a folder.
    """

    out: Path | None = None
    pictures: int = 0
    submission: Path | None = None
    legend: bool = True

    def __post_init__(self) -> None:
        if self.pictures < 0:
            raise ConfigError(f"expected --pictures of at least 0, got {self.pictures}")
        if self.pictures and self.out is None:
            raise ConfigError(f"expected a folder (out) for {self.pictures} pictures, got none")


@dataclass(frozen=True)
class EvaluationResult:
    """What ``refineseg evaluate`` found.

    Args:
        model: As it was named.
        data: ``NAME:ROOT``.
        split: Split that was measured.
        options: How the images were predicted.
        notes: Facts about the files that were read.
        num_images: How many.
        matrix: The counts; None where the split has no labels.
        boundary: The same along contours; None: not asked for.
        parts: Counts of each part of a data set that has some (CamVid: drives).
        protocol: All conditions of the numbers; None without labels.
        variant: Network of the model.
        num_seen: How many of the images the model was trained on, as far as that can be told.
        failures: The worst images, worst first, as many as were asked for.
        precision: Precision of an exported file that has one of its own (``int8``); empty: the options'.
        data_mark: A digest of all files that were measured on, wherever they lie; empty: not taken.
    """

    model: str
    data: str
    split: str
    options: PredictorOptions
    notes: tuple[str, ...]
    num_images: int
    matrix: ConfusionMatrix | None
    boundary: BoundaryIoU | None = None
    parts: Mapping[str, TallyCounts] = field(default_factory=dict)
    protocol: MeasurementProtocol | None = None
    variant: str = ""
    num_seen: int = 0
    failures: tuple[Failure, ...] = ()
    precision: str = ""
    data_mark: str = ""

    @property
    def how(self) -> str:
        """How the images were predicted, in one line to print beside the numbers."""
        options, view = self.options, self.options.view
        parts = [f"protocol {view.name}", f"scales {', '.join(f'{scale:g}' for scale in options.scales)}"]
        parts += [] if view.short_side is None else ["short side {}..{} pixels".format(*view.short_side)]
        parts += [] if view.enlargement is None else [f"enlargement {view.enlargement:g}"]
        parts += ["flip"] * options.flip + ["CRF"] * (options.crf is not None)
        parts += [self.precision or options.precision]
        parts += [options.backend] if options.backend not in (None, "torch") else []
        return "predicted with: " + ", ".join(parts)

    @property
    def published(self) -> tuple[Comparison, ...]:
        """Published numbers of the same split, each with what its protocol has otherwise."""
        if self.protocol is None or self.matrix is None:
            return ()
        return compare_published(self.protocol, self.matrix.mean_iou, self.variant)

    @property
    def warning(self) -> str:
        """What a reader must know before the numbers; empty: nothing."""
        if not self.num_seen:
            return ""
        return (
            f"WARNING: the model was trained on {self.num_seen} of these {self.num_images} images; the numbers say "
            "little about others"
        )

    def to_json(self) -> dict[str, Any]:
        """Everything that is needed to repeat the numbers, and the numbers, as plain values."""
        value = {
            "version": __version__,
            "model": self.model,
            "variant": self.variant,
            "data": self.data,
            "split": self.split,
            "num_images": self.num_images,
            "data_mark": self.data_mark,
            "trained_on_images": self.num_seen,
            "notes": list(self.notes),
            **self.options.to_json(),
            "precision": self.precision or self.options.precision,
            **({} if self.matrix is None else self.matrix.to_json()),
        }
        if self.boundary is not None:
            value["boundary"] = self.boundary.to_json()
        if self.parts:
            value["parts"] = {name: counts.to_json() for name, counts in self.parts.items()}
        if self.protocol is not None:
            value[KEY] = self.protocol.to_json()
            value["published"] = [row.to_json() for row in self.published]
        return value


def _mixed(data: str, split: str, name: str) -> DatasetError:
    return DatasetError(
        f"expected images that all have masks or all have none, got both in {split} of {data} (at {name}); evaluate "
        "the splits one by one"
    )


def _is_labelled(dataset: Dataset, data: str, split: str) -> bool:
    """Whether the images have masks, by the first and the last of them, before hours are spent on those between."""
    first, last = (dataset.read_mask(index) is not None for index in (0, len(dataset) - 1))
    if first != last:
        raise _mixed(data, split, dataset.name(len(dataset) - 1))
    return first


def _check_unlabelled(data: str, split: str, *, submission: bool, drawn: bool) -> None:
    """Refuse what needs masks."""
    if not submission:
        raise DatasetError(
            f"expected a labelled split, got {split} of {data}, whose masks are not public or missing; write files for "
            f"a benchmark's server with --submission FOLDER ({', '.join(SUBMISSIONS)}), or use predict"
        )
    if drawn:
        raise DatasetError(
            f"expected a labelled split for --boundary and --pictures, got {split} of {data}, which has no masks; "
            "leave them out"
        )


def _check_labelled(matrix: ConfusionMatrix, data: str, split: str, num_images: int) -> None:
    """Refuse masks that say nothing."""
    if not matrix.counts.any():
        raise LabelError(
            f"expected labelled pixels in {split} of {data}, got {num_images} masks of void alone; label them, or "
            "measure another split"
        )


def _in_classes_of(
    predictor_classes: ClassInfo, dataset: Dataset, data: str | GivenData, *, submission: bool
) -> tuple[Dataset, str, Callable[[str], str] | None]:
    """The data set, in the model's classes where a table says how; what was mapped; and what parts it has."""
    names = tuple(parse_sources(data))
    part_of = DATASETS[names[0]].part_of if len(names) == 1 and names[0] != GIVEN else None
    found = (
        None
        if submission or dataset.class_info.names == predictor_classes.names
        else transferred(dataset, predictor_classes)
    )
    wider = grouped(predictor_classes, dataset.class_info)
    return (dataset, "" if wider is None else wider[1], part_of) if found is None else (*found, part_of)


def _num_seen(learned: Learned, data: str | GivenData, measured: DataRecord, *, run: RunRecord | None) -> int:
    """How many samples were trained on, by the names in training splits that lie there, or by the run's record."""
    sources, seen = parse_sources(data), set[str]()
    for part in learned.trained_on or ():
        name, _, split = part.partition(":")
        if name in sources and ids_of(name) and not isinstance(sources[name], HeaderReadable):
            try:
                training = open_dataset(name, sources[name], split=split)
            except DatasetError:  # it may lie elsewhere
                continue
            seen |= {training.name(i) for i in range(len(training))}
    known = frozenset() if run is None else run.training_images
    return sum(name in seen or image in known for name, image, _ in measured.samples)


def protocol_of(
    matrix: ConfusionMatrix,
    facts: SampleFacts,
    learned: Learned,
    options: PredictorOptions,
    *,
    dataset: str,
    split: str,
    num_images: int,
    mapping: str = "",
    precision: str = "",
) -> MeasurementProtocol:
    """All conditions of an evaluation.

    Args:
        matrix: What was counted; where every class occurs, the definitions of the mean agree.
        facts: Facts of the images.
        learned: What the weights learned from.
        options: How was predicted.
        dataset: Its name.
        split: Split that was measured.
        num_images: Number of its images.
        mapping: How classes were mapped; empty: not.
        precision: Precision of an exported file that has one of its own; empty: the options'.
    """
    every = bool((matrix.counts.sum(axis=1) > 0).all())
    return MeasurementProtocol(
        dataset,
        "+".join(sorted(split.split("+"))),
        num_classes=matrix.class_info.num_classes,
        num_images=num_images,
        image_size=facts.image_size,
        compression=facts.compression,
        void=VOID_LEFT_OUT,
        mean=EVERY_CLASS if every else "over the classes in the truth",
        trained_on=learned.trained_on,
        other_data=learned.other_data,
        scales=options.scales,
        flip=options.flip,
        crf=options.crf is not None,
        scoring=options.view.stated,
        precision=precision or options.precision,
        mapping=mapping,
    )


def evaluate_to_files(
    model: str | Segmenter,
    data: str | GivenData,
    split: str,
    *,
    options: PredictorOptions,
    files: EvaluationFiles,
    console: Terminal | None,
    boundary: bool = False,
) -> EvaluationResult:
    """Evaluate a model, and write the confusion matrix, the pictures of the worst images and the submission.

    A split without labels gives no numbers, only a submission. Data of other classes than the model's are mapped to
    them where a table says how (:mod:`refineseg.data.readers.transfer`), and it is said.

    Args:
        model: A shipped name, a model file, or a segmenter.
        data: ``NAME:ROOT``, or several joined by ``+``; or what a program gave.
        split: Split; ``train+val`` joins two.
        options: How to predict.
        files: What to write.
        console: Terminal for progress; None: it is not shown.
        boundary: Whether contours are measured, too.

    Raises:
        ConfigError: A submission of a data set without a benchmark, options that do not fit each other, or files that
            pictures would take the place of.
        DatasetError: Data that cannot be read, or of other classes than the model's; no labels and no submission; or
            images with labels and without.
        LabelError: No labelled pixel.
    """
    names, named, spec = tuple(parse_sources(data)), str(data), read_spec(model)
    benchmark = None if files.submission is None else find_benchmark(names[0])
    opened_split = open_split(model, data, split)
    dataset, mapping, part_of = _in_classes_of(spec.class_info, opened_split, data, submission=benchmark is not None)
    class_table(spec.class_info, dataset.class_info)  # before hours are spent on the files
    if files.out is not None:
        check_pictures(files.out, map(dataset.name, range(len(dataset))), files.pictures)
    if not (labelled := _is_labelled(dataset, named, split)):
        _check_unlabelled(named, split, submission=benchmark is not None, drawn=boundary or files.pictures > 0)
    with counting(console, "checking", "files") as report:
        record = check_files(dataset, report=report)
    opened = options.opened(model)
    options = replace(options, backend=opened.backend)
    predictor = options.predictor(opened)
    worst, facts = WorstImages(files.pictures, legend=files.legend), SampleFacts(dataset)
    tally = Tally(dataset.class_info, boundary=boundary, part_of=part_of)
    with counting(console, "evaluating", "images") as report:
        for index, sample, prediction in predictions(predictor, dataset):
            if (sample.mask is not None) != labelled:
                raise _mixed(named, split, sample.name)
            facts.add(index, (sample.image.shape[0], sample.image.shape[1]))
            if sample.mask is not None:
                tally.add(sample, prediction)
                worst.add(index, sample, prediction)
            if benchmark is not None and files.submission is not None:
                benchmark.write(files.submission, sample.name, prediction.mask, dataset.class_info)
            report(index + 1, len(dataset))
    called = model if isinstance(model, str) else f"a segmenter ({spec.variant})"
    measured = (called, named, split, options, dataset.notes, len(dataset))
    if not labelled:
        return EvaluationResult(*measured, None, variant=spec.variant, data_mark=record.digest)
    total, learned = tally.total, Learned.from_provenance(spec.provenance)
    _check_labelled(total.matrix, named, split, len(dataset))
    if files.out is not None:
        worst.write(files.out / PICTURES)
        draw_confusion(files.out / CONFUSION, total.matrix)
    conditions = {"dataset": "+".join(names), "split": split, "mapping": mapping, "precision": opened.precision}
    return EvaluationResult(
        *measured,
        total.matrix,
        total.boundary,
        tally.parts if part_of is not None else {},
        protocol_of(total.matrix, facts, learned, options, num_images=len(dataset), **conditions),
        spec.variant,
        _num_seen(learned, data, record, run=record_beside(model)),
        worst.failures,
        opened.precision,
        record.digest,
    )
