"""What a run learns from, and the batches of its epochs: read by the host, or held on the device and cut there.

In: data sets, a configuration. Out: :class:`TrainingData`, and for each epoch something with a length that gives
:class:`~refineseg.data.crops.loading.Batch`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.data import DataLoader

from refineseg.data.crops.augment import Augmentation
from refineseg.data.crops.balance import image_counts
from refineseg.data.crops.loading import Batch, DecodedCache, HostBatches, Share
from refineseg.data.crops.resident import ResidentBatches, ResidentData, hold
from refineseg.data.samples.reduced import Reduced
from refineseg.data.samples.sample import Dataset
from refineseg.data.samples.unions import Unions
from refineseg.data.samples.views import Subset, evenly_spread
from refineseg.devices import free_memory
from refineseg.errors import ConfigError
from refineseg.segmenter import Segmenter
from refineseg.training import ranks
from refineseg.training.config import Phase, TrainingConfig
from refineseg.training.distillation import load_teacher
from refineseg.training.launch import find_launch
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
        teacher: The model on the device that is learned from beside the masks; None: none.
        unions: Class indices of each union that the masks hold.
    """

    dataset: Dataset
    pixel_counts: Any
    resident: ResidentData | None = None
    counts: Any = None
    teacher: Segmenter | None = None
    unions: Unions = ()


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

    def reduced(self, input_scale: float | None) -> TrainingData:
        """With training images as large as the network sees them, where it sees them reduced."""
        if input_scale is None or input_scale >= 1:
            return self
        different = {id(phase.dataset): Reduced(phase.dataset, input_scale) for phase in self.phases}
        return replace(self, phases=tuple(replace(p, dataset=different[id(p.dataset)]) for p in self.phases))

    def measured_on(self, num_images: int | None) -> TrainingData:
        """With at most so many validation images, evenly spread; None: all of them."""
        if self.val is None or num_images is None or num_images >= len(self.val):
            return self
        return replace(self, val=Subset(self.val, evenly_spread(len(self.val), num_images)))

    def cached(self, config: TrainingConfig) -> TrainingData:
        """With decoded samples kept in memory, as many as the configuration lets; phases of the same data share it."""
        max_bytes = host_cache(config)
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
    free = ranks.least(free_memory(device) if device.type == "cuda" else 2 * config.cache_mib << 20)
    found: dict[int, ResidentData | None] = {}
    each = free // (2 * len({id(phase.dataset) for phase in data.phases}))
    for phase in data.phases:
        if id(phase.dataset) not in found:
            found[id(phase.dataset)] = hold(phase.dataset, device=device, max_bytes=each)
    if config.augment_on == "device" and None in found.values():
        raise ConfigError(
            f"expected training data that fit into half of the {free >> 20} MiB free on {device} (augment_on device), "
            "got more, or images that are not RGB; say --set augment_on=host"
        )
    if None not in found.values():
        progress.say(f"training images are held and cut on {device}")
    else:
        progress.say(f"training images are read and cut by the host: not RGB, or more than half of the free {device}")
    placed = (replace(phase, resident=found[id(phase.dataset)]) for phase in data.phases)
    return _counted(replace(data, phases=tuple(placed)), config)


def taught(data: TrainingData, config: TrainingConfig, device: torch.device, progress: Progress) -> TrainingData:
    """With the teacher that the configuration names, on the device.

    Raises:
        ConfigError: Its classes are not those of the data.
        ModelFileError: There is no such model.
    """
    if config.teacher is None:
        return data
    teacher = load_teacher(config.teacher, data.phases[0].dataset.class_info, device=device)
    progress.say(f"learning from {config.teacher} ({teacher.spec.variant}) beside the masks")
    return replace(data, phases=tuple(replace(phase, teacher=teacher) for phase in data.phases))


def _counted(data: TrainingData, config: TrainingConfig) -> TrainingData:
    """With the classes of each image counted, for phases that draw by classes and are not held on the device."""
    counts: dict[int, Any] = {}
    phases = []
    for learned, phase in zip(data.phases, config.phases, strict=True):
        if (phase.crops.copy_paste or phase.crops.class_balance) and learned.resident is None:
            key = id(learned.dataset)
            if key not in counts:
                counts[key] = image_counts(learned.dataset)
            learned = replace(learned, counts=counts[key])
        phases.append(learned)
    return replace(data, phases=tuple(phases))


def augmentation_of(phase: Phase, config: TrainingConfig) -> Augmentation:
    """How crops of a phase are drawn."""
    return Augmentation(**vars(phase.crops), flip=config.flip, colour=config.colour, white_balance=config.white_balance)


class Feed:
    """The batches of a phase, epoch after epoch, which depend on nothing but the seed and the epoch's number.

    Each of several processes gets its share of every batch.

    Args:
        learned: The data of the phase.
        phase: How crops are drawn.
        config: Configuration of the run.
        workers: Reading processes, where the host reads.
        device: Where batches are wanted.
    """

    def __init__(
        self, learned: PhaseData, phase: Phase, config: TrainingConfig, *, workers: int, device: torch.device
    ) -> None:
        self._augmentation = augmentation_of(phase, config)
        self._resident, self._seed, self._phase = learned.resident, config.seed, phase
        self._share = Share(ranks.rank(), ranks.size())
        self._host: HostBatches | None = None
        self._drawn: ResidentBatches | None = None
        if learned.resident is None:
            self._host = HostBatches(
                learned.dataset,
                self._augmentation,
                batch_size=phase.batch_size,
                seed=config.seed,
                num_workers=workers,
                pinned=device.type == "cuda",
                counts=learned.counts,
                steps=phase.epoch_steps,
                share=self._share,
            )

    def prepare(self, epoch: int) -> None:
        """Draw the crops of an epoch beforehand, while the device still works; where the host reads, nothing."""
        if self._resident is not None:
            self._drawn = self._resident_batches(epoch).drawn()

    def epoch(self, epoch: int) -> Batches:
        """The batches of an epoch (in the run, from 0); they must be read before those of another are asked for."""
        if self._host is not None:
            return self._host.epoch(epoch)
        if self._drawn is not None and self._drawn.epoch == epoch:
            return self._drawn
        return self._resident_batches(epoch)

    def _resident_batches(self, epoch: int) -> ResidentBatches:
        assert self._resident is not None
        phase = self._phase
        return self._resident.batches(
            self._augmentation,
            batch_size=phase.batch_size,
            seed=self._seed,
            epoch=epoch,
            steps=phase.epoch_steps,
            share=self._share,
        )


def host_cache(config: TrainingConfig) -> int:
    """Bytes of decoded training images that may be kept: as configured, and a third of what is free at most.

    Processes of a run that share a machine share that third.
    """
    return min(config.cache_mib << 20, free_memory() // 3 // find_launch().local_size)


def most_validation_bytes(config: TrainingConfig, device: torch.device) -> int:
    """Bytes that validation images may take: a quarter of what is free on a GPU, of the cache on a CPU."""
    return (free_memory(device) if device.type == "cuda" else host_cache(config)) // 4


def steps_of_an_epoch(phase: Phase, num_samples: int) -> int:
    """Steps of an epoch of a phase: as the phase says, or one pass over the samples."""
    return phase.epoch_steps or num_samples // min(phase.batch_size, num_samples)


def steps_of_a_run(config: TrainingConfig, data: TrainingData) -> int:
    """Steps of all phases."""
    pairs = zip(config.phases, data.phases, strict=True)
    return sum(phase.epochs * steps_of_an_epoch(phase, len(learned.dataset)) for phase, learned in pairs)


def default_workers(device: torch.device) -> int:
    """Reading processes: none beside a CPU, which computes longer than it reads, else up to 8.

    Processes of a run that share a machine share its cores.
    """
    cores = torch.multiprocessing.cpu_count() // find_launch().local_size
    return 0 if device.type == "cpu" else max(1, min(8, cores))
