"""Measure a model on a labelled split, or predict an unlabelled one for a benchmark's server.

In: a predictor and a data set. Out: a :class:`~refineseg.metrics.ConfusionMatrix`; optionally pictures and the files of
a submission.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from refineseg._version import __version__
from refineseg.data.datasets import open_sources, parse_sources
from refineseg.data.sample import Dataset, Sample
from refineseg.errors import ConfigError, DatasetError
from refineseg.images import write_image
from refineseg.metrics import ConfusionMatrix
from refineseg.predict.predictor import Predictor, PredictorOptions
from refineseg.render import error_map, side_by_side
from refineseg.reports import draw_confusion
from refineseg.scoring import Prediction
from refineseg.submission import SUBMISSIONS, find_benchmark

VOID_CLASS = "void"
"""A model's class of this name that the data do not have stands for void pixels (weights of the RefineNet authors)."""


def predictions(predictor: Predictor, dataset: Dataset) -> Iterator[tuple[int, Sample, Prediction]]:
    """Predict every image of a data set at its own size, in the data set's classes.

    Where the model has one class more, named "void", its pixels get the data set's ``ignore_index``: on a labelled
    pixel they count as errors, but as no class's prediction.

    Raises:
        DatasetError: The classes differ from the model's.
    """
    own, classes = predictor.class_info.names, dataset.class_info
    table: NDArray[Any] | None = None
    if own != classes.names:
        if VOID_CLASS in classes.names or tuple(name for name in own if name != VOID_CLASS) != classes.names:
            raise DatasetError(
                f"expected the model's classes {_short(own)}, got a data set of {_short(classes.names)}; evaluate on "
                "data of the same classes in the same order"
            )
        kept = [classes.names.index(name) if name != VOID_CLASS else classes.ignore_index for name in own]
        table = np.array(kept, np.uint8 if max(kept) <= 255 else np.uint16)
    for index in range(len(dataset)):
        sample = dataset[index]
        prediction = predictor(sample.image)
        if table is not None:
            prediction = Prediction(sample.image, table.take(prediction.mask), classes)
        yield index, sample, prediction


def evaluate(
    predictor: Predictor, dataset: Dataset, *, seen: Callable[[int, Sample, Prediction], None] | None = None
) -> ConfusionMatrix:
    """Predict every image of a data set at its own size and count.

    Args:
        predictor: The model.
        dataset: Labelled images of the model's classes, in the model's order; see :func:`predictions` for a model with
            a class "void".
        seen: Called after each image with its index, sample and prediction, for progress and pictures.

    Raises:
        DatasetError: The classes differ from the model's, or an image has no label.
    """
    matrix = ConfusionMatrix(dataset.class_info)
    for index, sample, prediction in predictions(predictor, dataset):
        if sample.mask is None:
            raise DatasetError(f"expected a labelled image, got {sample.name} without a mask; use predict for it")
        matrix.update(prediction.mask, sample.mask)
        if seen is not None:
            seen(index, sample, prediction)
    return matrix


def _short(names: tuple[str, ...]) -> str:
    return f"{len(names)} ({', '.join(names[:6])}{', ...' if len(names) > 6 else ''})"


@dataclass(frozen=True)
class EvaluationFiles:
    """What ``refineseg evaluate`` writes.

    Args:
        out: Folder of ``confusion_matrix.png`` and ``pictures/``.
        pictures: How many of the worst images to draw: image, truth, prediction, errors.
        submission: Folder for the files of a benchmark's server; None: none.

    Raises:
        ConfigError: A negative number of pictures.
    """

    out: Path
    pictures: int = 0
    submission: Path | None = None

    def __post_init__(self) -> None:
        if self.pictures < 0:
            raise ConfigError(f"expected --pictures of at least 0, got {self.pictures}")


@dataclass(frozen=True)
class EvaluationResult:
    """What ``refineseg evaluate`` found.

    Args:
        model: As it was named.
        data: ``NAME:ROOT``.
        split: Which split.
        options: How the images were predicted.
        notes: Facts about the files that were read.
        num_images: How many.
        matrix: The counts; None where the split has no labels.
    """

    model: str
    data: str
    split: str
    options: PredictorOptions
    notes: tuple[str, ...]
    num_images: int
    matrix: ConfusionMatrix | None

    @property
    def how(self) -> str:
        """How the images were predicted, in one line to print beside the numbers."""
        options = self.options
        parts = [f"protocol {options.protocol.name}", f"scales {', '.join(f'{scale:g}' for scale in options.scales)}"]
        if options.protocol.short_side is not None:
            parts.append("short side {}..{} pixels".format(*options.protocol.short_side))
        if options.protocol.enlargement is not None:
            parts.append(f"enlargement {options.protocol.enlargement:g}")
        parts += ["flip"] * options.flip + ["CRF"] * (options.crf is not None) + [options.precision]
        return "predicted with: " + ", ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Everything that is needed to repeat the numbers, and the numbers, as plain values."""
        return {
            "version": __version__,
            "model": self.model,
            "data": self.data,
            "split": self.split,
            "num_images": self.num_images,
            "notes": list(self.notes),
            **self.options.to_json(),
            **({} if self.matrix is None else self.matrix.to_json()),
        }


class _WorstImages:
    """Keeps the pictures of the N images with the lowest pixel accuracy, and no more, in memory."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._heap: list[tuple[float, int, str, NDArray[np.uint8]]] = []

    def add(self, index: int, sample: Sample, prediction: Prediction) -> None:
        truth, info = sample.mask, prediction.class_info
        assert truth is not None
        labelled = truth != info.ignore_index
        wrong = float((prediction.mask != truth)[labelled].mean()) if labelled.any() else 0.0
        if len(self._heap) == self._most and wrong <= self._heap[0][0]:
            return
        picture = side_by_side(
            [sample.image, info.colours(truth), info.colours(prediction.mask), error_map(prediction.mask, truth, info)],
            ["image", "truth", "prediction", f"errors: {100 * wrong:.1f} % of the labelled pixels"],
        )
        heapq.heappush(self._heap, (wrong, -index, sample.name, picture))
        if len(self._heap) > self._most:
            heapq.heappop(self._heap)

    def write(self, folder: Path) -> None:
        for rank, (_, _, name, picture) in enumerate(sorted(self._heap, key=lambda entry: entry[:2], reverse=True), 1):
            write_image(folder / f"{rank:03d}_{name.replace('/', '_')}.png", picture)


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


def evaluate_to_files(
    model: str, data: str, split: str, *, options: PredictorOptions, files: EvaluationFiles, console: Console
) -> EvaluationResult:
    """Evaluate a model by name, and write the confusion matrix, the pictures of the worst images and the submission.

    A split without labels gives no numbers, only a submission.

    Args:
        model: A shipped name or a model file.
        data: ``NAME:ROOT``, or several joined by ``+``.
        split: Which split; ``train+val`` joins.
        options: How to predict.
        files: What to write.
        console: For progress.

    Raises:
        ConfigError: A submission of a data set without a benchmark, or options that do not fit each other.
        DatasetError: Data that cannot be read, or of other classes than the model's; no labels and no submission; or
            images with labels and without.
    """
    dataset = open_sources(data, split=split)
    benchmark = None if files.submission is None else find_benchmark(next(iter(parse_sources(data))))
    labelled = _is_labelled(dataset, data, split)
    if not labelled and benchmark is None:
        raise DatasetError(
            f"expected a labelled split, got {split} of {data}, whose masks are not public or missing; write files for "
            f"a benchmark's server with --submission FOLDER ({', '.join(SUBMISSIONS)}), or use predict"
        )
    predictor = options.open(model)
    worst = _WorstImages(files.pictures)
    matrix = ConfusionMatrix(dataset.class_info) if labelled else None
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        for index, sample, prediction in bar.track(predictions(predictor, dataset), total=len(dataset)):
            if (sample.mask is not None) != labelled:
                raise _mixed(data, split, sample.name)
            if matrix is not None and sample.mask is not None:
                matrix.update(prediction.mask, sample.mask)
                if files.pictures:
                    worst.add(index, sample, prediction)
            if benchmark is not None and files.submission is not None:
                benchmark.write(files.submission, sample.name, prediction.mask, dataset.class_info)
    worst.write(files.out / "pictures")
    if matrix is not None:
        draw_confusion(files.out / "confusion_matrix.png", matrix)
    return EvaluationResult(model, data, split, options, dataset.notes, len(dataset), matrix)
