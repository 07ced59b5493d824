"""Training losses: logits and masks in, a scalar out.

Both papers use cross entropy with void left out; they differ in where: Light-Weight RefineNet enlarges the logits to
the masks, RefineNet picks masks for the logits, which the network gives at a quarter of its input. Class weights and
online hard example mining are options.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor


def masks_at(masks: Int64[Tensor, "n h w"], size_hw: tuple[int, int]) -> Int64[Tensor, "n h2 w2"]:
    """Masks at another resolution: of each new pixel the mask's value at its centre.

    Args:
        masks: Class indices and void.
        size_hw: New height and width; row ``i`` of ``h`` is old row ``floor((i + 0.5) * H / h)``.

    Source: nearest neighbour as in the RefineNet authors' code.

    Example:
        >>> masks_at(torch.arange(8).reshape(1, 1, 8), (1, 2)).tolist()
        [[[2, 6]]]
    """
    rows, columns = (
        torch.arange(new, device=masks.device).mul(2).add(1).mul(old) // (2 * new)  # whole numbers round exactly
        for new, old in zip(size_hw, masks.shape[1:], strict=True)
    )
    return masks[:, rows[:, None], columns]


@dataclass(frozen=True)
class LossSum:
    """A loss that can be added up over parts of a batch: the loss is the mean, ``total / weight``.

    Args:
        total: Sum of the weighted losses, a scalar with its gradient.
        weight: Sum of the weights, a scalar without.
    """

    total: Float[Tensor, ""]
    weight: Float[Tensor, ""]

    @property
    def mean(self) -> Float[Tensor, ""]:
        """The loss; 0 where nothing has a weight."""
        return self.total / self.weight.clamp(min=1e-6)


@dataclass(frozen=True)
class SegmentationLoss:
    """Cross entropy per pixel, averaged over the labelled (or the hard) pixels of the batch.

    Logits and masks may differ in size: the logits are enlarged bilinearly to the masks (``align_corners=False``), or
    the masks are picked at the logits' pixels.

    Args:
        ignore_index: Value of void pixels, which count nothing.
        class_weights: (K,) weight of each true class; None: all 1.
        label_smoothing: Share of the target spread over all classes, 0..1.
        ohem_threshold: Online hard example mining: keep pixels whose true class has a probability below this ...
        ohem_share: ... but at least this share of the labelled pixels. None as threshold: keep all.
        at_output_resolution: Bring masks to the logits' size, not logits to the masks' size.

    Source: OHEM as in Shrivastava et al., CVPR 2016, per pixel; at output resolution: the RefineNet authors' code; at
        the masks' resolution: Light-Weight RefineNet's.
    """

    ignore_index: int
    class_weights: Tensor | None = None
    label_smoothing: float = 0.0
    ohem_threshold: float | None = None
    ohem_share: float = 0.1
    at_output_resolution: bool = False

    def __call__(self, logits: Float[Tensor, "n k h w"], masks: Int64[Tensor, "n h2 w2"]) -> Float[Tensor, ""]:
        """Loss of a batch; 0 where nothing is labelled."""
        return self.sums(logits, masks).mean

    def sums(self, logits: Float[Tensor, "n k h w"], masks: Int64[Tensor, "n h2 w2"]) -> LossSum:
        """The same as a sum of losses and a sum of weights."""
        if logits.shape[2:] != masks.shape[1:]:
            if self.at_output_resolution:
                masks = masks_at(masks, (logits.shape[2], logits.shape[3]))
            else:
                logits = F.interpolate(logits, size=masks.shape[1:], mode="bilinear", align_corners=False)
        weights = None if self.class_weights is None else self.class_weights.to(logits.device, logits.dtype)
        labelled = masks != self.ignore_index
        losses = F.cross_entropy(
            logits,
            masks,
            weight=weights,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            reduction="none" if self.ohem_threshold is not None else "sum",
        )
        safe = masks.masked_fill(~labelled, 0)
        pixel_weights = labelled.to(logits.dtype) if weights is None else weights[safe] * labelled
        if self.ohem_threshold is None:
            return LossSum(losses, pixel_weights.sum())
        hard = labelled & self._hard(logits.detach(), safe, labelled)
        return LossSum((losses * hard).sum(), (pixel_weights * hard).sum())

    def _hard(self, logits: Tensor, safe: Tensor, labelled: Tensor) -> Tensor:
        """Pixels whose true class is less likely than the threshold, at least the hardest ``ohem_share`` of them."""
        assert self.ohem_threshold is not None
        log_probability = -F.cross_entropy(logits, safe, reduction="none")
        log_probability = log_probability.masked_fill(~labelled, 0.0)
        least = max(1, int(self.ohem_share * int(labelled.sum())))
        hardest = torch.topk(log_probability.flatten(), least, largest=False).values[-1]
        return log_probability <= torch.clamp(hardest, min=float(np.log(self.ohem_threshold)))


def class_weights(pixel_counts: NDArray[np.int64], *, power: float) -> Tensor | None:
    """Weights that lift rare classes: ``(median frequency / frequency) ** power``.

    Args:
        pixel_counts: (K,) labelled pixels of each class in the training masks.
        power: 0: no weights; 1: median frequency balancing; 0.5: its square root.

    Returns:
        (K,) weights, 1 for classes that do not occur; None for power 0.

    Source: Eigen and Fergus, ICCV 2015 (median frequency balancing).
    """
    if power == 0:
        return None
    occurs = pixel_counts > 0
    weights = np.ones(len(pixel_counts), np.float64)
    weights[occurs] = (np.median(pixel_counts[occurs]) / pixel_counts[occurs]) ** power
    return torch.from_numpy(weights.astype(np.float32))
