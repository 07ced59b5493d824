"""The test-time procedure of the RefineNet authors' MATLAB code.

In: ``uint8`` images and a segmenter's output before its final enlargement. Out: scores at image size. Every scale is
resized, scored and kept as whole numbers 0..255; the maps are averaged at the size of the largest one, and what changes
size does so as logarithms of probabilities. The scores are the authors': they do not sum to 1 after an enlargement.

Source: section "multi-scale prediction" of the RefineNet authors' code, and its ``my_resize``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from refineseg.predict.views.scoring_views import ScoringView, check_scales
from refineseg.resize import ResizeStyle, matlab_resize, matlab_resize_images
from refineseg.scoring import probabilities_of

_LEAST_LOG = -20.0


def network_images(images: UInt8[Tensor, "n c h w"], scale: float, *, view: ScoringView) -> UInt8[Tensor, "n c h2 w2"]:
    """Images as the network gets them: one resize for the short side and the scale, another for the enlargement."""
    factor = view.factor((images.shape[2], images.shape[3])) * scale
    if factor != 1:
        size_hw = math.ceil(images.shape[2] * factor), math.ceil(images.shape[3] * factor)
        images = matlab_resize_images(images, size_hw, scale=factor)
    if view.enlargement not in (None, 1):
        height, width = (max(1, math.floor(side * view.enlargement + 0.5)) for side in images.shape[2:])
        images = matlab_resize_images(images, (height, width))
    return images


def resize_probabilities(
    probabilities: Float[Tensor, "n k h w"], size_hw: tuple[int, int], *, style: ResizeStyle
) -> Float[Tensor, "n k h2 w2"]:
    """Probabilities at another size: the bicubic of their logarithms (at least -20), as probabilities again.

    They sum to about 1 only. At the size they have they are returned as they are.
    """
    if tuple(probabilities.shape[2:]) == size_hw:
        return probabilities
    return matlab_resize(probabilities.log().clamp(min=_LEAST_LOG), size_hw, style=style).exp()


def fuse(maps: Iterable[Float[Tensor, "n k _ _"]], *, num_maps: int, style: ResizeStyle) -> Float[Tensor, "n k h w"]:
    """The mean of the probabilities of several scales, at the size of the largest map.

    Each map is rounded to whole 255ths first (the authors keep them in files of ``uint8``). The sum is kept at the
    largest size so far: the smaller of the sum and the next map is enlarged.

    Args:
        maps: Probabilities, one (N, K, h, w) for each scale, at least one; taken one by one.
        num_maps: How many there are.
        style: Style of the enlargements.

    Returns:
        Scores 0..1.
    """
    total: Tensor | None = None
    for probabilities in maps:
        stored = (probabilities * 255 + 0.5).floor() / 255
        if total is None:
            total = stored / num_maps
            continue
        if total.shape[2] < stored.shape[2]:
            total = resize_probabilities(total, (stored.shape[2], stored.shape[3]), style=style)
        total = total + resize_probabilities(stored, (total.shape[2], total.shape[3]), style=style) / num_maps
    assert total is not None
    return total.clamp(0, 1)


@torch.inference_mode()
def authors_scores(
    score: Callable[[Tensor], Tensor],
    images: UInt8[Tensor, "n c h w"],
    *,
    scales: Sequence[float],
    view: ScoringView,
) -> Float[Tensor, "n k h w"]:
    """Scores of images as the authors predict; the class of a pixel is the one with the highest score.

    Args:
        score: Network images uint8 -> logits at the network's output resolution.
        images: Pixels 0..255.
        scales: Scales of the views, in the order in which they are summed.
        view: One of the authors'.

    Returns:
        At the images' size; they do not sum to 1.

    Raises:
        ConfigError: A scale that cannot be.
    """
    scales = check_scales(scales)
    maps = (probabilities_of(score(network_images(images, scale, view=view))) for scale in scales)
    size_hw = images.shape[2], images.shape[3]
    if len(scales) == 1:  # never left the GPU, where imresize takes one scale
        return resize_probabilities(next(maps), size_hw, style="gpu")
    return resize_probabilities(fuse(maps, num_maps=len(scales), style="cpu"), size_hw, style="cpu")
