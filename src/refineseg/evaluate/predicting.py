"""Every image of a data set predicted, and counted where it has a mask.

In: a predictor, a data set. Out: predictions in the data set's classes, a confusion matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refineseg.class_info import ClassInfo, index_dtype
from refineseg.data.readers.transfer import grouped
from refineseg.data.samples.sample import Dataset, Sample
from refineseg.devices import is_out_of_memory
from refineseg.errors import DatasetError, ImageError
from refineseg.evaluate.metrics import ConfusionMatrix
from refineseg.images.inputs import seen_by
from refineseg.predict.batches import too_large
from refineseg.predict.predictor import Predictor
from refineseg.prediction import Prediction

VOID_CLASS = "void"
"""A model's class of this name that the data do not have stands for void pixels (weights of the RefineNet authors)."""


def predictions(predictor: Predictor, dataset: Dataset) -> Iterator[tuple[int, Sample, Prediction]]:
    """Predict every image of a data set at its own size, in the data set's classes.

    Where the model has one class more, named "void", its pixels get the data set's ``ignore_index``: on a labelled
    pixel they count as errors, but as no class's prediction. Where the data set's classes are known to group the
    model's, predictions are grouped.

    Raises:
        DatasetError: The classes differ from the model's.
        ImageError: An image needs more memory than there is.
    """
    table = class_table(predictor.class_info, dataset.class_info)
    for index in range(len(dataset)):
        sample = dataset[index]
        mask, info = _mask(predictor, sample), dataset.class_info
        if table is not None:
            mask = table.take(mask)
        else:
            info = replace(predictor.class_info, ignore_index=info.ignore_index)
        yield index, sample, Prediction(sample.image, mask, info)


def _mask(predictor: Predictor, sample: Sample) -> NDArray[Any]:
    height, width = sample.image.shape[:2]
    text = too_large(predictor.whole_bytes((height, width)), (height, width))
    if text is not None:
        raise ImageError(f"{sample.name}: {text}")
    try:
        return predictor(seen_by(sample.image, predictor.num_channels)).mask
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise ImageError(
            f"{sample.name}: not enough memory for {height}x{width} pixels; leave --scales, --flip, --crf and "
            "--protocol out, or shrink the images"
        ) from error


def class_table(model_classes: ClassInfo, classes: ClassInfo) -> NDArray[Any] | None:
    """The data's value of each class of the model; None: they are the same."""
    own = model_classes.names
    if own == classes.names:
        return None
    wider = grouped(model_classes, classes)
    if wider is not None:
        return np.array(wider[0], classes.mask_dtype)
    if VOID_CLASS in classes.names or tuple(name for name in own if name != VOID_CLASS) != classes.names:
        raise DatasetError(
            f"expected the model's classes {_short(own)}, got a data set of {_short(classes.names)}; evaluate on "
            "data of the same classes in the same order"
        )
    kept = [classes.names.index(name) if name != VOID_CLASS else classes.ignore_index for name in own]
    return np.array(kept, index_dtype(max(kept)))


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
        ImageError: An image needs more memory than there is.
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
