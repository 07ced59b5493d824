"""A data set whose images are as large as a network sees them, where a model's preprocessing reduces them.

In: a data set and a factor below 1. Out: :class:`Reduced`, the same samples with smaller images and masks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from refineseg.data.samples.sample import Dataset, Sample
from refineseg.data.samples.views import View
from refineseg.resize import matlab_resize_images, scaled_hw


class Reduced(View):
    """Samples of a data set, reduced: images as a model's preprocessing does it, of masks the value at each centre.

    A training that reads large photographs so keeps them decoded in a small part of the memory, and cuts its crops
    where the network will look.

    Args:
        dataset: Where samples come from.
        scale: Factor of height and width, above 0 and below 1.
    """

    def __init__(self, dataset: Dataset, scale: float) -> None:
        super().__init__(dataset)
        self._scale = scale

    def __getitem__(self, index: int) -> Sample:
        sample = self._dataset[index]
        height, width = sample.image.shape[:2]
        pixels = torch.from_numpy(np.ascontiguousarray(sample.image)).permute(2, 0, 1)[None]
        image = matlab_resize_images(pixels, scaled_hw((height, width), self._scale))[0].permute(1, 2, 0)
        mask = None if sample.mask is None else self._smaller(sample.mask)
        return Sample(np.ascontiguousarray(image.numpy()), mask, sample.name)

    def read_mask(self, index: int) -> NDArray[Any] | None:
        """The mask of a sample."""
        mask = self._dataset.read_mask(index)
        return None if mask is None else self._smaller(mask)

    def _smaller(self, mask: NDArray[Any]) -> NDArray[Any]:
        size_hw = (mask.shape[0], mask.shape[1])
        rows, columns = (
            (2 * np.arange(new) + 1) * old // (2 * new)
            for new, old in zip(scaled_hw(size_hw, self._scale), size_hw, strict=True)
        )
        return np.ascontiguousarray(mask[rows[:, None], columns])
