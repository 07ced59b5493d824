"""Data sets that a program made, in the place of ``NAME:ROOT``.

In: objects of the interface :class:`~refineseg.data.samples.sample.Dataset`. Out: :class:`GivenData`, which training
and evaluation take as they take roots.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from refineseg.data.samples.sample import Dataset
from refineseg.errors import ConfigError, DatasetError

GIVEN = "given"
"""What stands for such data where a data set has its name: in messages, records and model files."""

_MEMBERS = ("class_info", "notes", "__len__", "__getitem__", "name", "read_mask")


@dataclass(frozen=True)
class GivenData:
    """Data sets by the names of their splits.

    Args:
        splits: Name of a split (``train``, ``val``) -> its samples.

    Raises:
        ConfigError: One is no data set; the message names what it lacks.
    """

    splits: Mapping[str, Dataset] = field(repr=False)

    def __post_init__(self) -> None:
        given: Mapping[str, object] = self.splits
        for name, dataset in given.items():
            if not isinstance(dataset, Dataset):
                lacking = [member for member in _MEMBERS if member not in dir(dataset)]
                raise ConfigError(
                    f"expected NAME:ROOT or a data set for {name}, got {type(dataset).__name__}, which has no "
                    f"{', '.join(lacking)}; refineseg.Dataset says what a data set has"
                )

    def __str__(self) -> str:
        return GIVEN

    def open(self, split: str) -> Dataset:
        """The samples of a split.

        Raises:
            DatasetError: It was not given, or has no samples.
        """
        dataset = self.splits.get(split)
        if dataset is None:
            raise DatasetError(f"expected a split of {', '.join(self.splits)}, as data sets were given, got {split!r}")
        if not len(dataset):
            raise DatasetError(f"expected samples in the data set for {split}, got none")
        return dataset
