"""What a recipe takes from the size of the images: how large the network sees them, and how large crops can be.

In: a configuration and its data. Out: the configuration with numbers in both places.

Photographs of many megapixels are reduced, because a crop would show a hundredth of one, as far as their masks bear it.
Crops are no larger than the images, because the rest of each would be void, and cost as much.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from refineseg.data.samples.sample import Dataset, image_header
from refineseg.data.samples.views import evenly_spread
from refineseg.evaluate.metrics import ConfusionMatrix
from refineseg.resize import scaled_hw
from refineseg.training.config import TrainingConfig
from refineseg.training.progress import Progress

_LOOKED_AT = 50
_MULTIPLE = 32
_LARGE, _SEEN = 1280, 768  # shorter side of images that are reduced, and what they are reduced to
_PHOTOGRAPHS = (".jpg", ".jpeg", ".jpe", ".jfif", ".heic", ".heif")
_PERHAPS = (".png", ".webp")  # what microscopes, scanners and satellites give is seldom stored as the above
_KEPT, _KEPT_OF_PERHAPS = 0.8, 0.95  # least mean IoU of masks at the scale
_KEPT_OF_EACH = 0.5  # least IoU of a class
_STRIDE = 4  # of the network's output
_MASKS = 8


def fit_input(config: TrainingConfig, dataset: Dataset, progress: Progress, *, source: float = 1.0) -> TrainingConfig:
    """How large the network sees the images, where the configuration leaves it open.

    Args:
        config: Configuration of the run.
        dataset: Training samples.
        progress: Says what was chosen.
        source: Factor of the model that training starts from; it holds where the configuration asks for no other.

    Returns:
        The configuration with a number as ``input_scale``.
    """
    if config.input_scale not in (None, 1.0):
        return config
    if config.input_scale == 1:  # a model that enlarges images, as the RefineNet authors' do, keeps doing so
        return replace(config, input_scale=max(1.0, source))
    if source > 1:
        return replace(config, input_scale=source)
    files = _some_files(dataset)
    height, width = _median_hw(files) if files else (0, 0)
    if source < 1:
        if files:
            seen = scaled_hw((height, width), source)
            progress.say(
                f"images of about {height}x{width} (height x width): the network sees them at {source:g} of their "
                f"size, {seen[0]}x{seen[1]}, as the model of --init does; --set input_scale=1 keeps their size"
            )
        return replace(config, input_scale=source)
    short = min(height, width)
    if short < _LARGE:
        return replace(config, input_scale=1.0)
    kinds = {ending for _, ending in files}
    if not kinds <= {*_PHOTOGRAPHS, *_PERHAPS}:
        return replace(config, input_scale=1.0)
    scale, least = max(0.01, round(_SEEN / short, 2)), _KEPT if kinds <= {*_PHOTOGRAPHS} else _KEPT_OF_PERHAPS
    while scale < 1 and not _bear(dataset, scale, least):
        scale = min(1.0, 2 * scale)
    if scale < 1:
        progress.say(
            f"images of about {height}x{width} (height x width): the network sees them at {scale:g} of their size, in "
            "training and in every prediction; for small or thin things say --set input_scale=1"
        )
    return replace(config, input_scale=scale)


def _bear(dataset: Dataset, scale: float, least: float) -> bool:
    """Whether some masks, as a perfect network could give them at a scale, are much like what they are.

    The mean IoU must be high enough, and the IoU of each class at least a half. Thin and small things that fall through
    a quarter of the input's size, which is the papers' output, count as lost; a fifth block keeps more than that.
    """
    matrix, void = ConfusionMatrix(dataset.class_info), dataset.class_info.ignore_index
    for index in evenly_spread(len(dataset), _MASKS):
        mask = dataset.read_mask(index)
        if mask is not None:
            rows, columns = (_nearest_seen(side, max(1, round(side * scale / _STRIDE))) for side in mask.shape)
            seen = mask[rows[:, None], columns]
            matrix.update(seen, np.where(seen == void, seen, mask))
    iou = matrix.per_class_iou[matrix.counts.sum(axis=1) > 0]
    return not iou.size or (iou.mean() >= least and iou.min() >= _KEPT_OF_EACH)


def _nearest_seen(side: int, seen: int) -> NDArray[np.int64]:
    """For each of ``side`` pixels in a row, the one in the middle of its part of ``seen`` equal parts."""
    return (2 * (np.arange(side) * seen // side) + 1) * side // (2 * seen)


def fit_crops(config: TrainingConfig, dataset: Dataset, progress: Progress) -> TrainingConfig:
    """Crops no larger than the images as the network sees them, in phases with ``at_most_images``.

    Args:
        config: Configuration of the run.
        dataset: Training samples; those whose size only decoding tells do not count.
        progress: Says what was changed.

    Returns:
        The configuration with crops of at most the median height and width, rounded up to multiples of 32.
    """
    if not any(phase.crops.at_most_images for phase in config.phases):
        return config
    files = _some_files(dataset)
    if not files:
        return config
    scale = min(1.0, config.input_scale or 1.0)
    median_hw, seen = scaled_hw(_median_hw(files), scale), " as the network sees them" if scale < 1 else ""
    most_h, most_w = (-(-side // _MULTIPLE) * _MULTIPLE for side in median_hw)
    phases = []
    for phase in config.phases:
        height, width = phase.crops.crop_hw
        if phase.crops.at_most_images and (most_h < height or most_w < width):
            smaller = (min(height, most_h), min(width, most_w))
            progress.say(
                f"images of about {median_hw[0]}x{median_hw[1]} (height x width){seen}: "
                f"crops of {smaller[0]}x{smaller[1]}, not {height}x{width}"
            )
            phase = replace(phase, crops=replace(phase.crops, crop_hw=smaller))
        phases.append(phase)
    return replace(config, phases=tuple(phases))


def _some_files(dataset: Dataset) -> list[tuple[tuple[int, int], str]]:
    """Height and width of some images, and the endings of their files."""
    step = max(1, len(dataset) // _LOOKED_AT)
    files = [image_header(dataset, index) for index in range(0, len(dataset), step)]
    return [file for file in files if file is not None]


def _median_hw(files: Sequence[tuple[tuple[int, int], str]]) -> tuple[int, int]:
    height, width = (round(statistics.median(sides)) for sides in zip(*(size_hw for size_hw, _ in files), strict=True))
    return height, width
