"""The batches of one epoch alone."""

from torch.utils.data import DataLoader

from refineseg.data.crops.loading import Batch, HostBatches
from refineseg.data.crops.placement import Augmentation
from refineseg.data.samples.sample import Dataset


def training_batches(
    dataset: Dataset, augmentation: Augmentation, *, batch_size: int, seed: int, epoch: int, num_workers: int
) -> DataLoader[Batch]:
    """The arguments are those of :class:`HostBatches`."""
    return HostBatches(dataset, augmentation, batch_size=batch_size, seed=seed, num_workers=num_workers).epoch(epoch)
