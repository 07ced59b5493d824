"""Measure a model on a labelled split.

In: a predictor and a data set. Out: a :class:`~refineseg.metrics.ConfusionMatrix`; optionally pictures.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from refineseg.data.datasets import open_dataset, parse_data
from refineseg.data.sample import Dataset, Sample
from refineseg.errors import ConfigError, DatasetError
from refineseg.images import write_image
from refineseg.metrics import ConfusionMatrix
from refineseg.predict.predictor import Precision, Predictor
from refineseg.render import error_map, side_by_side
from refineseg.reports import draw_confusion
from refineseg.scoring import Prediction
from refineseg.segmenter import load


def evaluate(
    predictor: Predictor, dataset: Dataset, *, seen: Callable[[int, Sample, Prediction], None] | None = None
) -> ConfusionMatrix:
    """Predict every image of a data set at its own size and count.

    Args:
        predictor: The model.
        dataset: Labelled images of the model's classes, in the model's order.
        seen: Called after each image with its index, sample and prediction, for progress and pictures.

    Raises:
        DatasetError: The classes differ from the model's, or an image has no label.
    """
    if dataset.class_info.names != predictor.class_info.names:
        raise DatasetError(
            f"expected the model's classes {_short(predictor.class_info.names)}, got a data set of "
            f"{_short(dataset.class_info.names)}; evaluate on data of the same classes in the same order"
        )
    matrix = ConfusionMatrix(dataset.class_info)
    for index in range(len(dataset)):
        sample = dataset[index]
        if sample.mask is None:
            raise DatasetError(f"expected a labelled image, got {sample.name} without a mask; use predict for it")
        prediction = predictor(sample.image)
        matrix.update(prediction.mask, sample.mask)
        if seen is not None:
            seen(index, sample, prediction)
    return matrix


def _short(names: tuple[str, ...]) -> str:
    return f"{len(names)} ({', '.join(names[:6])}{', ...' if len(names) > 6 else ''})"


@dataclass(frozen=True)
class EvaluationResult:
    """What ``refineseg evaluate`` found.

    Args:
        model: As it was named.
        data: ``NAME:ROOT``.
        split: Which split.
        precision: Of the network.
        notes: Facts about the files that were read.
        num_images: How many.
        matrix: The counts.
    """

    model: str
    data: str
    split: str
    precision: str
    notes: tuple[str, ...]
    num_images: int
    matrix: ConfusionMatrix

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain values."""
        return {
            "model": self.model,
            "data": self.data,
            "split": self.split,
            "num_images": self.num_images,
            "notes": list(self.notes),
            "precision": self.precision,
            "scales": [1.0],
            "flip": False,
            **self.matrix.to_json(),
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


def evaluate_to_files(
    model: str,
    data: str,
    split: str,
    out: Path,
    *,
    pictures: int,
    device: str,
    precision: Precision,
    console: Console,
) -> EvaluationResult:
    """Evaluate a model by name, and write the confusion matrix and the pictures of the worst images.

    Args:
        model: A shipped name or a model file.
        data: ``NAME:ROOT``.
        split: Which split; ``train+val`` joins.
        out: Folder of ``confusion_matrix.png`` and ``pictures/``.
        pictures: How many of the worst images to draw: image, truth, prediction, errors.
        device: ``auto``, ``cpu``, ``cuda``, ...
        precision: Of the network.
        console: For progress.

    Raises:
        ConfigError: A negative number of pictures.
        DatasetError: Data that cannot be read, or of other classes than the model's.
    """
    if pictures < 0:
        raise ConfigError(f"expected --pictures of at least 0, got {pictures}")
    name, root = parse_data(data)
    dataset = open_dataset(name, root, split=split)
    predictor = Predictor(load(model), device=device, precision=precision)
    worst = _WorstImages(pictures)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("evaluating", total=len(dataset))

        def seen(index: int, sample: Sample, prediction: Prediction) -> None:
            if pictures:
                worst.add(index, sample, prediction)
            bar.advance(task)

        matrix = evaluate(predictor, dataset, seen=seen)
    worst.write(out / "pictures")
    draw_confusion(out / "confusion_matrix.png", matrix)
    return EvaluationResult(model, data, split, precision, dataset.notes, len(dataset), matrix)
