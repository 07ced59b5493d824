"""What a run learns from, and the batches of its epochs: read by the host, or held on the device and cut there.

In: data sets, a configuration. Out: :class:`TrainingData`, and for each epoch something with a length that gives
:class:`~refineseg.data.loading.Batch`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.data import DataLoader

from refineseg.data.augment import Augmentation
from refineseg.data.balance import image_counts
from refineseg.data.loading import Batch, DecodedCache, training_batches
from refineseg.data.resident import ResidentBatches, ResidentData, hold
from refineseg.data.sample import Dataset
from refineseg.errors import ConfigError
from refineseg.training.config import Phase, TrainingConfig
from refineseg.training.progress import Progress

Batches = ResidentBatches | DataLoader[Batch]


@dataclass(frozen=True)
class PhaseData:
    """What a phase learns from.

    Args:
        dataset: The training samples.
        pixel_counts: (K,) labelled training pixels of each class, from the label check.
        resident: The same samples in the device's memory; None: they are read and cut by the host.
        counts: (N, K) labelled pixels of each class in each image, where the host needs them to draw by classes.
    """

    dataset: Dataset
    pixel_counts: Any
    resident: ResidentData | None = None
    counts: Any = None


@dataclass(frozen=True)
class TrainingData:
    """What a run learns from and is measured on.

    Args:
        phases: For each phase of the configuration, what it learns from.
        val: The validation samples; None: no validation.
        description: ``NAME:SPLIT`` of all of it, for the model file.
    """

    phases: tuple[PhaseData, ...]
    val: Dataset | None
    description: str

    def cached(self, max_bytes: int) -> TrainingData:
        """With decoded samples kept in memory, up to a number of bytes; phases of the same data share them."""
        different = {id(phase.dataset): phase.dataset for phase in self.phases}
        caches = {
            key: DecodedCache(dataset, max_bytes=max_bytes // len(different)) for key, dataset in different.items()
        }
        phases = (replace(phase, dataset=caches[id(phase.dataset)]) for phase in self.phases)
        return replace(self, phases=tuple(phases))


def held(data: TrainingData, config: TrainingConfig, device: torch.device, progress: Progress) -> TrainingData:
    """With data held on the device, where the configuration wants it and they fit into half of its free memory.

    Raises:
        ConfigError: They must be held there, and do not fit.
    """
    if config.augment_on == "host" or (config.augment_on == "auto" and device.type != "cuda"):
        return _counted(data, config)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 2 * config.cache_mib << 20
    found: dict[int, ResidentData | None] = {}
    for phase in data.phases:
        if id(phase.dataset) not in found:
            found[id(phase.dataset)] = hold(phase.dataset, device=device, max_bytes=free // (2 * len(data.phases)))
    if config.augment_on == "device" and None in found.values():
        raise ConfigError(
            f"expected training data that fit into half of the {free >> 20} MiB free on {device} (augment_on device), "
            "got more, or images that are not RGB; say --set augment_on=host"
        )
    if None not in found.values():
        progress.say(f"training images are held and cut on {device}")
    placed = (replace(phase, resident=found[id(phase.dataset)]) for phase in data.phases)
    return _counted(replace(data, phases=tuple(placed)), config)


def _counted(data: TrainingData, config: TrainingConfig) -> TrainingData:
    """With the classes of each image counted, for phases that draw by classes and are not held on the device."""
    counts: dict[int, Any] = {}
    phases = []
    for learned, phase in zip(data.phases, config.phases, strict=True):
        if (phase.copy_paste or phase.class_balance) and learned.resident is None:
            key = id(learned.dataset)
            if key not in counts:
                counts[key] = image_counts(learned.dataset)
            learned = replace(learned, counts=counts[key])
        phases.append(learned)
    return replace(data, phases=tuple(phases))


def augmentation_of(phase: Phase, config: TrainingConfig) -> Augmentation:
    """How crops of a phase are drawn."""
    return Augmentation(
        phase.crop_hw,
        phase.scale,
        flip=config.flip,
        colour=config.colour,
        scale_step=phase.scale_step,
        short_side=phase.short_side,
        smallest_side=phase.smallest_side,
        crop_centre=phase.crop_centre,
        pad=phase.pad,
        rotation=phase.rotation,
        copy_paste=phase.copy_paste,
        class_balance=phase.class_balance,
    )


def epoch_batches(learned: PhaseData, phase: Phase, config: TrainingConfig, *, epoch: int, workers: int) -> Batches:
    """The batches of an epoch, which depend on nothing but the seed and its number.

    Args:
        learned: The data of the phase.
        phase: How crops are drawn.
        config: Of the run.
        epoch: In the run, from 0.
        workers: Reading processes, where the host reads.
    """
    augmentation, size = augmentation_of(phase, config), phase.batch_size
    if learned.resident is not None:
        return learned.resident.batches(augmentation, batch_size=size, seed=config.seed, epoch=epoch)
    return training_batches(
        learned.dataset,
        augmentation,
        batch_size=size,
        seed=config.seed,
        epoch=epoch,
        num_workers=workers,
        counts=learned.counts,
    )


def default_workers(device: torch.device) -> int:
    """Reading processes: none beside a CPU, which computes longer than it reads, else up to 8."""
    return 0 if device.type == "cpu" else min(8, torch.multiprocessing.cpu_count())
