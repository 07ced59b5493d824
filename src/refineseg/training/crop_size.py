"""Crops for images that are smaller than a recipe's crops: the rest of each crop would be void, and cost as much.

In: a configuration and its data. Out: the configuration with crops of about the size of the images.
"""

from __future__ import annotations

import statistics
from dataclasses import replace

from refineseg.data.samples.sample import Dataset, image_file
from refineseg.images.files import read_image_size
from refineseg.training.config import TrainingConfig
from refineseg.training.progress import Progress

_LOOKED_AT = 50
_MULTIPLE = 32


def fit_crops(config: TrainingConfig, dataset: Dataset, progress: Progress) -> TrainingConfig:
    """Crops no larger than the images, in phases with ``at_most_images``.

    Args:
        config: Configuration of the run.
        dataset: Training samples; those without a file of their own do not count.
        progress: Says what was changed.

    Returns:
        The configuration with crops of at most the median height and width, rounded up to multiples of 32.
    """
    if not any(phase.crops.at_most_images for phase in config.phases):
        return config
    step = max(1, len(dataset) // _LOOKED_AT)
    files = [image_file(dataset, index) for index in range(0, len(dataset), step)]
    sizes = [read_image_size(path) for path in files if path is not None]
    if not sizes:
        return config
    median_hw = [round(statistics.median(sides)) for sides in zip(*sizes, strict=True)]
    most_h, most_w = (-(-side // _MULTIPLE) * _MULTIPLE for side in median_hw)
    phases = []
    for phase in config.phases:
        height, width = phase.crops.crop_hw
        if phase.crops.at_most_images and (most_h < height or most_w < width):
            smaller = (min(height, most_h), min(width, most_w))
            progress.say(
                f"images of about {median_hw[0]}x{median_hw[1]} (height x width): "
                f"crops of {smaller[0]}x{smaller[1]}, not {height}x{width}"
            )
            phase = replace(phase, crops=replace(phase.crops, crop_hw=smaller))
        phases.append(phase)
    return replace(config, phases=tuple(phases))
