"""Everything between a batch and a scalar: the model's logits, and the loss that a configuration asks for.

In: pixels and masks on the model's device. Out: a :class:`~refineseg.losses.LossSum`, whose parts can be added up over
    pieces of a batch.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from refineseg.losses import LossSum, SegmentationLoss, class_weights
from refineseg.segmenter import Segmenter
from refineseg.training.config import TrainingConfig

__all__ = ["LossSum", "Objective"]


class Objective:
    """What training makes small.

    The model computes in whatever precision the caller's autocast says; the loss is always computed in single
    precision.

    Args:
        segmenter: The model that is trained, already on its device.
        config: Which loss, and where.
        pixel_counts: (K,) labelled training pixels of each class.
    """

    def __init__(self, segmenter: Segmenter, config: TrainingConfig, pixel_counts: NDArray[np.int64]) -> None:
        self._segmenter = segmenter
        self._device = next(segmenter.parameters()).device
        self._at_output = config.loss_resolution == "output"
        weights = class_weights(pixel_counts, power=config.class_weight_power)
        self._loss = SegmentationLoss(
            segmenter.class_info.ignore_index,
            None if weights is None else weights.to(self._device),
            config.label_smoothing,
            config.ohem_threshold,
            at_output_resolution=self._at_output,
        )

    def __call__(self, images: UInt8[Tensor, "n c h w"], masks: Int64[Tensor, "n h w"]) -> LossSum:
        """The loss of a batch, or of a piece of one."""
        score = self._segmenter.output_logits if self._at_output else self._segmenter
        logits: Float[Tensor, "n k h2 w2"] = score(images)
        with torch.autocast(self._device.type, enabled=False):
            return self._loss.sums(logits.float(), masks)
