"""Masks whose labels stand for one of several classes: other data sets group what a model tells apart.

In: a data set, and what each of its classes may be. Out: :class:`InUnions`, whose samples can train such a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refineseg.data.samples.remap import Remapped

Unions = tuple[tuple[int, ...], ...]
"""Class indices of each union; the pixels of union ``u`` hold ``num_classes + u`` in the masks of samples."""


@dataclass(frozen=True)
class InUnions(Remapped):
    """A data set in the classes of another one, with unions of them where its own classes are wider.

    The masks of samples hold classes, void, and unions. ``read_mask`` gives those pixels alone whose class is known,
    and void elsewhere: so they are counted and drawn by.
    """

    def read_mask(self, index: int) -> NDArray[Any] | None:
        """The mask of a sample, void where it has a union."""
        mask = super().read_mask(index)
        classes = self.class_info
        return None if mask is None else np.where(mask < classes.num_classes, mask, classes.ignore_index)
