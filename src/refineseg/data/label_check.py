"""Read every mask before training, so that a wrong label is a message and not a crash in the middle of a run.

In: a data set. Out: how many pixels each class has, or one error that names the files, the values and the remedy.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from refineseg.data.sample import Dataset
from refineseg.errors import DatasetError, ImageError, LabelError
from refineseg.label_messages import value_ranges

Result = TypeVar("Result")
_SHOWN = 10


def read_all(
    read: Callable[[int], Result], count: int, *, report: Callable[[int, int], None] | None = None
) -> list[Result]:
    """Read items on all cores, and go on where one fails, so that one error tells of all.

    Args:
        read: Index -> result; called from several threads.
        count: Items.
        report: Called with (items done, ``count``) from the calling thread.

    Returns:
        The results in the order of the indices, however many threads there are.

    Raises:
        LabelError: At least one item had a wrong label; the first ten messages, in order, and how many there are.
        DatasetError: The same where no item had a wrong label but some could not be read.
    """
    results: list[Result] = []
    errors: list[DatasetError | ImageError] = []

    def attempt(index: int) -> Result | DatasetError | ImageError:
        try:
            return read(index)
        except (DatasetError, ImageError) as error:
            return error

    pool = ThreadPoolExecutor(max_workers=os.cpu_count())
    try:
        for done, outcome in enumerate(pool.map(attempt, range(count)), start=1):
            if isinstance(outcome, (DatasetError, ImageError)):
                errors.append(outcome)
            else:
                results.append(outcome)
            if report is not None:
                report(done, count)
    finally:
        pool.shutdown(cancel_futures=True)  # at Ctrl-C, end after the files now being read
    if errors:
        lines = [f"{len(errors)} of {count} masks cannot be used:", *(f"  {error}" for error in errors[:_SHOWN])]
        lines += [f"  and {len(errors) - _SHOWN} more"] * (len(errors) > _SHOWN)
        kind = LabelError if any(isinstance(error, LabelError) for error in errors) else DatasetError
        raise kind(*lines)
    return results


def check_labels(dataset: Dataset, *, report: Callable[[int, int], None] | None = None) -> NDArray[np.int64]:
    """Read every mask of a data set and count its classes.

    Args:
        dataset: Its ``read_mask`` must be callable from several threads.
        report: Called with (masks read, masks in all).

    Returns:
        Pixels of each class, (K,) int64; void is not counted.

    Raises:
        LabelError: Masks hold values that stand for no class (the first ten files and how many there are), or no pixel
            of the whole set is labelled, or all of them are class 0 or void, as masks of 0 and 255 are read.
        DatasetError: Masks cannot be read or do not fit their images.

    Example:
        >>> from refineseg.class_info import ClassInfo, LabelTable
        >>> from refineseg.data.sample import PairDataset
        >>> classes = ClassInfo(("sky", "road"))
        >>> check_labels(PairDataset((), classes, LabelTable.identity(classes)))
        Traceback (most recent call last):
        refineseg.errors.LabelError: expected labelled pixels, got none in 0 masks
    """
    num_classes, ignore_index = dataset.class_info.num_classes, dataset.class_info.ignore_index

    def count(index: int) -> NDArray[np.int64]:
        mask = dataset.read_mask(index)
        if mask is None:
            return np.zeros(num_classes + 1, np.int64)
        void = int(np.count_nonzero(mask == ignore_index))
        inside = mask[(mask >= 0) & (mask < num_classes)]
        if inside.size + void != mask.size:
            stray = np.setdiff1d(mask, [*range(num_classes), ignore_index]).tolist()
            raise LabelError(
                f"{dataset.name(index)}: expected 0..{num_classes - 1} or {ignore_index}, got {value_ranges(stray)} in "
                f"{mask.size - inside.size - void} pixels; the data set must map them to classes or void"
            )
        return np.append(np.bincount(inside, minlength=num_classes), void).astype(np.int64)

    totals = np.zeros(num_classes + 1, np.int64)
    for found in read_all(count, len(dataset), report=report):
        totals += found
    counts, void = totals[:-1], int(totals[-1])
    if not counts.any():
        raise LabelError(
            f"expected labelled pixels, got none in {len(dataset)} masks"
            + (f": all {void} pixels are void" if void else "")
        )
    if num_classes > 1 and void and not counts[1:].any():
        raise LabelError(
            f"expected pixels of more than one class, got only {dataset.class_info.names[0]!r} "
            f"({int(counts[0])} pixels) and void ({void} pixels) in {len(dataset)} masks; if these are masks of 0 and "
            '255, write 1 instead of 255 or give the second class "id": 255 in classes.json'
        )
    return counts
