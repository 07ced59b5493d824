"""Everything between a batch and a scalar: the model's logits, and the loss that a configuration asks for.

In: pixels and masks on the model's device. Out: a :class:`~refineseg.training.losses.LossSum`, whose parts can be
added up over pieces of a batch.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from refineseg.data.samples.unions import Unions
from refineseg.segmenter import Segmenter
from refineseg.training.config import TrainingConfig
from refineseg.training.distillation import teacher_logits
from refineseg.training.losses import LossSum, SegmentationLoss, class_weights, divergence

__all__ = ["LossSum", "Objective"]


class Objective:
    """What training makes small.

    The models compute in whatever precision the caller's autocast says; the loss is always computed in single
    precision. Sums over pieces of a batch are the sums over the batch, with two exceptions: online hard example mining
    keeps its least share of each piece, and ``lovasz_over`` = ``batch`` means the piece.

    Args:
        segmenter: The model that is trained, already on its device.
        config: Which loss, and where.
        pixel_counts: (K,) labelled training pixels of each class.
        teacher: The frozen model that is learned from beside the masks, on the same device; None: none.
        unions: Class indices of each union that masks hold.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        config: TrainingConfig,
        pixel_counts: NDArray[np.int64],
        *,
        teacher: Segmenter | None = None,
        unions: Unions = (),
    ) -> None:
        self._segmenter, self._teacher = segmenter, teacher
        self._device = next(segmenter.parameters()).device
        self.takes_reduced = config.input_scale is not None and config.input_scale < 1  # and so are the images
        self._at_output = config.loss.loss_resolution == "output"
        self._teacher_weight, self._temperature = config.teacher_weight, config.teacher_temperature
        power, style = config.loss.class_weight_power, config.loss.class_weight_style
        weights = class_weights(pixel_counts, power=power, style=style)
        weights = None if weights is None else weights.to(self._device)
        self._loss = SegmentationLoss(segmenter.class_info.ignore_index, weights, config.loss, unions)

    def __call__(self, images: UInt8[Tensor, "n c h w"], masks: Int64[Tensor, "n h w"]) -> LossSum:
        """The loss of a batch, or of a piece of one."""
        score = self._segmenter.output_logits if self._at_output else self._segmenter
        logits: Float[Tensor, "n k h2 w2"] = score(images, resized_already=self.takes_reduced)
        taught = None
        if self._teacher is not None:
            taught = teacher_logits(
                self._teacher, images, at_output_resolution=self._at_output, resized_already=self.takes_reduced
            )
        with torch.autocast(self._device.type, enabled=False):
            logits = logits.float()
            beside = None if taught is None else self._teacher_weight * self._divergence(logits, taught.float())
            return self._loss.sums(logits, masks, beside=beside)

    def _divergence(self, logits: Tensor, taught: Tensor) -> Tensor:
        if taught.shape[2:] != logits.shape[2:]:  # models that enlarge their images differently
            taught = F.interpolate(taught, size=logits.shape[2:], mode="bilinear", align_corners=False)
        return divergence(logits, taught, temperature=self._temperature)
