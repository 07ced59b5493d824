"""Segmentation metrics from one confusion matrix (Long, Shelhamer, Darrell, CVPR 2015).

In: masks. Out: pixel accuracy, mean accuracy, mean IoU, frequency-weighted IoU and per-class IoU, fractions 0..1.

The papers' codes agree on the matrix and on the IoU of a class, and differ in which classes the mean is over
(:data:`MEANS`); a number is comparable only with numbers of the same definition.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from refineseg.class_info import ClassInfo
from refineseg.errors import LabelError

MeanDefinition = Literal["in_truth", "in_truth_or_prediction", "absent_counts_one"]
"""Which classes the mean IoU is over."""

MEANS: dict[MeanDefinition, str] = {
    "in_truth": "mean over the classes that occur in the ground truth",
    "in_truth_or_prediction": "mean over the classes that occur in ground truth or prediction; one that is only "
    "predicted counts 0",
    "absent_counts_one": "mean over all classes; one that occurs in neither ground truth nor prediction counts 1",
}
"""The definitions in words.

Sources, in this order: the RefineNet authors' MATLAB evaluation, which is the default here; DenseTorch, with which the
second version of Light-Weight RefineNet's code evaluates; the first version of that code.
"""

PROTOCOL = f"{MEANS['in_truth']}, void pixels left out, one matrix over the whole set"
"""How ``mean_iou`` and ``mean_accuracy`` are taken; printed beside every number."""


class ConfusionMatrix:
    """Counts of (true class, predicted class) over any number of masks.

    Args:
        class_info: The classes; void pixels of the ground truth are left out.

    Example:
        >>> matrix = ConfusionMatrix(ClassInfo(("sky", "road")))
        >>> matrix.update(np.array([[0, 1]]), np.array([[0, 0]]))
        >>> matrix.pixel_accuracy
        0.5
    """

    def __init__(self, class_info: ClassInfo) -> None:
        self.class_info = class_info
        k = class_info.num_classes
        # The last column counts predictions that are no class (void): errors, but of no class's making.
        self.counts: NDArray[np.int64] = np.zeros((k, k + 1), np.int64)

    def update(self, mask: NDArray[Any], truth: NDArray[Any]) -> None:
        """Count one prediction.

        Args:
            mask: ``(H, W)`` predicted class indices.
            truth: ``(H, W)`` true class indices and ``ignore_index``.

        Raises:
            LabelError: The shapes differ, a mask is not of whole numbers, or the truth holds values that are neither
                class nor void.
        """
        if mask.dtype.kind not in "iub" or truth.dtype.kind not in "iub":
            raise LabelError(f"expected masks of whole numbers, got {mask.dtype} and {truth.dtype}; use .astype(int)")
        if mask.shape != truth.shape:
            raise LabelError(f"expected prediction and truth of one size, got {mask.shape} and {truth.shape}")
        k = self.class_info.num_classes
        labelled = truth != self.class_info.ignore_index
        true, predicted = truth[labelled].astype(np.int64), mask[labelled].astype(np.int64)
        if true.size and (true.min() < 0 or true.max() >= k):
            wrong = np.unique(true[(true < 0) | (true >= k)])
            raise LabelError(
                f"expected true classes 0..{k - 1} or void {self.class_info.ignore_index}, got {wrong[:5]}"
            )
        predicted[(predicted < 0) | (predicted >= k)] = k
        self.counts += np.bincount(true * (k + 1) + predicted, minlength=k * (k + 1)).reshape(k, k + 1)

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """Counts of two disjoint parts together."""
        if other.class_info != self.class_info:
            raise LabelError("expected confusion matrices of the same classes to add")
        total = ConfusionMatrix(self.class_info)
        total.counts = self.counts + other.counts
        return total

    @property
    def _true(self) -> NDArray[np.int64]:
        return np.asarray(self.counts.sum(axis=1))

    @property
    def _hits(self) -> NDArray[np.int64]:
        return np.diagonal(self.counts)

    @property
    def pixel_accuracy(self) -> float:
        """Share of labelled pixels that are right; nan without any."""
        return float(self._hits.sum() / self.counts.sum()) if self.counts.any() else float("nan")

    @property
    def per_class_accuracy(self) -> NDArray[np.float64]:
        """(K,) share of each true class's pixels that are right; nan where a class does not occur."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self._hits / self._true, np.float64)

    @property
    def per_class_iou(self) -> NDArray[np.float64]:
        """(K,) intersection over union; nan for a class that occurs in neither truth nor prediction."""
        union = self._true + self.counts[:, :-1].sum(axis=0) - self._hits
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self._hits / union, np.float64)

    def _mean(self, values: NDArray[np.float64]) -> float:
        occurs = self._true > 0
        return float(values[occurs].mean()) if occurs.any() else float("nan")

    def mean_iou_by(self, definition: MeanDefinition) -> float:
        """Mean of ``per_class_iou`` by one of the definitions :data:`MEANS`; nan without any labelled pixel."""
        iou = self.per_class_iou
        if definition == "in_truth" or not self.counts.any():
            return self._mean(iou)
        if definition == "in_truth_or_prediction":
            return float(np.nanmean(iou))
        return float(np.nan_to_num(iou, nan=1.0).mean())

    @property
    def mean_accuracy(self) -> float:
        """Mean of ``per_class_accuracy`` over the classes in the truth."""
        return self._mean(self.per_class_accuracy)

    @property
    def mean_iou(self) -> float:
        """Mean of ``per_class_iou`` over the classes in the truth (:data:`PROTOCOL`)."""
        return self.mean_iou_by("in_truth")

    @property
    def frequency_weighted_iou(self) -> float:
        """Mean of ``per_class_iou`` weighted by each class's share of the labelled pixels."""
        true = self._true
        occurs = true > 0
        if not occurs.any():
            return float("nan")
        return float((true[occurs] * self.per_class_iou[occurs]).sum() / true.sum())

    @classmethod
    def from_json(cls, value: Mapping[str, Any], class_info: ClassInfo) -> ConfusionMatrix:
        """The matrix whose :meth:`to_json` this is.

        Raises:
            KeyError: There is none.
            ValueError: It holds something else than counts of these classes.
        """
        matrix = cls(class_info)
        counts = np.asarray(value["confusion_matrix"])
        if counts.shape != matrix.counts.shape or counts.dtype.kind != "i" or counts.min() < 0:
            raise ValueError(f"expected {matrix.counts.shape} counts, got {counts.shape} of type {counts.dtype}")
        matrix.counts = counts.astype(np.int64)
        return matrix

    def to_json(self) -> dict[str, Any]:
        """All metrics and the counts as plain values; nan becomes None."""

        def plain(value: float) -> float | None:
            return None if np.isnan(value) else float(value)

        return {
            "protocol": PROTOCOL,
            "pixel_accuracy": plain(self.pixel_accuracy),
            "mean_accuracy": plain(self.mean_accuracy),
            "mean_iou": plain(self.mean_iou),
            "mean_iou_definition": "in_truth",
            "mean_iou_by_definition": {name: plain(self.mean_iou_by(name)) for name in MEANS},
            "frequency_weighted_iou": plain(self.frequency_weighted_iou),
            "per_class": {
                name: {"iou": plain(iou), "accuracy": plain(accuracy), "pixels": int(pixels)}
                for name, iou, accuracy, pixels in zip(
                    self.class_info.names, self.per_class_iou, self.per_class_accuracy, self._true, strict=True
                )
            },
            "confusion_matrix": self.counts.tolist(),
        }
