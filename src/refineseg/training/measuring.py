"""The measurement after an epoch: validation images held on the device, predicted in batches of equal size.

In: the validation samples, a model. Out: the confusion matrix that :func:`refineseg.evaluate.predicting.evaluate`
counts, with float32 and a single scale. Several processes measure a part of the samples each, and add up their counts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from refineseg.class_info import ClassInfo
from refineseg.data.crops.loading import read_samples
from refineseg.data.samples.sample import Dataset, Sample
from refineseg.data.samples.views import Subset
from refineseg.evaluate.metrics import ConfusionMatrix
from refineseg.evaluate.predicting import evaluate
from refineseg.predict.predictor import Predictor
from refineseg.predict.views.tiling import TilingOptions
from refineseg.prediction import Prediction
from refineseg.runtimes.eager import TorchScorer
from refineseg.scoring import class_dtype
from refineseg.segmenter import Segmenter
from refineseg.training import ranks
from refineseg.training.record import Measured

PICTURES = 3
"""Of how many samples, the first ones, the predictions are kept for pictures."""
_BATCH_PIXELS = 1 << 22
"""Pixels of a batch on a GPU: 24 images of 480x360, 2 of 2048x1024."""
MOST_WHOLE_PIXELS = 1 << 23
"""Pixels of an image that any network sees whole; larger ones are predicted in tiles where memory is short."""
_FEW_SIZES = 4
"""Of so many image sizes, a GPU may try all algorithms of each convolution, which takes seconds for each size."""


@dataclass(frozen=True)
class _Group:
    """Samples of one size: (N, 3, H, W) uint8 and (N, H, W)."""

    images: Tensor
    masks: Tensor


class Measure:
    """Measures a model on the validation samples, as often as it is called.

    Samples are held on the device where they fit; where they do not, they are read each time.

    Args:
        dataset: Labelled images of the model's classes; each process measures its part of them.
        device: Where the model computes.
        max_bytes: Most bytes the samples may take there.
        batch_pixels: Pixels of a batch; None: chosen, on a CPU one image at a time.
    """

    def __init__(
        self, dataset: Dataset, device: torch.device, *, max_bytes: int, batch_pixels: int | None = None
    ) -> None:
        part = ranks.share_of(len(dataset))
        self._dataset = dataset if len(part) == len(dataset) else Subset(dataset, part)
        self._device = device
        chosen = _BATCH_PIXELS if device.type == "cuda" else 1
        self._batch_pixels = chosen if batch_pixels is None else batch_pixels
        self._groups: list[_Group] | None = None
        self._first: list[Sample] = []
        samples = _read(self._dataset, max_bytes)
        if samples is not None:
            sizes = dict.fromkeys(sample.image.shape[:2] for sample in samples)
            self._groups = [self._group([s for s in samples if s.image.shape[:2] == size]) for size in sizes]
            first = next(iter(sizes), None)
            self._first = [s for s in samples if s.image.shape[:2] == first][:PICTURES]

    @property
    def is_held(self) -> bool:
        """Whether the samples are on the device."""
        return self._groups is not None

    def _group(self, samples: list[Sample]) -> _Group:
        images = torch.from_numpy(np.stack([s.image for s in samples])).permute(0, 3, 1, 2).contiguous()
        masks = torch.from_numpy(np.stack([s.mask for s in samples if s.mask is not None]).astype(np.int32))
        dtype = class_dtype(self._dataset.class_info.ignore_index)
        return _Group(images.to(self._device), masks.to(self._device, dtype))

    def __call__(self, segmenter: Segmenter, *, check: Callable[[], None] = lambda: None) -> Measured:
        """Measure.

        Args:
            segmenter: On the device; of several processes that of the first is measured.
            check: Called after each batch; it may raise.

        Raises:
            DatasetError: The classes differ from the model's, or an image has no label.
        """
        many_sizes = self._groups is None or len(self._groups) > _FEW_SIZES
        ranks.make_same(segmenter, buffers_only=True)  # statistics differ, weights do not
        with _cudnn_trying(torch.backends.cudnn.benchmark and not many_sizes):
            measured = self._measured(segmenter, check)
        measured.matrix.counts = ranks.summed(torch.from_numpy(measured.matrix.counts)).numpy()
        return measured

    def _measured(self, segmenter: Segmenter, check: Callable[[], None]) -> Measured:
        if self._groups is None or segmenter.class_info.names != self._dataset.class_info.names:
            return self._one_by_one(segmenter, check)
        info = self._dataset.class_info
        scorer = TorchScorer(segmenter, device=self._device)
        counts = torch.zeros(info.num_classes * (info.num_classes + 1), dtype=torch.int64, device=self._device)
        shown: list[Tensor] = []
        for group in self._groups:
            size = max(1, self._batch_pixels // (group.images.shape[2] * group.images.shape[3]))
            for images, masks in zip(_pieces(group.images, size), _pieces(group.masks, size), strict=True):
                predicted = scorer.class_map(images)
                counts += _counts(predicted, masks, info)
                if len(shown) < len(self._first):
                    shown += predicted[: len(self._first) - len(shown)].unbind()
                check()
        matrix = ConfusionMatrix(info)
        matrix.counts = counts.reshape(matrix.counts.shape).cpu().numpy()
        masks_shown = (mask.cpu().numpy() for mask in shown)
        return Measured(matrix, tuple(zip(self._first, masks_shown, strict=True)))

    def _one_by_one(self, segmenter: Segmenter, check: Callable[[], None]) -> Measured:
        shown: list[tuple[Sample, NDArray[Any]]] = []

        def seen(index: int, sample: Sample, prediction: Prediction) -> None:
            if index < PICTURES:
                shown.append((sample, prediction.mask))
            check()

        predictor = Predictor(segmenter, device=str(self._device), tiling=TilingOptions())
        matrix = evaluate(predictor, self._dataset, seen=seen)
        return Measured(matrix, tuple(shown))


@contextlib.contextmanager
def _cudnn_trying(tries: bool) -> Iterator[None]:
    """Whether cuDNN tries its algorithms at each new size, for a while."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = tries
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def _pieces(whole: Tensor, size: int) -> list[Tensor]:
    return [whole[first : first + size] for first in range(0, len(whole), size)]


def _counts(predicted: Tensor, masks: Tensor, info: ClassInfo) -> Tensor:
    """(K * (K + 1)) pixels of each (true class, predicted class), as in :class:`ConfusionMatrix`, on the device."""
    k = info.num_classes
    truth = masks.long()
    place = torch.where(truth == info.ignore_index, k * (k + 1), truth * (k + 1) + predicted)
    return torch.bincount(place.flatten(), minlength=k * (k + 1) + 1)[:-1]


def _read(dataset: Dataset, max_bytes: int) -> list[Sample] | None:
    """All samples; None where they take more, one may have to be cut, or counting has something to say about a mask."""
    samples: list[Sample] = []
    info = dataset.class_info
    for sample in read_samples(dataset):
        if sample.mask is None:
            return None
        labelled = sample.mask[sample.mask != info.ignore_index]
        if labelled.size and not 0 <= labelled.min() <= labelled.max() < info.num_classes:
            return None
        if sample.image.shape[0] * sample.image.shape[1] > MOST_WHOLE_PIXELS:
            return None
        bytes_each = sample.image.size + sample.mask.size * class_dtype(info.ignore_index).itemsize
        if len(dataset) * bytes_each > max_bytes:
            return None
        samples.append(sample)
    return samples
