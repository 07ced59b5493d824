"""Scales and mirror images: the mean of the probabilities an image gets in several views.

In: a batch of images and a function that scores it. Out: the mean, at the batch's size. Views are scored one after the
other and summed as they come, so that two maps are in memory whatever the number of views.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from refineseg.predict.views.scoring_views import check_scales
from refineseg.scoring import probabilities_of


def scaled_images(images: UInt8[Tensor, "n c h w"], scale: float) -> UInt8[Tensor, "n c h2 w2"]:
    """Images at another scale: bicubic, filtered where they shrink, rounded back to whole pixel values.

    Args:
        images: Pixels 0..255.
        scale: New size in units of the old; sides are rounded to whole pixels, at least 1. At scale 1 the very pixels
            are returned.
    """
    height, width = images.shape[2:]
    size_hw = max(1, round(height * scale)), max(1, round(width * scale))
    if size_hw == (height, width):
        return images
    resized = F.interpolate(images.float(), size=size_hw, mode="bicubic", align_corners=False, antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)


@torch.inference_mode()
def mean_probabilities(
    score: Callable[[Tensor], Tensor], images: UInt8[Tensor, "n c h w"], *, scales: Sequence[float], flip: bool
) -> Float[Tensor, "n k h w"]:
    """Score images at several scales, and mirrored, and average.

    The logits of a view are brought to the images' size bilinearly (``align_corners=False``), as a segmenter enlarges
    them at its own size; then the softmax of each view is taken, and all views weigh the same.

    Args:
        score: Images (N, C, H', W') uint8 of any size -> logits (N, K, H', W').
        images: Pixels 0..255.
        scales: Scales of the views; 1 is the images' own size.
        flip: Score each scale a second time with left and right exchanged, and exchange the logits back.

    Returns:
        Probabilities; they sum to 1 over the classes.

    Raises:
        ConfigError: A scale that cannot be.

    Source: Light-Weight RefineNet's multi-scale results name scales and mirroring, but their code is not public.
    """
    scales = check_scales(scales)
    total: Tensor | None = None
    for scale in scales:
        view = scaled_images(images, scale)
        for mirrored in (False, True) if flip else (False,):
            logits = score(view.flip(-1)).flip(-1) if mirrored else score(view)
            if logits.shape[2:] != images.shape[2:]:
                logits = F.interpolate(logits, size=images.shape[2:], mode="bilinear", align_corners=False)
            probabilities = probabilities_of(logits)
            total = probabilities if total is None else total.add_(probabilities)
    assert total is not None
    return total / (len(scales) * (2 if flip else 1))
