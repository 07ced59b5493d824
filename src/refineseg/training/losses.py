"""Training losses: logits and masks in, a scalar out.

Both papers use cross entropy with void left out; they differ in where: Light-Weight RefineNet enlarges the logits to
the masks, RefineNet picks masks for the logits, which the network gives at the size of its finest map. Options: class
weights, online hard example mining, more weight at the borders between classes, and two losses of whole regions,
Lovasz-Softmax and Dice.

Nothing here waits for the device: no value is read back, no size depends on one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from refineseg.data.samples.unions import Unions
from refineseg.scoring import probabilities_of
from refineseg.training.config import LossOptions

ERROR_STEPS = 4096
"""Errors of the Lovasz loss are put in order to this many steps between 0 and 1."""


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
    """Cross entropy per pixel, averaged over the labelled (or the hard) pixels of the batch; region losses beside it.

    Logits and masks may differ in size: the logits are enlarged bilinearly to the masks (``align_corners=False``), or
    the masks are picked at the logits' pixels. A region loss is one number per image; in the mean an image counts as
    much as its pixels do, so that everything is one sum over a batch divided by one sum of weights.

    Args:
        ignore_index: Value of void pixels, which count nothing.
        class_weights: (K,) weight of each true class; None: all 1.
        options: Everything else; weights of classes are computed from it before (:func:`class_weights`).
        unions: Class indices of each union; a pixel of union ``u`` holds ``K + u``. Its loss is minus the logarithm of
            the sum of its classes' probabilities, its weight their mean; the options do not apply to it.

    Source: OHEM as in Shrivastava et al., CVPR 2016, per pixel; at output resolution: the RefineNet authors' code; at
        the masks' resolution: Light-Weight RefineNet's.
    """

    ignore_index: int
    class_weights: Tensor | None = None
    options: LossOptions = field(default_factory=LossOptions)
    unions: Unions = ()

    def __call__(self, logits: Float[Tensor, "n k h w"], masks: Int64[Tensor, "n h2 w2"]) -> Float[Tensor, ""]:
        """Loss of a batch; 0 where nothing is labelled."""
        return self.sums(logits, masks).mean

    def sums(
        self,
        logits: Float[Tensor, "n k h w"],
        masks: Int64[Tensor, "n h2 w2"],
        *,
        beside: Float[Tensor, " n"] | None = None,
    ) -> LossSum:
        """The same as a sum of losses and a sum of weights.

        Args:
            logits: In any precision; half precision is computed with in single precision.
            masks: Class indices and void.
            beside: A further loss of each image.
        """
        if logits.dtype in (torch.bfloat16, torch.float16):
            logits = logits.float()
        if logits.shape[2:] != masks.shape[1:]:
            if self.options.loss_resolution == "output":
                masks = masks_at(masks, (logits.shape[2], logits.shape[3]))
            else:
                logits = F.interpolate(logits, size=masks.shape[1:], mode="bilinear", align_corners=False)
        if not self.unions:
            return self._of_classes(logits, masks, beside)
        of_unions, in_union = self._of_unions(logits, masks)
        of_classes = self._of_classes(logits, masks.masked_fill(in_union, self.ignore_index), beside)
        return LossSum(of_classes.total + of_unions.total, of_classes.weight + of_unions.weight)

    def _of_unions(self, logits: Tensor, masks: Tensor) -> tuple[LossSum, Tensor]:
        """The loss of all pixels that are one of several classes, and where they are."""
        total = weight = logits.new_zeros(())
        in_union, every = torch.zeros_like(masks, dtype=torch.bool), logits.logsumexp(1)
        for number, members in enumerate(self.unions):
            here = masks == logits.shape[1] + number
            losses = every - logits[:, list(members)].logsumexp(1)
            share = 1.0 if self.class_weights is None else self.class_weights[list(members)].mean().to(logits)
            total, weight = total + share * losses.masked_fill(~here, 0.0).sum(), weight + share * here.sum()
            in_union = in_union | here
        return LossSum(total, weight), in_union

    def _of_classes(self, logits: Tensor, masks: Tensor, beside: Tensor | None) -> LossSum:
        regions = self._regions(logits, masks, beside)
        plain = self.options.ohem_threshold is None and not self.options.border_weight and regions is None
        losses = F.cross_entropy(
            logits,
            masks,
            weight=None if self.class_weights is None else self.class_weights.to(logits.device, logits.dtype),
            ignore_index=self.ignore_index,
            label_smoothing=self.options.label_smoothing,
            reduction="sum" if plain else "none",
        )
        weights = self._class_weights_at(masks, logits.dtype)
        if plain:
            return LossSum(losses, weights.sum())
        kept = self._hard(logits.detach(), masks, losses.detach()) if self.options.ohem_threshold is not None else None
        for factor in (kept, self._border_weights(masks, logits.dtype) if self.options.border_weight else None):
            if factor is not None:
                losses, weights = losses * factor, weights * factor
        total = losses.sum()
        if regions is not None:
            total = total + (regions * weights.sum((1, 2))).sum()
        return LossSum(total, weights.sum())

    def _class_weights_at(self, masks: Tensor, dtype: torch.dtype) -> Tensor:
        labelled = masks != self.ignore_index
        if self.class_weights is None:
            return labelled.to(dtype)
        return self.class_weights.to(masks.device, dtype)[masks.masked_fill(~labelled, 0)] * labelled

    def _border_weights(self, masks: Tensor, dtype: torch.dtype) -> Tensor:
        closeness = border_closeness(masks, radius=self.options.border_radius, ignore_index=self.ignore_index)
        return 1 + self.options.border_weight * closeness.to(dtype)

    def _regions(self, logits: Tensor, masks: Tensor, beside: Tensor | None) -> Tensor | None:
        """(N,) sum of the losses that an image has as a whole; None where there are none."""
        if not self.options.lovasz and not self.options.dice:
            return beside
        total = logits.new_zeros(len(logits)) if beside is None else beside
        probabilities = probabilities_of(logits)
        if self.options.lovasz:
            every = slice(None, None, self.options.lovasz_stride)
            flat, truth = probabilities[:, :, every, every].flatten(2), masks[:, every, every].flatten(1)
            if self.options.lovasz_over == "batch":
                flat, truth = flat.transpose(0, 1).flatten(1)[None], truth.flatten()[None]
            total = total + self.options.lovasz * lovasz_loss(flat, truth, ignore_index=self.ignore_index)
        if self.options.dice:
            total = total + self.options.dice * dice_loss(
                probabilities.flatten(2), masks.flatten(1), ignore_index=self.ignore_index
            )
        return total

    def _hard(self, logits: Tensor, masks: Tensor, losses: Tensor) -> Tensor:
        """Pixels whose true class is less likely than the threshold, at least the hardest ``ohem_share`` of them.

        How many those are is known to the device alone; so as many as there can be are sorted, void last, and the one
        in question is picked there.
        """
        assert self.options.ohem_threshold is not None
        labelled = masks != self.ignore_index
        if self.class_weights is None and not self.options.label_smoothing:
            log_probability = -losses
        else:
            log_probability = -F.cross_entropy(logits, masks.masked_fill(~labelled, 0), reduction="none")
        log_probability = log_probability.masked_fill(~labelled, 0.0)
        most = max(1, int(self.options.ohem_share * masks.numel()))
        sorted_up = torch.topk(log_probability.flatten(), most, largest=False).values
        least = (labelled.sum().double() * self.options.ohem_share).long().clamp(min=1)
        hardest = sorted_up.gather(0, (least - 1)[None])
        return labelled & (log_probability <= torch.clamp(hardest, min=float(np.log(self.options.ohem_threshold))))


def border_closeness(masks: Int64[Tensor, "n h w"], *, radius: int, ignore_index: int) -> Float[Tensor, "n h w"]:
    """How close each pixel is to another class: 1 beside it, falling linearly to 0 at more than ``radius`` pixels.

    Distance is the larger of rows and columns to the nearest pixel of another class; void is no class, so a border
    with it is none.

    Example:
        >>> border_closeness(torch.tensor([[[0, 0, 0, 1, 1]]]), radius=2, ignore_index=255)[0, 0].tolist()
        [0.0, 0.5, 1.0, 1.0, 0.5]
    """
    void = masks == ignore_index
    # windows of 3x3 applied k times see k pixels far: where their largest and smallest class differ is a border
    largest = masks.float().masked_fill(void, float("-inf"))
    smallest_negated = (-masks.float()).masked_fill(void, float("-inf"))
    steps = torch.zeros_like(largest)
    for _ in range(radius):
        largest = F.max_pool2d(largest, 3, stride=1, padding=1)
        smallest_negated = F.max_pool2d(smallest_negated, 3, stride=1, padding=1)
        steps = steps + (largest > -smallest_negated)
    return (steps / radius).masked_fill(void, 0.0)


def lovasz_loss(
    probabilities: Float[Tensor, "n k p"], masks: Int64[Tensor, "n p"], *, ignore_index: int
) -> Float[Tensor, " n"]:
    """The Lovasz extension of 1 - IoU, averaged over the classes that are present.

    Pixels are put in the order of their errors; each costs its error times what the Jaccard loss grows by when that
    pixel is added to the wrong ones: ``1 / union`` for a pixel of the class, ``intersection / (union * (union - 1))``
    for any other. Written so, it needs no difference of nearly equal numbers.

    The order is that of errors rounded to ``1 / ERROR_STEPS``: pixels are counted, not sorted, which takes a sixth of
    the time (``benchmarks/lovasz.py``). Of equal ones, those of the class come first, then the others share their sum
    equally. The loss is at most ``2 / ERROR_STEPS`` too small, and far less in a picture.

    Args:
        probabilities: Probability of each class.
        masks: Class indices and void.
        ignore_index: Void value.

    Returns:
        One loss for each row, 0..1; 0 where nothing is labelled.

    Source: Berman et al., CVPR 2018, equation 9 and algorithm 1; classes "present" as in its section 3.
    """
    num_images, num_classes = probabilities.shape[:2]
    labelled = masks != ignore_index  # (N, P)
    present = torch.zeros(num_images, num_classes + 1, dtype=torch.bool, device=masks.device)
    present = present.scatter_(1, masks.where(labelled, num_classes), value=True)[:, :num_classes]
    if _is_cpu(present):  # most classes are absent
        image, index = present.nonzero(as_tuple=True)  # (R,)
    else:  # a GPU is not asked which ones
        image = torch.arange(num_images, device=masks.device).repeat_interleave(num_classes)
        index = torch.arange(num_classes, device=masks.device).repeat(num_images)
    is_class = masks[image] == index[:, None]  # (R, P)
    chance = probabilities.flatten(0, 1).index_select(0, image * num_classes + index)
    errors = torch.where(is_class, 1 - chance, chance)
    growth = _jaccard_growth(errors.detach(), is_class, labelled[image])
    per_class = (errors * growth).sum(1) * present[image, index]
    total = per_class.new_zeros(num_images).index_add(0, image, per_class)
    return total / present.sum(1).clamp(min=1)


def _jaccard_growth(errors: Tensor, is_class: Tensor, labelled: Tensor) -> Tensor:
    """What each pixel adds to the Jaccard loss in the order of rounded errors, all (R, P); 0 for void.

    Void goes to the last step, where every pixel of the class has been counted: the intersection is 0 there.
    """
    steps = ERROR_STEPS + 1
    rows = torch.arange(len(errors), dtype=torch.int32, device=errors.device)[:, None]
    slots = ((1 - errors).nan_to_num_() * ERROR_STEPS).to(torch.int32)  # NaN stays in the errors themselves
    slots = slots.masked_fill_(~labelled, ERROR_STEPS).add_(is_class, alpha=steps).add_(rows * (2 * steps))
    others, own = _counts(slots, len(errors) * 2 * steps).view(-1, 2, steps).unbind(1)
    size = own.sum(1, keepdim=True)
    intersection = (size - own.cumsum(1)).to(errors.dtype)
    union = size + others.cumsum(1)
    union_before = (union - others).clamp(min=1).to(errors.dtype)
    growth = torch.stack((intersection / (union_before * union.clamp(min=1)), 1 / union_before), 1)
    return growth.flatten()[slots]


def _counts(slots: Tensor, num_slots: int) -> Tensor:
    """How often each index occurs."""
    if _is_cpu(slots):
        return torch.bincount(slots.flatten(), minlength=num_slots)
    slots = slots.flatten().long()  # bincount would wait for a GPU
    return torch.zeros(num_slots, dtype=torch.int64, device=slots.device).scatter_add_(0, slots, torch.ones_like(slots))


def _is_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu"


def dice_loss(
    probabilities: Float[Tensor, "n k p"], masks: Int64[Tensor, "n p"], *, ignore_index: int
) -> Float[Tensor, " n"]:
    """1 - Dice coefficient with probabilities for predictions, averaged over the classes that are present.

    Args:
        probabilities: Probability of each class.
        masks: Class indices and void.
        ignore_index: Void value.

    Returns:
        One loss for each row, 0..1; 0 where nothing is labelled.

    Source: Milletari et al., 3DV 2016, with the sum of probabilities (not of their squares) below the line.
    """
    labelled = (masks != ignore_index)[:, None]
    classes = torch.arange(probabilities.shape[1], device=masks.device)[None, :, None]
    truth = (masks[:, None] == classes).to(probabilities.dtype)  # (N, K, P)
    overlap, predicted, size = ((x * labelled).sum(2) for x in (probabilities * truth, probabilities, truth))
    present = size > 0
    losses = 1 - 2 * overlap / (predicted + size).clamp(min=1e-6)
    return (losses * present).sum(1) / present.sum(1).clamp(min=1)


def divergence(
    logits: Float[Tensor, "n k h w"], teacher_logits: Float[Tensor, "n k h w"], *, temperature: float
) -> Float[Tensor, " n"]:
    """Kullback-Leibler divergence of a model's distribution from a teacher's, the mean over the pixels of each image.

    Both logits are divided by the temperature, and the result is multiplied by its square, which keeps the size of the
    gradient. Every pixel counts, void ones too: there the teacher alone knows something.

    Source: Hinton et al., arXiv 1503.02531, section 2; per pixel as in Liu et al., CVPR 2019 ("Structured Knowledge
        Distillation"), section 3.1.
    """
    softened = teacher_logits.float() / temperature
    targets = probabilities_of(softened)
    cross = F.cross_entropy(logits.float() / temperature, targets, reduction="none")
    own = F.cross_entropy(softened, targets, reduction="none")  # the teacher's entropy: no gradient, but 0 is the least
    return temperature**2 * (cross - own).mean((1, 2))


def class_weights(
    pixel_counts: NDArray[np.int64], *, power: float, style: Literal["median", "logarithm"] = "median"
) -> Tensor | None:
    """Weights that lift rare classes.

    Args:
        pixel_counts: (K,) labelled pixels of each class in the training masks.
        power: Power of the weights. 0: no weights; 1: as published; 0.5: the square root.
        style: ``median``: median frequency / frequency; ``logarithm``: 1 / ln(1.02 + frequency), which lifts rare
            classes less.

    Returns:
        (K,) weights, 1 for classes that do not occur; None for power 0.

    Source: Eigen and Fergus, ICCV 2015 (median frequency balancing); Paszke et al., arXiv 1606.02147, section 5.2
        (logarithm, there between 1 and 50).
    """
    if power == 0:
        return None
    occurs = pixel_counts > 0
    weights = np.ones(len(pixel_counts), np.float64)
    counts = pixel_counts[occurs]
    lifts = np.median(counts) / counts if style == "median" else 1 / np.log(1.02 + counts / counts.sum())
    weights[occurs] = lifts**power
    return torch.from_numpy(weights.astype(np.float32))
