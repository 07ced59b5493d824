"""Files read on all cores, where one that fails must not hide the others."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from refineseg.errors import DatasetError, ImageError, LabelError

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
        what = "images or masks" if any(isinstance(error, ImageError) for error in errors) else "masks"
        lines = [f"{len(errors)} of {count} {what} cannot be used:", *(f"  {error}" for error in errors[:_SHOWN])]
        lines += [f"  and {len(errors) - _SHOWN} more"] * (len(errors) > _SHOWN)
        kind = LabelError if any(isinstance(error, LabelError) for error in errors) else DatasetError
        raise kind(*lines)
    return results
