"""Batches for training: the same crops in the same order for the same seed, epoch and step, however many workers read.

In: a data set. Out: a DataLoader of :class:`Batch`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from refineseg.data.crops.augment import Augmentation, augment
from refineseg.data.crops.balance import Donors, balanced_samples, image_counts
from refineseg.data.samples.sample import Dataset, Sample
from refineseg.data.samples.views import View

_READ_AHEAD = 64
_PASSES_APART = 1 << 20


def read_samples(dataset: Dataset) -> Iterator[Sample]:
    """All samples in order, read on all cores; who stops early has read few that are not wanted.

    Args:
        dataset: Its samples must be readable from several threads.
    """
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for first in range(0, len(dataset), _READ_AHEAD):
            yield from pool.map(dataset.__getitem__, range(first, min(first + _READ_AHEAD, len(dataset))))


@dataclass(frozen=True)
class Batch:
    """Training crops.

    Args:
        images: (N, 3, h, w) uint8.
        masks: (N, h, w) int64.
        names: Names of the samples.
    """

    images: Tensor
    masks: Tensor
    names: tuple[str, ...]

    def pin_memory(self) -> Batch:
        """In memory that a GPU reads while the host goes on; called by the DataLoader."""
        return replace(self, images=self.images.pin_memory(), masks=self.masks.pin_memory())


def memory_of(sample: Sample) -> int:
    """Bytes of a sample's pixels and labels."""
    return sample.image.nbytes + (0 if sample.mask is None else sample.mask.nbytes)


class DecodedCache(View):
    """A data set that keeps decoded samples in memory, up to a number of bytes, so that files are decoded once.

    Samples beyond the budget are read each time.

    Args:
        dataset: Where samples come from.
        max_bytes: Most bytes of pixels to keep.
    """

    def __init__(self, dataset: Dataset, *, max_bytes: int) -> None:
        super().__init__(dataset)
        self._bytes_left = max_bytes
        self._samples: dict[int, Sample] = {}

    def read_mask(self, index: int) -> NDArray[Any] | None:
        """The mask of a sample."""
        return self[index].mask

    def __getitem__(self, index: int) -> Sample:
        if index in self._samples:
            return self._samples[index]
        sample = self._dataset[index]
        size = memory_of(sample)
        if size <= self._bytes_left:
            self._samples[index] = sample
            self._bytes_left -= size
        return sample


class _CropSamples(TorchDataset[tuple[Tensor, Tensor, str]]):
    """Crop of sample i in an epoch, drawn from a generator that depends on nothing but seed, epoch and i."""

    def __init__(self, dataset: Dataset, augmentation: Augmentation, seed: int, donors: Donors | None) -> None:
        self._dataset, self._augmentation, self._seed, self._donors = dataset, augmentation, seed, donors

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, place: tuple[int, int]) -> tuple[Tensor, Tensor, str]:
        epoch, index = place
        sample = self._dataset[index % len(self._dataset)]  # beyond the last: the sample once more
        generator = torch.Generator().manual_seed(mix_seeds(self._seed, epoch, index))
        info = self._dataset.class_info
        how: Any = {"ignore_index": info.ignore_index, "num_classes": info.num_classes, "donate": self._donate}
        image, mask = augment(sample, self._augmentation, generator=generator, **how)
        return image, mask, sample.name

    def _donate(self, class_draw: float, pixel_draw: float) -> tuple[Sample, int, int] | None:
        chosen = None if self._donors is None else self._donors.choose(class_draw, pixel_draw)
        return None if chosen is None else (self._dataset[chosen[0]], *chosen[1:])


def mix_seeds(*numbers: int) -> int:
    """One seed from several numbers; close inputs give unrelated seeds (splitmix64 steps)."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state >> 1


def epoch_order(
    num_samples: int,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    steps: int | None = None,
    counts: Int64[np.ndarray, "n k"] | None = None,
    class_balance: float = 0.0,
) -> list[list[int]]:
    """Sample indices of every batch of an epoch, shuffled; a last batch that is not full is left out.

    A data set smaller than a batch is one batch of all its samples. With ``steps``, epochs follow each other through
    one row of such passes: an epoch may end within a pass, or hold several.

    Args:
        num_samples: Number of samples of the data set.
        batch_size: Samples per batch.
        seed: Seed of the run.
        epoch: Number of the epoch in the run.
        steps: Batches of an epoch; None: one pass.
        counts: Pixels of each class in each image, needed with ``class_balance``.
        class_balance: Share of the epoch drawn by classes; then ``i + n`` stands for sample ``i`` once more.
    """
    size = min(batch_size, num_samples)
    in_a_pass = num_samples // size
    first = epoch * (in_a_pass if steps is None else steps)
    batches: list[list[int]] = []
    for place in range(first // in_a_pass, (first + (steps or in_a_pass) - 1) // in_a_pass + 1):
        generator = torch.Generator().manual_seed(mix_seeds(seed, place))
        if class_balance and counts is not None:
            order = balanced_samples(counts, class_balance, generator=generator)
        else:
            order = torch.randperm(num_samples, generator=generator).tolist()
        again = (place - first // in_a_pass) * num_samples * _PASSES_APART  # a sample of a later pass is cut anew
        batches += [[index + again for index in order[i * size : (i + 1) * size]] for i in range(in_a_pass)]
    start = first % in_a_pass
    return batches[start : start + (steps or in_a_pass)]


@dataclass(frozen=True)
class Share:
    """The part of every batch that one of several processes reads; together they read each sample once.

    Args:
        rank: Number of the process, from 0.
        size: Number of processes, which divides every batch.
    """

    rank: int = 0
    size: int = 1

    def of(self, batches: list[list[int]]) -> list[list[int]]:
        """This part of each batch: neighbours, so that the parts in order are the batch.

        Example:
            >>> Share(1, 2).of([[5, 0, 3, 8]])
            [[3, 8]]
        """
        return [
            batch[len(batch) * self.rank // self.size : len(batch) * (self.rank + 1) // self.size] for batch in batches
        ]


def _collate(items: Sequence[tuple[Tensor, Tensor, str]]) -> Batch:
    images, masks, names = zip(*items, strict=True)
    return Batch(torch.stack(images), torch.stack(masks), tuple(names))


class _Order:
    """The samples of every batch of an epoch; the epoch travels with them to the reading processes."""

    def __init__(self) -> None:
        self.epoch, self.batches = 0, list[list[int]]()

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in self.batches:
            yield [(self.epoch, index) for index in batch]


def _leave_signals_to_the_run(_worker: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # which may reach every process; the run ends its own in order
        signal.signal(number, signal.SIG_IGN)


class HostBatches:
    """Batches read and cut by the host, epoch after epoch, by the same reading processes.

    Args:
        dataset: Where samples come from.
        augmentation: How crops are drawn.
        batch_size: Crops per batch.
        seed: Seed of the run.
        num_workers: Reading processes; 0 reads in this one. The batches do not depend on it.
        pinned: Whether batches lie in memory that a GPU can read by itself.
        counts: Pixels of each class in each image, where the augmentation asks for classes; None: they are counted,
            which reads every mask.
        steps: Batches of an epoch; None: one pass.
        share: The part of each batch that is read here.
    """

    def __init__(
        self,
        dataset: Dataset,
        augmentation: Augmentation,
        *,
        batch_size: int,
        seed: int,
        num_workers: int,
        pinned: bool = False,
        counts: Int64[np.ndarray, "n k"] | None = None,
        steps: int | None = None,
        share: Share = Share(),
    ) -> None:
        if counts is None and (augmentation.copy_paste or augmentation.class_balance):
            counts = image_counts(dataset)
        donors = Donors(counts) if augmentation.copy_paste and counts is not None else None
        self._num_samples, self._augmentation, self._counts = len(dataset), augmentation, counts
        self._batch_size, self._seed, self._steps, self._order = batch_size, seed, steps, _Order()
        self._share = share
        self._loader: DataLoader[Batch] = DataLoader(
            _CropSamples(dataset, augmentation, seed, donors),  # type: ignore[arg-type]
            batch_sampler=self._order,
            num_workers=num_workers,
            collate_fn=_collate,
            pin_memory=pinned,
            persistent_workers=num_workers > 0,
            worker_init_fn=_leave_signals_to_the_run,
            generator=torch.Generator(),  # else a process's first epoch takes a number of the run's dropout
        )

    def epoch(self, epoch: int) -> DataLoader[Batch]:
        """The batches of one epoch; they must be read before those of another are asked for."""
        self._order.epoch = epoch
        whole = epoch_order(
            self._num_samples,
            batch_size=self._batch_size,
            seed=self._seed,
            epoch=epoch,
            steps=self._steps,
            counts=self._counts,
            class_balance=self._augmentation.class_balance,
        )
        self._order.batches = self._share.of(whole)
        return self._loader
