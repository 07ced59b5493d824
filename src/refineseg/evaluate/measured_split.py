"""The split that is measured, with what the record of a model's run knows of it.

In: a model, data and the name of a split. Out: the data set; how many of its images the run learned from.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from refineseg.data.checks.marks import image_mark
from refineseg.data.datasets import Root, data_splits, open_dataset, open_sources, parse_sources
from refineseg.data.samples.given import GivenData
from refineseg.data.samples.run_record import RunRecord
from refineseg.data.samples.sample import Dataset, Without
from refineseg.data.samples.threads import read_all
from refineseg.errors import CheckpointError, DatasetError
from refineseg.images.files import first_names

HELD_OUT_SPLIT = "held_out"
"""Name of the images that a run held out of its training images, where own data have no split of this name."""


def record_beside(model: object) -> RunRecord | None:
    """The record of the run in whose folder a model file lies; None: there is none that can be read."""
    if not isinstance(model, str | Path) or not Path(model).is_file():
        return None
    try:
        return RunRecord.read(Path(model).parent)
    except CheckpointError:  # a measurement does not depend on it
        return None


def open_split(model: object, data: str | GivenData, split: str) -> Dataset:
    """Open what is measured.

    Args:
        model: What is measured; ``held_out`` is what the run of a model file held out of its training images.
        data: ``NAME:ROOT``, or several joined by ``+``; or what a program gave.
        split: Split.

    Raises:
        ConfigError: As ``open_sources``.
        DatasetError: A missing folder, split or file; or images that were held out are not there, or others have their
            names.
    """
    sources = parse_sources(data)
    name, root = next(iter(sources.items()))
    record = record_beside(model) if len(sources) == 1 else None
    found = None if record is None else record.held_out(name)
    if found is None or split in (data_splits(name, root) or ()):
        return open_sources(data, split=split)
    if split == HELD_OUT_SPLIT:
        return _held_out(name, root, *found)
    try:
        return open_sources(data, split=split)
    except DatasetError as error:
        raise DatasetError(
            f"{error}; --split {HELD_OUT_SPLIT} measures the images that were held out of training ({len(found[1])})"
        ) from error


def _held_out(name: str, root: Root, train_split: str, held_out: Mapping[str, str]) -> Dataset:
    whole = open_dataset(name, root, split=train_split)
    names = [whole.name(index) for index in range(len(whole))]
    if missing := len(held_out.keys() - set(names)):
        raise DatasetError(
            f"expected the {len(held_out)} images that were held out of training in {train_split} of {root}, but "
            f"{missing} of them are not there; put them back, or measure another split"
        )
    found = Without(whole, [one for one in names if one not in held_out])
    marks = read_all(lambda index: image_mark(found, index), len(found))
    pairs = [(found.name(index), mark) for index, mark in enumerate(marks)]
    if others := [one for one, mark in pairs if mark and held_out[one] and mark != held_out[one]]:
        raise DatasetError(
            f"expected the {len(held_out)} images that were held out of training in {train_split} of {root}, but "
            f"{len(others)} of that name are other images, or packed otherwise ({first_names(others, most=3)}); give "
            "the data as the run had them (the folder, zip file or address in its run.json), or measure another split"
        )
    return found
