"""What a recipe takes from the size of the images: how large the network sees them, and how large crops can be.

In: a configuration and its data. Out: the configuration with numbers in both places.

Photographs of many megapixels are reduced, because a crop would show a hundredth of one. Crops are no larger than the
images, because the rest of each would be void, and cost as much.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from refineseg.data.samples.sample import Dataset, image_file
from refineseg.images.files import read_image_size
from refineseg.resize import scaled_hw
from refineseg.training.config import TrainingConfig
from refineseg.training.progress import Progress

_LOOKED_AT = 50
_MULTIPLE = 32
_LARGE, _SEEN = 1280, 768  # shorter side of photographs that are reduced, and what they are reduced to
_PHOTOGRAPHS = (".jpg", ".jpeg")  # what microscopes, scanners and satellites give is seldom stored so


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
    if source != 1:
        return replace(config, input_scale=source)
    files = _some_files(dataset)
    short, (height, width) = 0.0, (0, 0)
    if files and all(path.suffix.lower() in _PHOTOGRAPHS for path in files):
        height, width = _median_hw(files)
        short = min(height, width)
    if short < _LARGE:
        return replace(config, input_scale=1.0)
    scale = round(_SEEN / short, 2)
    progress.say(
        f"photographs of about {height}x{width} (height x width): the network sees them at {scale:g} of their size, in "
        "training and in every prediction; for small or thin things say --set input_scale=1"
    )
    return replace(config, input_scale=scale)


def fit_crops(config: TrainingConfig, dataset: Dataset, progress: Progress) -> TrainingConfig:
    """Crops no larger than the images as the network sees them, in phases with ``at_most_images``.

    Args:
        config: Configuration of the run.
        dataset: Training samples; those without a file of their own do not count.
        progress: Says what was changed.

    Returns:
        The configuration with crops of at most the median height and width, rounded up to multiples of 32.
    """
    if not any(phase.crops.at_most_images for phase in config.phases):
        return config
    files = _some_files(dataset)
    if not files:
        return config
    median_hw = scaled_hw(_median_hw(files), min(1.0, config.input_scale or 1.0))
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


def _some_files(dataset: Dataset) -> list[Path]:
    step = max(1, len(dataset) // _LOOKED_AT)
    files = [image_file(dataset, index) for index in range(0, len(dataset), step)]
    return [path for path in files if path is not None]


def _median_hw(files: Sequence[Path]) -> tuple[int, int]:
    height, width = (
        round(statistics.median(sides)) for sides in zip(*(read_image_size(path) for path in files), strict=True)
    )
    return height, width
