"""Look at every image and mask before training, so that a fault is a message and not a crash in the middle of a run.

In: a data set. Out: how many pixels each class has, or one error that names the files, the values and the remedy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from refineseg.data.checks.looking import Palettes, look, refuse_fatal, void_share_of
from refineseg.data.samples.left_out import left_out
from refineseg.data.samples.record import DataRecord, data_record
from refineseg.data.samples.sample import Dataset
from refineseg.data.samples.threads import read_all
from refineseg.errors import LabelError
from refineseg.images.files import first_names


@dataclass(frozen=True)
class CheckedData:
    """What is known of a data set that can be used.

    Args:
        pixel_counts: (K,) int64 pixels of each class; void is not counted.
        record: Record by which the data are known again.
        void_share: Largest share of void in a mask that is sure to use it.
        notes: What a user should know of files that can be used.
    """

    pixel_counts: NDArray[np.int64]
    record: DataRecord
    void_share: float = 0.0
    notes: tuple[str, ...] = ()


def check_data(
    dataset: Dataset,
    *,
    report: Callable[[int, int], None] | None = None,
    one_class: bool = False,
    usual_void: float = 0.0,
    palettes: Palettes | None = None,
) -> CheckedData:
    """Find everything that is fatal, in images and masks, and count the classes.

    Args:
        dataset: Data set whose ``read_mask`` can be called from several threads.
        report: Function that is called with (samples looked at, samples in all).
        one_class: Whether pixels of one class alone are enough, as to measure on.
        usual_void: Share of void in other masks of the same data, as of :attr:`CheckedData.void_share`.
        palettes: Palette masks of other splits, see :func:`~refineseg.data.checks.looking.refuse_fatal`.

    Raises:
        LabelError: Masks hold values that stand for no class (the first ten files and how many there are), or say other
            classes than are meant; or no pixel of the whole set is labelled, or all of them are class 0 or void, as
            masks of 0 and 255 are read.
        DatasetError: Files cannot be read, or do not fit each other.

    Example:
        >>> from refineseg.class_info import ClassInfo, LabelTable
        >>> from refineseg.data.samples.sample import PairDataset
        >>> classes = ClassInfo(("sky", "road"))
        >>> check_data(PairDataset((), classes, LabelTable.identity(classes)))
        Traceback (most recent call last):
        refineseg.errors.LabelError: expected labelled pixels, got none in 0 masks
    """
    num_classes = dataset.class_info.num_classes
    looks = read_all(lambda index: look(dataset, index), len(dataset), report=report)
    totals = np.zeros(num_classes + 1, np.int64)
    for one in looks:
        totals += one.counts
    counts, void = totals[:-1], int(totals[-1])
    if not counts.any():
        raise LabelError(
            f"expected labelled pixels, got none in {len(dataset)} masks"
            + (f": all {void} pixels are void" if void else ""),
            *_lost_objects(dataset),
        )
    if num_classes > 1 and void and not counts[1:].any() and not one_class:
        raise LabelError(
            f"expected pixels of more than one class, got only {dataset.class_info.names[0]!r} "
            f"({int(counts[0])} pixels) and void ({void} pixels) in {len(dataset)} masks; if these are masks of 0 and "
            '255, write 1 instead of 255 or give the second class "id": 255 in classes.json; transparent pixels of '
            "images are void, too",
            *_lost_objects(dataset),
        )
    refuse_fatal(looks, usual_void=usual_void, palettes=palettes)
    several = [one.several for one in looks if one.several]
    notes = (f"of {len(several)} files of several pictures the first is read: {first_names(several)}",)
    record = data_record(dataset, [one.marks for one in looks])
    return CheckedData(counts, record, void_share_of(looks), notes if several else ())


def check_learnable(dataset: Dataset, *, palettes: Palettes | None = None) -> CheckedData:
    """A training set also needs pixels of two classes: of one alone the loss is 0 and nothing is learned.

    Args:
        dataset: As for :func:`check_data`.
        palettes: As for :func:`check_data`.

    Raises:
        LabelError: As :func:`check_data`; or all labelled pixels are of one class, with the objects that cover no
            pixel, if there are any.
        DatasetError: As :func:`check_data`.
    """
    checked = check_data(dataset, palettes=palettes)
    counts = checked.pixel_counts
    present = np.flatnonzero(counts)
    if len(present) < 2:
        only = ", ".join(f"{dataset.class_info.names[i]!r} ({counts[i]} pixels)" for i in present) or "none"
        raise LabelError(
            f"expected pixels of more than one class in the {len(dataset)} training masks, got only {only}: there is "
            "nothing to learn from one class; label the others, or correct the masks or the list of classes",
            *_lost_objects(dataset),
        )
    return checked


def check_files(dataset: Dataset, *, report: Callable[[int, int], None] | None = None) -> DataRecord:
    """Find everything that is fatal to measuring on a data set, which may hold one class alone, or no labels.

    Args:
        dataset: Its ``read_mask`` must be callable from several threads.
        report: Called with (samples looked at, samples in all).

    Raises:
        LabelError: Masks hold values that stand for no class, or say other classes than are meant.
        DatasetError: Files cannot be read, or do not fit each other.
    """
    looks = read_all(lambda index: look(dataset, index), len(dataset), report=report)
    refuse_fatal(looks)
    return data_record(dataset, [one.marks for one in looks])


def _lost_objects(dataset: Dataset) -> list[str]:
    return [f"  {record}" for record in left_out(dataset)]
