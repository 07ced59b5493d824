"""A data set in the classes of another one, for models that learned those, where it is known what became what.

In: a data set and the classes of a model. Out: the same samples in these classes, void where they have none.

Sources: the tables ``class_tables/FROM_to_TO.json``, each of which names its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from refineseg.class_info import ClassInfo, LabelTable
from refineseg.data.samples.catalog import catalog_classes
from refineseg.data.samples.remap import Remapped
from refineseg.data.samples.sample import Dataset, PairDataset
from refineseg.data.storage.file_lists import packaged_table

TRANSFERS = (("cityscapes", "camvid"),)
"""Pairs of data sets with a table: from, to."""


def find_transfer(own: ClassInfo, wanted: ClassInfo) -> tuple[str, str] | None:
    """The pair of data sets whose classes these are, by name and order; None where there is no table."""
    for pair in TRANSFERS:
        if tuple(catalog_classes(name).names for name in pair) == (own.names, wanted.names):
            return pair
    return None


def transferred(dataset: Dataset, wanted: ClassInfo) -> tuple[Dataset, str] | None:
    """A data set in other classes.

    Of a data set read from files of label ids every id is mapped, also those that are void among its own classes.

    Args:
        dataset: Where samples come from.
        wanted: The classes of a model.

    Returns:
        The data set, and in one line what was mapped to what; None where there is no table for these classes.
    """
    pair = find_transfer(dataset.class_info, wanted)
    if pair is None:
        return None
    table = packaged_table("class_tables", "_to_".join(pair))
    labels: dict[str, tuple[int, str]] = {name: (int(i), str(to)) for name, (i, to) in table["labels"].items()}
    index_of = {name: index for index, name in enumerate(wanted.names)}
    if isinstance(dataset, PairDataset) and dataset.read_indices is None:
        values = dict.fromkeys(range(256), wanted.ignore_index)
        values |= {label_id: index_of[to] for label_id, to in labels.values()}
        mapped, left = dict(labels), list(table["void"])
        note = _described(pair, mapped, left)
        return replace(dataset, class_info=wanted, table=LabelTable(values), notes=(*dataset.notes, note)), note
    own = dataset.class_info.names
    indices = [index_of[labels[name][1]] if name in labels else wanted.ignore_index for name in own]
    mapped = {name: labels[name] for name in own if name in labels}
    note = _described(pair, mapped, [name for name in own if name not in labels])
    kept: Any = np.array([*indices, wanted.ignore_index], np.uint8)
    return Remapped(dataset, wanted, kept, note), note


def _described(pair: tuple[str, str], mapped: dict[str, tuple[int, str]], void: list[str]) -> str:
    groups: dict[str, list[str]] = {}
    for name, (_, to) in mapped.items():
        groups.setdefault(to, []).append(name)
    told = "; ".join(f"{to}: {', '.join(names)}" for to, names in groups.items())
    return f"{pair[0]} in the classes of {pair[1]} ({told}; void: {', '.join(void)})"
