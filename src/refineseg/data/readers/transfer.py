"""A data set in the classes of another one, for models that learned those, where it is known what became what.

In: a data set and the classes of a model. Out: the same samples in these classes, void where they have none. Where the
data set's classes are unions of the model's, training learns from them, and evaluation groups the model's classes.

Sources: the tables ``class_tables/FROM_to_TO.json``, each of which names its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from refineseg.class_info import ClassInfo, LabelTable
from refineseg.data.samples.catalog import catalog_classes
from refineseg.data.samples.remap import Remapped
from refineseg.data.samples.sample import Concatenation, Dataset, PairDataset
from refineseg.data.samples.unions import InUnions, Unions
from refineseg.data.storage.file_lists import packaged_table
from refineseg.errors import DatasetError

TRANSFERS = (("cityscapes", "camvid"),)
"""Pairs of data sets with a table: from, to."""
UNIONS = (("idd_lite", "camvid"),)
"""Pairs with a table that names several classes for some labels."""


def find_transfer(
    own: ClassInfo, wanted: ClassInfo, pairs: Sequence[tuple[str, str]] = TRANSFERS
) -> tuple[str, str] | None:
    """The pair of data sets whose classes these are, by name and order; None where there is no table."""
    for pair in pairs:
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
    if isinstance(dataset, Concatenation):  # of splits, each of which may hold label ids
        found = [one for part in dataset.parts if (one := transferred(part, wanted)) is not None]
        return Concatenation([part for part, _ in found]), "; ".join(dict.fromkeys(note for _, note in found))
    table = packaged_table("class_tables", "_to_".join(pair))
    labels: dict[str, tuple[int, str]] = {name: (int(i), str(to)) for name, (i, to) in table["labels"].items()}
    index_of = {name: index for index, name in enumerate(wanted.names)}
    if isinstance(dataset, PairDataset) and _holds_label_ids(dataset, labels):
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


def _holds_label_ids(dataset: PairDataset, labels: Mapping[str, tuple[int, str]]) -> bool:
    """Whether mask files hold a data set's label ids; own data of the same class names have values of their own."""
    index_of = {name: index for index, name in enumerate(dataset.class_info.names)}
    ids = {label_id: index_of[name] for name, (label_id, _) in labels.items() if name in index_of}
    return dataset.read_indices is None and all(dataset.table.values.get(i) == index for i, index in ids.items())


def _members(pair: tuple[str, str]) -> dict[str, tuple[str, ...]]:
    """Each class of the wider data set, in its order -> the classes that it may be."""
    labels = packaged_table("class_tables", "_to_".join(pair))["labels"]
    found = ((name, labels[name][1]) for name in catalog_classes(pair[0]).names)
    return {name: (to,) if isinstance(to, str) else tuple(to) for name, to in found}


def in_unions(dataset: Dataset, wanted: ClassInfo, known: Unions = ()) -> tuple[InUnions, Unions] | None:
    """A data set in other classes, with unions of them where its own are wider.

    Args:
        dataset: Where samples come from.
        wanted: The classes of a model.
        known: Unions that have numbers already.

    Returns:
        The data set and all unions, known ones first; None where there is no table for these classes.
    """
    pair = find_transfer(dataset.class_info, wanted, UNIONS)
    if pair is None:
        return None
    unions, values, told = list(known), [], []
    for name, members in _members(pair).items():
        told.append(f"{name}: {' or '.join(members)}")
        indices = tuple(wanted.names.index(member) for member in members)
        if len(indices) > 1 and indices not in unions:
            unions.append(indices)
        values.append(indices[0] if len(indices) == 1 else wanted.num_classes + unions.index(indices))
    note = f"{pair[0]} in the classes of {pair[1]} ({'; '.join(told)})"
    table: Any = np.array([*values, wanted.ignore_index], wanted.mask_dtype)
    return InUnions(dataset, wanted, table, note), tuple(unions)


def grouped(own: ClassInfo, wider: ClassInfo) -> tuple[list[int], str] | None:
    """A model's classes in those of a data set that groups them.

    Args:
        own: Classes of the model.
        wider: Classes of the data set.

    Returns:
        The first class of the data set that holds each class of the model, and in one line what became what; None
        where there is no table for these classes.
    """
    pair = find_transfer(wider, own, UNIONS)
    if pair is None:
        return None
    held = _members(pair)
    indices = [next(i for i, members in enumerate(held.values()) if name in members) for name in own.names]
    groups = {
        name: [own.names[i] for i, index in enumerate(indices) if index == number]
        for number, name in enumerate(wider.names)
    }
    told = "; ".join(f"{name}: {', '.join(members)}" for name, members in groups.items())
    return indices, f"classes of {pair[1]} in those of {pair[0]} ({told})"


def _is_finer(own: ClassInfo, than: ClassInfo) -> bool:
    """Whether a table maps the other classes to these."""
    return find_transfer(than, own, (*TRANSFERS, *UNIONS)) is not None


def joined_for_training(parts: Sequence[Dataset]) -> tuple[Dataset, Unions]:
    """Data sets one after the other, all in the classes of the first, where tables say how.

    Args:
        parts: Data sets, at least one.

    Returns:
        All samples, and the unions of classes that their masks hold.

    Raises:
        DatasetError: Classes that differ, and no table.
    """
    wanted, opened = parts[0].class_info, [parts[0]]
    unions: Unions = ()
    for part in parts[1:]:
        alike = part.class_info.means_as(wanted)
        plain = None if alike else transferred(part, wanted)
        wider = None if alike or plain is not None else in_unions(part, wanted, unions)
        if wider is not None:
            part, unions = wider
        elif not alike and plain is None and _is_finer(part.class_info, wanted):
            raise DatasetError(
                f"expected the data set of the finest classes first, got {wanted.num_classes} classes and then "
                f"{part.class_info.num_classes} that they group; name it first in --data"
            )
        opened.append(part if plain is None else plain[0])
    return (opened[0] if len(opened) == 1 else Concatenation(opened)), unions


def _described(pair: tuple[str, str], mapped: dict[str, tuple[int, str]], void: list[str]) -> str:
    groups: dict[str, list[str]] = {}
    for name, (_, to) in mapped.items():
        groups.setdefault(to, []).append(name)
    told = "; ".join(f"{to}: {', '.join(names)}" for to, names in groups.items())
    return f"{pair[0]} in the classes of {pair[1]} ({told}; void: {', '.join(void)})"
